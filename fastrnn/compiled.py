"""LSTM, GRU and RNN under torch.compile and torch.export: layers as operators of torch.

What torch.compile reads in these functions becomes its graph: one operator for each layer, both
directions in it, with dropout and whatever else there is around them in torch's own. T and B may be
dynamic. Settings are read once, and the graph keeps them: the engine of `use_engine`, `use_memory`
and the precision of products.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import linear, onnx_export, projection, traced
from .altered import misfit
from .casting import cast
from .describe import CAST, asked_of, autocast_dtype
from .dispatch import forced_engine, refuse
from .flat_weights import in_a_graph
from .functional import integers
from .kernels.cell import CELLS
from .lengths import without_padding
from .memory import memory_mode
from .operators import layer, way_back
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
def left_to_torch(asked, dtype, device):
    """Whether torch.nn's operators are to serve a call that asks for `asked` beside."""
    if transforming():
        return True  # torch has no rules for operators from Python under torch.func
    engine = forced_engine()
    operators = engine in ("torch.aten", "torch.cell")
    if asked:
        if operators:
            refuse(engine, ["in a graph, torch.nn's operators take no lengths, resets or the like"])
        return False
    if device == "cpu":
        return operators
    return way_back(engine, dtype, torch.device(device), False) == "formulas"


def sequences(module, input, hx, options, lengths, resets):
    """The forward of the modules, with their arguments, results and errors."""
    if onnx_export.under_way():
        return onnx_export.sequences(module, input, hx, options, lengths, resets)
    asked = lengths is not None or bool(asked_of(options, resets))
    odd = isinstance(input, PackedSequence) or 0 in input.shape[:2]
    if odd or module._altered():
        return module._as_torch(input, hx, options, lengths, resets)
    weights = in_a_graph(module)
    if _misfit(module, weights) or left_to_torch(asked, weights[0].dtype, input.device.type):
        return module._as_torch(input, hx, options, lengths, resets)
    carry_out = partial(stack, module.mode, weights, options)
    return traced.sequences(module, weights, input, hx, options, lengths, resets, carry_out)


def _misfit(module, weights):
    """Whether the weights are not all there, or not what the attributes of the module say."""
    if len(weights) < 2 or not all(isinstance(w, Tensor) for w in weights):
        return True
    rows, H = weights[0].shape[0], module.hidden_size
    I, R = weights[0].shape[-1], weights[1].shape[-1]
    right = rows == len(CELLS[module.mode].gates) * H
    return not right or misfit(module, weights, I, H, R) is not None


def function(mode, input, hx, weights, options, lengths, resets):
    """The same of `fastrnn.functional`: what does not fit is found when the operators run."""
    if options.one_hot:
        integers(input)
    states = None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    carry_out = partial(stack, mode, weights, options)
    return traced.laid_out(CELLS[mode], input, states, options, lengths, resets, carry_out)


def stack(mode, weights, options, x, states, lengths, resets):
    """Results of a stack of layers.

    x (T, B, ...), states (L*D, B, ...) each or None, lengths (B,), resets (T, B).
    """
    L, cell = options.num_layers, CELLS[mode]
    D = 2 if options.bidirectional else 1  # torch 2.9 reads no property of a NamedTuple
    engine, precision, memory = settings()
    x, states, weights = _cast(x, states, weights)
    if lengths is not None:
        time_first = options._replace(batch_first=False)
        x = without_padding(x, lengths, time_first)
    S, finals, gates = len(cell.states), [], None
    fresh = None if resets is None else fresh_from(resets, lengths, D)
    for k in range(L):
        here = slice(k * D, k * D + D)
        initial = [] if states is None else [s[here] for s in states]
        w = [Weights.of_layer(weights, n, L * D) for n in range(L * D)[here]]
        below, before, plain = x, initial, w
        if w[0].w_hr is not None:
            below, before, plain = projection.unprojected(x, initial, w, lengths, fresh)
        flat = [t for part in plain for t in part if t is not None]
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (below, *before, *flat))
        cells = options.return_cell_states and k == L - 1
        h_0, c_0 = (*before, None, None)[:2]
        x, *outputs = layer(
            mode, engine, precision, memory, D, below, h_0, c_0, flat, lengths, resets, keep, cells
        )
        final = list(outputs[:S])
        if options.return_gates and k == L - 1:
            gates = _gates(cell, below, before, plain, x, lengths, fresh)
        if w[0].w_hr is not None:
            x = projection.projected(x, w)
            final[0] = projection.projected_final(final[0], w, initial, lengths)
        finals.append(final)
        if k < L - 1 and options.dropout > 0:
            x = torch.dropout(x, options.dropout, options.training)
    final = [torch.cat(s) if L > 1 else s[0] for s in zip(*finals, strict=True)]
    c = None
    if options.return_cell_states:
        c = outputs[S]
        if lengths is not None:  # no indices, whatever the input was
            c = without_padding(c, lengths, time_first._replace(one_hot=False))
    if keep and x.device.type == "cpu":
        # The way back reads them as they are now; the caller may change them, as in eager code.
        x, c = x.clone(), None if c is None else c.clone()
    return Results(x, tuple(final), c, gates)


def _cast(x, states, weights):
    """As autocast would have it."""
    dtype = autocast_dtype(x.device.type)
    if dtype is None or weights[0].dtype not in CAST:
        return x, states, weights
    return cast(x, states, weights, dtype)


def _gates(cell, x, initial, weights, h, lengths, fresh):
    T, B, _ = h.shape
    D = len(weights)
    found = [
        linear.gates(
            cell,
            padded_walk(T, B, d == 1, lengths, None if fresh is None else fresh[d].flatten()),
            x.flatten(0, 1),
            [s[d] for s in initial] or [None] * len(cell.states),
            w,
            h.flatten(0, 1).chunk(D, 1)[d],
        )
        for d, w in enumerate(weights)
    ]
    return {g: torch.cat([part[g] for part in found], 1).unflatten(0, (T, B)) for g in found[0]}
