"""LSTM, GRU and RNN for PyTorch that a user swaps in by changing one word.

    import fastrnn
    rnn = fastrnn.GRU(64, 128, num_layers=2)    # was: torch.nn.GRU(64, 128, num_layers=2)

Modules, with torch.nn's arguments, parameters, state_dict, results and errors:

    LSTM, GRU, RNN                  whole sequences; `step` takes one time step of a stream
    LSTMCell, GRUCell, RNNCell      one time step
    functional.lstm, gru, rnn       for those who hold the weights themselves

For models that exist:

    convert(model), restore(model)  torch.nn's modules become fastrnn's in place, and back
    with restored(model):           torch.nn's classes for a block
    patch(), unpatch()              torch.nn.LSTM is fastrnn.LSTM from now on, and no longer
    with patched():                 the same for a block

To look and to choose:

    explain(module, x)              which engine would serve the call, and why
    diagnose(module, x)             how much of the gradient reaches the first time steps
    with use_engine("resident"):    the engine for a block
    with use_precision("tf32x3"):   how the kernels multiply float32
    with use_memory("recompute"):   less memory in training, for more time

`python -m fastrnn` prints the versions and the GPU at hand.
"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from .diagnosis import Diagnosis, diagnose

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
    return [*__all__, "__version__"]
