"""Differentially private training (DP-SGD): every sample's gradient by itself, clipped, by vmap.

So that no one sequence can be read out of the trained weights, none may move them far: its gradient
is cut to the length C, and noise hides what is left (Abadi et al. 2016, arXiv:1607.00133):

    g_b = dL(x_b; w)/dw,      step  - α / B · (Σ_b g_b min(1, C / |g_b|) + σ C N(0, 1))

Each of the B gradients is needed, not their sum: vmap(grad(L)) gives all of them. The weights are
the same for all, so the sequences still go through the layer as one batch. torch.nn's RNNs have no
vmap on a GPU (pytorch issues 105982, 134606), and DP libraries carry LSTMs of their own for it.

The task: tell whether a wave grows faster or slower, where one label in ten is wrong. Prints the
accuracy, how long gradients are before they are clipped, how far they are from those of a Python
loop, and the time that each way takes.
"""

import argparse
import time

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import fastrnn
from examples import common

T, HIDDEN, BATCH = 32, 32, 64
CLIP, NOISE, RATE = 1.0, 0.5, 1.0  # C, σ, α
Weights = dict[str, Tensor]


class Classifier(nn.Module):
    """Waves (T, B, 1) -> scores (B,), positive if they grow faster."""

    def __init__(self):
        super().__init__()
        self.rnn = fastrnn.LSTM(1, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, (h_n, _) = self.rnn(x)
        return self.out(h_n[-1]).squeeze(-1)


def data(count: int, wrong: float = 0.0) -> tuple[Tensor, Tensor]:
    """Waves of one to six periods (T, count, 1) and labels (count,)."""
    time = torch.linspace(0, 1, T).unsqueeze(1)
    faster = torch.randint(2, (count,))
    turns = time + 2.5 * torch.where(faster == 1, time**2, 2 * time - time**2) + torch.rand(count)
    flipped = torch.rand(count) < wrong
    return torch.sin(2 * torch.pi * turns).unsqueeze(2), (faster ^ flipped).float()


def loss_of_one(model: nn.Module):
    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Of one sequence (T, 1) and its label ()."""
        score = functional_call(model, weights, (x.unsqueeze(1),)).squeeze(0)
        return nn.functional.binary_cross_entropy_with_logits(score, y)

    return loss


def by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> Weights:
    """The gradient of every sample, (B, ...) for each weight."""
    weights = {name: w.detach() for name, w in model.named_parameters()}
    return vmap(grad(loss_of_one(model)), (None, 1, 0))(weights, x, y)


def by_loop(model: nn.Module, x: Tensor, y: Tensor) -> Weights:
    """The same, one backward pass after the other."""
    weights = dict(model.named_parameters())
    found = []
    for sequence, label in zip(x.unbind(1), y, strict=True):
        loss = loss_of_one(model)(weights, sequence, label)
        found.append(torch.autograd.grad(loss, list(weights.values())))
    return dict(zip(weights, map(torch.stack, zip(*found, strict=True)), strict=True))


def lengths(grads: Weights) -> Tensor:
    """(B,): the length of each sample's gradient, of all weights together."""
    return torch.cat([g.flatten(1) for g in grads.values()], 1).norm(dim=1)


def private(grads: Weights) -> Weights:
    """Clipped, summed, noised, and divided by B: what the optimizer gets."""
    scale = (CLIP / lengths(grads)).clamp(max=1)
    noise = {name: torch.randn(g.shape[1:]).to(g) for name, g in grads.items()}
    return {
        name: (torch.tensordot(scale, g, 1) + NOISE * CLIP * noise[name]) / len(scale)
        for name, g in grads.items()
    }


def experiment(args: argparse.Namespace) -> common.Figures:
    model = Classifier().to(args.device)
    sgd = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.5)
    steps = common.Steps(args.steps, "longest gradient of a sample")
    for _ in steps:
        x, y = (t.to(args.device) for t in data(BATCH, wrong=0.1))
        grads = by_vmap(model, x, y)
        for name, grad_of_batch in private(grads).items():
            model.get_parameter(name).grad = grad_of_batch
        sgd.step()
        steps.show(lengths(grads).max())

    x, y = (t.to(args.device) for t in data(500))
    with torch.no_grad():
        accuracy = ((model(x) > 0) == (y == 1)).float().mean().item()
    x, y = (t.to(args.device) for t in data(BATCH, wrong=0.1))
    (ours, fast), (theirs, slow) = (timed(way, model, x, y) for way in (by_vmap, by_loop))
    return {
        "accuracy, held out": accuracy,
        "longest gradient of a sample": lengths(ours).max().item(),
        f"gradients longer than C = {CLIP:g}, share": (lengths(ours) > CLIP).float().mean().item(),
        "largest difference from a loop's": max(
            (ours[name] - theirs[name]).abs().max().item() for name in ours
        ),
        "milliseconds by vmap": 1e3 * fast,
        "milliseconds by a loop": 1e3 * slow,
    }


def timed(way, *inputs) -> tuple[Weights, float]:
    """What it returns, and the seconds that the fastest of three calls took."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = way(*inputs)
        next(iter(found.values())).cpu()  # a GPU works on after the call
        seconds.append(time.perf_counter() - start)
    return found, min(seconds)


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "per_sample_gradients", __doc__, argv, steps=150)


if __name__ == "__main__":
    main()
