"""The fastest of the plans that use nothing but torch."""

import torch

from .call import as_packed, by_torch
from .kernels.cell import LSTM
from .obstacles import obstacles, specials

SPECIAL = "{special}: torch's own operators heed that"
TRANSFORMED = "torch.func's transforms and forward mode: torch.nn has no rules for all of these"
OTHER_DEVICE = by_torch("aten", "on this device torch.nn's own operators are used")
HALF = by_torch("aten", "half precision on a CPU is left to torch.nn's own operators")
PROJECTION = by_torch("aten", "LSTM with projections is left to torch.nn's own operator")
ONEDNN = by_torch("aten", "oneDNN's fused LSTM, which torch.nn uses, is faster than a loop here")
LONG_LSTM = by_torch(
    "bptt",
    "training over many steps: as fast as oneDNN's LSTM in less than half the memory, and faster "
    "once gradients vanish",
)
SHORT_LSTM = by_torch("cell", "few steps: oneDNN's LSTM would repack the weights in each call")
SHORT = by_torch("aten", "few steps: preparing the weights for a loop would not pay")
WIDE = by_torch(
    "aten", "at this hidden size the products take the time, and a loop saves none of it"
)
PACKED = by_torch(
    "bptt", "packed input: torch.nn's backward pass takes time quadratic in the sequence length"
)
PACKED_INFERENCE = by_torch(
    "aten", "packed input: torch.nn's own loop is as fast as long as it infers"
)
INDICES = by_torch("bptt", "one-hot indices: a look-up in W_ih instead of a matrix product")
LOOP = by_torch("bptt", "torch.nn takes many small operators a step here; the loop takes few")


def fastest_of_torch(call):
    """The Choice for a call on any device."""
    if call.asked or call.transformed:
        return _beyond_torch_nn(call)
    call = as_packed(call)
    for special in specials(call):
        return by_torch("aten", SPECIAL.format(special=special))
    if call.device != "cpu":
        return OTHER_DEVICE
    if call.dtype not in (torch.float32, torch.float64):
        return HALF
    if call.proj_size:
        return PROJECTION
    if call.packed and not call.one_hot:
        return _fastest_packed(call)
    if call.cell is LSTM and call.onednn and call.dtype is torch.float32 and not call.packed:
        return _fastest_dense_lstm(call)
    return _fastest_loop(call)


def _beyond_torch_nn(call):
    """Where torch.nn's operators cannot serve, or have no rules for what is done to them."""
    why = f"torch.nn has no {' and no '.join(call.asked)}" if call.asked else TRANSFORMED
    reasons = obstacles("torch.bptt", call)
    if not reasons:
        return by_torch("bptt", f"{why}; the loop has")
    return by_torch("reference", f"{why}, and of the loop: {'; '.join(reasons)}")


# The thresholds come from `python -m benchmarks --suite cpu` on an AMD EPYC (benchmarks/results/)
# and from like measurements on an Intel Xeon with AMX. Where these differ, torch.nn's is chosen.


def _fastest_packed(call):
    if not call.differentiable:
        return PACKED_INFERENCE
    return SHORT if call.T < 12 else PACKED


def _fastest_loop(call):
    if call.one_hot and call.T >= 8:
        return INDICES
    enough = 16 if call.differentiable and call.H < 512 else 32
    if call.T < enough:
        return SHORT
    widest = 256 if not call.differentiable else 512 if call.cell.gates == "h" else 1024
    return WIDE if call.H > widest else LOOP


def _fastest_dense_lstm(call):
    # A look-up saves the share I / (I + H) of the products; the loop costs about as much again.
    if call.one_hot:
        return INDICES if call.T >= 8 and call.I >= 2 * call.H else ONEDNN
    work = call.B * call.H
    one = call.T == 1 and (call.B <= 64 or call.H >= 512)
    few = call.T <= 8 and call.B == 1 and call.H >= 512 and not call.differentiable
    if (one or few) and call.directions == 1:
        return SHORT_LSTM
    if call.differentiable and call.T >= 256 and work >= 4096 and call.H <= 128:
        return LONG_LSTM
    return ONEDNN
