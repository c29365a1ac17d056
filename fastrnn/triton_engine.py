"""The kernels' engines: a layer in both of its directions, with the matrix products around it.

The input's product with W_ih is taken for all steps before the recurrence, and the gradients of
weights, biases and input after the way back, as products over all rows. In between are the kernels:
`resident` and `cooperative` walk through all steps in one launch, `step` alternates products and
launches.
"""

from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import NamedTuple

import torch

from . import cooperation, reference, stepping
from .autograd import Recurrence
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
from .weights import Weights


class Layer(NamedTuple):
    """One layer for `Recurrence`: all that is known of it but its tensors.

    plans: how to cut `resident` or `cooperative` forward and, in training, back; None stands for
    `step`.
    precision: of the products. sizes: of a packed input, or None. recompute: keep no gates.
    """

    cell: Cell
    rows: Rows
    sizes: tuple[int, ...] | None
    plans: tuple[Plan, Plan | None] | tuple[CooperativePlan, CooperativePlan | None] | None
    precision: str
    recompute: bool

    def forward(self, x, state, weights, keep_all):
        """h (N, D*H), the final states (D, B, H), and what `backward` needs if `keep_all`."""
        cell, rows = self.cell, self.rows
        w, b = _stacked(weights, "w_hh"), _stacked(weights, "b_hh")
        D, H = w.shape[0], w.shape[2]
        with _launching(self.precision, w.device):
            gates = self._project(x, weights)
            # A view made in here is one that the caller could not change in place.
            flat = w.new_empty(rows.N, D * H)
            h = flat.view(rows.N, D, H)
            others = [torch.empty_like(h) if keep_all else None for _ in cell.states[1:]]
            final = [w.new_empty(D, rows.B, H) for _ in cell.states]
            saved = gates if keep_all and cell.saved and not self.recompute else None
            tensors = (gates, saved, w, b, state, [h, *others], final)
            if self.plans is None:
                stepping.forward(cell, rows, *tensors)
            else:
                self._engine.forward(cell, self.plans[0], self.precision, *tensors, rows)
            padding.clear(flat, rows)
        return flat, final, [saved, *others] if keep_all else []

    def backward(self, x, state, weights, h, saved, dh, dfinal, needs):
        """The gradients of x, of the states and of every direction's weights, where needed."""
        cell, rows = self.cell, self.rows
        S = len(cell.states)
        w = _stacked(weights, "w_hh")
        D, H = w.shape[0], w.shape[2]
        with _launching(self.precision, w.device):
            gates, *others = saved
            states = [h.view(rows.N, D, H), *others]
            dstate = [w.new_empty(D, rows.B, H) if n else None for n in needs[1 : 1 + S]]
            # The gates give way to their gradients, unless there may be another way back.
            again = torch._C._autograd._get_current_graph_task_keep_graph()
            if gates is None and cell.saved:
                gates, again = self._recompute(x, state, weights, states), False
            if gates is None or again:
                dgates = w.new_empty(D, rows.N, cell.slots, H)
            else:
                dgates = gates
            dh = None if dh is None else dh.contiguous()
            dfinal = [None if d is None else d.contiguous() for d in dfinal]
            dstates = [dh, *(None for _ in others)]
            tensors = (gates, dgates, w, state, states, dstates, dfinal, dstate)
            if self.plans is None:
                stepping.backward(cell, rows, *tensors)
            else:
                self._engine.backward(cell, self.plans[1], self.precision, *tensors, rows)
            padding.clear(dgates.flatten(2), rows)
            dx, dweights = self._products(x, state, weights, states[0], dgates, needs)
        return dx, *dstate, *dweights

    def reference(self, x, state, weights):
        """What `forward` gives, by torch's own operators."""
        rows, H = self.rows, weights[0].w_hh.shape[1]
        sizes = self.sizes or (rows.B,) * rows.T
        lengths = rows.lengths if self.sizes is None else None
        zeros = weights[0].w_hh.new_zeros(rows.B, H)
        outputs, finals = [], []
        for d, w in enumerate(weights):
            initial = tuple(zeros if s is None else s[d] for s in state)
            h, final = reference.recurrence(self.cell, x, initial, w, sizes, d == 1, lengths)
            outputs.append(h)
            finals.append(final)
        return torch.cat(outputs, 1), [torch.stack(s) for s in zip(*finals, strict=True)]

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
        H, own, G = h.shape[2], self._own, len(self.cell.gates)
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


def run(plan, call, x, sizes, state, weights, options, lengths):
    """A stack of layers by the engine `plan`; the rest as in `torch_engine.py`.

    lengths: None, or (B,) integers on the device of x, for x of (T, B, ...).
    """
    L, D = call.layers, call.directions
    if call.autocast:
        with torch.autocast(call.device, enabled=False):
            x = x.to(call.dtype) if x.is_floating_point() else x
            state = None if state is None else [s.to(call.dtype) for s in state]
            weights = [w.to(call.dtype) for w in weights]
            return run(
                plan, call._replace(autocast=False), x, sizes, state, weights, options, lengths
            )
    if sizes is None:
        h, shape = x.reshape(call.T * call.B, *x.shape[2:]), (call.T, call.B)
        if lengths is not None:
            # Side by side, and the backward pass's own: the caller may fill theirs anew.
            lengths = lengths.to(torch.int32, copy=True)
        rows = Rows(call.T, call.B, call.T * call.B, lengths)
    else:
        h, shape = x, x.shape[:1]
        rows = packed_rows(sizes, x.device)
        sizes = tuple(sizes.tolist())
    layer = Layer(
        call.cell,
        rows,
        sizes,
        PLANS_OF[plan](call),
        call.precision,
        memory_mode() == "recompute",
    )
    finals = []
    for k in range(L):
        here = slice(k * D, k * D + D)
        initial = [None] * len(call.cell.states)
        if state is not None:
            initial = [s[here].contiguous() for s in state]
        w = [Weights.of_layer(weights, n, L * D) for n in range(L * D)[here]]
        tensors = (h, *initial, *chain.from_iterable(w))
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            h, *final = Recurrence.apply(layer, *tensors)
        else:
            with torch.no_grad():
                h, final, _ = layer.forward(h, initial, w, keep_all=False)
        finals.append(final)
        if k < L - 1 and options.dropout > 0:
            h = torch.dropout(h, options.dropout, options.training)
    if L > 1:
        final = map(torch.cat, zip(*finals, strict=True))
    return h.view(*shape, h.shape[-1]), tuple(final)


def packed_rows(sizes, device):
    """Rows of a PackedSequence from its batch_sizes, which are on the CPU: one transfer."""
    T, B = len(sizes), int(sizes[0])
    ends = sizes.cumsum(0)
    # Sequence b has as many steps as there are sizes above b.
    lengths = torch.bincount(sizes, minlength=B + 1).flip(0).cumsum(0).flip(0)[1:]
    # Both at multiples of 16 bytes, or Triton would compile anew where T is odd.
    both = torch.cat((ends - sizes, sizes.new_zeros(T % 2), lengths)).to(device)
    return Rows(T, B, int(ends[-1]), both[T + T % 2 :], both[:T])
