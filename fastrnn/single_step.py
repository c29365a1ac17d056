"""`step`: what it takes, in the dimensions that its caller gave."""

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .lengths import INTEGERS
from .wording import described


def check_step(module, input, hx, resets, one_hot):
    """Raise for what a step does not take, before a dimension for time is added to it."""
    wanted = "(B,) or ()" if one_hot else "(B, I) or (I,)"
    if module.bidirectional:
        raise ValueError("a bidirectional module needs whole sequences, it can't take a step")
    if isinstance(input, PackedSequence):
        raise ValueError(f"a step takes a tensor, {wanted}, got a PackedSequence")
    if not isinstance(input, Tensor):
        raise TypeError(f"a step takes a tensor, {wanted}, got {described(input)}")
    if one_hot and input.dtype not in INTEGERS:
        return  # the module says so
    single = input.dim() == (0 if one_hot else 1)
    if not single and input.dim() != (1 if one_hot else 2):
        raise ValueError(f"a step takes a tensor, {wanted}, got {tuple(input.shape)}")
    for state in (hx,) if isinstance(hx, Tensor) else hx if isinstance(hx, tuple | list) else ():
        if isinstance(state, Tensor) and state.dim() != (2 if single else 3):
            kind = "(L, H), for a single sequence" if single else "(L, B, H), for a batch"
            raise ValueError(f"the state of a step is {kind}, got {tuple(state.shape)}")
    if isinstance(resets, Tensor):
        shape = input.shape if one_hot else input.shape[:-1]
        if resets.shape != shape:
            raise ValueError(
                f"resets of a step must have the shape {tuple(shape)}, got {tuple(resets.shape)}"
            )
