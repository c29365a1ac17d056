"""LSTM, GRU and RNN as functions: layers, directions, dropout and packed input, over `recurrence`.

T steps, B sequences, I inputs, H hidden units, L layers, D directions, R = proj_size or H.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import torch_engine
from .describe import describe, weights_problem
from .dispatch import choose
from .kernels.cell import CELLS
from .lengths import INTEGERS, by_packing, check, without_padding


class Options(NamedTuple):
    """What torch.nn's modules keep as attributes, plus one.

    num_layers: L.
    dropout: probability of zeroing an element of every layer's output but the last.
    training: whether dropout acts.
    bidirectional: D = 2 instead of 1.
    batch_first: tensors in and out are (B, T, ...).
    one_hot: the input holds integer indices in [0, I) in place of one-hot vectors.
    """

    num_layers: int = 1
    dropout: float = 0.0
    training: bool = False
    bidirectional: bool = False
    batch_first: bool = False
    one_hot: bool = False

    @property
    def directions(self):
        return 2 if self.bidirectional else 1


def lstm(
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    **options,
) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
    """An LSTM of one or more layers and directions, as torch.nn.LSTM computes it.

    Args:
        input: (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for a single sequence, or a
            PackedSequence. With `one_hot`, integer indices, the last dimension dropped.
        hx: (h_0, c_0), (L*D, B, R) and (L*D, B, H), without B for a single sequence; None is zeros.
        weights: the flat list that `list(module.parameters())` of torch.nn.LSTM gives.
        lengths: (B,) integers in [0, T] on the input's device, for a batch of padded sequences:
            what lies beyond is not read, the output there is zero, and the final states are those
            after each sequence's last step. None: all have T steps.
        options: the fields of `Options`, by name.

    Returns:
        output, (T, B, D*R) laid out as the input, and (h_n, c_n), shaped as `hx`.

    Takes plain tensors only, in float32, float64, bfloat16 or float16, and at least one step of at
    least one sequence; the modules take all that torch.nn takes.

    Raises:
        ValueError: anything about dimensions, sizes, dtypes or devices that does not fit.
        TypeError: an unknown option, or a one-hot input or lengths that are not of integers.
        IndexError: a one-hot index outside [0, I); on a GPU a device-side assertion, as for
            lengths out of range there.
        RuntimeError: lengths on another device.
    """
    return _call("LSTM", input, hx, weights, Options(**options), lengths)


def gru(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    **options,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """A GRU, as torch.nn.GRU computes it; arguments and errors of `lstm`, hx (L*D, B, H)."""
    return _call("GRU", input, hx, weights, Options(**options), lengths)


def rnn(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    nonlinearity: str = "tanh",
    lengths: Tensor | None = None,
    **options,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """An Elman RNN, `nonlinearity` "tanh" or "relu", as torch.nn.RNN computes it; else as `gru`."""
    mode = f"RNN_{str(nonlinearity).upper()}"
    if mode not in CELLS:
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return _call(mode, input, hx, weights, Options(**options), lengths)


def _call(mode, input, hx, weights, options, lengths):
    if lengths is not None:
        check(lengths, input, options)
        input = without_padding(input, lengths, options)
    if options.one_hot:
        input = indices(input, weights)
    call = describe(CELLS[mode], input, hx, weights, options, lengths)
    problem = call if isinstance(call, str) else weights_problem(call, weights)
    if problem:
        raise ValueError(problem)
    choice = choose(call)
    if lengths is not None and choice.engine == "torch":
        return by_packing(
            lambda packed, hx: _call(mode, packed, hx, weights, options, None),
            input, hx, lengths, options,
        )  # fmt: skip
    return run(call, choice, input, hx, weights, options, lengths)


def integers(input):
    """The data of a one-hot input, which must be integers."""
    data = input.data if isinstance(input, PackedSequence) else input
    if not isinstance(data, Tensor) or data.dtype not in INTEGERS:
        kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise TypeError(f"one_hot=True takes a tensor of integer indices, got {kind}")
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
    elif data.numel():
        low, high = int(data.min()), int(data.max())
        if low < 0 or high >= I:
            raise IndexError(f"{message}, got {low} to {high}")
    if data.dtype not in (torch.int32, torch.int64):
        data = data.long()
    return input._replace(data=data) if isinstance(input, PackedSequence) else data


def run(call, choice, input, hx, weights, options, lengths=None):
    """Carry out a described call as chosen; see `lstm` for the arguments."""
    plan = (
        _triton(choice.plan, lengths)
        if choice.engine == "triton"
        else torch_engine.PLANS[choice.plan]
    )
    states = None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    if call.packed:
        data, sizes, order, back = input
        if states is not None and order is not None:
            states = tuple(s.index_select(1, order) for s in states)
        output, final = plan(call, data, sizes, states, weights, options)
        output = PackedSequence(output, sizes, order, back)
        if back is not None:
            final = tuple(s.index_select(1, back) for s in final)
    else:
        single = input.dim() == (1 if options.one_hot else 2)
        x = input
        if single:
            x = input.unsqueeze(1)
            states = None if states is None else tuple(s.unsqueeze(1) for s in states)
        elif options.batch_first:
            x = input.transpose(0, 1)
        output, final = plan(call, x, None, states, weights, options)
        if single:
            output, final = output.squeeze(1), tuple(s.squeeze(1) for s in final)
        elif options.batch_first:
            output = output.transpose(0, 1)
    return output, tuple(final) if len(final) > 1 else final[0]


def _triton(plan, lengths):
    # Imported when first needed: Triton takes a moment to import, and need not be installed.
    from . import triton_engine

    def run(*arguments):
        return triton_engine.run(plan, *arguments, lengths)

    return run
