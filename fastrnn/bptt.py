"""One layer in one direction on a CPU: the loop forward, and back-propagation through time.

What makes it fast, in the order of what it gains: the backward pass is written by hand, so there is
no graph of T nodes and the weight gradients are a few large products; no step allocates or makes a
view; the work goes through time in chunks that stay in the cache; the recurrent weights are
transposed once.

Gradients that vanish do so by way of denormal numbers, which many CPUs compute with far slower. At
every chunk the carried gradient is flushed below 1e-30 (float32; 1e-290 in float64), and a chunk
with nothing to carry and no gradient of its own is skipped: its gradients are zero.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from . import inplace
from .inputs import input_rows
from .kernels.cell import GRU, LSTM, RNN_RELU, RNN_TANH, Cell
from .schedule import before, chunks, cleared, resize, steps_of
from .scratch import keep, take
from .values import plainly
from .walk import walk_of
from .weights import Weights

FLUSH_BELOW = {torch.float32: 1e-30, torch.float64: 1e-290}

LOOPS = {
    LSTM: inplace.LSTM,
    GRU: inplace.GRU,
    RNN_TANH: lambda H, weights: inplace.RNN(H, weights, torch.tanh_),
    RNN_RELU: lambda H, weights: inplace.RNN(H, weights, torch.relu_),
}


@dataclass(frozen=True)
class Layer:
    """What `Recurrence` runs: one direction. For the fields see `forward`, and `autograd.py`.

    No tuple: torch.func looks into those, and would wrap the tensor in it.
    """

    cell: Cell
    sizes: tuple[int, ...]
    reverse: bool
    fresh: Tensor | None = None

    rows_of_saved: ClassVar[int] = 0  # the dimension of rows in what `forward` saves

    @property
    def marks(self):
        return (self.fresh,)

    def marked(self, fresh):
        return replace(self, fresh=fresh)

    def walks(self, D, device):
        return [walk_of(self.sizes, self.reverse, None, self.fresh, device)]

    def widened(self, V):
        """The layer of V sequences in the place of each."""
        sizes = tuple(size * V for size in self.sizes)
        fresh = self.fresh
        if fresh is not None:
            fresh = plainly(lambda fresh: fresh.repeat_interleave(V), fresh)
        return replace(self, sizes=sizes, fresh=fresh)

    def forward(self, x, state, weights, keep_all, cells=False):
        (w,) = weights
        h, final, others, saved = forward(
            self.cell, x, _of_one(state), w, self.sizes, self.reverse, keep_all, cells, self.fresh
        )
        return h, [f.unsqueeze(0) for f in final], others, saved

    def backward(self, x, state, weights, h, others, saved, dstates, dfinal, needs, spare):
        of_weights = needs[1 + len(state) :]
        needed = {name for name, n in zip(Weights._fields, of_weights, strict=True) if n}
        if needs[0]:
            needed.add("x")
        g = self._backward(x, state, weights, h, others, saved, dstates, dfinal, needed)
        dstate = [d.unsqueeze(0) for d in g.state]
        return g.x, *dstate, g.w_ih, g.w_hh, g.b_ih, g.b_hh, None

    def gate_gradients(self, x, state, weights, h, others, saved, dstates, dfinal):
        g = self._backward(x, state, weights, h, others, saved, dstates, dfinal, {"gates"})
        return g.gates.unsqueeze(0), [d.unsqueeze(0) for d in g.state]

    def _backward(self, x, state, weights, h, others, saved, dstates, dfinal, needed):
        (w,) = weights
        return backward(
            self.cell, x, _of_one(state), w, self.sizes, self.reverse, h, others, saved, dstates,
            _of_one(dfinal), needed, self.fresh,
        )  # fmt: skip


def _of_one(states):
    """(1, B, H) -> (B, H)."""
    return tuple(None if s is None else s[0] for s in states)


class Gradients(NamedTuple):
    """None where nobody asked. gates: (N, slots, H), laid out as `Cell` says."""

    x: Tensor | None
    state: tuple[Tensor, ...]
    w_ih: Tensor | None
    w_hh: Tensor | None
    b_ih: Tensor | None
    b_hh: Tensor | None
    gates: Tensor | None


def forward(cell, x, state, weights, sizes, reverse, keep_all, keep_states=False, fresh=None):
    """Run the cell over all steps.

    x: (rows, I), or (rows,) indices of one-hot rows. state: one (B, H) tensor for each of the
    cell's states. sizes: the rows of every step (see `schedule.py`); `reverse` runs time backwards.
    fresh: None, or (rows,), the rows before which the state counts as zero.

    Returns the states h (rows, H), the final states, and, if `keep_all`, what `backward` needs: the
    other states, (rows, H) each, which `keep_states` asks for too, and a list of what else.
    """
    H = weights.w_hh.shape[1]
    loop = LOOPS[cell](H, weights)
    h = weights.w_hh.new_empty(sum(sizes), H)
    final = tuple(torch.empty_like(s) for s in state)
    others = [torch.empty_like(h) for _ in loop.others if keep_all or keep_states]
    saved = [h.new_empty(h.shape[0], width * H) for width in loop.saved.values() if keep_all]
    with torch.inference_mode():
        w = weights.w_hh.t().contiguous()
        cut = chunks(sizes)
        alone = steps_of(fresh, sizes)
        scratch = take(loop, loop.forward_widths, loop.forward_parts, cut[0].sizes, h)
        carry = tuple(s[: sizes[-1 if reverse else 0]] for s in state)
        for chunk in reversed(cut) if reverse else cut:
            if not scratch.serves(chunk.sizes):
                scratch = take(loop, loop.forward_widths, loop.forward_parts, chunk.sizes, h)
            rows = slice(chunk.start, chunk.stop)
            *buffers, states = scratch.rows(chunk.stop - chunk.start)
            loop.project(input_rows(x[rows]), (*buffers, states))
            steps = scratch.walk(len(chunk.sizes), reverse)
            for first, last, size, begins in chunk.runs(reverse, alone):
                if size != carry[0].shape[0]:
                    carry = tuple(map(resize, carry, (size,) * len(carry), state, final))
                if begins is not None:
                    carry = cleared(carry, fresh[begins])
                carry = loop.forward(steps[first:last], carry, w)
            # The next chunk writes over the scratch, in which the carried state lies.
            carry = tuple(c.clone() for c in carry)
            h[rows] = states
            for kept, k in zip(others, loop.others, strict=False):
                kept[rows] = buffers[k]
            if keep_all:
                loop.finish(buffers)
                for kept, k in zip(saved, loop.saved, strict=True):
                    kept[rows] = buffers[k][:, : kept.shape[1]]
        keep(scratch)
        for whole, part in zip(final, carry, strict=True):
            whole[: part.shape[0]] = part
    return h, final, others, saved


def backward(
    cell, x, state, weights, sizes, reverse, h, others, saved, dstates, dfinal, needed, fresh=None
):
    """The gradients of `forward`'s arguments.

    dstates: gradients of h and the other states, dfinal: of the final states, each a tensor or
    None. needed: the fields of `Gradients` to make (the state's are always made).
    """
    H = weights.w_hh.shape[1]
    loop = LOOPS[cell](H, weights)
    flush = FLUSH_BELOW[h.dtype]
    dh, *dothers = dstates
    dstate = tuple(torch.empty_like(s) for s in state)
    dx = torch.empty_like(x) if "x" in needed else None
    dw_ih = torch.zeros_like(weights.w_ih) if "w_ih" in needed else None
    dw_hh = torch.zeros_like(weights.w_hh) if "w_hh" in needed else None
    db_ih = torch.zeros_like(weights.b_ih) if "b_ih" in needed else None
    db_hh = torch.zeros_like(weights.b_hh) if "b_hh" in needed else None
    own = cell.slots - len(cell.gates)
    dgates = h.new_empty(h.shape[0], cell.slots * H) if "gates" in needed else None
    with torch.inference_mode():
        w = weights.w_hh
        joining = tuple(
            s.new_zeros(s.shape) if d is None else d for d, s in zip(dfinal, state, strict=True)
        )
        states = (h, *others)
        cut = chunks(sizes)
        alone = steps_of(fresh, sizes)
        scratch = take(loop, loop.backward_widths, loop.backward_parts, cut[0].sizes, h)
        carry = tuple(s[: sizes[0 if reverse else -1]] for s in joining)
        for chunk in cut if reverse else reversed(cut):
            rows = slice(chunk.start, chunk.stop)
            carry = tuple(torch.hardshrink(c, flush) for c in carry)
            if (
                chunk.sizes[0] == chunk.sizes[-1] == carry[0].shape[0]
                and not any(c.any() for c in carry)
                and not any(d is not None and d[rows].any() for d in dstates)
            ):
                for empty in (dx, dgates):
                    if empty is not None:
                        empty[rows] = 0
                continue
            if not scratch.serves(chunk.sizes):
                scratch = take(loop, loop.backward_widths, loop.backward_parts, chunk.sizes, h)
            buffers = scratch.rows(chunk.stop - chunk.start)
            previous = [
                before(s, initial, sizes, chunk, reverse)
                for s, initial in zip(states, state, strict=True)
            ]
            if alone:
                previous = cleared(previous, fresh[rows])
            loop.coefficients(buffers, [kept[rows] for kept in saved], previous, h[rows])
            d = buffers[-1]
            if dh is None:
                d.zero_()
            else:
                d.copy_(dh[rows])
            loop.join(buffers, [None if d is None else d[rows] for d in dothers])
            steps = scratch.walk(len(chunk.sizes), not reverse)
            for first, last, size, begins in chunk.runs(not reverse, alone):
                if size != carry[0].shape[0]:
                    carry = tuple(map(resize, carry, (size,) * len(carry), joining, dstate))
                carry = loop.backward(steps[first:last], carry, w)
                if begins is not None:
                    carry = cleared(carry, fresh[begins])
            d_hh, d_ih = loop.gate_gradients(*buffers)
            if dw_hh is not None:
                dw_hh.addmm_(d_hh.t(), previous[0])
            if db_hh is not None:
                db_hh += d_hh.sum(0)
            if own and dgates is not None:
                dgates[rows, : own * H] = d_hh[:, -own * H :]
            for k, (d, gates) in enumerate(d_ih):
                if dgates is not None:
                    dgates[rows, own * H :][:, gates] = d
                if db_ih is not None:
                    db_ih[gates] += d.sum(0)
                if dw_ih is not None:
                    input_rows(x[rows]).add_weight_gradient(d, dw_ih[gates])
                if dx is not None:
                    dx[rows].addmm_(d, weights.w_ih[gates], beta=min(k, 1))
        keep(scratch)
        for whole, part in zip(dstate, carry, strict=True):
            whole[: part.shape[0]] = part
    if dgates is not None:
        dgates = dgates.view(-1, cell.slots, H)
    return Gradients(dx, dstate, dw_ih, dw_hh, db_ih, db_hh, dgates)
