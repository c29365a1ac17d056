"""Vanishing and exploding gradients: what reaches the first step of a sequence, and what helps.

The gradient goes back in time through every step, and is multiplied by a matrix in each:

    d loss/d h_t  =  d loss/d h_T · (d h_T/d h_T-1) · ... · (d h_t+1/d h_t)

If the factors are smaller than one the product vanishes, and what happened long ago cannot be
learned (Bengio et al. 1994); if they are larger it explodes, and one step of training ruins the
weights (Pascanu et al. 2013, arXiv:1211.5063). fastrnn.diagnose measures it: here for layers that
have just been made, each in other ways, and no training at all.

What helps against vanishing: a W_hh that turns but does not shrink; a relu with W_hh = 1 (Le et al.
2015, arXiv:1504.00941); gates, above all a forget gate that starts open (Jozefowicz et al. 2015),
or one that starts as open as the sequence is long (chrono: Tallec & Ollivier 2018,
arXiv:1804.11188). What helps against exploding: clipping, torch.nn.utils.clip_grad_norm_. The same
RNN, with a W_hh that is a bit too large, is trained to add up a sequence with it and without.

Prints the curves, and saves gradients.png and clipping.png. An answer of 0 has the error 1.
"""

import argparse
import math
from collections.abc import Callable
from types import ModuleType

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn

import fastrnn
from examples import common
from examples.initial import chrono, forget_bias, orthogonal, recurrent
from examples.pictures import INK
from fastrnn.reach import Reach

B, I, H = 32, 8, 64
RATE, CLIP, SUM_T, SUM_H = 0.1, 0.1, 50, 32
UNGATED: dict[str, Callable[[int], nn.Module]] = {
    "RNN": lambda T: fastrnn.RNN(I, H),
    "RNN, relu": lambda T: fastrnn.RNN(I, H, nonlinearity="relu"),
    "RNN, W_hh orthogonal": lambda T: orthogonal(fastrnn.RNN(I, H)),
    "RNN, relu, W_hh = 1": lambda T: recurrent(
        fastrnn.RNN(I, H, nonlinearity="relu"), torch.eye(H)
    ),
    "RNN, W_hh 4 times as large": lambda T: large(fastrnn.RNN(I, H)),
}
GATED: dict[str, Callable[[int], nn.Module]] = {
    "GRU": lambda T: fastrnn.GRU(I, H),
    "LSTM": lambda T: fastrnn.LSTM(I, H),
    "LSTM, forget bias 1": lambda T: forget_bias(fastrnn.LSTM(I, H), 1.0),
    "GRU, chrono": lambda T: chrono(fastrnn.GRU(I, H), T),
    "LSTM, chrono": lambda T: chrono(fastrnn.LSTM(I, H), T),
}
# Okabe and Ito's colours, which the colour-blind can tell apart; each with a line of its own.
STYLES = [
    {"color": "#000000", "linestyle": "-"},
    {"color": "#0072B2", "linestyle": "--"},
    {"color": "#E69F00", "linestyle": "-"},
    {"color": "#009E73", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
]
BOTTOM, TOP = 1e-30, 1e10


def large(rnn: nn.Module) -> nn.Module:
    return recurrent(rnn, 4 * rnn.weight_hh_l0)


def memory(found: fastrnn.Diagnosis) -> Reach:
    """That of the state which carries the memory: c of an LSTM, else h."""
    return found.reach[-1]


def curves(T: int, device: torch.device) -> dict[str, fastrnn.Diagnosis]:
    """The gradient of every kind of layer over T steps of noise."""
    x = torch.randn(T, B, I, device=device)
    return {
        name: fastrnn.diagnose(make(T).to(device), x) for name, make in (UNGATED | GATED).items()
    }


def sums(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise x (T, count, 1) and y (count,): its sum, scaled so that the variance is 1."""
    x = torch.randn(SUM_T, count, 1, generator=generator)
    return x, x.sum((0, 2)) / math.sqrt(SUM_T)


class Summer(nn.Module):
    def __init__(self, library: ModuleType):
        super().__init__()
        self.rnn = orthogonal(library.RNN(1, SUM_H, nonlinearity="relu"), 1.1)
        self.out = nn.Linear(SUM_H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][-1]).squeeze(1)


def train(
    model: Summer, steps: int, seed: int, *, clip: float | None
) -> tuple[list[float], list[float]]:
    """(losses, norms of the gradient before clipping), to the first loss that is not finite."""
    device, generator = model.out.weight.device, torch.Generator().manual_seed(seed)
    weights = list(model.parameters())
    sgd = torch.optim.SGD(weights, lr=RATE)
    losses, norms = [], []
    progress = common.Steps(steps, "error without clipping" if clip is None else "error, clipped")
    for _ in progress:
        x, y = (t.to(device) for t in sums(64, generator))
        sgd.zero_grad()
        loss = (model(x) - y).square().mean()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        # With no bound at all, clip_grad_norm_ only measures.
        norms.append(nn.utils.clip_grad_norm_(weights, clip or math.inf).item())
        sgd.step()
        progress.show(loss)
    return losses, norms


def draw_gradients(path, found: dict[str, fastrnn.Diagnosis], T: int) -> None:
    figure = Figure(figsize=(8, 7.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    parts = (UNGATED, "Without gates"), (GATED, "With gates")
    for axes, (names, title) in zip(panels, parts, strict=True):
        for name, style in zip(names, STYLES, strict=True):
            # Zeros and what is no number leave a gap on this scale.
            norms = memory(found[name]).norms.tolist()
            axes.semilogy(norms, label=name, linewidth=2, **style)
        _plain(axes, title, "norm of the gradient")
        axes.axhline(1, color=INK, linewidth=0.5)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    panels[0].set_ylim(BOTTOM, TOP)
    panels[0].set_xlim(0, T - 1)
    panels[1].set_xlabel("time step t; the loss looks at the last one")
    figure.suptitle("d loss / d h_t, of an LSTM d loss / d c_t, before any training", color=INK)
    figure.savefig(path, dpi=150)


def draw_clipping(path, runs: dict[str, tuple[list[float], list[float]]]) -> None:
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    styles = {"clipped": ("#0072B2", 1.5), "without clipping": ("#D55E00", 2.5)}
    for name, (losses, norms) in runs.items():
        color, width = styles[name]
        for axes, values in ((above, losses), (below, norms)):
            axes.semilogy(values, color=color, linewidth=width, label=name)
        if not math.isfinite(losses[-1]):
            above.axvline(len(losses) - 1, color=color, linestyle=":")
            where = (len(losses) - 1, 0.9)
            above.annotate(
                f"not a number from step {len(losses) - 1} on", where, xytext=(6, 0),
                xycoords=("data", "axes fraction"), textcoords="offset points", color=color,
            )  # fmt: skip
    above.axhline(1, color=INK, linewidth=1, linestyle="--", label="always answering 0")
    below.axhline(CLIP, color=INK, linewidth=1, linestyle="--", label=f"bound of {CLIP}")
    above.set_ylim(0.1, 100)
    below.set_ylim(0.05, 1e5)
    _plain(above, "An RNN learns to add up a sequence", "mean squared error")
    _plain(below, "", "norm of the gradient")
    for axes in (above, below):
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    below.set_xlabel("training step")
    figure.savefig(path, dpi=150)


def _plain(axes: Axes, title: str, ylabel: str) -> None:
    axes.set_title(title, loc="left", color=INK)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)


def experiment(args: argparse.Namespace) -> common.Figures:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    found = curves(args.length, args.device)
    for name, diagnosis in found.items():
        reach = memory(diagnosis)
        console.print(f"{name:27}{reach.sparkline}  {reach.words}")

    library, runs = common.LIBRARIES[args.library], {}
    figures = {f"left at the first step: {name}": memory(d).ratio for name, d in found.items()}
    generator = torch.Generator().manual_seed(args.seed + 1_000_000)
    held_out = [t.to(args.device) for t in sums(5000, generator)]
    for name, clip in (("clipped", CLIP), ("without clipping", None)):
        torch.manual_seed(args.seed)
        model = Summer(library).to(args.device)
        runs[name] = train(model, args.steps, args.seed, clip=clip)
        with torch.no_grad():
            error = (model(held_out[0]) - held_out[1]).square().mean().item()
        figures[f"error on held-out sums, {name}"] = error
    figures["error of always answering 0"] = held_out[1].square().mean().item()

    draw_gradients(args.out / "gradients.png", found, args.length)
    draw_clipping(args.out / "clipping.png", runs)
    console.print(f"saved {args.out / 'gradients.png'} and {args.out / 'clipping.png'}")
    return figures


def options(parser: argparse.ArgumentParser) -> None:
    help = "steps of the sequence, default: %(default)s"
    parser.add_argument("--length", type=length, default=100, metavar="T", help=help)
    common.add_library(parser)
    common.add_out(parser, "vanishing")


def length(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is too short: a way back in time needs 2 steps")
    return value


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "vanishing", __doc__, argv, steps=800, options=options)


if __name__ == "__main__":
    main()
