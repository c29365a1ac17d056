"""fastrnn's methods in the hands of objects of other classes.

    torch.nn.LSTM.__init__(self, ...)    torch.nn.LSTM.forward(self, x)

Within a subclass of torch.nn.LSTM, these name fastrnn.LSTM's methods while `patch` is in force. On
an object that is not fastrnn's they are torch.nn's own.
"""

from torch import nn

from .altered import BY_MODE

BY_GATES = {4: nn.LSTMCell, 3: nn.GRUCell, 1: nn.RNNCell}


def is_ours(module):
    """Whether an object is of one of fastrnn's classes.

    `isinstance` would not do: `patching.py` makes torch.nn's classes subclasses of fastrnn's.
    """
    return getattr(type(module), "_is_fastrnn", False)


def forward(module, input, hx, **asked):
    """torch.nn's forward of LSTM, GRU or RNN, by what the object is, or else by its mode.

    Raises:
        TypeError: it is asked for what torch.nn lacks.
    """
    given = [name for name, value in asked.items() if value is not None and value is not False]
    if given:
        raise TypeError(
            f"forward() of a {type(module).__name__} that is not fastrnn's takes no "
            f"{' and no '.join(given)}: fastrnn.convert(module) makes a torch.nn module one"
        )
    return native_of(module).forward(module, input, hx)


def native_of(module):
    """The class of torch.nn that an LSTM, a GRU or an RNN belongs to."""
    kinds = (kind for kind in BY_MODE.values() if isinstance(module, kind))
    return next(kinds, None) or BY_MODE[module.mode]


def cell_forward(module, input, hx):
    """torch.nn's forward of a cell, by what the object is, or else by the number of its gates."""
    kinds = (kind for kind in BY_GATES.values() if isinstance(module, kind))
    rows, H = module.weight_hh.shape
    native = next(kinds, None) or BY_GATES[rows // H]
    return native.forward(module, input, hx)
