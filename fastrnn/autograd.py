"""The one autograd.Function: a layer in one direction, by the loops of `bptt.py`."""

import torch
from torch.autograd.function import Function

from . import bptt, reference
from .weights import Weights


class Recurrence(Function):
    """h, *final_states = Recurrence.apply(cell, sizes, reverse, x, *state, *weights).

    The backward pass is written by hand. When it is itself to be differentiated (`create_graph`) or
    vectorised (`is_grads_batched`), the layer is run again step by step under autograd, so every
    higher derivative exists.
    """

    @staticmethod
    def forward(ctx, cell, sizes, reverse, x, *tensors):
        state, weights = _split(cell, tensors)
        h, final, saved = bptt.forward(cell, x, state, weights, sizes, reverse, keep_all=True)
        ctx.cell, ctx.sizes, ctx.reverse = cell, sizes, reverse
        ctx.set_materialize_grads(False)
        # Only the gradient of W_ih, and second derivatives, read x. With a frozen W_ih the caller
        # may reuse x's memory, so autograd is not asked to watch it, and a copy is kept.
        ctx.unwatched_x = None if weights.w_ih.requires_grad else (x, x.clone())
        ctx.save_for_backward(None if ctx.unwatched_x else x, *tensors, h, *saved)
        return h, *final

    @staticmethod
    def backward(ctx, dh, *dfinal):
        cell, sizes, reverse = ctx.cell, ctx.sizes, ctx.reverse
        x, *rest = ctx.saved_tensors
        if ctx.unwatched_x:
            original, x = ctx.unwatched_x
        inputs = len(ctx.needs_input_grad) - 4
        tensors, (h, *saved) = rest[:inputs], rest[inputs:]
        if torch.is_grad_enabled() or any(map(_is_batched, (dh, *dfinal))):
            if ctx.unwatched_x and original.requires_grad:
                x = _valued(original, x)
            return None, None, None, *_differentiable(ctx, x, tensors, dh, dfinal)
        state, weights = _split(cell, tensors)
        needs_x, *needs = ctx.needs_input_grad[3:]
        needed = {name for name, n in zip(Weights._fields, needs[len(state) :], strict=True) if n}
        if needs_x:
            needed.add("x")
        g = bptt.backward(
            cell, x, state, weights, sizes, reverse, h, saved, dh, dfinal, needed=needed
        )
        return None, None, None, g.x, *g.state, g.w_ih, g.w_hh, g.b_ih, g.b_hh, None


def _valued(x, values):
    """`values`, as far as derivatives go in the place of `x`."""
    with torch.enable_grad():
        return values + (x - x.detach())


def _is_batched(gradient):
    """Whether it comes from `is_grads_batched` or from torch.func.vmap of a backward pass."""
    return gradient is not None and (
        torch._C._functorch.is_legacy_batchedtensor(gradient)
        or torch._C._functorch.is_functorch_wrapped_tensor(gradient)
    )


def _split(cell, tensors):
    states = len(cell.states)
    return tensors[:states], Weights(*tensors[states:])


def _differentiable(ctx, x, tensors, dh, dfinal):
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # An alias of each, so that a tensor that serves as two weights has a gradient for each.
        x, *tensors = (
            t.view_as(t) if t is not None and t.requires_grad else t for t in (x, *tensors)
        )
        state, weights = _split(ctx.cell, tensors)
        outputs = reference.recurrence(ctx.cell, x, state, weights, ctx.sizes, ctx.reverse)
    pairs = [
        (output, d)
        for output, d in zip((outputs[0], *outputs[1]), (dh, *dfinal), strict=True)
        if d is not None
    ]
    wanted = [t for t, n in zip((x, *tensors), ctx.needs_input_grad[3:], strict=True) if n]
    grads = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [d for _, d in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(grads) if n else None for n in ctx.needs_input_grad[3:]]
