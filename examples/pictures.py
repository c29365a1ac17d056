"""Pictures of a training, saved as files: the loss of each epoch and a confusion matrix."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

INK = "#222222"
# The wide line stays visible beside the thin one where the two coincide.
LIBRARIES = {
    "torch.nn": {"color": "#E69F00", "linewidth": 6, "marker": "o", "markersize": 6},
    "fastrnn": {"color": "#0072B2", "linewidth": 1.5, "marker": "o", "markersize": 3},
}


def draw_losses(path: Path, curves: dict[str, dict[str, list[float]]]) -> None:
    """`curves[library][part]`: a loss for each epoch. Below: how far the libraries are apart."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for row, (library, style) in enumerate(LIBRARIES.items()):
        for losses in curves[library].values():
            above.plot(range(1, len(losses) + 1), losses, **style)
        # At the lower left, where a training that has just begun has no losses.
        place = (0.03, 0.14 - 0.08 * row)
        above.annotate(library, place, xycoords="axes fraction", color=style["color"])
    _label_ends(above, curves["fastrnn"])
    above.set_title("Loss of each epoch", loc="left", color=INK)
    above.set_ylabel("cross entropy")
    above.margins(y=0.1)
    above.set_ylim(bottom=0)
    pairs = zip(*(curves[library]["training"] for library in LIBRARIES), strict=True)
    gaps = [abs(a - b) for a, b in pairs]
    below.plot(range(1, len(gaps) + 1), gaps, marker=".", color=INK)
    below.set_title("Difference of the two training losses", loc="right", color=INK, fontsize=10)
    # Without a floor, two equal curves would leave an axis of arbitrary height.
    below.set_ylim(0, 1.1 * max(*gaps, torch.finfo(torch.float32).eps))
    below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    below.set_xlabel("epoch")
    below.set_xlim(0.5, len(gaps) + 0.5)
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _label_ends(axes: Axes, curves: dict[str, list[float]]) -> None:
    """Name two curves at their last point, the lower below it and the upper above it."""
    by_height = sorted(curves.items(), key=lambda curve: curve[1][-1])
    for side, (name, losses) in zip(("top", "bottom"), by_height, strict=True):
        end = (len(losses), losses[-1])
        axes.annotate(name, end, xytext=(8, 0), textcoords="offset points", va=side, color=INK)


def confusion(scores: Tensor, truth: Tensor) -> Tensor:
    """[truth, guess]: of the names of one language, the share that was given each language."""
    classes = scores.shape[1]
    counts = torch.bincount(truth * classes + scores.argmax(1), minlength=classes**2)
    counts = counts.view(classes, classes).float()
    return counts / counts.sum(1, keepdim=True)


def draw_confusion(path: Path, matrix: Tensor, languages: list[str]) -> None:
    """A row for every true language, a column for every guess; each row sums to 100 %."""
    side = max(5.5, 2.5 + 0.3 * len(languages))  # inches
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix.tolist(), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(languages))
    axes.set_xticks(ticks, languages, rotation=90)
    axes.set_yticks(ticks, languages)
    axes.set_xlabel("guess")
    axes.set_ylabel("truth")
    axes.set_title("Held-out names: which language is taken for which", loc="left", color=INK)
    for row, shares in enumerate(matrix.tolist()):
        for column, share in enumerate(shares):
            # Less than one in twenty is left to the colour, so that the eye finds the confusions.
            if share >= 0.05:
                color = "white" if share > 0.5 else INK
                cell = f"{100 * share:.0f}"
                axes.text(column, row, cell, ha="center", va="center", color=color, fontsize=7)
    bar = figure.colorbar(image, format=PercentFormatter(1), shrink=0.8)
    bar.set_label("share of the language's names")
    figure.savefig(path, dpi=150)
