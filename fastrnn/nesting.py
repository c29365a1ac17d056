"""Forward mode within forward mode, as `torch.func.jacfwd(torch.func.jacfwd(f))` has it."""

from functools import wraps

import torch
from torch._C import _functorch
from torch.autograd import forward_ad

from .legacy import is_batched, one_by_one


def nestable(jvp):
    """The `jvp` of an autograd.Function, from jvp(ctx, saved tensors, *tangents).

    torch calls it with forward mode switched off, because the saved tensors still carry the
    tangents that it gets. That would go for an outer forward mode as well, whose tangents would be
    lost without a word. Without their own tangents, forward mode may stay on.
    """

    @wraps(jvp)
    def of_tangents(ctx, *tangents):
        if any(is_batched(t) for t in tangents if torch.is_tensor(t)):
            return one_by_one(lambda *alone: of_tangents(ctx, *alone), tangents)
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(ctx, [*map(_primal, ctx.saved_tensors)], *tangents)

    return of_tangents


def _primal(tensor):
    """A tensor, or None, without the tangent of the innermost forward mode."""
    if tensor is None:
        return None
    if _functorch.is_batchedtensor(tensor):
        # torch.func.vmap has no rule for what follows.
        dim, level = _functorch.maybe_get_bdim(tensor), _functorch.maybe_get_level(tensor)
        return _functorch._add_batch_dim(_primal(_functorch.get_unwrapped(tensor)), dim, level)
    return torch._VF._unpack_dual(tensor, 0)[0]
