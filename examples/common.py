"""What the short examples share: options, device, progress, and the results they save."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from rich.table import Table

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INK = "#222222"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"


class UserError(ValueError):
    """Something the user can put right, told in one line."""


class Parser(argparse.ArgumentParser):
    """One line for a wrong option."""

    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise ValueError
    return value


def parser(name: str, doc: str, *, steps: int) -> Parser:
    """The options of every short example; `steps` is how long it trains unless told otherwise."""
    parser = Parser(prog=f"python -m examples.{name}", description=doc.partition("\n")[0])
    add = parser.add_argument
    add("--steps", type=positive, default=steps, help="of training, default: %(default)s")
    add("--seed", type=seed, default=0, help="of everything random, default: %(default)s")
    add("--out", type=Path, default=Path("out") / name, help="folder, default: %(default)s")
    return parser


def run(
    experiment: Callable[[argparse.Namespace, Console], None],
    parser: Parser,
    argv: list[str] | None,
) -> int:
    """Parse the options, prepare what they ask for, run; the exit code."""
    args = parser.parse_args(argv)
    # Matrices this small gain nothing from a second thread.
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    try:
        # Before the training: a folder that cannot be had should not cost half a minute.
        make_folder(args.out)
        experiment(args, Console(highlight=False, markup=False, soft_wrap=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made a folder ({error.strerror})") from None


@contextmanager
def progress(console: Console, what: str, steps: int) -> Iterator[Callable[[str], None]]:
    """A bar, and the function that moves it on by one step and says something beside it."""
    columns = "{task.description}", BarColumn(), "{task.fields[said]}", TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=steps, said="")
        yield lambda said="": bar.update(task, advance=1, said=said)


def save(
    args: argparse.Namespace, console: Console, figures: dict[str, float], picture: Figure
) -> None:
    """Print the figures; save them as `figures.json` and the picture as `picture.png`."""
    table = Table("", "", show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:.3g}")
    console.print(table)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=1), "utf-8")
    picture.savefig(args.out / "picture.png", dpi=150)
    console.print(f"saved figures.json and picture.png in {args.out}")


def plain(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and labels, and no more frame than is read."""
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
