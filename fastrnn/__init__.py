"""LSTM, GRU and RNN for PyTorch that a user swaps in by changing one word."""

from . import (
    functional,
    operators,  # noqa: F401  so that torch knows them, as in a program that it loads
)
from .cell_modules import GRUCell, LSTMCell, RNNCell
from .conversion import convert, patch, patched, restore, restored, unpatch
from .dispatch import use_engine
from .explanation import Explanation, explain
from .memory import use_memory
from .modules import GRU, LSTM, RNN
from .precision import use_precision

__version__ = "0.1.0"
__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Diagnosis",
    "Explanation",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "convert",
    "diagnose",
    "explain",
    "functional",
    "patch",
    "patched",
    "restore",
    "restored",
    "unpatch",
    "use_engine",
    "use_memory",
    "use_precision",
]


def __getattr__(name):
    if name in ("Diagnosis", "diagnose"):
        from . import diagnosis  # of no use to most programs, so they need not wait for it

        return getattr(diagnosis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
