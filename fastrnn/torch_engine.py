"""The torch engine: ways to run a stack of layers with nothing but torch. `dispatch.py` chooses.

A plan is a function (call, x, sizes, state, weights, options) -> Results:

    call      the `Call` that was chosen for
    x         (T, B, I), or (B, T, I) if options.batch_first, or packed rows (N, I); without I for
              one-hot input; the output is laid out as x
    sizes     None, or the batch sizes of a packed input
    state     one (L*D, B, ...) tensor for each of the cell's states, or None for zeros
    weights   the flat list of a torch.nn module

Those made by `layered` also take lengths, (B,), and fresh, (D, N) bool, by name: see `resets.py`.
"""

import torch
from torch import _VF
from torch.nn import functional as F

from . import bptt, linear, native, reference
from .autograd import recur
from .results import Form, Results
from .values import numbers
from .walk import walk_of
from .weights import Weights

CELL_STEPS = {
    "LSTM": _VF.lstm_cell,
    "GRU": _VF.gru_cell,
    "RNN_TANH": _VF.rnn_tanh_cell,
    "RNN_RELU": _VF.rnn_relu_cell,
}
SEQUENCES = {
    "LSTM": _VF.lstm,
    "GRU": _VF.gru,
    "RNN_TANH": _VF.rnn_tanh,
    "RNN_RELU": _VF.rnn_relu,
}


def zero_state(call, weights, options):
    """What torch.nn starts from when no state is given."""
    count, H, R = call.layers * call.directions, call.H, call.proj_size or call.H
    return [weights[0].new_zeros(count, call.B, width) for width in (R, H)[: len(call.cell.states)]]


def aten(call, x, sizes, state, weights, options):
    """torch.nn's own operator over the whole stack; on other devices with what it lacks there."""
    lacking = (
        call.device != "cpu"
        and call.differentiable
        and not call.transformed
        and any(t.requires_grad for t in (x, *(state or ()), *weights))
    )
    plan = mended if lacking else operator
    return plan(call, x, sizes, state, weights, options)


def operator(call, x, sizes, state, weights, options):
    """torch.nn's own operator over the whole stack, as it is."""
    if options.one_hot:
        x = F.one_hot(x.long(), call.I).to(call.dtype)
    hx = zero_state(call, weights, options) if state is None else state
    has_bias = len(weights) // (call.layers * call.directions) >= 4
    stack = (has_bias, call.layers, options.dropout, options.training, options.bidirectional)
    hx = hx if len(hx) > 1 else hx[0]
    run = SEQUENCES[call.cell.name]
    if sizes is None:
        output, *final = run(x, hx, weights, *stack, options.batch_first)
    else:
        output, *final = run(x, sizes, hx, weights, *stack)
    return Results(output, tuple(final))


def layered(recurrence):
    """A plan from one recurrence: layers, directions and the dropout between them."""

    def plan(call, x, sizes, state, weights, options, lengths=None, fresh=None):
        L, D = call.layers, call.directions
        if state is None:
            state = zero_state(call, weights, options)
        form, rows = Form.of_input(x, sizes, options)
        sizes = (call.B,) * call.T if sizes is None else tuple(numbers(sizes))
        finals = []
        for layer in range(L):
            found, gates = [], []
            for d in range(D):
                k = layer * D + d
                initial = tuple(s[k] for s in state)
                w = Weights.of_layer(weights, k, L * D)
                marks = (lengths, None if fresh is None else fresh[d])
                way = (sizes, d == 1, *marks)
                found.append(
                    recurrence(call.cell, rows, initial, w, *way, options.return_cell_states)
                )
                if options.return_gates and layer == L - 1:
                    walk = walk_of(*way, rows.device)
                    gates.append(linear.gates(call.cell, walk, rows, initial, w, found[-1][0]))
            outputs, final, others = zip(*found, strict=True)
            finals += final
            if layer < L - 1:
                rows = outputs[0] if D == 1 else torch.cat(outputs, 1)
                if options.dropout > 0:
                    rows = torch.dropout(rows, options.dropout, options.training)
        # The backward pass of the loop needs h as it is now; what the caller gets, the caller may
        # change in place, as with torch.nn.
        alone = D == 1 and not outputs[0].requires_grad
        output = form.shaped(outputs[0]) if alone else form.joined(outputs)
        cells = [c for (c,) in others] if options.return_cell_states else None
        final = tuple(map(torch.stack, zip(*finals, strict=True)))
        return Results.of_rows(form, output, final, cells, gates)

    return plan


def reference_recurrence(cell, x, state, weights, sizes, reverse, lengths, fresh, cells):
    """The formulas, step by step."""
    return reference.recurrence(cell, x, state, weights, sizes, reverse, lengths, fresh)


def bptt_recurrence(cell, x, state, weights, sizes, reverse, lengths, fresh, cells):
    """The loops of `bptt.py`. Lengths have been packed."""
    state = [s.unsqueeze(0) for s in state]
    h, final, others = recur(bptt.Layer(cell, sizes, reverse, fresh), x, state, [weights], cells)
    return h, [s[0] for s in final], others


def cell_plan(call, x, sizes, state, weights, options):
    """torch's operator for one step, once for each step: nothing to prepare, and little around it,
    since for a single step all of that would take longer than the step."""
    step = CELL_STEPS[call.cell.name]
    per = len(weights) // call.layers
    zeros = weights[0].new_zeros(call.B, call.H) if state is None else None
    layers = []
    xs = x.unbind(1 if options.batch_first else 0)
    for k in range(call.layers):
        now = [zeros] * len(call.cell.states) if state is None else [part[k] for part in state]
        w = weights[k * per : k * per + per]
        outputs = []
        for x_t in xs:
            now = step(x_t, now, *w) if len(now) > 1 else [step(x_t, now[0], *w)]
            outputs.append(now[0])
        layers.append(now)
        xs = outputs
        if k < call.layers - 1 and options.dropout > 0:
            xs = torch.dropout(torch.stack(xs), options.dropout, options.training).unbind(0)
    final = tuple(map(torch.stack, zip(*layers, strict=True)))
    return Results(Form((call.T, call.B), options.batch_first).turned(torch.stack(xs)), final)


reference_plan = layered(reference_recurrence)
mended = native.differentiable(operator, reference_plan)

PLANS = {
    "aten": aten,
    "cell": cell_plan,
    "bptt": layered(bptt_recurrence),
    "reference": reference_plan,
}
