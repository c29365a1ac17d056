"""Pictures of names that were written: what a judge says, and how each letter was chosen."""

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from examples.name_writer import END
from examples.pictures import INK
from examples.text import Vocabulary

BLUE, ORANGE = "#0072B2", "#D55E00"
COLUMNS, LIKELY = 6, 6  # names of a language; letters of a step


class Drawn(NamedTuple):
    """The names of one language."""

    names: list[str]
    verdicts: list[str]  # what the judge takes each of them for
    chances: Tensor  # (T, B, symbols): that each letter was drawn by


def draw_names(path: Path, drawn: dict[str, Drawn], known: set[str]) -> None:
    """A row for each language; below a name that the judge gives to another language, which."""
    figure = Figure(figsize=(10, 1.1 + 0.55 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for row, (language, (names, verdicts, _)) in enumerate(drawn.items()):
        new = [pair for pair in zip(names, verdicts, strict=True) if pair[0] not in known]
        for column, (name, verdict) in enumerate(new[:COLUMNS]):
            right = verdict == language
            color, weight = (BLUE, "bold") if right else (ORANGE, "normal")
            axes.text(
                column, row, name.title(), ha="center", va="center", color=color, weight=weight
            )
            if not right:
                note = f"{verdict}?"
                axes.text(column, row + 0.3, note, ha="center", va="center", color=INK, fontsize=7)
    axes.set_yticks(range(len(drawn)), drawn)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xlim(-0.5, COLUMNS - 0.5)
    axes.set_xticks([])
    axes.set_ylabel("the language that was asked for")
    axes.set_title(
        "New names. Bold blue: the judge names that language; orange: another one",
        loc="left",
        color=INK,
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for row in range(1, len(drawn)):
        axes.axhline(row - 0.45, color="#DDDDDD", linewidth=0.8)
    figure.savefig(path, dpi=150)


def draw_writing(
    path: Path, drawn: dict[str, Drawn], known: set[str], vocabulary: Vocabulary
) -> None:
    """For a new name of each language: in every step the likeliest letters, and which was drawn."""
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(10, 0.8 + 2.3 * rows), layout="constrained")
    figure.get_layout_engine().set(hspace=0.08, wspace=0.04)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(drawn) :]:
        axes.remove()
    for axes, (language, one) in zip(grid.flat, drawn.items(), strict=False):
        # The first one that fits.
        fits = (b for b, name in enumerate(one.names) if name not in known and len(name) <= 12)
        which = next(fits, 0)
        image = _draw_steps(axes, one.names[which], one.chances[:, which], vocabulary)
        axes.set_title(f"{language}: {one.names[which].title()}", loc="left", color=INK)
    for axes in grid[:, 0]:
        axes.set_ylabel("likeliest first")
    figure.supxlabel("the letters as they are drawn, in boxes; ■ is the end of the name", color=INK)
    bar = figure.colorbar(
        image, ax=list(grid.flat[: len(drawn)]), format=PercentFormatter(1), shrink=0.6, pad=0.01
    )
    bar.set_label("chance of the letter")
    figure.savefig(path, dpi=150)


def _draw_steps(axes: Axes, name: str, chances: Tensor, vocabulary: Vocabulary):
    written = [*vocabulary.encode(name).tolist(), vocabulary.index[END]]
    best = chances[: len(written)].topk(LIKELY)
    image = axes.imshow(best.values.T.tolist(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for column, (letters, values) in enumerate(zip(*(t.tolist() for t in best[::-1]), strict=True)):
        for row, (letter, chance) in enumerate(zip(letters, values, strict=True)):
            color = "white" if chance > 0.5 else INK
            mark = _mark(letter, vocabulary)
            axes.text(column, row, mark, ha="center", va="center", color=color, fontsize=9)
        # A letter that is less likely than those shown stands in a row below them.
        row = letters.index(written[column]) if written[column] in letters else LIKELY
        if row == LIKELY:
            mark = _mark(written[column], vocabulary)
            axes.text(column, row, mark, ha="center", va="center", color=INK, fontsize=9)
        box = Rectangle((column - 0.45, row - 0.45), 0.9, 0.9, fill=False, ec=ORANGE, lw=1.8)
        axes.add_patch(box)
    axes.set_ylim(LIKELY + 0.5, -0.5)
    axes.set_xticks(range(len(written)), [_mark(letter, vocabulary) for letter in written])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return image


def _mark(letter: int, vocabulary: Vocabulary) -> str:
    symbol = vocabulary.symbols[letter]
    return "■" if symbol == END else "␣" if symbol == " " else symbol
