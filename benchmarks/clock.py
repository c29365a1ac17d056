"""Calls timed against each other: in blocks that take turns, in one process.

A block is long enough that reading the clock costs nothing; its first call is not timed, because it
finds caches and heap as the other side left them. What disturbs the machine for longer than a block
disturbs both sides, and the ratio is taken within a round.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import NamedTuple

import torch

FEWEST_ROUNDS = 3


class Pace(NamedTuple):
    """Seconds: of a block; of all rounds, beyond which a slow pair of calls gets fewer of them; and
    of a call so slow that what it finds in caches and heap is nothing beside it."""

    block: float
    row: float
    slow: float


# On a GPU nothing else runs, its own clock measures, and there are hundreds of rows.
PACES = {"cpu": Pace(0.08, 15.0, 1.0), "cuda": Pace(0.03, 2.5, 0.05)}


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


def estimate(call: Callable, device: str) -> float:
    """About the seconds of one call."""
    seconds, count = stopwatch(device), 1
    while (elapsed := seconds(call, count)) < PACES[device].block / 4:
        count *= 2
    return elapsed / count


def take_turns(calls: Sequence[Callable], device: str, rounds: int) -> list[list[float]]:
    """For each call, the seconds that it took in each round; at most `rounds` of them."""
    pace, seconds = PACES[device], stopwatch(device)
    expected = [estimate(call, device) for call in calls]
    times = [[] for _ in calls]
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() - begun > pace.row:
            break
        order = range(len(calls))
        for k in order if number % 2 == 0 else reversed(order):
            if expected[k] < pace.slow:
                calls[k]()
            count = max(1, round(pace.block / expected[k]))
            times[k].append(seconds(calls[k], count) / count)
    return times


def duel(
    first: Callable, second: Callable, device: str, rounds: int, known: float | None = None
) -> Duel:
    """Time both, at most `rounds` times each, taking turns at being first.

    known: the seconds of a call of `first`, if one is all that there is time for.
    """
    if known is None:
        firsts, seconds = take_turns([first, second], device, rounds)
    else:
        (seconds,) = take_turns([second], device, rounds)
        firsts = [known] * len(seconds)
    ratios = [a / b for a, b in zip(firsts, seconds, strict=True)]
    return Duel(spread(firsts), spread(seconds), spread(ratios), len(ratios))
