"""LSTMCell, GRUCell and RNNCell: one step of time.

On a CPU torch's own operator for a step is one call already, so these are torch.nn's cells on
torch.nn.RNNCellBase, under fastrnn's dispatch. On a GPU they are a layer of one step, in kernels.
Forms of input, outputs and errors are torch.nn's.
"""

import torch
from torch import Tensor, nn

from . import foreign, torchscript
from .describe import describe, weights_problem
from .dispatch import choose, forced_engine, require_torch_nn
from .functional import Options, run
from .kernels.cell import CELLS
from .leaf import Leaf
from .results import squeezed
from .wording import PLAIN

ONE_STEP = "a cell is one step, for which torch has one operator"


class _Cell(nn.RNNCellBase):
    """What the three cells share. `native` is the class of torch.nn that each replaces."""

    native: type[nn.RNNCellBase]
    __prepare_scriptable__ = torchscript.refuse
    _is_fastrnn = True

    def forward(self, input, hx=None):
        if not foreign.is_ours(self):
            return foreign.cell_forward(self, input, hx)
        if torch.compiler.is_compiling():
            from . import onnx_export  # of no use elsewhere

            if onnx_export.under_way():
                return onnx_export.cell(self, input, hx)
            return self.native.forward(self, input, hx)
        if torch.jit.is_tracing():
            return self.native.forward(self, input, hx)
        planned = self._planned(input, hx)
        if type(planned) is str:
            result = self.native.forward(self, input, hx)  # or torch.nn's own error
            require_torch_nn(planned)
            return result
        call, choice, input, hx, weights = planned
        _, final = run(call, choice, input, hx, weights, Options())
        states = [final] if isinstance(final, Tensor) else final
        states = [squeezed(s, 0) for s in states]
        return tuple(states) if len(states) > 1 else states[0]

    def _planned(self, input, hx):
        """(call, choice, input, hx, weights) of a layer of one step, or why (str) it is none."""
        forced = forced_engine()
        on_cpu = type(input) not in PLAIN or input.is_cpu
        if forced.startswith("torch") or (forced == "auto" and on_cpu):
            return ONE_STEP
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [w for w in (getattr(self, name) for name in names) if w is not None]
        states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
        if not all(type(t) in PLAIN and t.dim() == input.dim() for t in (input, *states)):
            return "the input or the state is not a plain tensor of the same dimensions"
        if input.dim() not in (1, 2):
            return "the input has neither one dimension nor two"
        # (T, I) or (T, B, I) with T = 1, and states as of one layer.
        input, *states = (t.unsqueeze(0) for t in (input, *states))
        if hx is not None:
            hx = states[0] if isinstance(hx, Tensor) else tuple(states)
        mode = mode_of(self)
        if mode is None:
            return f"its nonlinearity is {self.nonlinearity!r}"
        cell = CELLS[mode]
        call = describe(cell, input, hx, weights, Options())
        if type(call) is str:
            return call
        problem = weights_problem(call, weights)
        if problem or call.H != self.hidden_size:
            wrong = (
                f"the weights are of {call.H} hidden units, and hidden_size is {self.hidden_size}"
            )
            return problem or wrong
        choice = choose(call)
        if choice.engine == "torch":
            return choice.reason
        return call, choice, input, hx, weights


def mode_of(cell):
    """What a cell is in the table of cells, None for an unknown nonlinearity."""
    if cell.native is RNNCell.native:
        return {"tanh": "RNN_TANH", "relu": "RNN_RELU"}.get(cell.nonlinearity)
    return cell.native.__name__.removesuffix("Cell")


class LSTMCell(_Cell):
    """Drop-in replacement of torch.nn.LSTMCell: input (B, I), (h, c) each (B, H) -> (h', c')."""

    __module__ = Leaf(__name__)
    native = nn.LSTMCell

    def __init__(self, input_size, hidden_size, bias=True, device=None, dtype=None):
        if not foreign.is_ours(self):
            return LSTMCell.native.__init__(self, input_size, hidden_size, bias, device, dtype)
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)


class GRUCell(_Cell):
    """Drop-in replacement of torch.nn.GRUCell: input (B, I), h (B, H) -> h'."""

    __module__ = Leaf(__name__)
    native = nn.GRUCell

    def __init__(self, input_size, hidden_size, bias=True, device=None, dtype=None):
        if not foreign.is_ours(self):
            return GRUCell.native.__init__(self, input_size, hidden_size, bias, device, dtype)
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)


class RNNCell(_Cell):
    """Drop-in replacement of torch.nn.RNNCell: input (B, I), h (B, H) -> h'."""

    __module__ = Leaf(__name__)
    native = nn.RNNCell
    __constants__ = nn.RNNCell.__constants__

    def __init__(
        self, input_size, hidden_size, bias=True, nonlinearity="tanh", device=None, dtype=None
    ):
        if not foreign.is_ours(self):
            rest = nonlinearity, device, dtype
            return RNNCell.native.__init__(self, input_size, hidden_size, bias, *rest)
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity
