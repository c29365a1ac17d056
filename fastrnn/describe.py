"""From the arguments of a forward call to the `Call` that dispatch chooses by.

Anything that is not a plain, well-formed call comes back as a sentence instead, and is left to
torch.nn: it serves what it can and raises its own errors for the rest.
"""

import torch
from torch.nn.utils.rnn import PackedSequence

from .call import Call
from .chips import chip_of
from .kernels.cell import LSTM
from .precision import fp32_precision
from .values import hidden, numbers, transforming
from .wording import PLAIN, described, numbers_of_weights, weight_name, wrong_number

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CAST = (torch.float32, torch.bfloat16, torch.float16)  # by autocast
HAS_ONEDNN = torch.backends.mkldnn.is_available()
ONEDNN_SUPPORTS = {
    torch.bfloat16: lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    torch.float16: lambda: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def describe(cell, input, hx, weights, options, lengths=None, resets=None):
    """A `Call`, or the reason (str) why the call is for torch.nn alone.

    Of the weights only the first two are looked at; see `weights_problem`. `lengths` has passed
    `lengths.check`, `resets` `check_resets`.
    """
    packed = type(input) is PackedSequence
    data = input.data if packed else input
    if type(data) not in PLAIN or data.dim() == 0:
        return f"the input is a {type(data).__name__}, not a plain tensor with dimensions"
    if len(weights) < 2 or options.num_layers < 1:
        return wrong_number(cell, weights, options.num_layers, options.directions)
    w, w_hh = weights[0], weights[1]
    if type(w) not in PLAIN or type(w_hh) not in PLAIN or w.dim() != 2 or w_hh.dim() != 2:
        found = " and ".join(map(described, (w, w_hh)))
        return f"the first two weights, W_ih and W_hh, must be plain matrices, got {found}"
    dtype, device = w.dtype, w.device
    if dtype not in FLOATING:
        return f"the weights are {dtype}, not float32, float64, bfloat16 or float16"
    autocast = autocast_dtype(device.type)
    castable = autocast is not None and dtype in CAST
    castable = castable and (options.one_hot or data.dtype in CAST)
    if data.dtype is not dtype and not options.one_hot and not castable:
        return f"the input is {data.dtype} and the weights are {dtype}"
    if data.device != device or data.layout is not torch.strided:
        return f"the input is on {data.device}, the weights are on {device}"
    dropout = options.dropout
    if type(dropout) not in (float, int) or not 0 <= dropout <= 1:
        return f"dropout is {dropout!r}, not a number in [0, 1]"
    L, D = options.num_layers, options.directions
    rows, I = w.shape
    H, R = rows // len(cell.gates), w_hh.shape[1]
    shape = data.shape
    if not options.one_hot:
        *shape, features = shape
        if features != I:
            return f"the input's last dimension is {features}, not input_size, {I}"
    if packed:
        if len(shape) != 1:
            wanted = "(N,)" if options.one_hot else "(N, I)"
            return f"the packed data is {tuple(data.shape)}, where {wanted} is needed"
        steps = numbers(input.batch_sizes)
        if not steps or sum(steps) != shape[0] or steps[-1] < 1:
            return f"batch_sizes are not positive numbers of sum {shape[0]}, the packed data's rows"
        if sorted(steps, reverse=True) != steps:
            return "the batch_sizes of the packed input grow"
        if data.is_cuda and torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured, and the sizes of a packed input are on the CPU"
        T, B = len(steps), steps[0]
        batch = True
    else:
        batch = len(shape) == 2
        if not batch and len(shape) != 1:
            return f"the input is {tuple(data.shape)}, not of two or three dimensions"
        T, B = shape if batch else (*shape, 1)
        if batch and options.batch_first:
            T, B = B, T
    if T == 0 or B == 0:
        return "the input is empty"
    if hx is not None:
        states = CAST if castable else (dtype,)
        message = _state_problem(cell, hx, (L * D, B) if batch else (L * D,), R, H, states, device)
        if message:
            return message
    if castable:
        dtype = autocast
    chip = chip_of(device)
    return Call(
        cell, T, B, I, H, L, D, R if len(weights) // (L * D) % 2 else 0, dtype,
        _precision(dtype, chip), device.type, chip,
        packed, lengths is not None, options.one_hot, asked_of(options, resets),
        torch.is_grad_enabled(), transforming(), hidden(lengths) or hidden(resets),
        HAS_ONEDNN and torch._C._get_mkldnn_enabled(), autocast is not None, _special(),
    )  # fmt: skip


def onednn_lacks(call):
    """Whether oneDNN has no LSTM in autocast's dtype for this CPU.

    torch.nn's operator casts a dense float32 call to that dtype, goes to oneDNN all the same, and
    raises. With operands in 16 bits the operator knows to run without oneDNN.
    """
    dense = not call.packed and not call.lengths and not call.proj_size
    if call.cell is not LSTM or not dense or call.device != "cpu" or not call.onednn:
        return False
    return call.dtype in ONEDNN_SUPPORTS and not ONEDNN_SUPPORTS[call.dtype]()


def asked_of(options, resets):
    """What of a call torch.nn has not, by name."""
    if resets is None and not options.return_cell_states and not options.return_gates:
        return ()  # at once, for the sake of single steps
    return tuple(
        name
        for name, given in (
            ("resets", resets is not None),
            ("cell states", options.return_cell_states),
            ("gates", options.return_gates),
        )
        if given
    )


def _precision(dtype, chip):
    if dtype in (torch.bfloat16, torch.float16):
        return "half"
    return "ieee" if chip is None else fp32_precision()


def mixed(input, hx, weights):
    """Whether input, states and weights have more than one dtype; indices have none."""
    data = input.data if type(input) is PackedSequence else input
    states = () if hx is None else (hx,) if isinstance(hx, torch.Tensor) else hx
    dtypes = {t.dtype for t in (data, *states, weights[0]) if t.is_floating_point()}
    return len(dtypes) > 1


def missing(weights):
    return "a weight is missing" if any(w is None for w in weights) else None


def weights_problem(call, weights):
    """What is wrong with the weights for `call`, or None.

    Apart from `describe` because torch.nn's operators look themselves, and a single step is over
    before all is looked at twice: there, that none is `missing` will do.
    """
    layers, directions = call.layers, call.directions
    per, rest = divmod(len(weights), layers * directions)
    if rest or per not in numbers_of_weights(call.cell):
        return wrong_number(call.cell, weights, layers, directions)
    rows, R = len(call.cell.gates) * call.H, call.proj_size or call.H
    first = [(rows, call.I), (rows, R)]
    if per >= 4:
        first += [(rows,), (rows,)]
    if per % 2:
        first.append((R, call.H))
    shapes = first * directions
    if layers > 1:
        shapes += [(rows, directions * R), *first[1:]] * (directions * (layers - 1))
    for k, (w, expected) in enumerate(zip(weights, shapes, strict=True)):
        if type(w) not in PLAIN:
            return f"{weight_name(k, per, directions)} is {described(w)}, not a plain tensor"
        cast = call.autocast and call.dtype in CAST
        right = w.dtype in CAST if cast else w.dtype is call.dtype
        if w.shape != expected or not right or w.device != weights[0].device:
            needed = f"{expected} {call.dtype} on {weights[0].device}"
            return f"{weight_name(k, per, directions)} is {described(w)}, where {needed} is needed"
    return None


def _state_problem(cell, hx, batch, R, H, dtypes, device):
    states, names = (hx,), ("hx",)
    if len(cell.states) > 1:
        states, names = hx, ("hx[0]", "hx[1]")
        if not isinstance(states, tuple | list) or len(states) != 2:
            several = isinstance(states, tuple | list)
            found = f"{len(states)} tensors" if several else described(states)
            return f"hx is {found}, where two tensors, (h_0, c_0), are needed"
    for name, state, width in zip(names, states, (R, H), strict=False):
        if type(state) not in PLAIN:
            return f"{name} is {described(state)}, not a plain tensor"
        if state.shape != (*batch, width) or state.dtype not in dtypes or state.device != device:
            needed = f"{(*batch, width)} {' or '.join(map(str, dtypes))} on {device}"
            return f"{name} is {described(state)}, where {needed} is needed"
    return None


def autocast_dtype(device):
    """The dtype that autocast asks for, or None."""
    available = device == "cpu" or torch.amp.is_autocast_available(device)
    if available and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def _special():
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a torch dispatch mode is at work"
    return None
