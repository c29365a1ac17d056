"""A WGAN-GP that learns to draw sine waves: recurrent generator, recurrent critic.

The critic's gradient penalty is a loss made of a gradient. Its own gradient is a second derivative
through the critic's RNN.
"""

import sys

import torch
from torch import Tensor, nn

import fastrnn
from examples import common
from examples.common import BLUE, DEVICE, GREY, ORANGE

T = 24
NOISE, HIDDEN, BATCH = 4, 32, 64
CRITIC_STEPS = 3  # for each step of the generator
PENALTY = 10.0
LIMIT = 256  # sequences that are examined


class Generator(nn.Module):
    """Noise (B, NOISE), the same in every step -> sequences (T, B, 1)."""

    def __init__(self):
        super().__init__()
        self.rnn = fastrnn.LSTM(NOISE, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, z: Tensor) -> Tensor:
        output, _ = self.rnn(z.expand(T, *z.shape))
        return self.out(output)


class Critic(nn.Module):
    """Sequences (T, B, 1) -> a score (B,), high for real ones."""

    def __init__(self):
        super().__init__()
        self.rnn = fastrnn.GRU(1, HIDDEN, bidirectional=True)
        self.out = nn.Linear(2 * HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(x)
        return self.out(output.mean(0)).squeeze(-1)


def real(count: int) -> Tensor:
    """Sine waves (T, count, 1) of any phase, with one to three periods."""
    periods, phase = 1 + 2 * torch.rand(count), torch.rand(count)
    time = torch.arange(T).unsqueeze(-1) / T
    return torch.sin(2 * torch.pi * (periods * time + phase)).unsqueeze(-1).to(DEVICE)


def fake(generator: Generator, count: int) -> Tensor:
    return generator(torch.randn(count, NOISE).to(DEVICE))


def gradient_norms(critic: Critic, true: Tensor, false: Tensor, *, create_graph: bool) -> Tensor:
    """(B,): how steep the critic is at a random point between each pair of sequences."""
    share = torch.rand(true.shape[1], 1).to(DEVICE)
    between = (share * true + (1 - share) * false).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=create_graph)
    return slope.square().sum((0, 2)).sqrt()


def distance(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Sliced Wasserstein: project (T, B, 1) on each direction (D, T), compare in sorted order."""
    a, b = ((directions @ x.squeeze(-1)).sort().values for x in (a, b))
    return (a - b).abs().mean().item()


def main():
    pass
