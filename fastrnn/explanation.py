"""`explain`: which engine would serve a call, and why, without running it."""

from dataclasses import dataclass, field
from functools import partial

from torch import nn

from .call import PLANS, Choice
from .cell_modules import ONE_STEP, _Cell
from .chips import cooperative_plans, resident_plans
from .conversion import REPLACED_BY
from .cudnn import algorithms
from .describe import weights_problem
from .dispatch import require_torch_nn
from .flat_weights import current, unchanged
from .foreign import is_ours
from .foresight import error_of
from .kernels.cooperative_plans import slab_of, traffic
from .obstacles import obstacles

WAYS = ("forward", "back")


@dataclass(frozen=True, repr=False)
class Explanation:
    """What `explain` found. Print it, or read its fields.

    engine, plan: what would run; reason: why; call: the call in words; details: how it is cut for
    the device, in words; against: for every other name that `use_engine` takes, the reasons why
    that could not serve (none: it could, but is not expected to be faster); error: what the call
    will raise, type and text, None if it will not fail.
    """

    call: str
    engine: str
    plan: str
    reason: str
    details: list[str] = field(default_factory=list)
    against: dict[str, list[str]] = field(default_factory=dict)
    error: str | None = None

    def __repr__(self) -> str:
        lines = [
            self.call,
            f"  engine  {self.engine}, plan {self.plan}: {PLANS[self.name]}",
            f"  reason  {self.reason}",
            *self.details,
        ]
        if self.error is not None:
            lines.append("  error   the call raises " + self.error.replace("\n", "\n          "))
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, reasons in self.against.items():
            alike.setdefault(tuple(reasons), []).append(name)
        for reasons, names in alike.items():
            verdict = "cannot serve: " + "; ".join(reasons) if reasons else "could serve too"
            lines.append(f"  else    {', '.join(names)} {verdict}")
        return "\n".join(lines)

    @property
    def name(self) -> str:
        """As `use_engine` takes it."""
        return Choice(self.engine, self.plan, self.reason).name


def explain(
    module: nn.Module,
    input,
    hx=None,
    *,
    lengths=None,
    resets=None,
    one_hot: bool = False,
    return_cell_states: bool = False,
    return_gates: bool = False,
) -> Explanation:
    """Say which engine and plan `module(input, hx, ...)` would use at this moment, and why.

    No layer is run and nothing changes. "At this moment" counts: the answer depends on grad mode,
    autocast, the precision in force and `use_engine`. Of a call that torch.nn refuses it says so,
    with torch.nn's error.

    Raises:
        TypeError: `module` is not one of fastrnn's.
        TypeError, ValueError, IndexError, RuntimeError: as the module, for `lengths`, `resets` and
            indices.
        RuntimeError: within `use_engine`, if that engine cannot serve the call.
    """
    if not is_ours(module):
        raise TypeError(_not_ours(module))
    title = f"{type(module).__name__}({module.extra_repr()})"
    if isinstance(module, _Cell):
        planned = module._planned(input, hx)
        weights = None if isinstance(planned, str) else planned[-1]
        as_torch = partial(module.native.forward, module, input, hx)
    else:
        options = module._options(one_hot, return_cell_states, return_gates)
        with unchanged(module):
            weights = current(module)
        planned = module._altered() or module._planned(weights, input, hx, options, lengths, resets)
        as_torch = partial(_unchanging, module, input, hx, options, lengths, resets)
    if isinstance(planned, str):
        require_torch_nn(planned)
        reason = planned if planned == ONE_STEP else f"left to torch.nn: {planned}"
        return Explanation(title, "torch", "aten", reason, error=error_of(as_torch))
    call, choice, *_ = planned
    error = None
    if choice.plan == "aten" and weights_problem(call, weights):
        error = error_of(as_torch)
    kind = "packed" if call.packed else "padded" if call.lengths else "dense"
    what = "one-hot indices" if call.one_hot else "input"
    purpose = "training" if call.differentiable else "inference"
    precision = f" ({call.precision})" if choice.engine == "triton" else ""
    return Explanation(
        f"{title}, {kind} {what} of T={call.T}, B={call.B}, I={call.I}, {call.dtype}{precision}, "
        f"{call.device}, {purpose}",
        *choice,
        _details(call, choice),
        {name: obstacles(name, call) for name in PLANS if name != choice.name},
        error,
    )


def _details(call, choice):
    if choice.engine == "torch" and call.lengths:
        return ["        by way of a PackedSequence, for which the lengths go to the CPU"]
    if choice.plan == "resident":
        return [_resident(call, *planned) for planned in _planned(resident_plans(call))]
    if choice.plan == "cooperative":
        lines = [line for p in _planned(cooperative_plans(call)) for line in _cooperative(call, *p)]
        return lines + _cudnn(call)
    return _cudnn(call) if choice.plan == "aten" and call.device == "cuda" else []


def _cudnn(call):
    ways = algorithms(call)
    return [f"        cuDNN {way}: {text}" for way, text in zip(WAYS, ways, strict=False)]


def _planned(plans):
    return [(way, plan) for way, plan in zip(WAYS, plans, strict=True) if plan is not None]


def _resident(call, way, plan):
    tiles = len(call.cell.gates) * plan.tiles**2
    programs = -(-call.B // plan.block_b) * call.directions
    return (
        f"        {way}: programs of {plan.block_b} sequences and {plan.warps} warps, "
        f"{programs} in all for {call.chip.sms} multiprocessors; {plan.kept} of {tiles} "
        f"tiles of W_hh stay in shared memory"
    )


def _cooperative(call, way, plan):
    slab = slab_of(call.cell, "backward" if way == "back" else way, call.H)
    read = traffic(plan, slab, call.precision)
    slices = plan.slices(call.H)
    walks = -(-plan.chunks(call.B) // plan.groups)
    return [
        f"        {way}: {slices} slices of {plan.block_h} hidden units, {plan.groups} groups x "
        f"{call.directions} directions: {slices * plan.groups * call.directions} programs of "
        f"{plan.warps} warps for {call.chip.sms} multiprocessors; {plan.tiles} x {plan.block_b} "
        f"sequences a group at a time, walks through time: {walks}",
        f"        {' ' * len(way)}  each holds {read.kept} of {read.kept + read.streamed} bytes of "
        f"W_hh; exchanges a step: {walks * plan.tiles}, of {read.exchanged} bytes; to read all "
        f"that takes some {round(walks * plan.tiles * read.cycles)} cycles",
    ]


def _unchanging(module, *arguments):
    with unchanged(module):
        return module._as_torch(*arguments)


def _not_ours(module):
    inside = [
        f"{name} ({type(m).__name__})"
        for name, m in (module.named_modules() if isinstance(module, nn.Module) else ())
        if is_ours(m)
    ]
    message = f"explain takes a fastrnn module, got {type(module).__name__}"
    if type(module) in REPLACED_BY:
        return message + " of torch.nn: fastrnn.convert(module) makes it one"
    if inside:
        return message + f"; name one of its parts: {', '.join(inside)}"
    return message
