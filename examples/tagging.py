"""Put back the spaces of a text that was written without any: a tag for each letter.

As many come out as go in, and in step (synchronised many to many): the network reads a letter and
says whether a word begins with it.

    thewhiterabbit          h_t = LSTM(x_t, h_t-1, c_t-1)
    10010000100000          p(a word begins at t) = sigmoid(w h_t + b)

Whether "the" ends here or goes on as "there" is decided by letters that come later. An LSTM that
reads forward has not seen them; a bidirectional one (Graves and Schmidhuber 2005) has a second
LSTM that reads backward, and h_t is what both know. Here both have a state of the same size, 192
numbers; of the bidirectional one's, 96 come from each side, with which it has fewer weights.

The text is "Alice in Wonderland" in sentences, the last sixth of them held out. Prints, for the
letters of these but the first of each sentence, the share of tags that are right, and F1: the
harmonic mean of the shares of spaces found that are right, and of right ones that are found. Beside
them: no spaces at all; and a rule that looks at two letters, the last one and this, and puts a
space between them if they are so often apart in the text to learn from.

--text "..." segments a text of yours.
"""

import argparse
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from examples import common
from examples.common import LIBRARIES, UserError
from examples.names_data import pack
from examples.tagging_data import Sentence, packed, sentence, sentences_of, spaced, words_of
from examples.tagging_picture import Read, draw
from examples.text import ALICE, Vocabulary, read, read_text
from examples.training import train

HELD_OUT = 6  # one in so many
BATCH, STATE = 32, 192
SHOWN, WIDE = 3, 55  # sentences; letters that fit into the width of the picture
ONE, BOTH = "reads forward", "reads both ways"


class Tagger(nn.Module):
    """Letters -> a score for each: that a word begins there."""

    def __init__(self, library: ModuleType, symbols: int, directions: int, state: int = STATE):
        super().__init__()
        self.rnn = library.LSTM(symbols, state // directions, bidirectional=directions == 2)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(state, 1)

    def forward(self, ids: PackedSequence) -> Tensor:
        """(letters of all sentences,), in the order of ids.data."""
        output, _ = read(self.rnn, ids)
        return self.out(self.dropout(output.data)).squeeze(-1)


def loss_of(model: Tagger, sentences: list[Sentence], device: torch.device) -> Tensor:
    ids, begins = packed(sentences, device)
    return F.binary_cross_entropy_with_logits(model(ids), begins.float())


@torch.no_grad()
def chances(model: Tagger, ids: Tensor, device: torch.device) -> Tensor:
    """(T,): that a word begins with each letter of a sentence; with the first, one always does."""
    p = model.eval()(pack([ids]).to(device)).sigmoid().cpu()
    p[0] = 1
    return p


def measures(guess: Tensor, truth: Tensor) -> tuple[float, float]:
    """(share of tags that are right, F1 of the spaces)."""
    found = (guess & truth).sum()
    f1 = 2 * found / (guess.sum() + truth.sum()).clamp(min=1)
    return (guess == truth).float().mean().item(), f1.item()


@torch.no_grad()
def examined(model: Tagger, data: list[Sentence], device: torch.device) -> tuple[float, float]:
    ids, begins = packed(data, device)
    # Packed data goes step by step, so the first letters of all sentences come first.
    return measures((model.eval()(ids) > 0)[len(data) :], begins[len(data) :])


def by_pairs(train_data: list[Sentence], test_data: list[Sentence], symbols: int):
    """`measures` of the rule of two letters, its threshold the best for F1 in the training data."""

    def pairs(data: list[Sentence]) -> tuple[Tensor, Tensor]:
        places = torch.cat([s.ids[:-1] * symbols + s.ids[1:] for s in data])
        return places, torch.cat([s.begins[1:] for s in data])

    pair, begins = pairs(train_data)
    counts = torch.bincount(pair, minlength=symbols**2)
    apart = torch.bincount(pair[begins], minlength=symbols**2) / counts.clamp(min=1)
    thresholds = torch.arange(1, 20) / 20
    best = max(thresholds, key=lambda least: measures(apart[pair] > least, begins)[1])
    pair, begins = pairs(test_data)
    return measures(apart[pair] > best, begins)


def experiment(args: argparse.Namespace) -> common.Figures:
    asked = [words_of(text) for text in args.text]
    for text, words in zip(args.text, asked, strict=True):
        if not words:
            raise UserError(
                f"--text {text!r}: no letters in it, expected some to put spaces between"
            )
    sentences = sentences_of(read_text(args.file))
    if len(sentences) < 2 * HELD_OUT:
        few = f"{len(sentences)} sentences, expected {2 * HELD_OUT} or more"
        raise UserError(f"{args.file}: only {few}; give a longer text")
    held_out = len(sentences) // HELD_OUT
    vocabulary = Vocabulary.of(word for words in sentences[:-held_out] for word in words)
    data = [sentence(words, vocabulary) for words in sentences]
    train_data, test_data = data[:-held_out], data[-held_out:]

    taggers = {}
    for name, directions in ((ONE, 1), (BOTH, 2)):
        taggers[name] = Tagger(LIBRARIES[args.library], len(vocabulary), directions)
        train(taggers[name], loss_of, train_data, args, name, BATCH)

    own = [sentence(words, vocabulary) for words in asked]
    show([*test_data[:SHOWN], *own], taggers, args.device)
    picture = args.out / "tagging.png"
    draw(picture, [as_seen(s, taggers, args.device) for s in test_data[:SHOWN]], BOTH, ONE)
    print(f"saved {picture}")

    truth = torch.cat([s.begins[1:] for s in test_data])
    found = {
        BOTH: examined(taggers[BOTH], test_data, args.device),
        ONE: examined(taggers[ONE], test_data, args.device),
        "rule of two letters": by_pairs(train_data, test_data, len(vocabulary)),
        "no spaces at all": measures(torch.zeros_like(truth), truth),
    }
    shares = {f"held-out tags right, {name}": share for name, (share, _) in found.items()}
    return shares | {f"F1 of the spaces, {name}": f1 for name, (_, f1) in found.items()}


def show(data: list[Sentence], taggers: dict, device: torch.device) -> None:
    table = Table("", "words")
    for s in data:
        table.add_row("the text", spaced(s.letters, s.begins))
        for name, tagger in taggers.items():
            guess = spaced(s.letters, chances(tagger, s.ids, device) > 0.5)
            table.add_row(name, guess, end_section=name == BOTH)
    Console(highlight=False, markup=False).print(table)


def as_seen(s: Sentence, taggers: dict, device: torch.device) -> Read:
    both, one = (chances(taggers[name], s.ids, device)[:WIDE] for name in (BOTH, ONE))
    return Read(s.letters[:WIDE], s.begins[:WIDE], both, one)


def main(argv: list[str] | None = None) -> common.Figures:
    def options(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--text", action="append", default=[], help="to put spaces into; may be repeated")
        add("--file", type=Path, default=ALICE, help="to learn from, default: %(default)s")
        common.add_library(parser)
        common.add_out(parser, "tagging")

    return common.run(experiment, "tagging", __doc__, argv, steps=500, options=options)


if __name__ == "__main__":
    main()
