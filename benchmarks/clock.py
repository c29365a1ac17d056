"""Two calls timed against each other: in blocks that take turns, in one process.

A block is long enough that reading the clock costs nothing; its first call is not timed, because it
finds caches and heap as the other side left them. What disturbs the machine for longer than a block
disturbs both sides, and the ratio is taken within a round.
"""

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import NamedTuple

import torch

BLOCK_SECONDS = 0.08
# A slow pair of calls gets fewer rounds, so that no row holds up the rest.
ROW_SECONDS = 15.0
FEWEST_ROUNDS = 3
# What a call finds in caches and heap is nothing beside a second: there the first one counts.
SLOW_SECONDS = 1.0


class Spread(NamedTuple):
    """Median, and the percentiles between which three fifths of the measurements lie."""

    median: float
    p20: float
    p80: float


class Duel(NamedTuple):
    """Seconds a call of each side, and the first side's over the second's, round by round."""

    first: Spread
    second: Spread
    ratio: Spread
    rounds: int


def spread(values: list[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    fifths = quantiles(values, n=5, method="inclusive")
    return Spread(median(values), fifths[0], fifths[3])


def cpu_seconds(call: Callable, count: int) -> float:
    """Seconds that `count` calls take."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def cuda_seconds(call: Callable, count: int) -> float:
    """Seconds between the GPU's reaching the first of `count` calls and its finishing the last."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1000


def stopwatch(device: str) -> Callable[[Callable, int], float]:
    return cuda_seconds if device == "cuda" else cpu_seconds


def estimate(call: Callable, seconds: Callable[[Callable, int], float]) -> float:
    """About the seconds of one call."""
    count = 1
    while (elapsed := seconds(call, count)) < BLOCK_SECONDS / 4:
        count *= 2
    return elapsed / count


def duel(first: Callable, second: Callable, device: str, rounds: int) -> Duel:
    """Time both, at most `rounds` times each, taking turns at being first."""
    seconds = stopwatch(device)
    expected = {call: estimate(call, seconds) for call in (first, second)}
    times = {first: [], second: []}
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() - begun > ROW_SECONDS:
            break
        for call in (first, second) if number % 2 == 0 else (second, first):
            if expected[call] < SLOW_SECONDS:
                call()
            count = max(1, round(BLOCK_SECONDS / expected[call]))
            times[call].append(seconds(call, count) / count)
    ratios = [a / b for a, b in zip(times[first], times[second], strict=True)]
    return Duel(spread(times[first]), spread(times[second]), spread(ratios), len(ratios))
