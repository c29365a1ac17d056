"""Training by teacher forcing, and how many held-out dates are translated exactly."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.common import Steps
from examples.dates.data import Pair, encode
from examples.dates.model import Translator, translate
from examples.text import Vocabulary

BATCH = 64
LEARNING_RATE = 5e-3
POINTS = 12  # of the curve of what is right


@dataclass
class History:
    losses: list[float] = field(default_factory=list)  # one for each step
    seconds: float = 0.0  # of training alone
    right: dict[int, float] = field(default_factory=dict)  # step: share of dates exactly right


def train(
    model: Translator,
    letters: Vocabulary,
    pairs: Sequence[Pair],
    some_held_out: Sequence[Pair],
    device: torch.device,
    what: str,
) -> History:
    """Adam on the cross entropy of each letter; every pair is seen once."""
    adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    total = len(pairs) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, total)
    steps, history = Steps(total, f"{what}, loss"), History()
    every = -(-total // POINTS)
    for step in steps:
        start = time.perf_counter()
        phrases, iso = encode(pairs[step * BATCH : (step + 1) * BATCH], letters)
        phrases, iso = phrases.to(device), iso.to(device)
        loss = F.cross_entropy(model(phrases, iso).flatten(0, 1), iso.flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        history.losses.append(loss.item())  # waits for the device, so that the clock is honest
        history.seconds += time.perf_counter() - start
        steps.show(loss.detach())
        if (step + 1) % every == 0 or step + 1 == total:
            right = letters_right(model, letters, some_held_out, device).all(0)
            history.right[step + 1] = right.float().mean().item()
    return history


def letters_right(
    model: Translator, letters: Vocabulary, pairs: Sequence[Pair], device: torch.device
) -> Tensor:
    """(10, B) bool, on the CPU: which letters of the greedy answers are right."""
    phrases, iso = encode(pairs, letters)
    return translate(model, phrases.to(device)).ids.cpu() == iso
