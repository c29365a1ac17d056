"""`explain`: which engine would serve a call, and why, without running it."""

from dataclasses import dataclass

from torch import nn

from .cell_modules import ONE_STEP, _Cell
from .conversion import REPLACED_BY
from .dispatch import PLANS, obstacles, require_torch_nn
from .modules import _Recurrent


@dataclass(frozen=True)
class Explanation:
    """What `explain` found. Print it, or read its fields.

    engine, plan: what would run; reason: why; call: the call in words; against: for every other
    plan, the reasons why it could not serve (none: it could, but is not expected to be faster).
    """

    call: str
    engine: str
    plan: str
    reason: str
    against: dict[str, list[str]]

    def __str__(self):
        lines = [
            self.call,
            f"  engine  {self.engine}, plan {self.plan}: {PLANS[self.plan]}",
            f"  reason  {self.reason}",
        ]
        for plan, reasons in self.against.items():
            verdict = "cannot serve: " + "; ".join(reasons) if reasons else "could serve"
            lines.append(f"  else    {self.engine}.{plan} {verdict}")
        return "\n".join(lines)


def explain(module: nn.Module, input, hx=None, *, one_hot: bool = False) -> Explanation:
    """Say which engine and plan `module(input, hx)` would use at this moment, and why.

    Nothing is run and nothing changes. "At this moment" counts: the answer depends on grad mode,
    autocast and `use_engine`.

    Raises:
        TypeError: `module` is not one of fastrnn's.
        RuntimeError: within `use_engine`, if that engine cannot serve the call.
    """
    if isinstance(module, _Cell):
        require_torch_nn(ONE_STEP)
        title = f"{type(module).__name__}({module.extra_repr()})"
        return Explanation(title, "torch", "aten", ONE_STEP, {})
    if not isinstance(module, _Recurrent):
        raise TypeError(_not_ours(module))
    title = f"{type(module).__name__}({module.extra_repr()})"
    planned = module._planned(input, hx, one_hot)
    if isinstance(planned, str):
        require_torch_nn(planned)
        return Explanation(title, "torch", "aten", f"left to torch.nn: {planned}", {})
    call, choice, *_ = planned
    kind = "packed" if call.packed else "one-hot indices" if call.one_hot else "dense"
    purpose = "training" if call.differentiable else "inference"
    return Explanation(
        f"{title}, {kind} input of T={call.T}, B={call.B}, I={call.I}, {call.dtype}, "
        f"{call.device}, {purpose}",
        *choice,
        {plan: obstacles(plan, call) for plan in PLANS if plan != choice.plan},
    )


def _not_ours(module):
    inside = [
        f"{name} ({type(m).__name__})"
        for name, m in (module.named_modules() if isinstance(module, nn.Module) else ())
        if isinstance(m, _Recurrent | _Cell)
    ]
    message = f"explain takes a fastrnn module, got {type(module).__name__}"
    if type(module) in REPLACED_BY:
        return message + " of torch.nn: fastrnn.convert(module) makes it one"
    if inside:
        return message + f"; name one of its parts: {', '.join(inside)}"
    return message
