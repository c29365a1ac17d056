"""The one autograd.Function: a layer, by loops or by kernels that come with a backward pass."""

import torch
from torch.autograd.function import Function

from .weights import Weights


class Recurrence(Function):
    """h, *final_states = Recurrence.apply(layer, x, *state, *weights).

    `layer` knows how: `bptt.Layer` (one direction, on a CPU) or `triton_engine.Layer` (one or both,
    in kernels). x is (rows, I); state one tensor or None for each of the cell's states; weights the
    fields of `Weights` for each direction.

    The backward pass is written by hand. When it is itself to be differentiated (`create_graph`) or
    vectorised (`is_grads_batched`), the layer is run again step by step under autograd, so every
    higher derivative exists.
    """

    @staticmethod
    def forward(ctx, layer, x, *tensors):
        state, weights = _split(layer.cell, tensors)
        h, final, saved = layer.forward(x, state, weights, keep_all=True)
        ctx.layer = layer
        ctx.set_materialize_grads(False)
        # Only the gradient of W_ih, and second derivatives, read x. With a frozen W_ih the caller
        # may reuse x's memory, so autograd is not asked to watch it, and a copy is kept.
        watched = any(w.w_ih.requires_grad for w in weights)
        ctx.unwatched_x = None if watched else (x, x.clone())
        ctx.save_for_backward(None if ctx.unwatched_x else x, *tensors, h, *saved)
        return h, *final

    @staticmethod
    def backward(ctx, dh, *dfinal):
        layer, needs = ctx.layer, ctx.needs_input_grad[1:]
        x, *rest = ctx.saved_tensors
        if ctx.unwatched_x:
            original, x = ctx.unwatched_x
        inputs = len(needs) - 1
        tensors, (h, *saved) = rest[:inputs], rest[inputs:]
        if torch.is_grad_enabled() or any(map(_is_batched, (dh, *dfinal))):
            if ctx.unwatched_x and original.requires_grad:
                x = _valued(original, x)
            return None, *_differentiable(layer, x, tensors, dh, dfinal, needs)
        state, weights = _split(layer.cell, tensors)
        return None, *layer.backward(x, state, weights, h, saved, dh, dfinal, needs)


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
    """The states, and the `Weights` of each direction."""
    states, per = len(cell.states), len(Weights._fields)
    weights = [Weights(*tensors[k : k + per]) for k in range(states, len(tensors), per)]
    return tensors[:states], weights


def _differentiable(layer, x, tensors, dh, dfinal, needs):
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # An alias of each, so that a tensor that serves as two weights has a gradient for each.
        x, *tensors = (
            t.view_as(t) if t is not None and t.requires_grad else t for t in (x, *tensors)
        )
        outputs = layer.reference(x, *_split(layer.cell, tensors))
    pairs = [
        (output, d)
        for output, d in zip((outputs[0], *outputs[1]), (dh, *dfinal), strict=True)
        if d is not None
    ]
    wanted = [t for t, n in zip((x, *tensors), needs, strict=True) if n]
    grads = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [d for _, d in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(grads) if n else None for n in needs]
