"""torch's own code that looks up torch.nn.LSTM and the like, and means torch.nn's own classes.

torch.compile gives up on a module that is an instance of torch.nn.LSTM, GRU or RNN, by these names.
It should not give up on fastrnn's, which it can read. It should on torch.nn's, in whose graph there
would be no dropout between the layers. `quantize_dynamic` makes its table by the names.
"""

import sys

import torch

ASKING = ("torch._dynamo.variables.builder", "torch.ao.")
_before = type(torch.nn)


def keep(kinds):
    """Let the names in torch.nn be `kinds` for that code, whatever they are for others."""
    members = {kind.__name__: _name(kind) for kind in kinds}
    torch.nn.__class__ = type("module", (_before,), members)


def release():
    """Undo `keep`."""
    torch.nn.__class__ = _before


def _name(kind):
    name = kind.__name__

    def get(module):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return kind if caller.startswith(ASKING) else vars(module)[name]

    def set(module, value):
        vars(module)[name] = value

    return property(get, set)
