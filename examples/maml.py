"""MAML: learn weights from which one step of gradient descent fits a new task.

The tasks: forecast a sine wave, each task some other time ahead. The wave does not tell how far
ahead; a few examples do. MAML (Finn et al. 2017, arXiv:1703.03400) takes one step on these, and
asks how well the weights do after it:

    w' = w - α dL(w; examples)/dw,   minimize over w:  E over tasks of L(w'; other sequences)

The gradient of that goes through dL/dw: a second derivative. On a GPU torch.nn's RNN has none, as
cuDNN's backward pass has no derivative (pytorch issue 5261), and no vmap over tasks (105982).

Prints the error on tasks that were not trained on: with the learned weights as they are, after one
step on the task's examples, and after five. A forecast of nothing but zeros has the error 0.5.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import fastrnn
from examples import common

T, HIDDEN = 20, 32
TASKS, SEQUENCES = 8, 10
RATE = 0.3  # α
Weights = dict[str, Tensor]
Data = tuple[Tensor, Tensor]  # the wave and what is ahead of it, (T, SEQUENCES, 1) each


class Forecaster(nn.Module):
    """Waves (T, B, 1) -> forecasts (T, B, 1)."""

    def __init__(self):
        super().__init__()
        self.rnn = fastrnn.LSTM(1, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(x)
        return self.out(output)


def tasks(count: int) -> tuple[Data, Data]:
    """Examples and other sequences of `count` tasks, each (count, T, SEQUENCES, 1)."""

    def sequences(ahead: Tensor) -> Data:
        phase, one = torch.rand(SEQUENCES), torch.ones(SEQUENCES)
        return common.waves(T, 2 * one, phase), common.waves(T, 2 * one, phase + ahead)

    drawn = [(sequences(ahead), sequences(ahead)) for ahead in torch.rand(count)]
    return tuple(
        tuple(torch.stack(part) for part in zip(*data, strict=True))
        for data in zip(*drawn, strict=True)
    )


def loss_of(model: nn.Module) -> Callable[[Weights, Tensor, Tensor], Tensor]:
    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        skip = T // 4  # the first steps do not tell yet where in the wave one is
        return (functional_call(model, weights, (x,)) - y)[skip:].square().mean()

    return loss


def adapt(loss: Callable, weights: Weights, examples: Data, steps: int = 1) -> Weights:
    """The inner loop."""
    for _ in range(steps):
        slopes = grad(loss)(weights, *examples)
        weights = {name: w - RATE * slopes[name] for name, w in weights.items()}
    return weights


def error_after(loss: Callable, weights: Weights, examples: Data, others: Data, steps: int):
    """(tasks,): the error on other sequences of each task after `steps` on its examples."""

    def of_one_task(examples: Data, others: Data) -> Tensor:
        return loss(adapt(loss, weights, examples, steps), *others)

    return vmap(of_one_task)(examples, others)


def experiment(args: argparse.Namespace) -> common.Figures:
    def drawn(count: int) -> list[Data]:
        return [tuple(t.to(args.device) for t in data) for data in tasks(count)]

    model = Forecaster().to(args.device)
    loss, weights = loss_of(model), dict(model.named_parameters())
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    steps = common.Steps(args.steps, "error after one inner step")
    for _ in steps:
        adam.zero_grad()
        error = error_after(loss, weights, *drawn(TASKS), steps=1).mean()
        error.backward()
        adam.step()
        steps.show(error)

    new = drawn(40)
    with torch.no_grad():
        return {
            f"error on new tasks, {name}": error_after(loss, weights, *new, steps).mean().item()
            for name, steps in (("as learned", 0), ("after one step", 1), ("after five steps", 5))
        }


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "maml", __doc__, argv, steps=200)


if __name__ == "__main__":
    main()
