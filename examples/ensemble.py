"""An ensemble of eight forecasters as one: trained by vmap, its spread is its uncertainty.

Networks that begin with different weights agree where they have seen data, and not where they have
not (Lakshminarayanan et al. 2017, arXiv:1612.01474). With the weights of all stacked, w (8, ...),
one function trains all of them:

    forecast  mean over k of f(x; w_k)      uncertainty  standard deviation over k of f(x; w_k)
    step      w - α vmap(grad(L))(w)

On a GPU torch.nn's RNNs have no vmap (pytorch issues 105982, 134606): there is no rule for cuDNN's.
Where weights differ, fastrnn runs one layer after the other inside of vmap: what one gains is the
notation, one optimizer and one program, not time.

Prints the spread for waves as in training and for faster ones, the error beside it, and how far the
eight are from the same eight trained one by one.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

import fastrnn
from examples import common

MODELS, T, HIDDEN, BATCH = 8, 24, 24, 32
RATE = 5e-3


class Forecaster(nn.Module):
    """Waves (T, B, 1) -> the value after the last (B,)."""

    def __init__(self):
        super().__init__()
        self.rnn = fastrnn.GRU(1, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, h_n = self.rnn(x)
        return self.out(h_n[-1]).squeeze(-1)


def data(count: int, slowest: float, fastest: float) -> tuple[Tensor, Tensor]:
    """Waves (T, count, 1), with as many periods in T steps, and what comes next (count,)."""
    periods = slowest + (fastest - slowest) * torch.rand(count)
    wave = common.waves(T + 1, periods * (T + 1) / T, torch.rand(count))
    return wave[:-1], wave[-1, :, 0]


def batches(steps: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    return [tuple(t.to(device) for t in data(BATCH, 1, 3)) for _ in range(steps)]


def train_together(models: list[nn.Module], batches: list) -> dict[str, Tensor]:
    """The stacked weights, (len(models), ...) each, after a step on each batch."""
    weights, _ = stack_module_state(models)
    model = models[0]  # for what it does; its weights are not used

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(functional_call(model, weights, (x,)), y)

    # Adam treats each number by itself, so that of the stack is that of each model.
    adam = torch.optim.Adam(weights.values(), lr=RATE)
    steps = common.Steps(len(batches), "mean squared error")
    for _, (x, y) in zip(steps, batches, strict=True):
        grads, losses = vmap(grad_and_value(loss), (0, None, None))(weights, x, y)
        for name, weight in weights.items():
            weight.grad = grads[name]
        adam.step()
        steps.show(losses.mean())
    return {name: weight.detach() for name, weight in weights.items()}


def train_one_by_one(models: list[nn.Module], batches: list) -> dict[str, Tensor]:
    """The same by a Python loop."""
    for model in models:
        adam = torch.optim.Adam(model.parameters(), lr=RATE)
        for x, y in batches:
            adam.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            adam.step()
    weights, _ = stack_module_state(models)
    return {name: weight.detach() for name, weight in weights.items()}


def forecasts(model: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """(models, B)."""
    return vmap(lambda w: functional_call(model, w, (x,)))(weights)


def experiment(args: argparse.Namespace) -> common.Figures:
    models = [Forecaster().to(args.device) for _ in range(MODELS)]
    training = batches(args.steps, args.device)
    together = train_together(models, training)
    one_by_one = train_one_by_one(models, training)

    figures = {}
    for name, slowest, fastest in (("as in training", 1, 3), ("twice as fast", 4, 6)):
        x, y = (t.to(args.device) for t in data(200, slowest, fastest))
        said = forecasts(models[0], together, x)
        error = (said.mean(0) - y).abs().mean()
        figures[f"spread, waves {name}"] = said.std(0).mean().item()
        figures[f"error of the mean forecast, waves {name}"] = error.item()
    figures["largest difference from the weights trained one by one"] = max(
        (together[name] - one_by_one[name]).abs().max().item() for name in together
    )
    return figures


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "ensemble", __doc__, argv, steps=100)


if __name__ == "__main__":
    main()
