"""A layer in one direction, taken as linear around the states that a forward pass has left.

The states of all steps are known, so the gates follow for all steps at once, and with them, from
the formulas of `cells.py`, how each step's state depends on its gates and on the state before: no
step has to be repeated. What remains to be walked through is one linear recurrence (`solve.py`).

Everything here is made of torch's own operators and that Function, so it can be differentiated and
vectorised to any order. Sixteen-bit tensors are computed with in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from .solve import Solve
from .weights import Weights


class Linear(NamedTuple):
    """The change of a state per gate and per state before; T, B, S, G, H as in `solve.py`.

    of_gates_x, of_gates_h: (T, B, S, G, H), per gate of the input and of the recurrent side.
    of_before: (T, B, S, S, H). keep: (T, B, 1) or None. h_before: (T, B, H).
    """

    of_gates_x: Tensor
    of_gates_h: Tensor
    of_before: Tensor
    keep: Tensor | None
    h_before: Tensor


def wide(tensor):
    """In the precision to compute with here."""
    half = tensor is not None and tensor.dtype in (torch.bfloat16, torch.float16)
    return tensor.float() if half else tensor


def project(x, w_ih, b_ih):
    """(N, G*H), the input side of the gates; x (N, I), or (N,) indices of one-hot rows."""
    if x.is_floating_point() or x.is_complex():
        return linear(x, w_ih, b_ih)
    gates = embedding(x, w_ih.t())
    return gates if b_ih is None else gates + b_ih


def gates(cell, walk, x, state, w, h):
    """The gates of each step by their letters, (N, H) each, from the states h (N, R)."""
    saved = _gates(cell, walk, x, w, walk.before(h, state[0]), [0.0] * (len(cell.states) - 1))
    if walk.active is not None:
        saved = [gate * walk.active.unsqueeze(2) for gate in saved]
    found = zip(cell.saved, saved, strict=True)
    return {letter: walk.rows(gate) for letter, gate in found if letter in cell.gates}


def _gates(cell, walk, x, w, h_before, others_before):
    """What the cell saves of each step, (T, B, H) each."""
    G = len(cell.gates)
    gates_x = walk.dense(project(x, w.w_ih, w.b_ih)).chunk(G, 2)
    gates_h = linear(h_before, w.w_hh, w.b_hh).chunk(G, 2)
    return cell.forward(gates_x, gates_h, (h_before, *others_before))[1]


def linearised(cell, walk, x, state, w, states):
    """The Linear around `states`, (N, H) each; state: the initial ones, (B, H) each or None."""
    after = [walk.states(s) for s in states]
    before = [walk.before(s, first) for s, first in zip(states, state, strict=True)]
    saved = _gates(cell, walk, x, w, before[0], before[1:])
    S = len(states)
    one, zero = after[0].new_ones(()), after[0].new_zeros(())
    of_x, of_h, of_before = [], [], []
    for s in range(S):
        unit = tuple(one if s == k else zero for k in range(S))
        dx, dh, dbefore = cell.backward(unit, saved, before, after)
        of_h.append(torch.stack(dh, 2))
        of_x.append(of_h[-1] if dx is dh else torch.stack(dx, 2))
        parts = [d if torch.is_tensor(d) else torch.zeros_like(after[0]) for d in dbefore]
        of_before.append(torch.stack(parts, 2))
    of_x, of_h, of_before = (torch.stack(parts, 2) for parts in (of_x, of_h, of_before))
    keep = None
    if walk.fresh is not None:
        keep = walk.fresh.logical_not().unsqueeze(2).to(of_h.dtype)
        of_before = of_before * keep[..., None, None]
    if walk.active is not None:
        # A sequence that is done, or has not begun, keeps its state.
        active = walk.active[..., None, None, None]
        of_x, of_h = of_x * active, of_h * active
        of_before = torch.where(active, of_before, _identity(of_before, S))
    return Linear(of_x, of_h, of_before, keep, before[0])


def _identity(like, S):
    return torch.eye(S, dtype=like.dtype, device=like.device).unsqueeze(2)


def gate_gradients(cell, walk, x, state, w, states, dstates, dfinal):
    """Back through the recurrence: (gradients of the gates, of the initial states).

    dstates: of the states after every step, (N, H) each or None; dfinal: of the final ones,
    (B, H) each or None. The gates' are (N, slots, H), laid out as `Cell` says.
    """
    dtype = w.w_hh.dtype
    x, state, w, states, dstates, dfinal = (
        [wide(t) for t in (x,)],
        *([wide(t) for t in group] for group in (state, w, states, dstates, dfinal)),
    )
    (x,), w = x, Weights(*w)
    around = linearised(cell, walk, x, state, w, states)
    sources = torch.stack([_dense(walk, d, s) for d, s in zip(dstates, states, strict=True)], 2)
    nothing = sources.new_zeros(sources.shape[1:])
    last = torch.stack([nothing[:, 0] if d is None else d for d in dfinal], 1)
    sources = torch.cat((nothing.unsqueeze(0), sources[:-1], (sources[-1] + last).unsqueeze(0)))
    solved = Solve.apply(around.of_gates_h, around.of_before, w.w_hh, around.keep, sources, True)
    d = solved[1:].unsqueeze(3)
    dgates = (around.of_gates_x * d).sum(2)
    if own := cell.slots - len(cell.gates):
        alone = (around.of_gates_h * d).sum(2)[:, :, len(cell.gates) - own :]
        dgates = torch.cat((alone, dgates), 2)
    return walk.rows(dgates).to(dtype), [d.to(dtype) for d in solved[0].unbind(1)]


def _dense(walk, d, like):
    """A gradient of rows, zero where a sequence is not active: its output there is a constant."""
    if d is None:
        return like.new_zeros(walk.T, walk.B, like.shape[1])
    d = walk.dense(d)
    return d if walk.active is None else d * walk.active.unsqueeze(2)


def products(cell, walk, x, initial, w, h, dgates, needs_x=True):
    """From the gates' gradients to those of x and of the weights: (dx or None, Weights)."""
    H, G = h.shape[1], len(cell.gates)
    own = cell.slots - G
    rows = dgates.flatten(1)
    inputs, shared, alone = rows[:, own * H :], rows[:, own * H : G * H], rows[:, : own * H]
    recurrent = torch.cat((shared, alone), 1) if own else inputs
    before = walk.rows(walk.before(h, initial))
    if x.is_floating_point():
        dw_ih = inputs.t() @ x
    else:
        dw_ih = inputs.new_zeros(w.w_ih.shape[1], inputs.shape[1]).index_add(0, x, inputs).t()
    bias = w.b_ih is not None
    return inputs @ w.w_ih if needs_x else None, Weights(
        dw_ih,
        recurrent.t() @ before,
        inputs.sum(0) if bias else None,
        recurrent.sum(0) if bias else None,
    )


def tangents(cell, walk, x, state, w, states, x_t, state_t, w_t):
    """Forward through the recurrence: the changes of the states after every step, (N, H) each, and
    of the final ones, (B, H), from those of all inputs, each of which may be None."""
    dtype = w.w_hh.dtype
    x, x_t = wide(x), wide(x_t)
    state, w, states, state_t, w_t = (
        [wide(t) for t in group] for group in (state, w, states, state_t, w_t)
    )
    w, w_t = Weights(*w), Weights(*w_t)
    around = linearised(cell, walk, x, state, w, states)
    G = len(cell.gates)
    change = torch.zeros_like(around.of_before[:, :, :, 0])
    inputs = [project(x, w_t.w_ih, None)] if w_t.w_ih is not None else []
    inputs += [linear(x_t, w.w_ih)] if x_t is not None else []
    inputs = [walk.dense(t) for t in inputs] + [t for t in (w_t.b_ih,) if t is not None]
    recurrent = [linear(around.h_before, w_t.w_hh)] if w_t.w_hh is not None else []
    recurrent += [t for t in (w_t.b_hh,) if t is not None]
    for parts, of_gates in ((inputs, around.of_gates_x), (recurrent, around.of_gates_h)):
        for gates_t in parts:
            per_gate = gates_t.unflatten(-1, (G, -1)).unsqueeze(-3)
            change = change + (of_gates * per_gate).sum(3)
    first = torch.zeros_like(change[0])
    first = torch.stack([first[:, 0] if t is None else t for t in state_t], 1)
    solved = Solve.apply(
        around.of_gates_h, around.of_before, w.w_hh, around.keep,
        torch.cat((first.unsqueeze(0), change)), False,
    )  # fmt: skip
    after = solved[1:]
    if walk.active is not None:
        after = after * walk.active[..., None, None]
    rows = [walk.rows(s).to(dtype) for s in after.unbind(2)]
    return rows, [s.to(dtype) for s in solved[-1].unbind(1)]
