"""The picture of a training: bits per character over the characters read, beside guessing."""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from examples.char_rnn.training import History
from examples.pictures import INK

TRAINING, HELD_OUT, GUESSING = "#56B4E9", "#0072B2", "#D55E00"


def draw(path: Path, history: History, baselines: dict[str, float], title: str) -> None:
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    end = history.characters[-1]
    for name, bits in baselines.items():
        axes.axhline(bits, color=GUESSING, linestyle="--", linewidth=1)
        label = f"guessing by {name}: {bits:.2f}"
        axes.annotate(
            label, (end, bits), (0, 3), textcoords="offset points", ha="right", color=GUESSING
        )
    loss = torch.tensor(history.loss) / math.log(2)
    axes.plot(history.characters, loss, color=TRAINING, linewidth=0.8)
    axes.plot(history.epochs, history.held_out, color=HELD_OUT, marker="o", markersize=4)
    if history.held_out:
        reached = f"held out: {history.held_out[-1]:.2f}"
        last = end, history.held_out[-1]
        axes.annotate(reached, last, (0, 9), textcoords="offset points", ha="right", color=HELD_OUT)
    axes.annotate(
        f"each window of the training: {loss[-1]:.2f}",
        (end, loss[-1]),
        (0, -16),
        textcoords="offset points",
        ha="right",
        va="top",
        color=TRAINING,
    )
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlabel("characters read")
    axes.set_ylabel("bits per character")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, end)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M" if x >= 1e6 else f"{x / 1e3:g} k")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
