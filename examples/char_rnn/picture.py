"""The picture of a training: bits per character over the characters read, beside guessing."""

import math
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from examples.char_rnn.training import History
from examples.pictures import INK

TRAINING, HELD_OUT, GUESSING = "#3A9BD6", "#003F6B", "#D55E00"


def draw(path: Path, history: History, baselines: dict[str, float], title: str) -> None:
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    end = history.characters[-1]
    for knowing, bits in baselines.items():
        axes.axhline(bits, color=GUESSING, linestyle="--", linewidth=1)
        # Over the line, at its right end: there the curves are far below.
        place = {"xytext": (-4, 3), "textcoords": "offset points", "ha": "right"}
        axes.annotate(f"guessing from {knowing}: {bits:.2f}", (end, bits), **place, color=GUESSING)
    training = [loss / math.log(2) for loss in history.loss]
    axes.plot(history.characters, training, color=TRAINING, linewidth=0.8)
    axes.plot(history.epochs, history.held_out, color=HELD_OUT, marker="o", markersize=4)
    ends = {
        "training,\nwith dropout": (mean(training[-len(training) // 20 :]), TRAINING),
        f"held out:\n{history.held_out[-1]:.2f}": (history.held_out[-1], HELD_OUT),
    }
    lower, upper = sorted(ends, key=ends.get)
    for name, side in ((lower, "top"), (upper, "bottom")):
        bits, color = ends[name]
        place = {"xytext": (8, 0), "textcoords": "offset points", "va": side}
        axes.annotate(name, (end, bits), **place, color=color, annotation_clip=False)
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlabel("characters read")
    axes.set_ylabel("bits per character")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, end)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
