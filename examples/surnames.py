"""Name the language of a surname with a character RNN, once with torch.nn and once with fastrnn.

From the checkout:

    python -m examples.surnames                           train both, compare, save pictures
    python -m examples.surnames predict Satoshi O'Hanlon  ask the trained model
"""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from rich.table import Table

from examples import common, surname_checkpoint
from examples.common import CELLS, LIBRARIES, UserError, add_device, positive
from examples.names_data import Example, examples, read_folder, split, vocabulary_of
from examples.pictures import confusion, draw_confusion, draw_losses
from examples.surname_model import (
    Classifier,
    History,
    evaluate,
    train,
)
from examples.text import Vocabulary

CHECKPOINT = "surnames.pt"
HIDDEN = 128
UNSEEN = ["Satoshi", "Szczepanek", "Papathanasiou", "O'Hanlon"]  # in none of the data files


class Data(NamedTuple):
    train: list[Example]
    test: list[Example]
    vocabulary: Vocabulary
    languages: list[str]


class Result(NamedTuple):
    model: Classifier
    history: History
    accuracy: float


def load_data(folder: Path, seed: int) -> Data:
    train_names, test_names = split(read_folder(folder), seed)
    vocabulary = vocabulary_of(train_names)
    return Data(
        examples(train_names, vocabulary),
        examples(test_names, vocabulary),
        vocabulary,
        list(train_names),
    )


def train_both(data: Data, args: argparse.Namespace, console: Console) -> dict[str, Result]:
    """The same training with both libraries: same weights to begin with, same batches."""
    results = {}
    steps = args.epochs * math.ceil(len(data.train) / args.batch_size)
    columns = "{task.description}", BarColumn(), "{task.fields[loss]}", TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        for name, library in reversed(LIBRARIES.items()):
            task = progress.add_task(name, total=steps, loss="")

            def on_batch(loss: float, task=task) -> None:
                progress.update(task, advance=1, loss=f"loss {loss:.3f}")

            torch.manual_seed(args.seed)
            hidden = args.hidden or HIDDEN
            sizes = len(data.vocabulary), hidden, len(data.languages)
            model = Classifier(library, args.cell or "lstm", *sizes)
            history = train(
                model.to(args.device),
                data.train,
                data.test,
                epochs=args.epochs,
                batch_size=args.batch_size,
                seed=args.seed,
                on_batch=on_batch,
            )
            scores, truth = evaluate(model, data.test)
            results[name] = Result(
                model, history, (scores.argmax(1) == truth).float().mean().item()
            )
    return results


def compare(data: Data, results: dict[str, Result], console: Console) -> None:
    """Side by side: what was reached, in what time, and how far the loss curves are apart."""
    table = Table("", "loss", "held-out accuracy", "median ms a batch", "seconds in all")
    for library, (_, history, accuracy) in results.items():
        table.add_row(
            library,
            f"{history.train_loss[-1]:.4f}",
            f"{accuracy:.1%}",
            f"{1e3 * median(history.seconds):.2f}",
            f"{sum(history.seconds):.1f}",
        )
    console.print(table)
    most_common, _ = Counter(e.language for e in data.train).most_common(1)[0]
    baseline = sum(e.language == most_common for e in data.test) / len(data.test)
    console.print(f"always guessing {data.languages[most_common]} would be right {baseline:.1%}")
    curves = [result.history.train_loss for result in results.values()]
    gap = max(abs(a - b) for a, b in zip(*curves, strict=True))
    console.print(f"largest difference of the two loss curves: {gap:.1e}")


def save(data: Data, results: dict[str, Result], out: Path) -> None:
    curves = {
        library: {"training": result.history.train_loss, "held out": result.history.test_loss}
        for library, result in results.items()
    }
    draw_losses(out / "loss.png", curves)
    model = results["fastrnn"].model
    draw_confusion(out / "confusion.png", confusion(*evaluate(model, data.test)), data.languages)
    surname_checkpoint.save(out / CHECKPOINT, model, data.vocabulary, data.languages)


def run_training(args: argparse.Namespace, console: Console) -> None:
    data = load_data(args.data, args.seed)
    console.print(
        f"{len(data.train)} names to learn from, {len(data.test)} held out, "
        f"{len(data.languages)} languages, {len(data.vocabulary)} symbols, on {args.device.type}"
    )
    common.folder(args.out)
    results = train_both(data, args, console)
    compare(data, results, console)
    save(data, results, args.out)
    console.print(f"saved loss.png, confusion.png and {CHECKPOINT} in {args.out}")
    show_predictions(UNSEEN, args.out, console)


def show_predictions(
    names: list[str],
    out: Path,
    console: Console,
    *,
    cell: str | None = None,
    hidden: int | None = None,
) -> None:
    trained = surname_checkpoint.load(out / CHECKPOINT, cell=cell, hidden=hidden)
    for name, guesses in zip(names, surname_checkpoint.predict(*trained, names), strict=True):
        likely = ", ".join(f"{language} {p:.0%}" for language, p in guesses)
        console.print(f"{name}: {likely}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.surnames",
        description="Name the language of a surname with a character RNN.",
    )
    add = parser.add_argument
    add("command", nargs="?", choices=["train", "predict"], default="train", help="default: train")
    add("names", nargs="*", default=[], help="what to predict the language of")
    names = Path(__file__).parent / "data/names"
    add("--data", type=Path, default=names, help="folder of <Language>.txt, default: %(default)s")
    add("--cell", choices=CELLS, help="default: lstm, or that of the checkpoint")
    add("--hidden", type=positive, help=f"default: {HIDDEN}, or that of the checkpoint")
    add("--epochs", type=positive, default=15, help="default: %(default)s")
    add("--batch-size", type=positive, default=64, help="names, default: %(default)s")
    add("--seed", type=int, default=0, help="of weights, split and order, default: %(default)s")
    add("--out", type=Path, default=Path("out/surnames"), help="folder, default: %(default)s")
    add_device(parser)
    args = parser.parse_intermixed_args(argv)
    if (args.command == "predict") != bool(args.names):
        parser.error("predict takes names, train takes none")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    # Matrices this small gain nothing from a second thread, and lose much where another program
    # wants that core (two busy cores: 7.5 ms a batch with one thread, 73 ms with two).
    torch.set_num_threads(1)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        if args.command == "train":
            run_training(args, console)
        else:
            show_predictions(args.names, args.out, console, cell=args.cell, hidden=args.hidden)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
