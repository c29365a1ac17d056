"""Which of its algorithms cuDNN has for a call, by the rules of torch.nn.

Source: `get_algo` in PyTorch's aten/src/ATen/native/cudnn/RNN.cpp, as of torch 2.13.
"""

import torch

STANDARD = "a matrix product and a kernel for the gates in each step"
SMALL = "all steps in one kernel, for small H"
STATIC = "all steps in one kernel, for one direction of one layer in float16"


def algorithms(call):
    """Those of a layer's forward and, in training, backward pass."""
    ways = ("forward", "backward") if call.differentiable else ("forward",)
    return [_algorithm(call, way) for way in ways]


def _algorithm(call, way):
    if call.packed or call.lengths or call.proj_size:
        return STANDARD
    if call.dtype is not torch.float64 and call.H <= _largest_small(call.cell, way):
        return SMALL
    return STATIC if _is_static(call) else STANDARD


def _largest_small(cell, way):
    plain = len(cell.gates) == 1
    if way == "forward":
        return 384 if plain else 192
    return 256 if plain else 128


def _is_static(call):
    gates = len(call.cell.gates)
    return (
        call.dtype is torch.float16
        and call.layers == call.directions == 1
        and call.H <= 1024
        and call.H % 128 == call.I % 128 == 0
        and call.chip is not None
        and call.chip.sms >= 98
        and gates != 3
        and call.B % 8 == 0
        and call.B <= 128
        and (gates == 4 or call.B < 96 or call.H < 896)
    )
