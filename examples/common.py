"""What the examples share: their options, how they are run, a progress bar, and sine waves."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

import fastrnn

LIBRARIES = {"fastrnn": fastrnn, "torch.nn": torch.nn}
CELLS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}


class UserError(ValueError):
    """Something the user can put right, told in one line."""


Figures = dict[str, float]  # what was found, by what it is


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:  # no such device; a torch built without it
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {reason}") from None


def add_device(parser: argparse.ArgumentParser) -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=device, default=default, help="default: %(default)s")


def add_library(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--library", choices=LIBRARIES, default="fastrnn", help="default: %(default)s")


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    out = Path("out") / name
    parser.add_argument("--out", type=Path, default=out, help="folder, default: %(default)s")


def folder(path: Path) -> None:
    """Make it, before there is anything to save; a UserError if nothing can be saved in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be a folder ({error.strerror})"
    else:
        if os.access(path, os.W_OK | os.X_OK):
            return
        reason = "a folder that cannot be written to"
    raise UserError(f"{path}: {reason}; give another one with --out")


def run(
    experiment: Callable[[argparse.Namespace], Figures],
    name: str,
    doc: str,
    argv: list[str] | None,
    *,
    steps: int | None = None,
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> Figures:
    """Parse the options, run, print what was found; `steps` of training unless told otherwise,
    None where nothing is trained.

    A UserError of the experiment is one line on stderr and the exit code 2.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    if steps is not None:
        add("--steps", type=positive, default=steps, help="of training, default: %(default)s")
    add("--seed", type=int, default=0, help="of everything random, default: %(default)s")
    add_device(parser)
    options(parser)
    args = parser.parse_args(argv)
    # Matrices this small gain nothing from a second thread.
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    try:
        if "out" in args:
            folder(args.out)
        figures = experiment(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for what, value in figures.items():
        table.add_row(what, f"{value:.3g}")
    Console(highlight=False, markup=False).print(table)
    return figures


class Steps:
    """`range(start, total)` with a progress bar, beside it the latest of what is shown."""

    def __init__(self, total: int, what: str, start: int = 0):
        self.total = total
        self.what = what
        self.start = start

    def __iter__(self) -> Iterator[int]:
        bar = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress("{task.fields[shown]}", *bar) as self.progress:
            self.task = self.progress.add_task(
                "", total=self.total, completed=self.start, shown=self.what
            )
            for step in range(self.start, self.total):
                yield step
                self.progress.advance(self.task)

    def show(self, value: Tensor | float) -> None:
        number = value.item() if isinstance(value, Tensor) else value
        self.progress.update(self.task, shown=f"{self.what} {number:.3f}")


def waves(T: int, periods: Tensor, phase: Tensor) -> Tensor:
    """(T, B, 1): sine waves with `periods` (B,) in T steps, that begin at `phase` (B,) of one."""
    time = torch.arange(T, device=phase.device).unsqueeze(-1) / T
    return torch.sin(2 * torch.pi * (periods * time + phase)).unsqueeze(-1)
