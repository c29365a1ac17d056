"""One layer in one direction, a step at a time, straight from `kernels/cells.py`.

Slow, and the measure of all else: every operation is torch's own, so autograd, forward-mode AD and
`torch.func` work to any order, in any dtype, on any device. In float64 it is the referee of the
tests.
"""

import torch
from torch.nn.functional import embedding, linear


def recurrence(cell, x, state, weights, sizes, reverse, lengths=None):
    """As `bptt.forward`: (rows, I) or indices (rows,) -> the states h (rows, R), final states.

    lengths: None, or (B,) integers where all sizes are B; after its length a sequence keeps its
    state, and h is zero.
    """
    gates = len(cell.gates)
    if x.is_floating_point() or x.is_complex():
        projected = linear(x, weights.w_ih, weights.b_ih)
    else:
        projected = embedding(x, weights.w_ih.t())
        projected = projected if weights.b_ih is None else projected + weights.b_ih
    steps = list(projected.split(sizes))
    outputs = [None] * len(steps)
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        size = sizes[t]
        active = tuple(s[:size] for s in state)
        x_gates = steps[t].chunk(gates, 1)
        h_gates = linear(active[0], weights.w_hh, weights.b_hh).chunk(gates, 1)
        after, _ = cell.forward(x_gates, h_gates, active)
        if weights.w_hr is not None:
            after = (linear(after[0], weights.w_hr), *after[1:])
        if lengths is not None:
            ongoing = (t < lengths).unsqueeze(1)
            outputs[t] = after[0] * ongoing
            state = tuple(map(torch.where, (ongoing,) * len(state), after, active))
            continue
        outputs[t] = after[0]
        # Rows of sequences that are done, or have not begun, keep their state.
        state = tuple(
            torch.cat((new, old[size:])) if size < old.shape[0] else new
            for new, old in zip(after, state, strict=True)
        )
    return torch.cat(outputs), state
