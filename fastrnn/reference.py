"""One layer in one direction, a step at a time, straight from `kernels/cells.py`.

Slow, and the measure of all else: every operation is torch's own, so autograd, forward-mode AD and
`torch.func` work to any order, in any dtype, on any device. In float64 it is the referee of the
tests.
"""

import torch
from torch.nn.functional import linear

from .linear import project
from .schedule import cleared


def recurrence(cell, x, state, weights, sizes, reverse, lengths=None, fresh=None, watch=None):
    """As `bptt.forward`: h (rows, R), the final states, the other states (rows, H) each.

    lengths: None, or (B,) integers where all sizes are B; after its length a sequence keeps its
    state, and what is given of it is zero.
    watch: None, or called as watch(t, after) with the states after each step, the very tensors that
    all that follows is computed from.
    """
    gates = len(cell.gates)
    steps = project(x, weights.w_ih, weights.b_ih).split(sizes)
    begins = [None] * len(sizes) if fresh is None else fresh.split(sizes)
    outputs = [None] * len(sizes)
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        size = sizes[t]
        before = active = tuple(s[:size] for s in state)
        if begins[t] is not None:
            before = cleared(before, begins[t])
        x_gates = steps[t].chunk(gates, 1)
        h_gates = linear(before[0], weights.w_hh, weights.b_hh).chunk(gates, 1)
        after, _ = cell.forward(x_gates, h_gates, before)
        if weights.w_hr is not None:
            after = (linear(after[0], weights.w_hr), *after[1:])
        if watch is not None:
            watch(t, after)
        if lengths is not None:
            ongoing = (t < lengths).unsqueeze(1)
            outputs[t] = tuple(torch.where(ongoing, s, 0.0) for s in after)
            state = tuple(map(torch.where, (ongoing,) * len(state), after, active))
            continue
        outputs[t] = after
        # Rows of sequences that are done, or have not begun, keep their state.
        state = tuple(
            torch.cat((new, old[size:])) if size < old.shape[0] else new
            for new, old in zip(after, state, strict=True)
        )
    h, *others = map(torch.cat, zip(*outputs, strict=True))
    return h, state, others
