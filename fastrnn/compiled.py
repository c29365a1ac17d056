"""LSTM, GRU and RNN under torch.compile and torch.export: layers as operators of torch.

What torch.compile reads in these functions becomes its graph: one operator for each layer, both
directions in it, with dropout and whatever else there is around them in torch's own. T and B may be
dynamic. Settings are read once, and the graph keeps them: the engine of `use_engine`, `use_memory`
and the precision of products.
"""

import torch
from torch.nn.utils.rnn import PackedSequence

from . import linear, traced
from .casting import cast
from .describe import CAST, asked_of, autocast_dtype
from .dispatch import forced_engine
from .kernels.cell import CELLS
from .lengths import without_padding
from .memory import memory_mode
from .operators import layer
from .precision import fp32_precision
from .resets import fresh_from
from .results import Results
from .values import transforming
from .walk import padded_walk
from .weights import Weights


@torch.compiler.assume_constant_result
def settings():
    """(engine, precision, memory), as the operators take them."""
    return forced_engine(), fp32_precision(), memory_mode()


@torch.compiler.assume_constant_result
def left_to_torch(asked):
    """Whether torch.nn's operators are to serve a call that asks for `asked` beside."""
    if transforming():
        return True  # torch's operators from Python are no match for torch.func
    if asked:
        return False
    # What is exported is to run wherever torch does.
    return torch.compiler.is_exporting() or forced_engine() in ("torch", "torch.aten", "torch.cell")


def sequences(module, input, hx, options, lengths, resets):
    """The forward of the modules, with their arguments, results and errors."""
    asked = asked_of(options, resets) or lengths is not None
    packed = isinstance(input, PackedSequence)
    if packed or 0 in input.shape[:2] or left_to_torch(bool(asked)):
        return module._as_torch(input, hx, options, lengths, resets)
    weights = module._current_weights()

    def carry_out(x, states, lengths, resets):
        return stack(module.mode, x, states, lengths, resets, weights, options)

    return traced.sequences(module, input, hx, options, lengths, resets, carry_out)


def stack(mode, x, states, lengths, resets, weights, options):
    """Results of a stack of layers; x (T, B, ...), states (L*D, B, ...) each or None, resets (T, B)."""
    L, D, cell = options.num_layers, options.directions, CELLS[mode]
    engine, precision, memory = settings()
    x, states, weights = _cast(x, states, weights)
    if lengths is not None:
        time_first = options._replace(batch_first=False)
        x = without_padding(x, lengths, time_first)
    S, finals = len(cell.states), []
    for k in range(L):
        here = slice(k * D, k * D + D)
        initial = [] if states is None else [s[here] for s in states]
        w = [Weights.of_layer(weights, n, L * D) for n in range(L * D)[here]]
        flat = [t for part in w for t in part if t is not None]
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *initial, *flat))
        cells = options.return_cell_states and k == L - 1
        below = x
        x, *rest = layer(
            mode, engine, precision, memory, D, x, initial, flat, lengths, resets, keep, cells
        )
        finals.append(rest[:S])
        if k < L - 1 and options.dropout > 0:
            x = torch.dropout(x, options.dropout, options.training)
    final = [torch.cat(s) if L > 1 else s[0] for s in zip(*finals, strict=True)]
    c = None
    if options.return_cell_states:
        c = rest[S] if lengths is None else without_padding(rest[S], lengths, time_first)
    gates = _gates(cell, below, initial, w, x, lengths, resets) if options.return_gates else None
    return Results(x, tuple(final), c, gates)


def _cast(x, states, weights):
    """As autocast would have it."""
    dtype = autocast_dtype(x.device.type)
    if dtype is None or weights[0].dtype not in CAST:
        return x, states, weights
    return cast(x, states, weights, dtype)


def _gates(cell, x, initial, weights, h, lengths, resets):
    T, B, _ = h.shape
    D = len(weights)
    fresh = [None] * D if resets is None else fresh_from(resets, lengths, D).unbind(0)
    found = [
        linear.gates(
            cell,
            padded_walk(T, B, d == 1, lengths, None if resets is None else fresh[d].flatten()),
            x.flatten(0, 1),
            [s[d] for s in initial] or [None] * len(cell.states),
            w,
            h.flatten(0, 1).chunk(D, 1)[d],
        )
        for d, w in enumerate(weights)
    ]
    return {g: torch.cat([part[g] for part in found], 1).unflatten(0, (T, B)) for g in found[0]}
