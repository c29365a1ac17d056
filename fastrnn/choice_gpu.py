"""The fastest plan on a GPU, as far as is known."""

from .call import by_torch, by_triton
from .chips import cooperative_plans
from .choice_torch import fastest_of_torch
from .cudnn import STANDARD, algorithms
from .kernels.cooperative_plans import slab_of, traffic
from .obstacles import obstacles

# What is expected of the kernels on a GPU, before the first measurement. By its own account cuDNN
# walks through a whole sequence in one launch for small H and in few other cases (`cudnn.py`), for
# one direction and layer at a time; else it takes two launches for each step.
UNTIMED = "expected to be faster, not timed on a GPU yet"
RESIDENT = by_triton("resident", f"W_hh fits on the chip ({UNTIMED})")
COOPERATIVE = by_triton(
    "cooperative",
    f"W_hh fits on the multiprocessors together, where cuDNN reads it in each step ({UNTIMED})",
)
ONE_STEP = by_triton("step", f"a single step: one kernel for all of the gate math ({UNTIMED})")
BEYOND = by_triton("step", "torch.nn's operators, else expected to be faster, cannot serve")
RAGGED = by_triton("step", f"sequences of different lengths: no detour over packing ({UNTIMED})")
ONE_KERNEL = by_torch("aten", "cuDNN, too, takes all steps in one kernel here")
FEW = by_torch("aten", "few steps: W_hh would hardly be read more often than it is put on the chip")
UNALIGNED = by_torch(
    "aten", "H numbers are no multiple of 16 bytes, so kernels would read them slowly"
)
REREAD = by_torch("aten", "not all of W_hh fits on the multiprocessors together")
CROWD = by_torch(
    "aten", "so many sequences would take several walks through time; cuDNN's products are large"
)
LARGE = "{reason}; over whole batches of sequences cuDNN takes as few launches for each step"


def fastest_on_gpu(call):
    """The Choice for a call on CUDA."""
    if not obstacles("resident", call):
        return RESIDENT
    reasons = obstacles("step", call)
    if reasons:
        beyond = call.asked or call.transformed
        return fastest_of_torch(call) if beyond else by_torch("aten", "; ".join(reasons))
    if call.T == 1:
        return ONE_STEP
    shared_out = _shared_out(call)
    if call.packed or call.lengths:
        return COOPERATIVE if shared_out is COOPERATIVE else RAGGED
    choice = ONE_KERNEL if STANDARD not in algorithms(call) else shared_out
    if choice.engine == "torch" and (call.asked or call.transformed):
        return BEYOND
    return choice


def _shared_out(call):
    """`cooperative`, if that is expected to be the fastest; else why not."""
    reasons = obstacles("cooperative", call)
    if reasons:
        return by_torch("aten", LARGE.format(reason=reasons[0]))
    if call.T < 8:
        return FEW
    if call.H * call.dtype.itemsize % 16:
        return UNALIGNED
    for way, plan in zip(("forward", "backward"), cooperative_plans(call), strict=True):
        if plan is None:
            continue
        if plan.chunks(call.B) > plan.groups:
            return CROWD
        if traffic(plan, slab_of(call.cell, way, call.H), call.precision).streamed:
            return REREAD
    return COOPERATIVE
