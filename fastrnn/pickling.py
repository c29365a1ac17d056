"""torch.nn's modules, pickled while `patch` has given the names of their classes to others.

A pickle names the class, and pickle insists that the name stands for this class. So the name is
pickled as a look-up: without `patch`, and without fastrnn, it finds torch.nn's class again.
"""

import copyreg
from functools import partial
from importlib import import_module


def pickle_by_name(kinds):
    """For the modules of these classes."""
    for kind in kinds:
        copyreg.pickle(kind, _reduced)


def pickle_by_class(kinds):
    """Undo `pickle_by_name`."""
    for kind in kinds:
        if copyreg.dispatch_table.get(kind) is _reduced:
            del copyreg.dispatch_table[kind]


def _reduced(module):
    _, _, *state = module.__reduce_ex__(2)
    return _Maker(type(module)), (), *state


class _Call:
    """Is pickled as the result of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class _Maker(_Call):
    """Makes an object of a class, without calling __init__. Its pickle looks up the class."""

    def __init__(self, kind):
        named = _Call(getattr, _Call(import_module, kind.__module__), kind.__name__)
        super().__init__(partial, copyreg.__newobj__, named)
        self.kind = kind

    def __call__(self):
        return self.kind.__new__(self.kind)
