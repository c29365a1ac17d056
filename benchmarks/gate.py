"""The correctness gate: nobody is timed before fastrnn is as exact as torch.nn."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# In rounding steps of the dtype, for where torch.nn happens to be almost exact and twice its error
# leaves no room for another order of summation. In float64 torch.nn is the referee itself and has
# no error at all. fastrnn needed 1.7 in float32, 28 in float64 and 0 below that (CPU, torch 2.13).
SLACK = {torch.float64: 64, torch.float32: 4, torch.float16: 1, torch.bfloat16: 0.5}


class Verdict(NamedTuple):
    """The largest error of each side, and what is wrong with fastrnn's ("" if nothing)."""

    native: float
    fastrnn: float
    complaint: str


def error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest element that is expected."""
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return ((got.double() - expected).abs().max() / scale).item()


def judge(
    names: Iterable[str],
    native: tuple[Tensor, ...],
    fastrnn: tuple[Tensor, ...],
    exact: tuple[Tensor, ...],
) -> Verdict:
    """Compare tensor by tensor; `names` may go on where a forward pass has no gradients.

    fastrnn's error may be twice torch.nn's in the same dtype, plus `SLACK`, each against `exact`:
    torch.nn in float64 on the same numbers.
    """
    dtype = native[0].dtype
    slack = SLACK[dtype] * torch.finfo(dtype).eps
    errors, complaints = [], []
    for name, theirs, ours, referee in zip(names, native, fastrnn, exact, strict=False):
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            complaints.append(f"{name}: {_form(ours)} instead of {_form(theirs)}")
            continue
        pair = error(theirs, referee), error(ours, referee)
        errors.append(pair)
        # Not "greater than": an error of NaN must not pass.
        if not pair[1] <= 2 * pair[0] + slack:
            complaints.append(f"{name}: error {pair[1]:.1e}, torch.nn's {pair[0]:.1e}")
    if len(fastrnn) != len(native):
        complaints.append(f"{len(fastrnn)} tensors instead of {len(native)}")
    theirs, ours = (max(side) for side in zip(*errors, strict=True)) if errors else (0.0, 0.0)
    return Verdict(theirs, ours, "; ".join(complaints))


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
