"""A vocabulary: from text to numbers and back, and what a one-hot letter is to a network.

    python -m examples.vocabulary [FILE]

The symbols of a text are numbered. A letter is then its number k, or a vector e_k with a single 1
among zeros (one-hot); and to multiply by that vector is to pick a column:

    W_ih e_k = W_ih[:, k]

So a network need not multiply: fastrnn takes the numbers, `rnn(ids, one_hot=True)`, and looks the
columns up. Letters that can be written in two ways, é as one code point or as e and an accent, are
brought into one form first (NFC, Unicode Standard Annex 15), or they would be two symbols.

Prints what becomes of a few words, how far numbers and vectors are apart in both libraries, and
what the lookup saves. Saves the vocabulary and a picture of the product.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import fastrnn
from examples import common, heat_maps
from examples.text import ALICE, Vocabulary, read_text

CONSOLE = Console(highlight=False, markup=False)
SENTENCE = 20  # letters of the text that are drawn
LARGE = 5000  # symbols: the characters of Chinese, or words
T, B, H = 64, 32, 64  # of what is timed
MARK = "#009E73"


def show_symbols(text: str, vocabulary: Vocabulary) -> None:
    table = Table("number", "symbol", "how often", title="the most frequent symbols")
    for symbol, count in Counter(text).most_common(8):
        number = vocabulary.encode(symbol).item()
        table.add_row(str(number), heat_maps.sign(symbol), f"{count:,}")
    CONSOLE.print(table)


def show_words(vocabulary: Vocabulary) -> None:
    """Words in two writings, with a letter that is not known, and padded to the longest."""
    known = Vocabulary([*vocabulary.symbols, "é"]) if "é" not in vocabulary.index else vocabulary
    words = ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}", "cat 猫"]
    batch = pad_sequence([known.encode(word) for word in words])  # with 0, which is padding
    table = Table("a word", "code points", "as numbers, padded", "decoded", title="a batch, with é")
    for word, ids in zip(words, batch.unbind(1), strict=True):
        numbers = " ".join(map(str, ids.tolist()))
        table.add_row(word, " ".join(f"{ord(c):04X}" for c in word), numbers, known.decode(ids))
    CONSOLE.print(table)


def results(rnn: torch.nn.Module, x: Tensor, **how) -> tuple[Tensor, Tensor]:
    """The output and, for a loss that weighs its numbers unlike, the gradient of W_ih."""
    output, _ = rnn(x, **how)
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
    (gradient,) = torch.autograd.grad((output * weights).sum(), rnn.weight_ih_l0)
    return output.detach(), gradient


def differences(ids: Tensor, symbols: int) -> common.Figures:
    """From numbers to vectors in either library: the largest, as a share of the largest value."""
    x = F.one_hot(ids, symbols).float()
    found = dict.fromkeys(("fastrnn", "torch.nn"), 0.0)
    for cell in ("RNN", "GRU", "LSTM"):
        ours = getattr(fastrnn, cell)(symbols, H).to(ids.device)
        theirs = getattr(torch.nn, cell)(symbols, H).to(ids.device)
        theirs.load_state_dict(ours.state_dict())
        by_index = results(ours, ids, one_hot=True)
        for name, rnn in (("fastrnn", ours), ("torch.nn", theirs)):
            for a, b in zip(by_index, results(rnn, x), strict=True):
                gap = (a - b).abs().max() / b.abs().max()
                found[name] = max(found[name], gap.item())
    return {f"numbers in fastrnn, vectors in {name}: apart": gap for name, gap in found.items()}


def seconds(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def savings(symbols: int, rounds: int, device: torch.device) -> tuple[list[float], list[float]]:
    """(milliseconds at best, megabytes) of a GRU's step of training: vectors, numbers."""
    ids = torch.randint(symbols, (T, B), device=device)
    rnn = fastrnn.GRU(symbols, H).to(device)

    def vectors() -> None:
        results(rnn, F.one_hot(ids, symbols).float())

    def numbers() -> None:
        results(rnn, ids, one_hot=True)

    times = {call: [] for call in (vectors, numbers)}
    for call in times:
        call()  # the first call of a kind has more to do
    for _ in common.Steps(rounds, f"{symbols} symbols"):
        for call, taken in times.items():
            taken.append(seconds(call, device))
    x = F.one_hot(ids[:1], symbols).float()
    sizes = [x.nbytes * T, ids.nbytes]
    return [1e3 * min(taken) for taken in times.values()], [size / 1e6 for size in sizes]


def show_savings(symbols: int, rounds: int, device: torch.device) -> None:
    title = f"a step of training, GRU, T{T} B{B} H{H}"
    table = Table("symbols", "vectors", "numbers", "vectors ", "numbers ", title=title)
    for count in (symbols, LARGE):
        times, sizes = savings(count, rounds, device)
        cells = [f"{t:.1f} ms" for t in times] + [f"{size:.3g} MB" for size in sizes]
        table.add_row(str(count), *cells)
    CONSOLE.print(table)


def matrix(axes: Axes, values: Tensor, columns: str, colours: dict) -> None:
    axes.imshow(values.tolist(), aspect="auto", interpolation="nearest", **colours)
    axes.set_xticks(range(len(columns)), [heat_maps.sign(c) for c in columns])
    axes.tick_params(length=0, labelfontfamily=heat_maps.FONT)
    # White lines, so that each number is a box.
    for size, line in ((values.shape[1], axes.axvline), (values.shape[0], axes.axhline)):
        for k in range(size - 1):
            line(k + 0.5, color="white", linewidth=0.8)
    axes.spines[:].set_visible(False)


def picked(sentence: str, vocabulary: Vocabulary) -> tuple[str, Tensor, Tensor, Tensor]:
    """The symbols of a sentence, its letters as columns of zeros and a 1, W_ih, their product.

    Rows and columns of symbols that the sentence lacks are left out.
    """
    symbols = "".join(sorted(set(sentence), key=vocabulary.index.get))
    columns = vocabulary.encode(symbols)
    x = (columns.unsqueeze(1) == vocabulary.encode(sentence)).float()
    w = fastrnn.RNN(len(vocabulary), 8).weight_ih_l0.detach()[:, columns]
    return symbols, x, w, w @ x


def draw(path: Path, sentence: str, vocabulary: Vocabulary) -> None:
    """W_ih at the left, the letters as vectors above, their product where the two meet."""
    symbols, x, w, found = picked(sentence, vocabulary)
    weights = heat_maps.STATE | {"vmin": -w.abs().max().item(), "vmax": w.abs().max().item()}
    figure = Figure(figsize=(11.5, 6.5), layout="constrained")
    height = [len(symbols), w.shape[0]]
    (words, above), (left, product) = figure.subplots(
        2, 2, height_ratios=height, width_ratios=[len(symbols), len(sentence)]
    )
    matrix(left, w, symbols, weights)
    matrix(above, x, sentence, {"cmap": "Greys", "vmin": -0.1, "vmax": 1.2})
    matrix(product, found, sentence, weights)
    above.set_yticks(range(len(symbols)), [heat_maps.sign(s) for s in symbols])
    for axes, title in (
        (left, "W_ih (H, I): a column for each symbol"),
        (above, "one-hot letters (I, T): a row for each symbol"),
        (product, "their product (H, T): the column of each letter"),
    ):
        axes.set_title(title, loc="left", color=heat_maps.INK, fontsize=11)
    for axes in (left, product):
        axes.set_yticks([])
        axes.set_ylabel("units")
    words.axis("off")
    letter = max(symbols.strip() or symbols, key=sentence.count)
    shown = heat_maps.sign(letter)
    words.text(
        0, 0.5, f"Wherever {shown} is read,\nits column of W_ih is picked.", color=MARK, fontsize=14
    )
    height = w.shape[0]
    left.add_patch(_frame(symbols.index(letter), height))
    for at in (t for t, c in enumerate(sentence) if c == letter):
        product.add_patch(_frame(at, height))
        box = Rectangle((at - 0.5, symbols.index(letter) - 0.5), 1, 1, color=MARK)
        above.add_patch(box)
    figure.savefig(path, dpi=110)


def _frame(column: int, height: int) -> Rectangle:
    corner = column - 0.5, -0.5
    return Rectangle(corner, 1, height, fill=False, edgecolor=MARK, linewidth=2.5, clip_on=False)


def experiment(args: argparse.Namespace) -> common.Figures:
    text = read_text(args.file)
    vocabulary = Vocabulary.of([text])
    ids = vocabulary.encode(text)
    back = vocabulary.decode(ids)
    show_symbols(text, vocabulary)
    show_words(vocabulary)
    show_savings(len(vocabulary), args.rounds, args.device)
    piece = ids[: T * 4].view(-1, 1) if len(ids) < T * B else ids[: T * B].view(B, T).t()
    figures = differences(piece.contiguous().to(args.device), len(vocabulary))

    file, picture = args.out / "vocabulary.json", args.out / "one_hot.png"
    vocabulary.save(file)
    sentence = shorten(text, SENTENCE, placeholder="") or text.strip()[:SENTENCE]
    draw(picture, vocabulary.decode(vocabulary.encode(sentence)), vocabulary)
    assert Vocabulary.load(file).symbols == vocabulary.symbols
    print(f"vocabulary: {file}\npicture: {picture}")
    return {
        "characters": len(text),
        "symbols": len(vocabulary),
        "characters that were not given back": sum(map(str.__ne__, text, back)),
        **figures,
    }


def options(parser: argparse.ArgumentParser) -> None:
    common.add_out(parser, "vocabulary")
    add = parser.add_argument
    text = "UTF-8 text, default: Alice in Wonderland"
    add("file", nargs="?", type=Path, metavar="FILE", default=ALICE, help=text)
    add("--rounds", type=common.positive, default=30, help="of timing, default: %(default)s")


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "vocabulary", __doc__, argv, options=options)


if __name__ == "__main__":
    main()
