"""What torch.func's transforms do to a call."""

import torch
from torch._C import _functorch
from torch.autograd import forward_ad


def transforming():
    """Whether one of them, or forward-mode differentiation, is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def hidden(tensor):
    """Whether a tensor's values are out of sight: vmap's stand for several. None has no values."""
    while tensor is not None and _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False


def plainly(function, *tensors):
    """`function` of tensors, or None, out of sight of the transforms, unless these hide a value.

    For what a layer knows beside its tensors: a result under a transform would be no plain tensor,
    which has storage and outlives the transform.
    """
    if any(map(hidden, tensors)):
        return function(*tensors)
    with torch._C._DisableFuncTorch():
        return function(*map(_unwrapped, tensors))


def numbers(tensor):
    """A tensor's values as a list; under a transform torch 2.9 gives no such list itself."""
    return plainly(torch.Tensor.tolist, tensor)


def _unwrapped(tensor):
    while tensor is not None and _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor
