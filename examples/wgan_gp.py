"""A WGAN-GP that learns to draw sine waves: a loss made of a gradient needs a second derivative.

A critic f scores sequences, high for real ones, and a generator learns to score high. So that the
score is a distance, f must nowhere be steeper than 1 (Gulrajani et al. 2017, arXiv:1704.00028):

    loss of f = E f(fake) - E f(real) + 10 E (|df/dx| - 1)²,   x at random between fake and real

To train f is to differentiate df/dx, which has been through the critic's RNN backwards already. On
a GPU torch.nn's RNN cannot: cuDNN's backward pass has no derivative (pytorch issue 5261).

Prints how steep the critic is (1 is asked for), how far what is drawn is from real waves, before
and after, and how far the penalty's gradient is from that of torch.nn in float64.
"""

import argparse
import copy

import torch
from torch import Tensor, nn

import fastrnn
from examples import common

T, NOISE, HIDDEN, BATCH = 16, 4, 32, 32
CRITIC_STEPS = 3  # for each step of the generator
PENALTY = 10.0


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
    """Sequences (T, B, 1) -> a score (B,)."""

    def __init__(self):
        super().__init__()
        self.rnn = fastrnn.GRU(1, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(x)
        return self.out(output.mean(0)).squeeze(-1)


def real(count: int) -> Tensor:
    """Waves (T, count, 1) of any phase, with one to three periods."""
    return common.waves(T, 1 + 2 * torch.rand(count), torch.rand(count))


def noise(count: int) -> Tensor:
    return torch.randn(count, NOISE)


def between(a: Tensor, b: Tensor) -> Tensor:
    """A point at random on the line from each sequence of `a` to that of `b`."""
    return torch.lerp(a, b, torch.rand(a.shape[1], 1).to(a))


def steepness(critic: nn.Module, x: Tensor) -> Tensor:
    """|df/dx| of each sequence, (B,); `create_graph` is what lets it be differentiated again."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return slope.square().sum((0, 2)).sqrt()


def penalty(critic: nn.Module, x: Tensor) -> Tensor:
    return PENALTY * (steepness(critic, x) - 1).square().mean()


def penalty_gradient(critic: nn.Module, x: Tensor) -> Tensor:
    """Of all weights of the critic, as one vector."""
    # The bias of the output moves every score alike, and no gradient.
    weights = [w for name, w in critic.named_parameters() if name != "out.bias"]
    return torch.cat([g.flatten() for g in torch.autograd.grad(penalty(critic, x), weights)])


def distance(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Sliced Wasserstein: project (T, B, 1) on each direction (D, T), compare in sorted order."""
    a, b = ((directions @ x.squeeze(-1)).sort().values for x in (a, b))
    return (a - b).abs().mean().item()


def experiment(args: argparse.Namespace) -> common.Figures:
    generator, critic = Generator().to(args.device), Critic().to(args.device)
    options = {"lr": 4e-3, "betas": (0.5, 0.9)}
    adam = {m: torch.optim.Adam(m.parameters(), **options) for m in (generator, critic)}
    examined = real(256).to(args.device), noise(256).to(args.device)
    directions = nn.functional.normalize(torch.randn(64, T)).to(args.device)

    def distance_now() -> float:
        with torch.no_grad():
            return distance(examined[0], generator(examined[1]), directions)

    before = distance_now()
    steps = common.Steps(args.steps, "critic tells real from drawn by")
    for _ in steps:
        for _ in range(CRITIC_STEPS):
            x = real(BATCH).to(args.device)
            with torch.no_grad():
                drawn = generator(noise(BATCH).to(args.device))
            gap = critic(x).mean() - critic(drawn).mean()
            adam[critic].zero_grad()
            (penalty(critic, between(x, drawn)) - gap).backward()
            adam[critic].step()
        adam[generator].zero_grad()
        (-critic(generator(noise(BATCH).to(args.device))).mean()).backward()
        adam[generator].step()
        steps.show(gap)

    x = between(examined[0], generator(examined[1])).detach()
    native = fastrnn.restore(copy.deepcopy(critic), report=None).double().cpu()
    ours, theirs = penalty_gradient(critic, x), penalty_gradient(native, x.double().cpu())
    return {
        "steepness of the critic, 1 is asked for": steepness(critic, x).mean().item(),
        "distance from real waves, before": before,
        "distance from real waves, after": distance_now(),
        "  of other real waves": distance(examined[0], real(256).to(args.device), directions),
        "penalty's gradient, relative distance from torch.nn's in float64": (
            (ours.cpu() - theirs).norm() / theirs.norm()
        ).item(),
    }


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "wgan_gp", __doc__, argv, steps=300)


if __name__ == "__main__":
    main()
