"""The same training with both libraries, window by window in turn: how fast, and how alike."""

import time
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import torch

from examples.char_rnn.data import Corpus
from examples.char_rnn.training import Options, Training
from examples.common import LIBRARIES

WARM_UP = 5  # windows that no speed is taken from


class Comparison(NamedTuple):
    losses: dict[str, list[float]]  # of each library, in nats, at each window
    speed: dict[str, float]  # characters a second, the median of the windows

    @property
    def ratio(self) -> float:
        return self.speed["fastrnn"] / self.speed["torch.nn"]

    @property
    def gap(self) -> float:
        """The largest difference of two losses."""
        return max(abs(a - b) for a, b in zip(*self.losses.values(), strict=True))


def compare(options: Options, corpus: Corpus, steps: int, device: torch.device) -> Comparison:
    """The first `steps` windows. In turn, so that what else the machine does slows both alike."""
    trainings = {
        name: Training(replace(options, library=name), corpus, device) for name in LIBRARIES
    }
    speeds = {name: [] for name in LIBRARIES}
    for step in range(steps):
        for name, training in trainings.items():
            torch.manual_seed(options.seed + step)  # the same letters are dropped
            start = time.perf_counter()
            training.step()
            seconds = time.perf_counter() - start
            if step >= min(WARM_UP, steps - 1):
                speeds[name].append(
                    training.windows[step % len(training.windows)][0].numel() / seconds
                )
    return Comparison(
        {name: training.history.loss for name, training in trainings.items()},
        {name: median(values) for name, values in speeds.items()},
    )
