"""A case made concrete: both libraries' modules with equal weights, inputs, gradients, calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn
from benchmarks.cases import FORWARD, TRAINING, Case

# Storage, and how cuDNN may multiply float32: tf32 rounds the factors to 11 bits, ieee does not.
DTYPES = {
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bfloat16": (torch.bfloat16, "ieee"),
    "float16": (torch.float16, "ieee"),
    "float64": (torch.float64, "ieee"),
}
DEFAULT_DTYPES = {"cpu": ["float32"], "cuda": ["tf32", "bfloat16", "float32", "float16"]}
MOST_SETS = 16


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Within the block, recurrent layers multiply float32 as `dtype` says: torch.nn's, by cuDNN,
    and fastrnn's, which follow the same setting."""
    rnn = torch.backends.cudnn.rnn
    before, rnn.fp32_precision = rnn.fp32_precision, DTYPES[dtype][1]
    try:
        yield
    finally:
        rnn.fp32_precision = before


class Work(NamedTuple):
    """What a module is called with. `data` is the leaf inside `input` that gets a gradient."""

    input: Tensor | PackedSequence
    data: Tensor
    state: Tensor | tuple[Tensor, ...] | None
    gradients: tuple[Tensor, ...]
    loss: str


def tensors(result) -> tuple[Tensor, ...]:
    """(output, *final states) of a module's result, packed or not."""
    output, state = result
    states = state if isinstance(state, tuple) else (state,)
    return (output.data if isinstance(output, PackedSequence) else output, *states)


def forward(module: nn.Module, work: Work) -> tuple[Tensor, ...]:
    """Output and final states."""
    with torch.no_grad():
        return tensors(module(work.input, work.state))


def forward_backward(module: nn.Module, work: Work) -> tuple[Tensor, ...]:
    """Output and final states, then the gradients of the input and of every parameter."""
    outputs = tensors(module(work.input, work.state))
    ends = (outputs[0][-1],) if work.loss == "last" else outputs
    return outputs + torch.autograd.grad(ends, (work.data, *module.parameters()), work.gradients)


_CALLS = {FORWARD: forward, TRAINING: forward_backward}


def without_cudnn(call: Callable) -> Callable:
    """`call` with cuDNN off, for what cuDNN refuses (65536 steps and more).

    Its products of float32 are then torch's, and are told to be as exact as cuDNN's would be.
    """

    def wrapped():
        matmul = torch.backends.cuda.matmul
        before = matmul.fp32_precision
        torch.backends.cudnn.enabled = False
        matmul.fp32_precision = torch.backends.cudnn.rnn.fp32_precision
        try:
            return call()
        finally:
            torch.backends.cudnn.enabled = True
            matmul.fp32_precision = before

    return wrapped


class Problem:
    """One case for one cell in one dtype. The same arguments give the same numbers.

    Three modules have equal weights: torch.nn's, fastrnn's, and the referee, torch.nn in float64.
    Run within `precision(dtype)`.
    """

    def __init__(self, case: Case, cell: str, dtype: str, device: str):
        torch.manual_seed(0)
        storage = DTYPES[dtype][0]
        options = {"num_layers": case.layers, "bidirectional": case.bidirectional}
        if case.proj_size:
            options["proj_size"] = case.proj_size

        def module(library, dtype: torch.dtype) -> nn.Module:
            return getattr(library, cell)(case.I, case.H, **options).to(device, dtype)

        self.native = module(nn, storage)
        self.fastrnn = module(fastrnn, storage)
        self.referee = module(nn, torch.float64)
        for twin in (self.fastrnn, self.referee):
            twin.load_state_dict(self.native.state_dict())
        drawn = _draw(case, cell, device)
        self.work = _work(case, drawn, lambda t: t.to(storage))
        # The referee sees the very numbers that the dtype holds.
        self.exact = _work(case, drawn, lambda t: t.to(storage).double())
        self.works = [self.work]
        for _ in range(_sets(drawn, storage, device) - 1):
            self.works.append(_work(case, _draw(case, cell, device), lambda t: t.to(storage)))

        states = ("h_n", "c_n") if cell == "LSTM" else ("h_n",)
        parameters = (name for name, _ in self.native.named_parameters())
        self.names = ["output", *states, *(f"gradient of {n}" for n in ("input", *parameters))]

    def calls(self, mode: str) -> tuple[Callable, Callable, Callable]:
        """What torch.nn, fastrnn and the referee do, each as a call without arguments."""
        pairs = ((self.native, self.work), (self.fastrnn, self.work), (self.referee, self.exact))
        return tuple(partial(_CALLS[mode], module.train(mode == TRAINING), work)
                     for module, work in pairs)  # fmt: skip

    def rotating(self, mode: str) -> tuple[Callable, Callable]:
        """torch.nn's and fastrnn's calls, on other numbers each time: as many sets of them as fill
        a GPU's cache twice, so that none is found there."""
        return tuple(
            _rotation(_CALLS[mode], module.train(mode == TRAINING), self.works)
            for module in (self.native, self.fastrnn)
        )

    def explain(self, mode: str):
        """fastrnn's own account of the path that `mode` takes."""
        with torch.set_grad_enabled(mode == TRAINING):
            return fastrnn.explain(self.fastrnn, self.work.input, self.work.state)


class _Drawn(NamedTuple):
    input: Tensor
    states: list[Tensor]
    gradients: list[Tensor]


def _draw(case: Case, cell: str, device: str) -> _Drawn:
    """Random float32 numbers, the same for every dtype."""
    randn = partial(torch.randn, device=device)
    directions = 2 if case.bidirectional else 1
    h = case.proj_size or case.H
    rows = (case.T, case.B) if case.lengths is None else (sum(case.lengths),)
    widths = (h, case.H) if cell == "LSTM" else (h,)
    state_shapes = [(case.layers * directions, case.B, width) for width in widths]
    if case.loss == "last":
        ends = [(case.B, h * directions)]
    else:
        ends = [(*rows, h * directions), *state_shapes]
    return _Drawn(
        randn(case.T, case.B, case.I),
        # A state that a cell could have left behind: h lies within (-1, 1).
        [randn(shape).tanh() for shape in state_shapes] if case.streaming else [],
        [randn(shape) for shape in ends],
    )


def _sets(drawn: _Drawn, dtype: torch.dtype, device: str) -> int:
    """How many inputs like `drawn` a GPU's second-level cache has no room for; one on a CPU."""
    if device != "cuda":
        return 1
    numbers = sum(t.numel() for t in (drawn.input, *drawn.states, *drawn.gradients))
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(MOST_SETS, ceil(2 * cache / (numbers * dtype.itemsize)))


def _rotation(call: Callable, module: nn.Module, works: list[Work]) -> Callable:
    if len(works) == 1:
        return partial(call, module, works[0])
    calls = cycle([partial(call, module, work) for work in works])
    return lambda: next(calls)()


def _work(case: Case, drawn: _Drawn, cast: Callable) -> Work:
    # Where the cast has nothing to do, a leaf of its own nevertheless.
    x = cast(drawn.input).detach()
    states = tuple(cast(state) for state in drawn.states)
    if case.lengths is None:
        data = input = x.requires_grad_()
    else:
        packed = pack_padded_sequence(x, case.lengths, enforce_sorted=False)
        data = packed.data.requires_grad_()
        input = PackedSequence(data, *packed[1:])
    state = states[0] if len(states) == 1 else states or None
    return Work(input, data, state, tuple(cast(g) for g in drawn.gradients), case.loss)
