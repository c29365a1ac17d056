"""Pictures: where each letter of an answer looked in the phrase, and how fast both models learn."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from examples.pictures import INK

CELL = 0.21  # inches for a letter
COLORS = {"attention on": "#0072B2", "attention off": "#D55E00"}


class Look(NamedTuple):
    phrase: str
    answer: str
    weights: Tensor  # (letters of the answer, letters of the phrase)


def draw_attention(path: Path, rows: Sequence[Sequence[Look]]) -> None:
    """Each row of the figure holds the looks that stand side by side."""
    width = max(sum(len(look.phrase) + 4 for look in row) for row in rows)
    height = sum(len(row[0].answer) + 3 for row in rows)
    figure = Figure(figsize=(CELL * width + 0.4, CELL * height + 0.4), layout="constrained")
    figure.suptitle(
        "Where each letter of the date looked in the phrase (dark: much)",
        color=INK,
        ha="left",
        x=0.01,
    )
    grid = figure.add_gridspec(len(rows), 1)
    for place, row in zip(grid, rows, strict=True):
        ratios = [len(look.phrase) for look in row]
        for cell, look in zip(
            place.subgridspec(1, len(row), width_ratios=ratios), row, strict=True
        ):
            _draw(figure.add_subplot(cell), look)
    figure.savefig(path, dpi=150)


def _draw(axes: Axes, look: Look) -> None:
    axes.imshow(look.weights.tolist(), cmap="Blues", vmin=0, vmax=1)
    style = {"family": "monospace", "fontsize": 10}
    axes.set_xticks(range(len(look.phrase)), look.phrase, **style)
    axes.set_yticks(range(len(look.answer)), look.answer, **style)
    axes.set_xlabel("letters of the phrase", color=INK)
    axes.set_ylabel("of the date", color=INK)
    # White lines between the cells, so that the eye can follow a letter up its column.
    axes.set_xticks([x - 0.5 for x in range(1, len(look.phrase))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(look.answer))], minor=True)
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
    axes.tick_params(which="both", length=0)


def draw_curves(path: Path, curves: dict[str, dict[int, float]]) -> None:
    """`curves[model][step]`: the share of held-out dates exactly right."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, right in curves.items():
        axes.plot(right.keys(), right.values(), marker="o", markersize=4, color=COLORS[name])
        axes.annotate(
            name,
            list(right.items())[-1],
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=COLORS[name],
        )
    axes.set_title("Held-out dates translated exactly", loc="left", color=INK)
    axes.set_xlabel("training steps")
    axes.set_ylabel("share right")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
