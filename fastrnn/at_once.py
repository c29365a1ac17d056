"""A step of a stream on a CPU by a GRU or RNN of one layer: so short that to describe and choose
takes a fifth of it, so what `choice_torch.py` always chooses for it is called at once."""

import torch

from .dispatch import forced_engine
from .torch_engine import SEQUENCES
from .values import transforming

PLAIN = torch.Tensor


def at_once(module, weights, input, hx):
    """(output, h_n) of torch.nn's operator, or None if the call is any other, or has an error.

    weights: the module's, for this call.
    """
    if (
        type(input) is not PLAIN
        or type(hx) is not PLAIN
        or input.dim() != 3
        or module.num_layers != 1
        or module.bidirectional
        or module.proj_size
        or module.mode == "LSTM"
    ):
        return None
    T, B, I = input.shape
    if module.batch_first:
        T, B = B, T
    if T != 1 or I != module.input_size or hx.shape != (1, B, module.hidden_size):
        return None
    dtype, device = input.dtype, input.device
    if (
        device.type != "cpu"
        or not B
        or len(weights) != (4 if module.bias else 2)
        or type(weights[0]) is not torch.nn.Parameter
        or weights[0].dtype is not dtype
        or hx.dtype is not dtype
        or weights[0].device != device
        or hx.device != device
        or transforming()
        or forced_engine() != "auto"
    ):
        return None
    stack = (len(weights) == 4, 1, module.dropout, module.training, False, module.batch_first)
    return SEQUENCES[module.mode](input, hx, weights, *stack)
