"""From torch.nn to fastrnn and back, in a model.

A conversion changes the class of the module object and nothing else: parameters, hooks, the
training flag, references held by optimizers all stay what they are.
"""

from collections.abc import Callable

from torch import nn
from torch.nn.utils import parametrize

from . import cell_modules, modules

REPLACED_BY = {
    kind.native: kind
    for kind in (
        modules.LSTM,
        modules.GRU,
        modules.RNN,
        cell_modules.LSTMCell,
        cell_modules.GRUCell,
        cell_modules.RNNCell,
    )
}
NATIVE_OF = {ours: native for native, ours in REPLACED_BY.items()}


def convert(model: nn.Module, report: Callable[[str], None] | None = print) -> nn.Module:
    """Make every torch.nn RNN and cell of a model, or the model itself, a fastrnn one, in place.

    Parametrized modules and those that `fully_shard` has sharded are converted too. Subclasses of
    torch.nn's classes are left alone, since fastrnn's modules are not of the class that their own
    methods build upon.

    Args:
        report: called with one line for each module converted or left alone; None for silence.

    Returns:
        The model.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
    """
    return _swap(model, REPLACED_BY, report)


def restore(model: nn.Module, report: Callable[[str], None] | None = print) -> nn.Module:
    """The way back of `convert`: every fastrnn module becomes torch.nn's, in place."""
    return _swap(model, NATIVE_OF, report)


def _swap(model, kinds, report):
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    say = report or (lambda line: None)
    for name, module in model.named_modules():
        label = name or "(the model)"
        kind = type(module)
        base = kind.__bases__[-1] if _is_made_for(module) else kind
        parent = next((k for k in kind.__mro__ if k in REPLACED_BY or k in NATIVE_OF), None)
        if base in kinds:
            target = kinds[base]
            module.__class__ = target if kind is base else _twin(kind, target)
            say(f"fastrnn: {label}: {_title(base)} -> {_title(target)}")
        elif parent in kinds:
            say(
                f"fastrnn: {label}: left alone, {kind.__qualname__} is a subclass of "
                f"{_title(parent)}; derive it from {_title(kinds[parent])} instead"
            )
    return model


def _is_made_for(module):
    """Whether torch made the module's class, from the one it had: that is the last base.

    Parametrizations do; `fully_shard` does, with a base of its own before it.
    """
    kind = type(module)
    sharded = kind.__bases__[0].__module__.startswith("torch.distributed.")
    return sharded or parametrize.is_parametrized(module)


def _twin(kind, target):
    """The class that torch made for a module, on another base."""
    members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (*kind.__bases__[:-1], target), members)


def _title(kind):
    package = "torch.nn" if kind in REPLACED_BY else "fastrnn"
    return f"{package}.{kind.__name__}"
