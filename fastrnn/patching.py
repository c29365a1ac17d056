"""`patch`: torch.nn's names for LSTM, GRU, RNN and their cells stand for fastrnn's classes.

Code from before the patch still holds torch.nn's own classes. A class derived from one of them may
call its base by the name, which now stands for another class:

    nn.LSTM.__init__(self, ...)    nn.LSTM.forward(self, x)    super(nn.LSTM, self)

So while the names are patched, torch.nn's class derives from fastrnn's: `super`, isinstance and
issubclass then hold for its objects. What these objects do stays torch.nn's: their own class comes
first, and between the two is a bridge that hides what is fastrnn's. fastrnn's methods, called by
name, pass such an object on to torch.nn's, see `foreign.py`.
"""

from contextlib import contextmanager, suppress
from functools import cache

import torch

from . import lookups
from .conversion import REPLACED_BY
from .pickling import pickle_by_class, pickle_by_name

# Every place where torch keeps one of the names.
_NAMESPACES = (torch.nn, torch.nn.modules, torch.nn.modules.rnn)
_BASES = {native: native.__bases__ for native in REPLACED_BY}
# What Python itself puts into a class, the annotations, which torch.jit.script reads, and what has
# to reach classes that stand further back.
_BOOKKEEPING = {*vars(type("", (), {})), "__annotations__", "__init_subclass__"}


def patch() -> None:
    """Let torch.nn.LSTM, GRU, RNN and their cells be fastrnn's for code that says `torch.nn.X`.

    Names that other code imported before (`from torch.nn import LSTM`), classes derived from
    torch.nn's, and modules that exist already stay as they are. isinstance and issubclass hold for
    them too; `type(m) is torch.nn.LSTM` does not. Calling it twice is calling it once.
    """
    for native in REPLACED_BY:
        # Not if a class derives from fastrnn's and from torch.nn's, in this order: Python's order
        # of bases would be a contradiction. Calls by name are passed on all the same.
        with suppress(TypeError):
            native.__bases__ = (_bridge(native),)
    _bind(REPLACED_BY.values())
    pickle_by_name(REPLACED_BY)
    lookups.keep(REPLACED_BY)


def unpatch() -> None:
    """Undo `patch`."""
    for native, bases in _BASES.items():
        native.__bases__ = bases
    _bind(REPLACED_BY)
    pickle_by_class(REPLACED_BY)
    lookups.release()


@contextmanager
def patched():
    """`patch` for the length of a block; on leaving, the names are what they were on entering."""
    before = torch.nn.LSTM
    patch()
    try:
        yield
    finally:
        if before in REPLACED_BY:
            unpatch()
        else:
            patch()


def _bind(kinds):
    for kind in kinds:
        for namespace in _NAMESPACES:
            setattr(namespace, kind.__name__, kind)


@cache
def _bridge(native):
    """A class derived from fastrnn's, with the members of RNNBase or RNNCellBase in their place."""
    ours, (base,) = REPLACED_BY[native], _BASES[native]
    bridge = type(native.__name__, (ours,), {"__annotations__": base.__annotations__})
    for kind in ours.__mro__[: ours.__mro__.index(base)]:
        for name in vars(kind).keys() - _BOOKKEEPING:
            member = getattr(base, name) if hasattr(base, name) else _Hidden(base, name)
            setattr(bridge, name, member)
    return bridge


class _Hidden:
    """A member that fastrnn's classes have: not there, unless a base behind `base` has it too."""

    def __init__(self, base, name):
        self.base, self.name = base, name

    def __get__(self, instance, owner):
        try:
            return getattr(super(self.base, owner if instance is None else instance), self.name)
        except AttributeError:
            text = f"type object {owner.__name__!r} has no attribute {self.name!r}"
            raise AttributeError(text) from None
