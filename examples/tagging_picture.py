"""Sentences letter by letter: how sure two taggers are that a word begins, one above, one below."""

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from examples.pictures import INK

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#BBBBBB"
GAP = 0.22  # between the middle, where the letters stand, and the bars


class Read(NamedTuple):
    """A sentence as two taggers see it."""

    letters: str
    begins: Tensor  # (T,) bool
    above: Tensor  # (T,): probabilities
    below: Tensor


def draw(path: Path, sentences: list[Read], above: str, below: str) -> None:
    figure = Figure(figsize=(10, 0.9 + 2.2 * len(sentences)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)
    grid = figure.subplots(len(sentences), squeeze=False)[:, 0]
    longest = max(len(read.letters) for read in sentences)
    for axes, read in zip(grid, sentences, strict=True):
        _draw_bars(axes, read.above, read.begins, up=1)
        _draw_bars(axes, read.below, read.begins, up=-1)
        for t, letter in enumerate(read.letters):
            weight = "bold" if read.begins[t] else "normal"
            axes.text(t, 0, letter, ha="center", va="center", color=INK, weight=weight)
        for t in read.begins.nonzero().flatten().tolist():
            axes.axvline(t - 0.5, color=GREY, linewidth=0.8, zorder=0)
        axes.set_xlim(-0.7, longest - 0.3)
        axes.set_ylim(-1.12 - GAP, 1.12 + GAP)
        sides = [(side * (GAP + p), f"{p:.0%}") for side in (1, -1) for p in (0, 0.5, 1)]
        axes.set_yticks([y for y, _ in sides], [label for _, label in sides])
        axes.set_ylabel(f"{below}     {above}", fontsize=8)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    grid[0].set_title("Does a word begin with this letter?", loc="left", color=INK)
    figure.legend(
        handles=[
            Patch(color=BLUE, label="a word begins"),
            Patch(color=GREY, label="none begins"),
            Line2D([], [], color=ORANGE, marker="X", linestyle="", label="wrong side of 50 %"),
        ],
        loc="outside upper right",
        ncols=3,
        frameon=False,
    )
    figure.savefig(path, dpi=150)


def _draw_bars(axes: Axes, p: Tensor, begins: Tensor, *, up: int) -> None:
    """Bars from the letters upward (1) or downward (-1)."""
    colors = [BLUE if begin else GREY for begin in begins.tolist()]
    places = range(len(p))
    axes.bar(places, (up * p).tolist(), bottom=up * GAP, width=0.75, color=colors)
    axes.axhline(up * (GAP + 0.5), color=INK, linewidth=0.6, linestyle=":")
    for t in ((p > 0.5) != begins).nonzero().flatten().tolist():
        axes.plot(t, up * (GAP + 0.5), "X", color=ORANGE, markersize=9, markeredgecolor="white")
