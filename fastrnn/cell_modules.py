"""LSTMCell, GRUCell and RNNCell: one step of time.

On a CPU torch's own operator for a step is one call already, so these are torch.nn's cells on
torch.nn.RNNCellBase, under fastrnn's dispatch. Forms of input, outputs and errors are torch.nn's.
"""

import torch
from torch import nn

from .dispatch import require_torch_nn

ONE_STEP = "a cell is one step, for which torch has one operator"


class _Cell(nn.RNNCellBase):
    """What the three cells share. `native` is the class of torch.nn that each replaces."""

    native: type[nn.RNNCellBase]

    def forward(self, input, hx=None):
        if not torch.compiler.is_compiling():
            require_torch_nn(ONE_STEP)
        return self.native.forward(self, input, hx)


class LSTMCell(_Cell):
    """Drop-in replacement of torch.nn.LSTMCell: input (B, I), (h, c) each (B, H) -> (h', c')."""

    native = nn.LSTMCell

    def __init__(self, input_size, hidden_size, bias=True, device=None, dtype=None):
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)


class GRUCell(_Cell):
    """Drop-in replacement of torch.nn.GRUCell: input (B, I), h (B, H) -> h'."""

    native = nn.GRUCell

    def __init__(self, input_size, hidden_size, bias=True, device=None, dtype=None):
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)


class RNNCell(_Cell):
    """Drop-in replacement of torch.nn.RNNCell: input (B, I), h (B, H) -> h'."""

    native = nn.RNNCell
    __constants__ = nn.RNNCell.__constants__

    def __init__(
        self, input_size, hidden_size, bias=True, nonlinearity="tanh", device=None, dtype=None
    ):
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity
