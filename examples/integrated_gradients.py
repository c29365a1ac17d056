"""Integrated gradients: which steps of a sequence made the network say what it says.

The adding problem: each step has a value and a mark, and the answer is the sum of the three values
that are marked. A GRU that has learned it must have looked at the marked steps. Integrated
gradients (Sundararajan et al. 2017, arXiv:1703.01365) share the answer f(x) among the inputs:

    a_i = (x_i - b_i) ∫ df/dx_i (b + α (x - b)) dα,  α from 0 to 1;     Σ a_i = f(x) - f(b)

where b, the baseline, is the same sequence with all values 0. The sum rule is called completeness.

The network is in eval mode, or dropout would make every df/dx another. On a GPU torch.nn's RNN has
no such gradient: cuDNN's backward pass runs in training mode only (pytorch issue 15788).

Prints one sequence, step by step, then how often the three steps of the largest share are the
marked ones, and by how much completeness is missed: the integral is a sum of POINTS terms.
"""

import argparse

import torch
from torch import Tensor, nn

import fastrnn
from examples import common

T, HIDDEN, MARKED, BATCH = 16, 32, 3, 64
POINTS = 32  # of the integral


class Adder(nn.Module):
    """Values and marks (T, B, 2) -> answers (B,): many to one."""

    def __init__(self):
        super().__init__()
        self.rnn = fastrnn.GRU(2, HIDDEN, num_layers=2, dropout=0.05)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, h_n = self.rnn(x)
        return self.out(h_n[-1]).squeeze(-1)


def sequences(count: int) -> tuple[Tensor, Tensor]:
    """Values in -1..1 and marks (T, count, 2), and the sums of the marked values (count,)."""
    values = 2 * torch.rand(T, count) - 1
    marks = torch.zeros(T, count).scatter(0, torch.rand(T, count).topk(MARKED, 0).indices, 1)
    return torch.stack((values, marks), 2), (values * marks).sum(0)


def baseline(x: Tensor) -> Tensor:
    return x * x.new_tensor([0, 1])


def attributions(model: nn.Module, x: Tensor, start: Tensor, points: int = POINTS) -> Tensor:
    """The share of every input, like x, in `model(x) - model(start)`."""
    # All points of the way as one batch; the middle of each stretch stands for it.
    share = (torch.arange(points).to(x) + 0.5) / points
    way = torch.lerp(start.unsqueeze(2), x.unsqueeze(2), share.view(1, 1, points, 1))
    way.requires_grad_()
    (slope,) = torch.autograd.grad(model(way.flatten(1, 2)).sum(), way)
    return (x - start) * slope.mean(2)


def experiment(args: argparse.Namespace) -> common.Figures:
    model = Adder().to(args.device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    steps = common.Steps(args.steps, "squared error")
    for _ in steps:
        x, answer = (t.to(args.device) for t in sequences(BATCH))
        loss = nn.functional.mse_loss(model(x), answer)
        adam.zero_grad()
        loss.backward()
        adam.step()
        steps.show(loss)

    model.eval()
    x, answer = (t.to(args.device) for t in sequences(200))
    start = baseline(x)
    with torch.no_grad():
        said, difference = model(x), model(x) - model(start)
    shares = attributions(model, x, start).sum(2)
    print(f"\none sequence: the answer is {answer[0]:.2f}, the network says {said[0]:.2f}")
    print("step  value  marked  share")
    for t, ((value, mark), share) in enumerate(zip(x[:, 0].tolist(), shares[:, 0], strict=True)):
        print(f"{t:4}  {value:5.2f}  {'*' if mark else ' ':^6}  {share:5.2f}")
    found = x[..., 1].gather(0, shares.abs().topk(MARKED, 0).indices).mean().item()
    return {
        "mean squared error, held out": (said - answer).square().mean().item(),
        "marked steps among those of the largest share": found,
        "the same by chance": MARKED / T,
        "completeness missed by, at most": (shares.sum(0) - difference).abs().max().item(),
    }


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "integrated_gradients", __doc__, argv, steps=400)


if __name__ == "__main__":
    main()
