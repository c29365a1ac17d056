"""The table of cells: a new one is two functions in `cells.py` and a row here."""

from collections.abc import Callable
from typing import NamedTuple

from . import cells


class Cell(NamedTuple):
    """A recurrent cell: its gates and states by the field's letters, and its two functions."""

    name: str
    gates: str
    states: str
    forward: Callable
    backward: Callable


LSTM = Cell("LSTM", "ifgo", "hc", cells.lstm_forward, cells.lstm_backward)
GRU = Cell("GRU", "rzn", "h", cells.gru_forward, cells.gru_backward)
RNN_TANH = Cell("RNN_TANH", "h", "h", cells.rnn_tanh_forward, cells.rnn_tanh_backward)
RNN_RELU = Cell("RNN_RELU", "h", "h", cells.rnn_relu_forward, cells.rnn_relu_backward)

# By the name that torch.nn.RNNBase gives the same cell in its `mode`.
CELLS = {cell.name: cell for cell in (LSTM, GRU, RNN_TANH, RNN_RELU)}
