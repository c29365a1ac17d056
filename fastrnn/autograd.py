"""A layer that loops or kernels carry out, under autograd, torch.func and forward-mode AD.

All that is known of it here is `layer`: a `bptt.Layer` (one direction, on a CPU) or a
`triton_engine.Layer` (one or both, in kernels). It has

    forward(x, state, weights, keep_all)  -> h, final states, other states, what else backward needs
    backward(...)                         -> the gradients of all inputs
    gate_gradients(...)                   -> only those that take a walk through time
    walks(D, device), widened(V)          for what torch's own operators do (`linear.py`), and vmap
    marks, marked(*marks)                 its own tensors, and the layer with others in their places

x is (N, I) or (N,) indices; state one (D, B, H) tensor or None for each of the cell's states;
weights a `Weights` for each direction; h (N, D*H), and so is c after every step, which is in "other
states"; final states are (D, B, H), gradients of gates (D, N, slots, H).
"""

from itertools import chain

import torch
from torch.autograd.function import Function

from . import linear
from .adjoint import Adjoint, at, inputs_of, of_direction
from .folding import vmapped
from .legacy import is_batched, one_by_one
from .nesting import nestable
from .values import transforming


def recur(layer, x, state, weights, cells=False, form=None):
    """(h, final states, other states) of a layer, differentiable if need be.

    The other states are there if that is needed, or if asked for by `cells`. form: None, or the
    `Form` that h is given.
    """
    tensors = (x, *state, *chain.from_iterable(weights))
    S = len(layer.cell.states)
    if transforming():
        h, *rest = Transformed.apply(layer, *tensors)
        h = h if form is None else form.shaped(h)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        # The caller may change what frozen weights are multiplied by before the backward pass, as
        # with torch.nn. The backward pass reads a copy, which autograd saves and releases.
        h_0 = state[0]
        if not any(w.w_ih.requires_grad for w in weights):
            x = x.clone()
        if h_0 is not None and not any(w.w_hh.requires_grad for w in weights):
            h_0 = h_0.clone()
        h, *rest = Recurrence.apply(layer, form, x, h_0, *tensors[2:])
    else:
        with torch.no_grad():
            h, final, others, _ = layer.forward(x, state, weights, keep_all=False, cells=cells)
            return h if form is None else form.shaped(h), final, others
    return h, tuple(rest[:S]), tuple(rest[S : 2 * S - 1])


class Recurrence(Function):
    """h, *final, *others = Recurrence.apply(layer, form, x, *state, *weights), for plain autograd.

    The backward pass is the layer's. Where it is itself to be differentiated (`create_graph`) it is
    `Adjoint`'s, and products.
    """

    @staticmethod
    def forward(ctx, layer, form, x, *tensors):
        state, weights = inputs_of(layer.cell, tensors)
        h, final, others, saved = layer.forward(x, state, weights, keep_all=True)
        h = h if form is None else form.shaped(h)
        ctx.set_materialize_grads(False)
        # Hooks for saved tensors are to see the layer's own tensors too.
        marks = layer.marks
        ctx.layer = layer if _none(marks) else layer.marked(*[None] * len(marks))
        ctx.form = form
        ctx.save_for_backward(*marks, x, *tensors, h, *others, *saved)
        return h, *final, *others

    @staticmethod
    def backward(ctx, dh, *d):
        layer, form, needs = ctx.layer, ctx.form, ctx.needs_input_grad[2:]
        found = ctx.saved_tensors
        count = len(layer.marks)
        marks, (x, *rest) = found[:count], found[count:]
        layer = layer if _none(marks) else layer.marked(*marks)
        tensors, (h, *kept) = rest[: len(needs) - 1], rest[len(needs) - 1 :]
        S = len(layer.cell.states)
        dfinal, dstates = d[:S], (dh, *d[S:])
        if torch.is_grad_enabled() or transforming() or any(map(is_batched, (dh, *d))):
            grads = _differentiably(layer, x, tensors, h, kept, dstates, dfinal, needs, form)
            return None, None, *grads
        state, weights = inputs_of(layer.cell, tensors)
        others, saved = kept[: S - 1], kept[S - 1 :]
        if form is not None:
            h, dh = form.rows(h), None if dh is None else form.rows(dh)
            dstates = dh, *d[S:]
        # What was saved may give way to gradients, unless there may be another way back.
        spare = not torch._C._autograd._get_current_graph_task_keep_graph()
        grads = layer.backward(x, state, weights, h, others, saved, dstates, dfinal, needs, spare)
        return None, None, *grads


class Transformed(Function):
    """The same under torch.func's transforms and forward-mode differentiation."""

    @staticmethod
    def forward(layer, x, *tensors):
        state, weights = inputs_of(layer.cell, tensors)
        h, final, others, saved = layer.forward(x, state, weights, keep_all=True)
        return h, *final, *others, *saved

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.layer, *tensors = inputs
        S = len(ctx.layer.cell.states)
        ctx.mark_non_differentiable(*outputs[2 * S :])
        ctx.set_materialize_grads(False)
        kept = (outputs[0], *outputs[1 + S :])
        ctx.save_for_backward(*tensors, *kept)
        ctx.save_for_forward(*tensors, *kept)

    @staticmethod
    def backward(ctx, dh, *d):
        layer, needs = ctx.layer, ctx.needs_input_grad[1:]
        x, *rest = ctx.saved_tensors
        tensors, (h, *kept) = rest[: len(needs) - 1], rest[len(needs) - 1 :]
        S = len(layer.cell.states)
        dfinal, dstates = d[:S], (dh, *d[S : 2 * S - 1])
        return None, *_differentiably(layer, x, tensors, h, kept, dstates, dfinal, needs)

    @staticmethod
    @nestable
    def jvp(ctx, saved, _, x_t, *tensors_t):
        layer = ctx.layer
        S, count = len(layer.cell.states), len(tensors_t)
        x, *rest = saved
        state, weights = inputs_of(layer.cell, rest[:count])
        state_t, weights_t = inputs_of(layer.cell, tensors_t)
        states = rest[count : count + S]
        parts = [
            linear.tangents(
                layer.cell, walk, x, at(state, d), w, of_direction(states, d, len(weights)),
                x_t, at(state_t, d), w_t,
            )
            for d, (walk, w, w_t) in enumerate(
                zip(layer.walks(len(weights), x.device), weights, weights_t, strict=True)
            )
        ]  # fmt: skip
        h, *others = (torch.cat(s, 1) for s in zip(*(rows for rows, _ in parts), strict=True))
        final = (torch.stack(s) for s in zip(*(last for _, last in parts), strict=True))
        return h, *final, *others, *[None] * (len(rest) - count - S)

    @staticmethod
    def vmap(info, in_dims, layer, *tensors):
        S = len(layer.cell.states)
        dims = [0, *[1] * S, *[None] * (len(tensors) - 1 - S)]
        saved = [layer.rows_of_saved]
        out_dims = [0, *[1] * S, *[0] * (S - 1), *saved * 2]
        return vmapped(Transformed, info.batch_size, in_dims[1:], layer, tensors, dims, out_dims)


def _differentiably(layer, x, tensors, h, kept, dstates, dfinal, needs, form=None):
    """The gradients of x and `tensors`, so that they can be differentiated and vectorised."""
    if any(map(is_batched, (*dstates, *dfinal))):
        S = len(dstates)

        def alone(*d):
            return _differentiably(layer, x, tensors, h, kept, d[:S], d[S:], needs, form)

        return one_by_one(alone, (*dstates, *dfinal))
    if form is not None:
        h, (dh, *d) = form.rows(h), dstates
        dstates = None if dh is None else form.rows(dh), *d
    state, weights = inputs_of(layer.cell, tensors)
    D = len(weights)
    dgates, *dstate = Adjoint.apply(layer, D, x, *tensors, h, *kept, *dstates, *dfinal)
    dx, dweights = None, []
    for d, (walk, w) in enumerate(zip(layer.walks(D, x.device), weights, strict=True)):
        (h_d,), (initial, *_) = of_direction([h], d, D), at(state, d)
        part, dw = linear.products(layer.cell, walk, x, initial, w, h_d, dgates[d], needs[0])
        dx = part if dx is None else dx + part
        dweights += dw
    grads = (dx, *dstate, *dweights)
    return [grad if need else None for grad, need in zip(grads, needs, strict=True)]


def _none(marks):
    return all(mark is None for mark in marks)
