"""Which methods of a model ask for the class of an RNN that the model holds.

`convert` changes that class. A model that says `isinstance(self.rnn, nn.LSTM)` would then take the
other branch, so its RNN is left alone.
"""

import dis
import re
from types import CodeType, FunctionType, ModuleType

from torch import nn

# By names, or by the operation of a `match` statement.
ASK = {"isinstance", "issubclass", "type", "__class__", "MATCH_CLASS"}
# They draw weights once, and have done so when a model is converted.
INITIALISERS = re.compile("__init__|weight|param")
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def holders(model):
    """{id of a module: the modules of `model` that hold it, through torch.nn's containers}."""
    found = {}
    for holder in model.modules():
        for child in _held(holder):
            found.setdefault(id(child), []).append(holder)
    return found


def _held(holder):
    for child in holder.children():
        yield child
        if type(child) in CONTAINERS:
            yield from _held(child)


def asking(holder, kind):
    """The name of a method of the holder that asks for the class `kind`, or None."""
    for base in type(holder).__mro__:
        if base is nn.Module or base.__module__.startswith("torch.nn."):
            continue
        for name, member in vars(base).items():
            if INITIALISERS.search(name):
                continue
            if any(_asks(function, kind) for function in _functions(member)):
                return f"{base.__qualname__}.{name}"
    return None


def _functions(member):
    """Those of a method, class method, static method or property."""
    parts = (member, getattr(member, "__func__", None), getattr(member, "fget", None))
    return [part for part in parts if isinstance(part, FunctionType)]


def _asks(function, kind, further=True):
    """Whether a function, or one that it calls by its name, asks for the class `kind`."""
    names, values = _references(function, function.__code__)
    if names & ASK and any(_has(value, kind) for value in values):
        return True
    return further and any(
        _asks(value, kind, further=False) for value in values if isinstance(value, FunctionType)
    )


def _references(function, code):
    """(the names in the code, what those stand for that begin with a global one or a closure's)."""
    closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    known = {**function.__globals__, **{name: _content(cell) for name, cell in closure}}
    names, values, value = set(code.co_names), [], None
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in ASK:
            names.add(instruction.opname)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_DEREF"):
            value = known.get(name)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, ModuleType):
            value = getattr(value, name, None)
        else:
            continue
        values.append(value)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, others = _references(function, inner)
            names |= more
            values += others
    return names, values


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _has(value, kind):
    """Whether a value is the class, or a table of classes that has it."""
    table = value if isinstance(value, tuple | list | set | dict) else (value,)
    return any(item is kind for item in table)
