"""Which engine and plan serve a call, and why. `choose` is pure: it sees a `Call`, no tensors.

The engines are `torch`, with the plans that `torch_engine.py` carries out, and `triton`, whose
plans `resident`, `cooperative` and `step` run the kernels.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from .chips import (
    INTERPRETED,
    cooperative_plans,
    has_triton,
    largest_cooperative,
    largest_resident,
    resident_plans,
)
from .cudnn import STANDARD, algorithms
from .kernels.cell import LSTM, Cell
from .kernels.plans import Chip

TORCH_PLANS = {
    "aten": "torch.nn's own operators",
    "cell": "torch's operator for one step, once for each step",
    "bptt": "loops over time and a backward pass written by hand",
    "reference": "the formulas step by step, under autograd",
}
TRITON_PLANS = {
    "resident": "whole sequences in one launch for each layer, with W_hh kept on the chip",
    "cooperative": "whole sequences in one launch, W_hh shared out over processors in exchange",
    "step": "a matrix product and a kernel for the gates in each step",
}
# By the names that `use_engine` takes.
PLANS = {f"torch.{plan}": text for plan, text in TORCH_PLANS.items()} | TRITON_PLANS
ENGINES = ("auto", "torch", *PLANS)
TORCH_NN = ("auto", "torch", "torch.aten")  # the engines that may be torch.nn's own operators

_forced: ContextVar[str] = ContextVar("fastrnn_engine", default="auto")


class Call(NamedTuple):
    """All that a choice depends on.

    T steps, B sequences (in the largest step), I inputs, H hidden units. dtype is that of the
    computation, under autocast autocast's, and `precision` that of its products in kernels: one of
    `precision.PRECISIONS`, or "half" for 16 bits. `chip` is the GPU, None if no kernel can run.
    `lengths` says that such a tensor was given, `differentiable` that grad mode is on, so a
    backward pass may come, `onednn` that torch has oneDNN's fused LSTM; `special` names what only
    torch's own operators heed, such as a torch.func transform.
    """

    cell: Cell
    T: int
    B: int
    I: int
    H: int
    layers: int
    directions: int
    proj_size: int
    dtype: torch.dtype
    precision: str
    device: str
    chip: Chip | None
    packed: bool
    lengths: bool
    one_hot: bool
    differentiable: bool
    onednn: bool
    autocast: bool
    special: str | None


class Choice(NamedTuple):
    """The engine, its plan, and the reason in words."""

    engine: str
    plan: str
    reason: str

    @property
    def name(self):
        """As `use_engine` takes it."""
        return self.plan if self.engine == "triton" else f"{self.engine}.{self.plan}"


def obstacles(name, call):
    """Every reason against one of `PLANS` for a call; none if it can serve."""
    if name in TRITON_PLANS:
        return _obstacles_of_triton(name, call)
    return _obstacles_of_torch(name.removeprefix("torch."), call)


def _obstacles_of_torch(plan, call):
    call = _packed(call)
    reasons = []
    if plan in ("cell", "bptt"):
        for special in _specials(call):
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


def _specials(call):
    return [
        *(["autocast is on"] if call.autocast else []),
        *([call.special] if call.special else []),
    ]


def choose(call, forced=None):
    """The plan for a call: the one `use_engine` named, or the fastest known.

    Raises:
        RuntimeError: the named plan cannot serve; the message lists every reason.
    """
    forced = forced_engine() if forced is None else forced
    if forced == "auto" and call.device == "cuda":
        return _fastest_on_gpu(call)
    if forced in ("auto", "torch"):
        return _fastest_of_torch(call)
    reasons = obstacles(forced, call)
    if reasons:
        raise RuntimeError(_cannot_serve(forced, reasons))
    engine = "triton" if forced in TRITON_PLANS else "torch"
    reason = f"asked for with fastrnn.use_engine({forced!r})"
    return Choice(engine, forced.removeprefix("torch."), reason)


def forced_engine():
    """The name that `use_engine` was given, or "auto"."""
    return _forced.get()


def require_torch_nn(reason):
    """Raise if `use_engine` named a plan other than torch.nn's own operators.

    For the calls that these alone serve.
    """
    forced = forced_engine()
    if forced not in TORCH_NN:
        raise RuntimeError(_cannot_serve(forced, [reason]))


def _cannot_serve(engine, reasons):
    return "\n  - ".join([f"engine {engine!r} cannot serve this call:", *reasons])


@contextmanager
def use_engine(name):
    """Within the block, all fastrnn modules of this thread use the named engine.

    name: "auto" (the default choice); "resident", "cooperative" or "step", the kernels; "torch", or
    one of its plans: "torch.aten", "torch.cell", "torch.bptt", "torch.reference". Has no effect on
    code that torch.compile or torch.jit.trace records: that is torch.nn's own operators. With
    TRITON_INTERPRET=1 in the environment from the start, the kernels take tensors on a CPU too:
    slow, for a look inside.

    Raises:
        ValueError: no such engine; the message lists the valid names.
        RuntimeError: from a module's call, if the engine cannot serve it, with every reason.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; the engines are: {', '.join(ENGINES)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def _torch(plan, reason):
    return Choice("torch", plan, reason)


def _triton(plan, reason):
    return Choice("triton", plan, reason)


SPECIAL = "{special}: torch's own operators heed that"
OTHER_DEVICE = _torch("aten", "on this device torch.nn's own operators are used")
HALF = _torch("aten", "half precision on a CPU is left to torch.nn's own operators")
PROJECTION = _torch("aten", "LSTM with projections is left to torch.nn's own operator")
ONEDNN = _torch("aten", "oneDNN's fused LSTM, which torch.nn uses, is faster than a loop here")
LONG_LSTM = _torch(
    "bptt",
    "training over many steps: as fast as oneDNN's LSTM in less than half the memory, and faster "
    "once gradients vanish",
)
SHORT_LSTM = _torch("cell", "few steps: oneDNN's LSTM would repack the weights in each call")
SHORT = _torch("aten", "few steps: preparing the weights for a loop would not pay")
WIDE = _torch("aten", "at this hidden size the products take the time, and a loop saves none of it")
PACKED = _torch(
    "bptt", "packed input: torch.nn's backward pass takes time quadratic in the sequence length"
)
PACKED_INFERENCE = _torch(
    "aten", "packed input: torch.nn's own loop is as fast as long as it infers"
)
INDICES = _torch("bptt", "one-hot indices: a look-up in W_ih instead of a matrix product")
LOOP = _torch("bptt", "torch.nn takes many small operators a step here; the loop takes few")


# What is expected of the kernels on a GPU, before the first measurement. By its own account cuDNN
# walks through a whole sequence in one launch for small H and in few other cases (`cudnn.py`), for
# one direction and layer at a time; else it takes two launches for each step.
UNTIMED = "expected to be faster, not timed on a GPU yet"
RESIDENT = _triton("resident", f"W_hh fits on the chip ({UNTIMED})")
COOPERATIVE = _triton(
    "cooperative",
    f"W_hh fits on the multiprocessors together, where cuDNN reads it in each step ({UNTIMED})",
)
ONE_STEP = _triton("step", f"a single step: one kernel for all of the gate math ({UNTIMED})")
RAGGED = _triton("step", f"sequences of different lengths: no detour over packing ({UNTIMED})")
ONE_KERNEL = _torch("aten", "cuDNN, too, takes all steps in one kernel here")
FEW = _torch("aten", "few steps: W_hh would hardly be read more often than it is put on the chip")
CROWD = _torch(
    "aten", "so many sequences would take several walks through time; cuDNN's products are large"
)
LARGE = "{reason}; over whole batches of sequences cuDNN takes as few launches for each step"


def _fastest_on_gpu(call):
    if not obstacles("resident", call):
        return RESIDENT
    reasons = obstacles("step", call)
    if reasons:
        return _torch("aten", "; ".join(reasons))
    if call.T == 1:
        return ONE_STEP
    reasons = obstacles("cooperative", call)
    one_walk = not reasons and all(
        plan is None or plan.chunks(call.B) <= plan.groups for plan in cooperative_plans(call)
    )
    if call.packed or call.lengths:
        return COOPERATIVE if one_walk else RAGGED
    if reasons:
        return _torch("aten", LARGE.format(reason=reasons[0]))
    if STANDARD not in algorithms(call):
        return ONE_KERNEL
    if call.T < 8:
        return FEW
    return COOPERATIVE if one_walk else CROWD


def _packed(call):
    """torch's plans take lengths by way of a PackedSequence."""
    return call._replace(packed=True) if call.lengths else call


def _fastest_of_torch(call):
    call = _packed(call)
    for special in _specials(call):
        return _torch("aten", SPECIAL.format(special=special))
    if call.device != "cpu":
        return OTHER_DEVICE
    if call.dtype not in (torch.float32, torch.float64):
        return HALF
    if call.proj_size:
        return PROJECTION
    if call.packed and not call.one_hot:
        return _fastest_packed(call)
    if call.cell is LSTM and call.onednn and call.dtype is torch.float32 and not call.packed:
        return _fastest_dense_lstm(call)
    return _fastest_loop(call)


# The thresholds come from `python -m benchmarks --suite cpu` on an AMD EPYC (benchmarks/results/)
# and from like measurements on an Intel Xeon with AMX. Where these differ, torch.nn's is chosen.


def _fastest_packed(call):
    if not call.differentiable:
        return PACKED_INFERENCE
    return SHORT if call.T < 12 else PACKED


def _fastest_loop(call):
    if call.one_hot and call.T >= 8:
        return INDICES
    enough = 16 if call.differentiable and call.H < 512 else 32
    if call.T < enough:
        return SHORT
    widest = 256 if not call.differentiable else 512 if call.cell.gates == "h" else 1024
    return WIDE if call.H > widest else LOOP


def _fastest_dense_lstm(call):
    # A look-up saves the share I / (I + H) of the products; the loop costs about as much again.
    if call.one_hot:
        return INDICES if call.T >= 8 and call.I >= 2 * call.H else ONEDNN
    work = call.B * call.H
    one = call.T == 1 and (call.B <= 64 or call.H >= 512)
    few = call.T <= 8 and call.B == 1 and call.H >= 512 and not call.differentiable
    if (one or few) and call.directions == 1:
        return SHORT_LSTM
    if call.differentiable and call.T >= 256 and work >= 4096 and call.H <= 128:
        return LONG_LSTM
    return ONEDNN
