"""LSTM, GRU and RNN as functions: layers, directions, dropout and packed input, over `recurrence`.

T steps, B sequences, I inputs, H hidden units, L layers, D directions, R = proj_size or H.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import torch_engine
from .casting import casting
from .describe import describe, onednn_lacks, weights_problem
from .dispatch import choose
from .kernels.cell import CELLS
from .lengths import INTEGERS, by_packing, check, without_padding
from .resets import check_resets, fresh_from
from .values import hidden, plainly
from .wording import wrong_number


class Options(NamedTuple):
    """What torch.nn's modules keep as attributes, and what a call asks for beside; see `lstm`."""

    num_layers: int = 1
    dropout: float = 0.0
    training: bool = False
    bidirectional: bool = False
    batch_first: bool = False
    one_hot: bool = False
    return_cell_states: bool = False
    return_gates: bool = False

    @property
    def directions(self):
        return 2 if self.bidirectional else 1

    def check(self, cell):
        """Raise if the cell lacks what it is to return."""
        if self.return_cell_states and "c" not in cell.states:
            raise ValueError("only an LSTM has cell states")
        if self.return_gates and len(cell.gates) == 1:
            raise ValueError("only an LSTM or a GRU has gates")


def lstm(
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    one_hot: bool = False,
    return_cell_states: bool = False,
    return_gates: bool = False,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Any, ...]:
    """An LSTM of one or more layers and directions, as torch.nn.LSTM computes it.

    Args:
        input: (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for a single sequence, or a
            PackedSequence. With `one_hot`, integer indices, the last dimension dropped.
        hx: (h_0, c_0), (L*D, B, R) and (L*D, B, H), without B for a single sequence; None is zeros.
        weights: the flat list that `list(module.parameters())` of torch.nn.LSTM gives.
        num_layers: L.
        dropout: probability of zeroing an element of every layer's output but the last.
        training: whether dropout acts.
        bidirectional: D = 2 instead of 1.
        batch_first: tensors in and out are (B, T, ...).
        one_hot: the input holds integer indices in [0, I) in place of one-hot vectors.
        return_cell_states: of an LSTM, every c_t too.
        return_gates: of an LSTM or GRU, the gates of every step too.
        lengths: (B,) integers in [0, T] on the input's device, for a batch of padded sequences:
            what lies beyond is not read, the output there is zero, and the final states are those
            after each sequence's last step. None: all have T steps.
        resets: (T, B) bool, or (B, T), or (T,), as the input: where True an episode begins, so the
            state before that step is zero, and no gradient passes. The second direction starts from
            zero at the step before. None: nowhere.
        options: the fields of `Options`, by name.

    Returns:
        output, (T, B, D*R) laid out as the input, and (h_n, c_n), shaped as `hx`; then, of the last
        layer and where asked for, every c_t, (T, B, D*H), and a dict of the gates "i", "f", "g",
        "o", (T, B, D*H) each, both laid out as the output. All of it is differentiable.

    Takes plain tensors only, in float32, float64, bfloat16 or float16, and at least one step of at
    least one sequence; the modules take all that torch.nn takes.

    Raises:
        ValueError: anything about dimensions, sizes, dtypes or devices that does not fit.
        TypeError: an unknown option, or a one-hot input or lengths that are not of integers, or
            resets that are not of bool.
        IndexError: a one-hot index outside [0, I); on a GPU a device-side assertion, as for
            lengths out of range there.
        RuntimeError: lengths or resets on another device.
    """
    options = Options(
        num_layers, dropout, training, bidirectional, batch_first,
        one_hot, return_cell_states, return_gates,
    )  # fmt: skip
    return _call("LSTM", input, hx, weights, options, lengths, resets)


def gru(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    one_hot: bool = False,
    return_cell_states: bool = False,
    return_gates: bool = False,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Any, ...]:
    """A GRU, as torch.nn.GRU computes it; arguments and errors of `lstm`, hx (L*D, B, H), gates
    "r", "z" and "n"."""
    options = Options(
        num_layers, dropout, training, bidirectional, batch_first,
        one_hot, return_cell_states, return_gates,
    )  # fmt: skip
    return _call("GRU", input, hx, weights, options, lengths, resets)


def rnn(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    nonlinearity: str = "tanh",
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    one_hot: bool = False,
    return_cell_states: bool = False,
    return_gates: bool = False,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Any, ...]:
    """An Elman RNN, `nonlinearity` "tanh" or "relu", as torch.nn.RNN computes it; else as `gru`."""
    mode = f"RNN_{str(nonlinearity).upper()}"
    if mode not in CELLS:
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    options = Options(
        num_layers, dropout, training, bidirectional, batch_first,
        one_hot, return_cell_states, return_gates,
    )  # fmt: skip
    return _call(mode, input, hx, weights, options, lengths, resets)


def _call(mode, input, hx, weights, options, lengths, resets):
    if torch.compiler.is_compiling() and isinstance(input, Tensor):
        from . import compiled

        return compiled.function(mode, input, hx, weights, options, lengths, resets)
    options.check(CELLS[mode])
    if len(weights) < 2:
        raise ValueError(wrong_number(CELLS[mode], weights, options.num_layers, options.directions))
    input = prepared(input, weights, options, lengths, resets)
    call = describe(CELLS[mode], input, hx, weights, options, lengths, resets)
    problem = call if isinstance(call, str) else weights_problem(call, weights)
    if problem:
        raise ValueError(problem)
    return run(call, choose(call), input, hx, weights, options, lengths, resets)


def prepared(input, weights, options, lengths, resets):
    """The input, checked against lengths and resets, zero beyond the lengths, indices in range."""
    if lengths is not None:
        check(lengths, input, options)
        input = without_padding(input, lengths, options)
    if resets is not None:
        check_resets(resets, input, options)
    return indices(input, weights) if options.one_hot else input


def integers(input):
    """The data of a one-hot input, which must be integers, one for each step."""
    packed = isinstance(input, PackedSequence)
    data = input.data if packed else input
    if not isinstance(data, Tensor) or data.dtype not in INTEGERS:
        kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise TypeError(f"one_hot=True takes a tensor of integer indices, got {kind}")
    if data.dim() not in ((1,) if packed else (1, 2)):
        wanted = (
            "a packed input of data (N,)" if packed else "(T, B), (B, T) if batch_first, or (T,)"
        )
        raise ValueError(f"one_hot=True takes indices, {wanted}, got {tuple(data.shape)}")
    return data


def indices(input, weights):
    """`input` as indices of the columns of the first weight, int32 or int64, or an error.

    On a GPU, looking at the values would mean waiting for it: there a device-side assertion fails.
    """
    data = integers(input)
    I = weights[0].shape[-1]
    message = f"one-hot indices must lie in [0, {I})"
    if data.is_cuda:
        torch._assert_async(((data >= 0) & (data < I)).all(), message)
    elif data.numel() and not hidden(data):
        low, high = int(data.min()), int(data.max())
        if low < 0 or high >= I:
            raise IndexError(f"{message}, got {low} to {high}")
    if data.dtype not in (torch.int32, torch.int64):
        data = data.long()
    return input._replace(data=data) if isinstance(input, PackedSequence) else data


def run(call, choice, input, hx, weights, options, lengths=None, resets=None, plan=None):
    """Carry out a described call as chosen; see `lstm` for the arguments. `plan`: in place of the
    choice's own, one that takes the same."""
    if plan is None:
        plans = torch_engine.PLANS
        plan = _triton(choice.plan) if choice.engine == "triton" else plans[choice.plan]
    if call.autocast and (choice.plan != "aten" or onednn_lacks(call)):
        plan = casting(plan)
    fresh = None
    if resets is not None:
        fresh = plainly(partial(_fresh, call.directions, options.batch_first), resets, lengths)
    if lengths is not None and choice.engine == "torch" and choice.plan != "reference":
        call = call._replace(packed=True, lengths=False)

        def packed(*packed):
            return _run(plan, call, *packed, weights, options)

        return by_packing(packed, input, hx, lengths, options, fresh)
    if fresh is not None and choice.engine == "torch":
        fresh = plainly(lambda fresh: fresh.flatten(1), fresh)
    return _run(plan, call, input, hx, fresh, weights, options, lengths)


def _fresh(D, batch_first, resets, lengths):
    # The backward pass's own: the caller may fill theirs anew.
    resets = resets.clone()
    resets = resets.unsqueeze(1) if resets.dim() == 1 else resets.t() if batch_first else resets
    return fresh_from(resets, lengths, D)


def _run(plan, call, input, hx, fresh, weights, options, lengths=None):
    """fresh: of rows, as `plan` takes it."""
    states = None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    marks = {"lengths": lengths, "fresh": fresh}
    marks = {name: mark for name, mark in marks.items() if mark is not None}
    if call.packed:
        data, sizes, order, back = input
        if states is not None and order is not None:
            states = tuple(s.index_select(1, order) for s in states)
        results = plan(call, data, sizes, states, weights, options, **marks)
        if back is not None:
            final = tuple(s.index_select(1, back) for s in results.final)
            results = results._replace(final=final)
        return results.given(lambda rows: PackedSequence(rows, sizes, order, back))
    if input.dim() == (1 if options.one_hot else 2):
        options = options._replace(batch_first=False)
        states = None if states is None else tuple(s.unsqueeze(1) for s in states)
        results = plan(call, input.unsqueeze(1), None, states, weights, options, **marks)
        final = tuple(s.squeeze(1) for s in results.final)
        return results._replace(final=final).given(lambda steps: steps.squeeze(1))
    results = plan(call, input, None, states, weights, options, **marks)
    return results.given(lambda steps: steps)


def _triton(plan):
    # Imported when first needed: Triton takes a moment to import, and need not be installed.
    from . import triton_engine

    return partial(triton_engine.run, plan)
