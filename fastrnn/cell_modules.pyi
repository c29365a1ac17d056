from typing import ClassVar

import torch
from torch import Tensor, nn

_Device = torch.device | str | int | None
_States = tuple[Tensor, Tensor]

class _Cell(nn.RNNCellBase):
    native: ClassVar[type[nn.RNNCellBase]]

class _Gated(_Cell):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: _Device = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...

class LSTMCell(_Gated):
    def forward(self, input: Tensor, hx: _States | None = None) -> _States: ...
    __call__ = forward

class GRUCell(_Gated):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor: ...
    __call__ = forward

class RNNCell(_Cell):
    nonlinearity: str
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: _Device = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor: ...
    __call__ = forward
