"""Translate dates in words, written in many ways, to ISO: an encoder-decoder, and attention.

    the third of March, nineteen ninety-eight  ->  1998-03-03
    Dienstag, den 3. März 1998                 ->  1998-03-03
    3/3/1998                                   ->  1998-03-03

Many to many, and the lengths differ. A GRU reads the phrase in both directions, letter by letter;
its final state begins that of a second GRU, which writes the date, each letter told the one before
it: in training the true one (teacher forcing, so that all steps are one call), later its own.

So all that was read has to go through one state h_n. Attention (Bahdanau et al. 2014,
arXiv:1409.0473; in the form of Luong et al. 2015, arXiv:1508.04025) lets each step of the decoder,
s_t, look back at the encoder's states e_1 .. e_T, most at those that fit it best:

    a_t = softmax over j of  s_tᵀ W e_j        c_t = Σ_j a_tj e_j        y_t = V tanh(U [s_t, c_t])

Both are trained, without attention (no c_t) and with it, on the same phrases, and translate dates
of 1900 to 2099 that were held out: one date in ten, in none of the phrases that were learned.
The state alone can hold a date, but takes about ten times the training steps to learn it.

    python -m examples.dates                                                  train both, compare
    python -m examples.dates --ask "the third of March, nineteen ninety-eight"    ask the trained
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from examples import checkpoint, common
from examples.common import LIBRARIES, UserError
from examples.dates import data
from examples.dates.data import ISO, Pair
from examples.dates.model import Translator, translate
from examples.dates.pictures import Look, draw_attention, draw_curves
from examples.dates.training import BATCH, History, letters_right, train
from examples.text import UNKNOWN, Vocabulary

HIDDEN = 128
HELD_OUT, ON_THE_WAY = 2000, 300  # phrases to be examined in: at the end, and for the curve
LONGEST = 120  # letters that may be asked
PARTS = {"year": slice(0, 4), "month": slice(5, 7), "day": slice(8, 10)}
LENGTHS = {"up to 15": (0, 15), "16 to 30": (16, 30), "31 and more": (31, LONGEST)}


def looks(model: Translator, letters: Vocabulary, phrases: Sequence[str], device) -> list[Look]:
    """What the model answers to each phrase, and where it looked."""
    answer = translate(model, data.pack(phrases, letters).to(device))
    weights = answer.weights.cpu()
    return [
        Look(phrase, ISO.decode(answer.ids[:, b]), weights[:, b, : len(phrase)])
        for b, phrase in enumerate(phrases)
    ]


def breakdown(train_pairs: list[Pair], test: list[Pair], right: dict[str, Tensor]) -> Table:
    """The share that is right, by the part of the date and by the length of the phrase."""
    table = Table("right on held-out dates", "phrases", "most frequent", *right)

    def row(what: str, columns: slice, which: list[int]) -> None:
        counts = Counter(pair.iso[columns] for pair in train_pairs)
        ((guess, _),) = counts.most_common(1)
        baseline = sum(test[b].iso[columns] == guess for b in which) / max(1, len(which))
        shares = [its[columns, which].all(0).float().mean().item() for its in right.values()]
        table.add_row(what, str(len(which)), *(f"{share:.1%}" for share in (baseline, *shares)))

    for name, columns in PARTS.items():
        row(f"the {name}", columns, list(range(len(test))))
    for name, (low, high) in LENGTHS.items():
        which = [b for b, pair in enumerate(test) if low <= len(pair.phrase) <= high]
        row(f"all, {name} letters", slice(None), which)
    return table


def compare(args: argparse.Namespace) -> common.Figures:
    days, held_out = data.split(args.seed)
    pairs = data.draw(days, args.steps * BATCH, args.seed)
    test = data.draw(held_out, HELD_OUT, args.seed + 1)
    letters = Vocabulary.of(pair.phrase for pair in pairs)
    hidden = args.hidden or HIDDEN
    models: dict[str, Translator] = {}
    histories: dict[str, History] = {}
    right: dict[str, Tensor] = {}
    for name, attention in (("attention off", False), ("attention on", True)):
        torch.manual_seed(args.seed)
        model = Translator(LIBRARIES[args.library], len(letters), hidden, attention=attention)
        models[name] = model.to(args.device)
        known = model, letters
        histories[name] = train(*known, pairs, test[:ON_THE_WAY], args.device, name)
        right[name] = letters_right(*known, test, args.device)

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(days)} dates to learn from, {len(held_out)} held out, {args.library}")
    console.print(breakdown(pairs, test, right))
    styles = [data.STYLES[i] for i in (2, 8, 7, 12)]
    phrases = [
        data.write(day, *style) for day, style in zip(held_out[: len(styles)], styles, strict=True)
    ]
    shown = {name: looks(model, letters, phrases, args.device) for name, model in models.items()}
    for b, phrase in enumerate(phrases):
        answers = ", ".join(f"{name} {its[b].answer}" for name, its in shown.items())
        console.print(f"{phrase} -> {answers}, true {held_out[b]}")
    long, *short = shown["attention on"][:3]
    draw_attention(args.out / "attention.png", [[long], short])
    curves = {name: history.right for name, history in histories.items()}
    draw_curves(args.out / "right.png", curves)
    weights = {name: w.cpu() for name, w in models["attention on"].state_dict().items()}
    values = {"hidden": hidden, "letters": letters.symbols, "state_dict": weights}
    checkpoint.save(args.out / "dates.pt", values)
    console.print(f"saved attention.png, right.png and dates.pt in {args.out}")
    ((guess, _),) = Counter(pair.iso for pair in pairs).most_common(1)
    return {
        "exactly right, always the most frequent date": sum(p.iso == guess for p in test)
        / len(test),
        **{f"exactly right, {n}": r.all(0).float().mean().item() for n, r in right.items()},
        **{f"seconds of training, {n}": h.seconds for n, h in histories.items()},
    }


def ask(args: argparse.Namespace) -> common.Figures:
    phrases = [" ".join(phrase.split()) for phrase in args.ask]
    for position, phrase in enumerate(phrases, 1):
        if not phrase:
            raise UserError(f"--ask: phrase {position} of {len(phrases)} is empty")
        if len(phrase) > LONGEST:
            raise UserError(f"--ask: {phrase[:20]!r}... is longer than {LONGEST} letters")
    path: Path = args.out / "dates.pt"
    keys = {"hidden", "letters", "state_dict"}
    saved = checkpoint.read(path, keys, train="python -m examples.dates")
    letters = Vocabulary(saved["letters"])
    hidden = args.hidden or saved["hidden"]
    model = Translator(LIBRARIES[args.library], len(letters), hidden, attention=True)
    checkpoint.restore(path, model, saved["state_dict"])
    model.to(args.device)
    read = [letters.decode(letters.encode(phrase)) for phrase in phrases]
    found = looks(model, letters, read, args.device)
    sure = translate(model, data.pack(read, letters).to(args.device)).probability
    draw_attention(args.out / "asked.png", [[look] for look in found])
    figures = {}
    for phrase, look, p in zip(phrases, found, sure.tolist(), strict=True):
        if UNKNOWN in look.phrase:
            print(f"note: letters never seen in training are read as {UNKNOWN}: {look.phrase}")
        try:
            date.fromisoformat(look.answer)
        except ValueError:
            print(f"note: the answer {look.answer} is no date of the calendar")
        figures[f"{phrase} -> {look.answer}, probability"] = p
    print(f"saved where it looked: {args.out / 'asked.png'}")
    return figures


def experiment(args: argparse.Namespace) -> common.Figures:
    if args.hidden and args.hidden % 2:
        raise UserError(f"--hidden: {args.hidden} is odd, but both directions get half of it")
    return ask(args) if args.ask else compare(args)


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--ask", nargs="+", metavar="PHRASE", help="translate with the trained model of --out")
    add("--hidden", type=common.positive, help=f"default: {HIDDEN}, or that of the checkpoint")
    common.add_library(parser)
    common.add_out(parser, "dates")


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "dates", __doc__, argv, steps=500, options=options)


if __name__ == "__main__":
    main()
