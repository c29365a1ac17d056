"""A training on data of which each step takes some at random."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from examples.common import Steps

Loss = Callable[[nn.Module, list[Any], torch.device], Tensor]


def train(
    model: nn.Module,
    loss_of: Loss,
    data: Sequence[Any],
    args: argparse.Namespace,
    what: str,
    batch: int,
) -> list[float]:
    """AdamW, its rate falling along a cosine to 0 over `args.steps`; the loss of each step."""
    model.train().to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    steps = Steps(args.steps, f"{what}, loss")
    losses = []
    for _ in steps:
        loss = loss_of(model, [data[i] for i in torch.randint(len(data), (batch,))], args.device)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        steps.show(loss)
    return losses
