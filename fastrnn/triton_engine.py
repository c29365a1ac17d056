"""The kernels' engines: a layer in both of its directions, with the matrix products around it.

The input's product with W_ih is taken for all steps before the recurrence, and the gradients of
weights, biases and input after the way back, as products over all rows. In between are the kernels:
`resident` and `cooperative` walk through all steps in one launch, `step` alternates products and
launches.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from . import cooperation, linear, stepping
from .adjoint import at
from .autograd import recur
from .chips import cooperative_plans, resident_plans
from .inputs import input_rows
from .kernels import padding, resident, step
from .kernels.cell import Cell
from .kernels.cooperative_plans import CooperativePlan
from .kernels.plans import Plan
from .kernels.rows import Rows
from .memory import memory_mode
from .neighbours import before, product_with_before
from .precision import products
from .results import Form, Results
from .values import numbers, plainly
from .walk import walk_of
from .weights import Weights


@dataclass(frozen=True)
class Layer:
    """One layer for `autograd.py`: all that is known of it but its tensors.

    plans: how to cut `resident` or `cooperative` forward and, in training, back; None stands for
    `step`.
    precision: of the products. sizes: of a packed input, or None. recompute: keep no gates.

    No tuple: torch.func looks into those, and would wrap the tensors in it.
    """

    cell: Cell
    rows: Rows
    sizes: tuple[int, ...] | None
    plans: tuple[Plan, Plan | None] | tuple[CooperativePlan, CooperativePlan | None] | None
    precision: str
    recompute: bool

    rows_of_saved: ClassVar[int] = 1  # the dimension of rows in what `forward` saves

    @property
    def marks(self):
        return self.rows.lengths, self.rows.offsets, self.rows.fresh

    def marked(self, *marks):
        lengths, offsets, fresh = _contiguous(marks)
        rows = self.rows._replace(lengths=lengths, offsets=offsets, fresh=fresh)
        return replace(self, rows=rows)

    def walks(self, D, device):
        rows = self.rows
        sizes = self.sizes or (rows.B,) * rows.T
        lengths = rows.lengths if self.sizes is None else None
        fresh = [None] * D if rows.fresh is None else rows.fresh.flatten(1).bool().unbind(0)
        return [walk_of(sizes, d == 1, lengths, fresh[d], device) for d in range(D)]

    def widened(self, V):
        """The layer of V sequences in the place of each."""
        T, B, N, *marks = self.rows

        def wider(lengths, offsets, fresh):
            return (
                None if lengths is None else lengths.repeat_interleave(V),
                None if offsets is None else offsets * V,
                None if fresh is None else fresh.repeat_interleave(V, 2),
            )

        rows = Rows(T, B * V, N * V, *plainly(wider, *marks))
        sizes = None if self.sizes is None else tuple(size * V for size in self.sizes)
        return replace(self, rows=rows, sizes=sizes)

    def forward(self, x, state, weights, keep_all, cells=False):
        cell, rows = self.cell, self.rows
        w, b = _stacked(weights, "w_hh"), _stacked(weights, "b_hh")
        D, H = w.shape[0], w.shape[2]
        state = _contiguous(state)
        with _launching(self.precision, w.device):
            gates = self._project(x, weights)
            kept = len(cell.states) if keep_all or cells else 1
            # A view made in here is one that the caller could not change in place.
            flat = [w.new_empty(rows.N, D * H) for _ in range(kept)]
            states = [s.view(rows.N, D, H) for s in flat]
            final = [w.new_empty(D, rows.B, H) for _ in cell.states]
            saved = gates if keep_all and cell.saved and not self.recompute else None
            absent = [None] * (len(cell.states) - kept)
            tensors = (gates, saved, w, b, state, [*states, *absent], final)
            if self.plans is None:
                stepping.forward(cell, rows, *tensors)
            else:
                self._engine.forward(cell, self.plans[0], self.precision, *tensors, rows)
            padding.clear(flat[0], rows)
        return flat[0], final, flat[1:], [] if saved is None else [saved]

    def backward(self, x, state, weights, h, others, saved, dstates, dfinal, needs, spare):
        states, needed = (h, *others), needs[1 : 1 + len(state)]
        with _launching(self.precision, h.device):
            dgates, dstate = self._walk_back(
                x, state, weights, states, saved, dstates, dfinal, needed, spare
            )
            dx, dweights = self._products(x, state, weights, h, dgates, needs)
        return dx, *dstate, *dweights

    def gate_gradients(self, x, state, weights, h, others, saved, dstates, dfinal):
        states, needed = (h, *others), (True,) * len(state)
        with _launching(self.precision, h.device):
            return self._walk_back(
                x, state, weights, states, saved, dstates, dfinal, needed, spare=False
            )

    def _walk_back(self, x, state, weights, states, saved, dstates, dfinal, needs, spare):
        """dgates (D, N, slots, H), in the place of the saved gates if these are `spare`, and the
        gradients of the initial states, where needed."""
        cell, rows = self.cell, self.rows
        w = _stacked(weights, "w_hh")
        D, H = w.shape[0], w.shape[2]
        state, dstates, dfinal = map(_contiguous, (state, dstates, dfinal))
        states = [s.view(rows.N, D, H) for s in _contiguous(states)]
        dstate = [w.new_empty(D, rows.B, H) if n else None for n in needs]
        (gates,) = _contiguous(saved) or (None,)
        if gates is None and cell.saved:
            gates, spare = self._recompute(x, state, weights, states), True
        if saved and spare:
            # Should the backward pass fail after this and be tried again, torch will notice.
            torch.autograd.graph.increment_version(gates)
        dgates = gates if gates is not None and spare else w.new_empty(D, rows.N, cell.slots, H)
        tensors = (gates, dgates, w, state, states, dstates, dfinal, dstate)
        if self.plans is None:
            stepping.backward(cell, rows, *tensors)
        else:
            self._engine.backward(cell, self.plans[1], self.precision, *tensors, rows)
        padding.clear(dgates.flatten(2), rows)
        return dgates, dstate

    @property
    def _engine(self):
        """Where `forward` and `backward` with a plan are."""
        return cooperation if isinstance(self.plans[0], CooperativePlan) else resident

    @property
    def _own(self):
        """How many of the last gates have gradients on the recurrent side that are their own."""
        return self.cell.slots - len(self.cell.gates)

    def _project(self, x, weights):
        """(D, N, slots, H), the input side of the gates in the last slots."""
        H = weights[0].w_hh.shape[1]
        gates = weights[0].w_hh.new_empty(len(weights), self.rows.N, self.cell.slots, H)
        for d, w in enumerate(weights):
            input_rows(x).project(w.w_ih, w.b_ih, gates[d].flatten(1)[:, self._own * H :])
        return gates

    def _recompute(self, x, state, weights, states):
        """The gates of all steps at once: the states that they came from are known by now."""
        gates, N = self._project(x, weights), self.rows.N
        for s in states[1:]:
            padding.clear(s.flatten(1), self.rows)
        for d, w in enumerate(weights):
            initial = (None if s is None else s[d] for s in state)
            previous = [
                before(self.rows, s[:, d], first, d == 1)[None]
                for s, first in zip(states, initial, strict=True)
            ]
            product = (previous[0][0] @ w.w_hh.t())[None]
            nothing = (None,) * len(previous)
            b = None if w.b_hh is None else w.b_hh.contiguous()[None]
            here = gates[d][None]
            step.forward(
                self.cell, 0, here, here, product, b, previous, nothing, None, nothing,
                Rows(1, N, N),
            )  # fmt: skip
        return gates

    def _products(self, x, state, weights, h, dgates, needs):
        """The gradient of x, and of all directions' weights in their order."""
        H, own, G = dgates.shape[3], self._own, len(self.cell.gates)
        h = h.view(h.shape[0], -1, H)
        needs_x, needs = needs[0], needs[1 + len(state) :]
        dx, dweights = None, []
        for d, w in enumerate(weights):
            need = Weights(*needs[d * len(w) : (d + 1) * len(w)])
            rows = dgates[d].flatten(1)
            inputs, shared, alone = rows[:, own * H :], rows[:, own * H : G * H], rows[:, : own * H]
            if needs_x:
                dx = inputs @ w.w_ih if dx is None else dx.addmm_(inputs, w.w_ih)
            dw_ih = dw_hh = db_ih = db_hh = None
            if need.w_ih:
                dw_ih = torch.zeros_like(w.w_ih)
                input_rows(x).add_weight_gradient(inputs, dw_ih)
            if need.w_hh:
                initial = None if state[0] is None else state[0][d]
                parts = [
                    product_with_before(part, self.rows, h[:, d], initial, d == 1)
                    for part in ((shared, alone) if own else (shared,))
                ]
                dw_hh = torch.cat(parts) if own else parts[0]
            if need.b_ih or need.b_hh:
                db_ih = inputs.sum(0)
            if need.b_hh:
                db_hh = torch.cat((db_ih[: (G - own) * H], alone.sum(0))) if own else db_ih.clone()
            dweights += dw_ih, dw_hh, db_ih, db_hh, None
        return dx, dweights


def _contiguous(tensors):
    return [None if t is None else t.contiguous() for t in tensors]


def _stacked(weights, name):
    """One field of every direction's weights, as one contiguous tensor, or None."""
    tensors = [getattr(w, name) for w in weights]
    if tensors[0] is None:
        return None
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].contiguous()[None]


@contextmanager
def _launching(precision, device):
    """Triton launches on the current device; torch's products take their precision from torch, and
    would take another dtype from an autocast region that a backward pass is called in."""
    with ExitStack() as stack:
        stack.enter_context(products(precision, device))
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            stack.enter_context(torch.cuda.device(device))
        yield


# By the names that `use_engine` takes.
PLANS_OF = {
    "resident": resident_plans,
    "cooperative": cooperative_plans,
    "step": lambda call: None,
}


def run(plan, call, x, sizes, state, weights, options, lengths=None, fresh=None):
    """A stack of layers by the engine `plan`; the rest as in `torch_engine.py`.

    lengths: None, or (B,) integers on the device of x; fresh: None, or (D, T, B) bool; both for
    input that is not packed.
    """
    L, D = call.layers, call.directions
    form, h = Form.of_input(x, sizes, options)
    if sizes is None:
        rows = plainly(partial(padded_rows, call), lengths, fresh)
    else:
        rows = plainly(lambda sizes: packed_rows(sizes, x.device), sizes)
        sizes = tuple(numbers(sizes))
    layer = layer_of(plan, call, rows, sizes)
    finals = []
    for k in range(L):
        here = slice(k * D, k * D + D)
        initial = [None] * len(call.cell.states)
        if state is not None:
            initial = [s[here] for s in state]
        w = [Weights.of_layer(weights, n, L * D) for n in range(L * D)[here]]
        below, last = h, k == L - 1
        h, final, others = recur(
            layer, below, initial, w, options.return_cell_states, form if last else None
        )
        finals.append(final)
        if not last and options.dropout > 0:
            h = torch.dropout(h, options.dropout, options.training)
    final = tuple(final) if L == 1 else tuple(map(torch.cat, zip(*finals, strict=True)))
    cells, gates = None, []
    walks = layer.walks(D, h.device) if call.asked else []
    if options.return_cell_states:
        # What kernels leave in padding is no number.
        parts = zip(walks, others[0].chunk(D, 1), strict=True)
        cells = [walk.rows(walk.states(c)) for walk, c in parts]
    if options.return_gates:
        states = form.rows(h).chunk(D, 1)
        gates = [
            linear.gates(call.cell, walk, below, at(initial, d), w[d], states[d])
            for d, walk in enumerate(walks)
        ]
    return Results.of_rows(form, h, final, cells, gates)


def layer_of(plan, call, rows, sizes=None):
    """The Layer that a call and the name of an engine make."""
    recompute = memory_mode() == "recompute"
    return Layer(call.cell, rows, sizes, PLANS_OF[plan](call), call.precision, recompute)


def padded_rows(call, lengths, fresh):
    """Rows of T steps and B sequences; lengths and fresh as for `run`."""
    if lengths is not None:
        # Side by side, and the backward pass's own: the caller may fill theirs anew.
        lengths = lengths.to(torch.int32, copy=True)
    if fresh is not None:
        fresh = fresh.to(torch.uint8).contiguous()
    return Rows(call.T, call.B, call.T * call.B, lengths, fresh=fresh)


def packed_rows(sizes, device):
    """Rows of a PackedSequence from its batch_sizes, which are on the CPU: one transfer."""
    T, B = len(sizes), int(sizes[0])
    ends = sizes.cumsum(0)
    # Sequence b has as many steps as there are sizes above b.
    lengths = torch.bincount(sizes, minlength=B + 1).flip(0).cumsum(0).flip(0)[1:]
    # Both at multiples of 16 bytes, or Triton would compile anew where T is odd.
    both = torch.cat((ends - sizes, sizes.new_zeros(T % 2), lengths)).to(device)
    return Rows(T, B, int(ends[-1]), both[T + T % 2 :], both[:T])
