"""Text that writes itself: a network reads a text letter by letter and guesses the next one.

    python -m examples.char_rnn train [FILE]       any UTF-8 text; Alice in Wonderland if none
    python -m examples.char_rnn train --resume     go on after an interruption, nothing is lost
    python -m examples.char_rnn sample --temperature 0.8 --prime "Alice" --length 500
    python -m examples.char_rnn compare            fastrnn and torch.nn side by side

How good it guesses is measured in bits per character, on the end of the text, which is held out:

    bits = mean over letters of  -log2 p(letter | all letters before it)

After Andrej Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks" (2015), and
Graves, "Generating sequences with recurrent neural networks" (2013, arXiv:1308.0850).
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from examples import common
from examples.char_rnn import checkpoint, data, picture
from examples.char_rnn.arguments import CHECKPOINT, given, parse
from examples.char_rnn.baselines import baselines
from examples.char_rnn.compare import compare
from examples.char_rnn.interrupts import held_back
from examples.char_rnn.model import CharRNN
from examples.char_rnn.sampling import sample, unknown
from examples.char_rnn.training import Options, Training
from examples.common import CELLS, LIBRARIES, UserError
from examples.text import ALICE, Vocabulary


def train(args: argparse.Namespace, console: Console) -> int:
    path = args.out / CHECKPOINT
    if args.resume:
        training = checkpoint.resume(path, args.file, given(args), args.device)
    else:
        options = Options(**given(args))
        corpus = data.load(args.file or ALICE, options.window, options.batch_size)
        training = Training(options, corpus, args.device)
    common.folder(args.out)
    try:
        run(training, path, args.save_every)
    except KeyboardInterrupt:
        done = f"window {training.steps} of {training.total}"
        again = f"{checkpoint.TRAIN} --resume --out {args.out}"
        print(f"interrupted after {done}, all of it saved; go on with: {again}", file=sys.stderr)
        return 130
    report(training, path, console)
    return 0


def run(training: Training, path: Path, save_every: int) -> None:
    """To the end, or to a KeyboardInterrupt; either way all there is is in the file then."""
    steps = common.Steps(training.total, "bits per character", training.steps)
    with held_back() as check_interrupt:
        try:
            for _ in steps:
                steps.show(training.step() / math.log(2))
                check_interrupt()
                if training.steps % save_every == 0:
                    checkpoint.save(path, training)
        except KeyboardInterrupt:
            checkpoint.save(path, training)
            raise
        checkpoint.save(path, training)


def report(training: Training, path: Path, console: Console) -> None:
    corpus, history, options = training.corpus, training.history, training.options
    guessing = baselines(corpus.train, corpus.held_out, len(corpus.vocabulary) - 2)
    table = Table("on the held-out end of the text", "bits per character")
    table.columns[1].justify = "right"
    for knowing, bits in guessing.items():
        table.add_row(f"guessing from {knowing}", f"{bits:.3f}")
    table.add_row(f"{options.cell.upper()}, {options.hidden} units", f"{history.held_out[-1]:.3f}")
    console.print(table)
    curve = path.with_name("bits.png")
    picture.draw(curve, history, guessing, f"{options.cell.upper()} reading {corpus.path.name}")
    console.print(f"saved {path} and {curve}\n")
    show(training.model, corpus.vocabulary, None, length=400, temperature=0.8, seed=options.seed)


def write(args: argparse.Namespace, console: Console) -> int:
    model, vocabulary = checkpoint.load(args.checkpoint, LIBRARIES[args.library])
    if strange := unknown(vocabulary, args.prime or ""):
        which = ", ".join(map(repr, strange))
        what = "not in the text that was learned from, and read as unknown"
        print(f"note: {which}: {what}", file=sys.stderr)
    how = {"length": args.length, "temperature": args.temperature, "seed": args.seed}
    try:
        show(model.to(args.device), vocabulary, args.prime, **how)
    except KeyboardInterrupt:  # it has written enough
        print()
        return 130
    return 0


def show(model: CharRNN, vocabulary: Vocabulary, prime: str | None, **how) -> None:
    """Letter by letter, as they are drawn. Without a prime, as after the end of a line."""
    if not prime:
        prime = "\n" if "\n" in vocabulary.index else vocabulary.symbols[-1]
    for letter in sample(model, vocabulary, prime, **how):
        print(letter, end="", flush=True)
    print()


def side_by_side(args: argparse.Namespace, console: Console) -> int:
    asked = Options(**given(args))
    corpus = data.load(args.file or ALICE, asked.window, asked.batch_size)
    both = "torch.nn", "fastrnn"
    title = f"the first {args.steps} windows of {asked.window} × {asked.batch_size} characters"
    table = Table("", title=title)
    speed, loss = ([f"{name}\n{what}" for name in both] for what in ("letters/s", "last loss"))
    for head in (*speed, "\nratio", *loss, "largest\ndifference"):
        table.add_column(head, justify="right")
    for _, cell in zip(common.Steps(len(CELLS), "comparing"), CELLS, strict=True):
        found = compare(replace(asked, cell=cell), corpus, args.steps, args.device)
        table.add_row(
            cell.upper(),
            *(f"{found.speed[name]:,.0f}" for name in both),
            f"{found.ratio:.2f}",
            *(f"{found.losses[name][-1]:.4f}" for name in both),
            f"{found.gap:.1e}",
        )
    console.print(table)
    return 0


COMMANDS = {"train": train, "sample": write, "compare": side_by_side}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv, __doc__)
    # One thread takes less processor time than two, and has none to wait for.
    torch.set_num_threads(1)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        return COMMANDS[args.command](args, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
