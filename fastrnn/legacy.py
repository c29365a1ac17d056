"""Batches of gradients or tangents from torch's older vmap.

`torch.autograd.grad(is_grads_batched=True)`, `torch.autograd.functional` with `vectorize=True` and
the checks of gradcheck use it. Its tensors have few of torch's operators, and no rules for
autograd.Functions: these take such a batch one by one.
"""

import torch


def is_batched(tensor):
    """Whether a tensor, or None, is such a batch."""
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


def one_by_one(function, tensors):
    """`function` of tensors of which some are batches: of each in turn, (tensor or None, ...)."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    batches = [torch._remove_batch_dim(t, level, 0, 0) if is_batched(t) else t for t in tensors]
    V = next(len(b) for b, t in zip(batches, tensors, strict=True) if b is not t)
    found = [
        function(*(b if b is t else b[v] for b, t in zip(batches, tensors, strict=True)))
        for v in range(V)
    ]
    return tuple(
        None if parts[0] is None else torch._add_batch_dim(torch.stack(parts), 0, level)
        for parts in zip(*found, strict=True)
    )
