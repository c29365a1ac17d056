"""`resets=`: episodes that begin within a sequence.

A reset at time t parts step t from step t - 1: what comes after starts from zero, as a sequence of
its own, and no gradient passes. That goes for both directions: the second, which walks backwards,
starts from zero at the step before the reset.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .wording import described


def check_resets(resets, input, options):
    """Raise for resets that do not fit the input, before anything is launched."""
    if not isinstance(resets, Tensor) or resets.dtype is not torch.bool:
        kind = resets.dtype if isinstance(resets, Tensor) else type(resets).__name__
        raise TypeError(f"resets must be a tensor of bool, got {kind}")
    if isinstance(input, PackedSequence):
        raise ValueError("resets come with a padded input and lengths, not with a PackedSequence")
    if not isinstance(input, Tensor):
        raise TypeError(f"resets come with a tensor as input, got {described(input)}")
    shape = tuple(input.shape if options.one_hot else input.shape[:-1])
    if tuple(resets.shape) != shape:
        raise ValueError(
            f"resets must have the shape {shape}, one for each step, got {tuple(resets.shape)}"
        )
    if resets.device != input.device:
        raise RuntimeError(
            "Input and resets tensors are not at the same device, found input tensor at "
            f"{input.device} and resets tensor at {resets.device}"
        )


def fresh_from(resets, lengths, D):
    """(D, T, B) bool: where a direction's state before a step is zero; resets: (T, B)."""
    if D == 1:
        return resets.unsqueeze(0)
    after = torch.cat((resets[1:], torch.zeros_like(resets[:1])))
    if lengths is not None:
        steps = torch.arange(1, len(resets) + 1, device=resets.device).unsqueeze(1)
        after = after & (steps < lengths)
    return torch.stack((resets, after))
