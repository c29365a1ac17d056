"""The table of cells: a new one is two functions in `cells.py` and a row here."""

from collections.abc import Callable
from typing import NamedTuple

from . import cells


class Cell(NamedTuple):
    """A recurrent cell: its gates, its states, what backward saves of it, and its two functions.

    On a device a row of `slots` numbers for each hidden unit serves all of a step's life: the input
    side of the gates going in (in the last slots), `saved` coming out, and after the way back the
    gradient of the input side (again the last) after that of the recurrent side of those last gates
    where it is another (the m of a GRU, the recurrent part of n).
    """

    name: str
    gates: str
    states: str
    saved: str
    forward: Callable
    backward: Callable

    @property
    def slots(self):
        return max(len(self.gates), len(self.saved))


LSTM = Cell("LSTM", "ifgo", "hc", "ifgo", cells.lstm_forward, cells.lstm_backward)
GRU = Cell("GRU", "rzn", "h", "mrzn", cells.gru_forward, cells.gru_backward)
RNN_TANH = Cell("RNN_TANH", "h", "h", "", cells.rnn_tanh_forward, cells.rnn_tanh_backward)
RNN_RELU = Cell("RNN_RELU", "h", "h", "", cells.rnn_relu_forward, cells.rnn_relu_backward)

# By the name that torch.nn.RNNBase gives the same cell in its `mode`.
CELLS = {cell.name: cell for cell in (LSTM, GRU, RNN_TANH, RNN_RELU)}
