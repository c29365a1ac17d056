"""The correctness gate: nobody is timed before fastrnn is as exact as torch.nn."""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

# In rounding steps of the dtype, for where torch.nn happens to be almost exact and twice its error
# leaves no room for another order of summation. In float64 torch.nn is the referee itself and has
# no error at all. fastrnn needed 1.7 in float32, 28 in float64 and 0 below that (CPU, torch 2.13).
SLACK = {torch.float64: 64, torch.float32: 4, torch.float16: 1, torch.bfloat16: 0.5}
# How far two results may lie apart, in their errors against a referee that saw a part of the steps.
FURTHER = 8


class Verdict(NamedTuple):
    """The largest error of each side, what is wrong with fastrnn's ("" if nothing), and its error
    as a share of what it is allowed, where that share is largest."""

    native: float
    fastrnn: float
    complaint: str
    share: float


@contextmanager
def poisoned() -> Iterator[None]:
    """Within the block, torch fills memory with NaN before it hands it out, so that an output that
    nobody writes does not show what was there before: the right result, as like as not."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            # It says what is not deterministic, which is not the question.
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = filled


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
    errors, shares, complaints = [(0.0, 0.0)], [0.0], []
    for name, theirs, ours, referee in zip(names, native, fastrnn, exact, strict=False):
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            complaints.append(f"{name}: {_form(ours)} instead of {_form(theirs)}")
            continue
        pair = error(theirs, referee), error(ours, referee)
        errors.append(pair)
        allowed = 2 * pair[0] + slack
        shares.append(pair[1] / allowed)
        # Not "greater than": an error of NaN must not pass.
        if not pair[1] <= allowed:
            complaints.append(f"{name}: error {pair[1]:.1e}, torch.nn's {pair[0]:.1e}")
    if len(fastrnn) != len(native):
        complaints.append(f"{len(fastrnn)} tensors instead of {len(native)}")
    theirs, ours = map(_worst, zip(*errors, strict=True))
    return Verdict(theirs, ours, "; ".join(complaints), _worst(shares))


def disagreement(
    names: Iterable[str],
    native: tuple[Tensor, ...],
    fastrnn: tuple[Tensor, ...],
    verdict: Verdict,
) -> str:
    """What is wrong with fastrnn's result, "" if nothing, where none is exact: `verdict` is of the
    same numbers but fewer steps."""
    dtype = native[0].dtype
    allowed = FURTHER * (verdict.native + verdict.fastrnn + SLACK[dtype] * torch.finfo(dtype).eps)
    complaints = []
    for name, theirs, ours in zip(names, native, fastrnn, strict=False):
        apart = error(ours, theirs.double())
        if not apart <= allowed:
            complaints.append(f"{name}: {apart:.1e} from torch.nn's")
    return "; ".join(complaints)


def _worst(values: Iterable[float]) -> float:
    """The largest, NaN if one is."""
    return max(values, key=lambda value: (math.isnan(value), value))


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
