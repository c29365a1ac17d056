"""From torch.nn to fastrnn and back: in a model, or for every model still to be built.

A conversion changes the class of the module object and nothing else: parameters, hooks, the
training flag, references held by optimizers all stay what they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from . import cell_modules, modules
from .holders import asking, holders

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
Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, report: Callable[[str], None] | None = print) -> Model:
    """Make every torch.nn RNN and cell of a model, or the model itself, a fastrnn one, in place.

    Parametrized modules and those that `fully_shard` has sharded are converted too. Left alone are:
    subclasses of torch.nn's classes, since fastrnn's modules are not of the class that their own
    methods build upon; and what is held by a module whose methods ask for the class, as
    `isinstance(self.rnn, nn.LSTM)` does: such a model is to be built under `patch`.

    Args:
        report: called with one line for each module converted or left alone; None for silence.

    Returns:
        The model.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
    """
    _swap(model, REPLACED_BY, report)
    return model


def restore(model: Model, report: Callable[[str], None] | None = print) -> Model:
    """The way back of `convert`: every fastrnn module becomes torch.nn's, in place."""
    _swap(model, NATIVE_OF, report)
    return model


@contextmanager
def restored(model: Model, report: Callable[[str], None] | None = print) -> Iterator[Model]:
    """`restore` for the length of a block, for programs that know torch.nn's modules by class.

        with fastrnn.restored(model):
            macs, parameters = thop.profile(model, (x,))

    On leaving, by an exception too, the modules that were restored are fastrnn's again. What the
    block has put in their place, and copies of them, stay torch.nn's.
    The arguments that torch.nn lacks, such as `lengths`, are not there within the block. The change
    is one for all threads.

    Args:
        report: called with one line for each module that is left alone; None for silence.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
    """
    changed = _swap(model, NATIVE_OF, report, of_changes=False)
    try:
        yield model
    finally:
        for module in changed:
            _swap_one(module, REPLACED_BY)


def _swap(model, kinds, report, of_changes=True):
    """Change the classes of a model's modules; returns the modules."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    say, changed = report or (lambda line: None), []
    held_by = holders(model) if kinds is REPLACED_BY else {}
    for name, module in model.named_modules():
        label, base = name or "(the model)", _base(module)
        if base in kinds:
            askers = (asking(holder, base) for holder in held_by.get(id(module), ()))
            if asker := next(filter(None, askers), None):
                say(
                    f"fastrnn: {label}: left alone, {asker} asks for {_title(base)} by its class; "
                    "call fastrnn.patch() before the model is built instead"
                )
                continue
            _swap_one(module, kinds)
            changed.append(module)
            if of_changes:
                say(f"fastrnn: {label}: {_title(base)} -> {_title(kinds[base])}")
        elif isinstance(module, tuple(kinds)):
            parent = next(k for k in type(module).__mro__ if k in kinds)
            say(
                f"fastrnn: {label}: left alone, {type(module).__qualname__} is a subclass of "
                f"{_title(parent)}; derive it from {_title(kinds[parent])} instead"
            )
    return changed


def _swap_one(module, kinds):
    kind, base = type(module), _base(module)
    if base in kinds:
        target = kinds[base]
        module.__class__ = target if kind is base else _twin(kind, target)


def _base(module):
    """A module's class, or the one that it had before torch made one for it."""
    kind = type(module)
    return kind.__bases__[-1] if _is_made_for(module) else kind


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


# Every place where torch keeps one of the names.
_NAMESPACES = (torch.nn, torch.nn.modules, torch.nn.modules.rnn)


def patch() -> None:
    """Let torch.nn.LSTM, GRU, RNN and their cells be fastrnn's for code that says `torch.nn.X`.

    `isinstance(m, torch.nn.LSTM)` then asks for fastrnn's class. Names that other code imported
    before (`from torch.nn import LSTM`), and modules that exist already, stay as they are; such a
    module is then no `torch.nn.LSTM`, and cannot be pickled until `unpatch`. Calling it twice is
    calling it once.
    """
    _bind(REPLACED_BY.values())


def unpatch() -> None:
    """Undo `patch`."""
    _bind(REPLACED_BY)


@contextmanager
def patched():
    """`patch` for the length of a block; on leaving, the names are what they were on entering."""
    before = torch.nn.LSTM
    patch()
    try:
        yield
    finally:
        if before is modules.LSTM:
            patch()
        else:
            unpatch()


def _bind(kinds):
    for kind in kinds:
        for namespace in _NAMESPACES:
            setattr(namespace, kind.__name__, kind)
