"""The time below which no program gets, whoever writes it."""

from math import ceil
from typing import NamedTuple

from benchmarks.cases import Case
from benchmarks.problem import DTYPES
from fastrnn.kernels.cooperative_plans import CACHE_RATE, SHARED_RATE

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Constants(NamedTuple):
    """What a machine can do: `rates.py` measures most of it.

    flops: operations a second in a large matrix product, by name of dtype; bandwidth: bytes a
    second, read and written; clock: cycles a second of a multiprocessor, None if unknown;
    multiprocessors: how many; shared_bytes: what one of them can hold; barrier: seconds for all of
    them to wait for one another.
    """

    flops: dict[str, float]
    bandwidth: float
    clock: float | None
    multiprocessors: int
    shared_bytes: int
    barrier: float = 0.0


class Floor(NamedTuple):
    """Seconds, and what takes them: "math", "memory" or "latency"."""

    seconds: float
    bound: str


def floor(case: Case, cell: str, dtype: str, training: bool, constants: Constants) -> Floor:
    """The largest of three times; `dtype` names the precision too.

    math: FLOPs / rate of matrix products. memory: every input read once, every output written once
    / bandwidth. latency: the steps that have to wait for one another x what a step hands on.

    What a step hands on depends on whether the W_hh of a layer fits into a multiprocessor. If so,
    it reads W_hh from its shared memory, G·H·R elements at 128 bytes a cycle. Else W_hh lies in as
    many as it takes, the whole device in groups of that size, each with its share of the B
    sequences: a barrier, and reading the (share, R) state at 64 bytes a cycle.

    Layers of one direction can work at the same time, each a step behind the one below, so that
    T + L - 1 steps wait for one another; with two directions, T·L. Gradients triple the FLOPs and
    double the steps. Intermediate results, of which a program may keep any on chip, count nothing.
    """
    size = DTYPES[dtype][0].itemsize
    math = _flops(case, cell) * (3 if training else 1) / constants.flops[dtype]
    memory = _elements(case, cell, training) * size / constants.bandwidth
    latency = _exchanges(case) * (2 if training else 1) * _exchange(case, cell, size, constants)
    times = {"math": math, "memory": memory, "latency": latency}
    bound = max(times, key=times.get)
    return Floor(times[bound], bound)


def _sizes(case: Case) -> tuple[int, int, int]:
    """Directions, width of h, and rows of the input: steps of all sequences together."""
    rows = case.T * case.B if case.lengths is None else sum(case.lengths)
    return 2 if case.bidirectional else 1, case.proj_size or case.H, rows


def _inputs(case: Case) -> list[int]:
    """Every layer's number of inputs."""
    directions, width, _ = _sizes(case)
    return [case.I] + [directions * width] * (case.layers - 1)


def _flops(case: Case, cell: str) -> int:
    """Of the matrix products, forward."""
    directions, width, rows = _sizes(case)
    gates = GATES[cell] * case.H
    # A state of zeros needs no product.
    later = rows if case.streaming else rows - case.B
    products = sum(rows * gates * inputs + later * gates * width for inputs in _inputs(case))
    if case.proj_size:
        products += case.layers * rows * case.H * width
    return 2 * directions * products


def _elements(case: Case, cell: str, training: bool) -> int:
    """How many numbers come in and go out, weights and gradients included."""
    directions, width, rows = _sizes(case)
    gates = GATES[cell] * case.H
    weights = sum(gates * (inputs + width + 2) for inputs in _inputs(case))
    if case.proj_size:
        weights += case.layers * case.H * width
    weights *= directions
    states = case.layers * directions * case.B * (width + (case.H if cell == "LSTM" else 0))
    output = rows * directions * width
    forward = rows * case.I + weights + output + states * (2 if case.streaming else 1)
    if not training:
        return forward
    ends = case.B * directions * width if case.loss == "last" else output + states
    return forward + rows * case.I + weights + ends


def _exchanges(case: Case) -> int:
    """How often, forward, one step has to wait for another."""
    return (case.T * case.layers if case.bidirectional else case.T + case.layers - 1) - 1


def _exchange(case: Case, cell: str, size: int, constants: Constants) -> float:
    directions, width, _ = _sizes(case)
    weights = GATES[cell] * case.H * width * size
    if constants.clock is None:
        return 0.0
    if weights <= constants.shared_bytes:
        return weights / SHARED_RATE / constants.clock
    group = ceil(weights / constants.shared_bytes)
    groups = max(1, constants.multiprocessors // (group * directions))
    share = ceil(case.B / groups)
    return constants.barrier + share * width * size / CACHE_RATE / constants.clock
