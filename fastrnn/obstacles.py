"""Every reason why a plan cannot serve a call."""

import torch

from .call import TRITON_PLANS, as_packed
from .chips import (
    INTERPRETED,
    cooperative_plans,
    has_triton,
    largest_cooperative,
    largest_resident,
    resident_plans,
)

HIDDEN = "lengths or resets are different for each problem of a torch.func.vmap"


def obstacles(name, call):
    """Every reason against one of `PLANS` for a call; none if it can serve."""
    if name in TRITON_PLANS:
        return _obstacles_of_triton(name, call)
    return _obstacles_of_torch(name.removeprefix("torch."), call)


def _obstacles_of_torch(plan, call):
    call = as_packed(call)
    reasons = []
    if plan in ("aten", "cell") and call.asked:
        reasons.append(f"torch.nn has no {' and no '.join(call.asked)}")
    if plan in ("cell", "bptt"):
        for special in specials(call):
            reasons.append(f"{special}: only torch's own operators heed that")
        if call.proj_size:
            reasons.append("proj_size is set, and the plan has no projection")
    if plan == "cell":
        if call.directions > 1:
            reasons.append("the layer is bidirectional, and the plan walks forwards only")
        if call.packed:
            reasons.append("the input is packed, and the plan takes batches of one length")
        if call.one_hot:
            reasons.append("the input holds indices, and the plan takes vectors")
    if plan == "bptt":
        if call.hidden:
            reasons.append(HIDDEN)
        if call.device != "cpu":
            reasons.append(f"the plan is for tensors on the CPU, these are on {call.device}")
        if call.dtype not in (torch.float32, torch.float64):
            reasons.append(f"the plan computes in float32 or float64, not in {call.dtype}")
    return reasons


def _obstacles_of_triton(plan, call):
    reasons = []
    if not has_triton():
        reasons.append("Triton is not installed")
    elif call.device == "cpu" and not INTERPRETED:
        reasons.append(
            "the tensors are on the CPU, where kernels run only in Triton's interpreter, with "
            "TRITON_INTERPRET=1 set before fastrnn is imported"
        )
    elif call.device not in ("cpu", "cuda"):
        reasons.append(f"the kernels are for CUDA, the tensors are on {call.device}")
    elif call.chip is None:
        reasons.append(
            "the kernels need an NVIDIA GPU of compute capability 8.0 or later, or AMD's"
        )
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        reasons.append(f"the kernels compute in float32, bfloat16 or float16, not in {call.dtype}")
    elif plan == "resident" and call.chip is not None and resident_plans(call) is None:
        reasons.append(_too_large(call))
    elif plan == "cooperative" and call.chip is not None and cooperative_plans(call) is None:
        reasons.append(_not_together(call))
    if call.proj_size:
        reasons.append("proj_size is set, and the kernels have no projection")
    if call.hidden:
        reasons.append(HIDDEN)
    if call.special:
        reasons.append(f"{call.special}: only torch's own operators heed that")
    return reasons


def _kind(call):
    purpose = "training" if call.differentiable else "inference"
    return f"{purpose} of {call.cell.name} in {call.precision} precision"


def _not_together(call):
    chip, kind = call.chip, _kind(call)
    if not chip.cooperative:
        return f"the GPU ({chip.family}) does not run all programs of a launch at the same time"
    largest = largest_cooperative(call)
    if not largest:
        return f"there is no plan for {kind} on {chip.family}"
    layer = f"H={call.H} in {call.directions} direction{'s' * (call.directions > 1)}"
    return (
        f"W_hh does not fit on {chip.sms} multiprocessors ({chip.family}) together: {layer}, "
        f"{kind} takes {largest}"
    )


def _too_large(call):
    kind = _kind(call)
    largest = largest_resident(call)
    if not largest:
        return f"there is no plan for {kind} on {call.chip.family}"
    return f"W_hh does not fit on the chip ({call.chip.family}): H={call.H}, {kind} takes {largest}"


def specials(call):
    """What only torch's own operators heed."""
    return [
        *(["autocast is on"] if call.autocast else []),
        *([call.special] if call.special else []),
    ]
