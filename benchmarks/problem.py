"""A case made concrete: both libraries' modules with equal weights, inputs, gradients, calls."""

from collections.abc import Callable
from functools import partial
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
DEFAULT_DTYPES = {"cpu": ["float32"], "cuda": ["tf32", "float32", "bfloat16", "float16"]}


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
    """`call` with cuDNN off, for what cuDNN refuses (65536 steps and more)."""

    def wrapped():
        torch.backends.cudnn.enabled = False
        try:
            return call()
        finally:
            torch.backends.cudnn.enabled = True

    return wrapped


class Problem:
    """One case for one cell in one dtype. The same arguments give the same numbers.

    Three modules have equal weights: torch.nn's, fastrnn's, and the referee, torch.nn in float64.
    """

    def __init__(self, case: Case, cell: str, dtype: str, device: str):
        torch.manual_seed(0)
        storage, torch.backends.cudnn.rnn.fp32_precision = DTYPES[dtype]
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
        drawn = _draw(case, cell)
        # The referee sees the very numbers that the dtype holds.
        self.work = _work(case, drawn, lambda t: t.to(device, storage))
        self.exact = _work(case, drawn, lambda t: t.to(device, storage).double())

        states = ("h_n", "c_n") if cell == "LSTM" else ("h_n",)
        parameters = (name for name, _ in self.native.named_parameters())
        self.names = ["output", *states, *(f"gradient of {n}" for n in ("input", *parameters))]

    def calls(self, mode: str) -> tuple[Callable, Callable, Callable]:
        """What torch.nn, fastrnn and the referee do, each as a call without arguments."""
        pairs = ((self.native, self.work), (self.fastrnn, self.work), (self.referee, self.exact))
        return tuple(partial(_CALLS[mode], module.train(mode == TRAINING), work)
                     for module, work in pairs)  # fmt: skip

    def explain(self, mode: str):
        """fastrnn's own account of the path that `mode` takes."""
        with torch.set_grad_enabled(mode == TRAINING):
            return fastrnn.explain(self.fastrnn, self.work.input, self.work.state)


class _Drawn(NamedTuple):
    input: Tensor
    states: list[Tensor]
    gradients: list[Tensor]


def _draw(case: Case, cell: str) -> _Drawn:
    """Random float32 numbers on the CPU, the same for every dtype and device."""
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
        torch.randn(case.T, case.B, case.I),
        # A state that a cell could have left behind: h lies within (-1, 1).
        [torch.randn(shape).tanh() for shape in state_shapes] if case.streaming else [],
        [torch.randn(shape) for shape in ends],
    )


def _work(case: Case, drawn: _Drawn, cast: Callable) -> Work:
    x = cast(drawn.input)
    states = tuple(cast(state) for state in drawn.states)
    if case.lengths is None:
        data = input = x.requires_grad_()
    else:
        packed = pack_padded_sequence(x, case.lengths, enforce_sorted=False)
        data = packed.data.requires_grad_()
        input = PackedSequence(data, *packed[1:])
    state = states[0] if len(states) == 1 else states or None
    return Work(input, data, state, tuple(cast(g) for g in drawn.gradients), case.loss)
