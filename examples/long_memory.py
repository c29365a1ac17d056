"""Long memory: the adding problem, which a plain RNN cannot learn and LSTM and GRU can.

A sequence of T steps has two numbers a step: one drawn evenly from 0 to 1, and a mark, which is 1
at two steps, one in each half, and 0 at all others. After the last step the network is to say the
sum of the two marked numbers (Hochreiter & Schmidhuber 1997):

    number  0.3  0.7  0.1  0.9  0.4  0.2
    mark     0    1    0    0    0    1     ->  0.7 + 0.2 = 0.9

Who always answers 1 has the mean squared error 1/6 = 0.167, the variance of such a sum. To do
better, the gradient has to reach the marks: an RNN's vanishes on the way, so it stays at that line.
LSTM and GRU keep what they have written, if their gates begin open for about as long as the
sequence is ("chrono": Tallec & Ollivier 2018, arXiv:1804.11188).

Trains each cell for each T, on new sequences in every step: 32 units, 20 sequences a step, Adam at
0.02, gradients clipped to 1. Prints the errors on 1000 sequences that were not trained on, and
saves loss.png.
"""

import argparse
from pathlib import Path
from types import ModuleType

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn

from examples import common
from examples.initial import chrono
from examples.pictures import INK

HIDDEN, BATCH, RATE, CLIP = 32, 20, 0.02, 1.0
COLORS = {"RNN": "#D55E00", "LSTM": "#0072B2", "GRU": "#009E73"}
SMOOTH = 20  # steps that are averaged in the picture


def sequences(T: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (T, count, 2), a number and a mark for each step, and y (count,), the sum."""
    numbers = torch.rand(T, count, generator=generator)
    marks, every = torch.zeros(T, count), torch.arange(count)
    marks[torch.randint(T // 2, (count,), generator=generator), every] = 1
    marks[torch.randint(T // 2, T, (count,), generator=generator), every] = 1
    return torch.stack((numbers, marks), 2), (numbers * marks).sum(0)


class Adder(nn.Module):
    """x (T, B, 2) -> (B,), from the last hidden state."""

    def __init__(self, library: ModuleType, cell: str, T: int):
        super().__init__()
        self.rnn = getattr(library, cell)(2, HIDDEN)
        if cell != "RNN":
            chrono(self.rnn, T)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][-1]).squeeze(1)


def train(
    library: ModuleType, cell: str, T: int, steps: int, seed: int, device: torch.device
) -> tuple[Adder, list[float]]:
    """The model, and its loss in every step."""
    torch.manual_seed(seed)
    model, generator = Adder(library, cell, T).to(device), torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.99))
    losses = []
    progress = common.Steps(steps, f"T = {T}, {cell:4}: error")
    for _ in progress:
        x, y = (t.to(device) for t in sequences(T, BATCH, generator))
        adam.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        adam.step()
        losses.append(loss.detach())
        progress.show(loss)
    return model, torch.stack(losses).tolist()


@torch.no_grad()
def examine(model: Adder, T: int, seed: int, device: torch.device) -> tuple[float, float]:
    """The errors on new sequences: the model's, and that of always answering 1."""
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    parts = []
    for _ in range(5):
        x, y = (t.to(device) for t in sequences(T, 200, generator))
        parts.append(torch.stack((model(x) - y, 1 - y)).square().mean(1))
    error, baseline = torch.stack(parts).mean(0).tolist()
    return error, baseline


def draw(path: Path, curves: dict[int, dict[str, list[float]]]) -> None:
    """A panel for each T: the loss over the steps of training, averaged over some of them."""
    figure = Figure(figsize=(max(6, 1 + 3.2 * len(curves)), 4), layout="constrained")
    panels = figure.subplots(1, len(curves), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (T, cells) in zip(panels, curves.items(), strict=True):
        for cell, losses in cells.items():
            width = min(SMOOTH, len(losses))
            means = torch.tensor(losses).unfold(0, width, 1).mean(1).tolist()
            steps = range(width, len(losses) + 1)
            axes.semilogy(steps, means, color=COLORS[cell], linewidth=2, label=cell)
        axes.axhline(1 / 6, color=INK, linewidth=1, linestyle="--", label="always answering 1")
        axes.set_title(f"T = {T}", loc="left", color=INK)
        axes.set_xlabel("training step")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean squared error")
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", ncols=len(lines[0]), frameon=False)
    figure.savefig(path, dpi=150)


def experiment(args: argparse.Namespace) -> common.Figures:
    library, figures = common.LIBRARIES[args.library], {}
    curves: dict[int, dict[str, list[float]]] = {}
    for T in sorted(set(args.lengths)):
        curves[T] = {}
        for cell in COLORS:
            model, curves[T][cell] = train(library, cell, T, args.steps, args.seed, args.device)
            error, baseline = examine(model, T, args.seed, args.device)
            figures[f"error, T = {T}, {cell}"] = error
        figures[f"error, T = {T}, always answering 1"] = baseline
    draw(args.out / "loss.png", curves)
    Console(highlight=False, markup=False, soft_wrap=True).print(f"saved {args.out / 'loss.png'}")
    return figures


def length(text: str) -> int:
    value = int(text)
    if value < 4:
        raise argparse.ArgumentTypeError(f"{value} is too short, two marks need 4 steps or more")
    return value


def options(parser: argparse.ArgumentParser) -> None:
    help, usual = "steps of a sequence, default: 100 300 1000", [100, 300, 1000]
    add = parser.add_argument
    add("--lengths", type=length, nargs="+", default=usual, metavar="T", help=help)
    common.add_library(parser)
    common.add_out(parser, "long_memory")


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "long_memory", __doc__, argv, steps=700, options=options)


if __name__ == "__main__":
    main()
