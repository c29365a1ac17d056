from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

_Device = torch.device | str | int | None
_States = tuple[Tensor, Tensor]

_State = TypeVar("_State")

class _Recurrent(nn.RNNBase, Generic[_State]):
    native: ClassVar[type[nn.RNNBase]]
    def step(
        self,
        input: Tensor,
        hx: _State | None = None,
        *,
        resets: Tensor | None = None,
        one_hot: bool = False,
    ) -> tuple[Tensor, _State]: ...

class LSTM(_Recurrent[_States]):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: _Device = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...
    @overload
    def forward(
        self,
        input: Tensor,
        hx: _States | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        one_hot: bool = False,
        return_cell_states: Literal[False] = False,
        return_gates: Literal[False] = False,
    ) -> tuple[Tensor, _States]: ...
    @overload
    def forward(
        self,
        input: PackedSequence,
        hx: _States | None = None,
        *,
        resets: Tensor | None = None,
        one_hot: bool = False,
        return_cell_states: Literal[False] = False,
        return_gates: Literal[False] = False,
    ) -> tuple[PackedSequence, _States]: ...
    @overload
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: _States | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        one_hot: bool = False,
        return_cell_states: bool = False,
        return_gates: bool = False,
    ) -> tuple[Any, ...]: ...
    __call__ = forward

class _OneState(_Recurrent[Tensor]):
    @overload
    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        one_hot: bool = False,
        return_gates: Literal[False] = False,
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(
        self,
        input: PackedSequence,
        hx: Tensor | None = None,
        *,
        resets: Tensor | None = None,
        one_hot: bool = False,
        return_gates: Literal[False] = False,
    ) -> tuple[PackedSequence, Tensor]: ...
    @overload
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        one_hot: bool = False,
        return_gates: bool = False,
    ) -> tuple[Any, ...]: ...
    __call__ = forward

class GRU(_OneState):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: _Device = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...

class RNN(_OneState):
    nonlinearity: str
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: _Device = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...
