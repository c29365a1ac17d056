"""Which engine and plan serve a call, and why. `choose` is pure: it sees a `Call`, no tensors.

The engines are `torch`, with the plans that `torch_engine.py` carries out, and `triton`, whose
plans `resident`, `cooperative` and `step` run the kernels.
"""

from .call import ENGINES, TORCH_NN, TRITON_PLANS, Choice
from .choice_gpu import fastest_on_gpu
from .choice_torch import fastest_of_torch
from .obstacles import obstacles
from .setting import Setting, variable

_forced = variable("use_engine", "auto")


def choose(call, forced=None):
    """The plan for a call: the one `use_engine` named, or the fastest known.

    Raises:
        RuntimeError: the named plan cannot serve; the message lists every reason.
    """
    forced = forced_engine() if forced is None else forced
    if forced == "auto" and call.device == "cuda":
        return fastest_on_gpu(call)
    if forced in ("auto", "torch"):
        return fastest_of_torch(call)
    reasons = obstacles(forced, call)
    if reasons:
        refuse(forced, reasons)
    engine = "triton" if forced in TRITON_PLANS else "torch"
    reason = f"asked for with fastrnn.use_engine({forced!r})"
    return Choice(engine, forced.removeprefix("torch."), reason)


def forced_engine():
    """The name that `use_engine` was given, or "auto"."""
    return _forced.get()[-1].value


def require_torch_nn(reason):
    """Raise if `use_engine` named a plan other than torch.nn's own operators.

    For the calls that these alone serve.
    """
    forced = forced_engine()
    if forced not in TORCH_NN:
        refuse(forced, [reason])


def refuse(engine, reasons):
    """Raise: the engine that `use_engine` named cannot serve, for all of these reasons."""
    raise RuntimeError("\n  - ".join([f"engine {engine!r} cannot serve this call:", *reasons]))


def use_engine(name: str) -> Setting:
    """`with use_engine(name):` within the block, all fastrnn modules of this thread use the named
    engine. As a decorator, within the calls of a function.

    name: "auto" (the default choice); "resident", "cooperative" or "step", the kernels; "torch", or
    one of its plans: "torch.aten", "torch.cell", "torch.bptt", "torch.reference". A graph of
    torch.compile keeps the engine that was in force when it was made; what torch.jit.trace records
    is torch.nn's own operators. With
    TRITON_INTERPRET=1 in the environment from the start, the kernels take tensors on a CPU too:
    slow, for a look inside.

    Raises:
        ValueError: no such engine; the message lists the valid names.
        RuntimeError: from a module's call, if the engine cannot serve it, with every reason.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; the engines are: {', '.join(ENGINES)}")
    return Setting("use_engine", _forced, name)
