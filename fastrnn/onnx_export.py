"""torch.onnx.export: the modules as the operators LSTM, GRU and RNN that ONNX has.

While it traces a model, a module's forward comes here and puts one such node into the graph for
each layer, both directions in it. T and B may be dynamic. What a node takes and gives:

    X (T, B, I); W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H), with the gates in ONNX's order;
    sequence_lens (B,) int32; initial_h and initial_c (D, B, H);
    Y (T, D, B, H), Y_h and Y_c (D, B, H).

torch is told the shapes of all that broadcasts: in an example of one step or one sequence, it would
take the 1 for the size that T or B always has.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from . import traced
from .cell_modules import mode_of
from .describe import asked_of
from .flat_weights import in_a_graph
from .results import Results
from .weights import Weights

# Where ONNX's gates stand in torch's order: i o f g of i f g o, and z r n of r z n.
GATES = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}


def under_way():
    """Whether torch.onnx.export traces the model; in its older way, dynamo=False, it never does."""
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()


def sequences(module, input, hx, options, lengths, resets):
    """The forward of LSTM, GRU and RNN, with its arguments, results and errors.

    Values, of lengths and of indices, are not checked: a graph raises no errors.

    Raises:
        NotImplementedError: a PackedSequence, resets, or cell states and gates as results.
    """
    _refuse(input, asked_of(options, resets))
    weights = None if module._altered() else in_a_graph(module)
    if not weights:
        return module._as_torch(input, hx, options, lengths, resets)

    def stack(x, states, lengths, _):
        if options.one_hot:
            columns = torch.arange(module.input_size, device=x.device)
            x = (x.unsqueeze(-1) == columns).to(weights[0].dtype)
        x, final = _stack(module.mode, x, states, lengths, weights, options)
        return Results(x, tuple(final))

    return traced.sequences(module, weights, input, hx, options, lengths, resets, stack)


def cell(module, input, hx):
    """The forward of a cell: a layer of one step, of a batch of one if there is none."""
    states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    mode = mode_of(module)
    if mode is None or not _fits(module, input, states):
        return module.native.forward(module, input, hx)  # torch.nn's own error
    weights = Weights(module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    _, final = _layer(mode, _lifted(input), tuple(map(_lifted, states)) or None, None, [weights])
    final = [s.squeeze(0) if input.dim() == 2 else s.view(-1) for s in final]
    return tuple(final) if len(final) > 1 else final[0]


def _fits(module, input, states):
    if input.dim() not in (1, 2) or input.shape[-1] != module.input_size:
        return False
    shape = (*input.shape[:-1], module.hidden_size)
    same = all(s.shape == shape and s.dtype == input.dtype for s in states)
    return same and input.dtype == module.weight_ih.dtype


def _lifted(tensor):
    """(B, N) or (N,) -> (1, B, N) or (1, 1, N)."""
    return tensor.unsqueeze(0) if tensor.dim() == 2 else tensor.view(1, 1, -1)


def _refuse(input, asked):
    if isinstance(input, PackedSequence):
        raise NotImplementedError(
            "ONNX has no PackedSequence: export the module with a padded tensor and `lengths=`"
        )
    if asked:
        raise NotImplementedError(
            f"ONNX's operators have no {' and no '.join(asked)}: export the module without, or a "
            "cell (fastrnn.LSTMCell, GRUCell, RNNCell) that is called once for each step"
        )


def _stack(mode, x, states, lengths, flat, options):
    L, D = options.num_layers, options.directions
    finals = []
    for k in range(L):
        weights = [Weights.of_layer(flat, k * D + d, L * D) for d in range(D)]
        before = None if states is None else [s[k * D : k * D + D] for s in states]
        x, final = _layer(mode, x, before, lengths, weights)
        finals.append(final)
        if k < L - 1 and options.dropout and options.training:
            x = F.dropout(x, options.dropout)
    final = [torch.cat(s) if L > 1 else s[0] for s in zip(*finals, strict=True)]
    if lengths is not None and states is not None:
        # The state of a sequence without a step stays what it was; onnxruntime returns zeros.
        empty = (lengths == 0).unsqueeze(1)
        final = [_shaped("Where", (empty, *s), s[0].shape) for s in zip(states, final, strict=True)]
    return x, final


def _layer(mode, x, states, lengths, weights):
    """x (T, B, I), states (D, B, R) or None, weights by direction -> (T, B, D*R), final states."""
    if x.dtype is torch.bfloat16:  # ONNX's operators take it since opset 22, torch asks for 20
        wide = [Weights(*(None if t is None else t.float() for t in w)) for w in weights]
        before = None if states is None else [s.float() for s in states]
        x, final = _layer(mode, x.float(), before, lengths, wide)
        return x.to(torch.bfloat16), [s.to(torch.bfloat16) for s in final]
    op, _, function = mode.partition("_")
    D, (T, B, _), H = len(weights), x.shape, weights[0].w_hh.shape[0] // len(GATES[op])
    w_ih, w_hh = (_by_gate(op, w) for w in zip(*(w[:2] for w in weights), strict=True))
    w_hr = None if weights[0].w_hr is None else torch.stack([w.w_hr.t() for w in weights])
    if w_hr is not None:
        # ONNX has no projection. With h = W_hr h̃ the recurrence in h̃ is a plain LSTM's, of the
        # recurrent matrix W_hh W_hr, but for h_0: that one enters as further input of one step.
        if states is not None:
            x = torch.cat((x, _at_the_first_step(states[0], lengths, T)), 2)
            w_ih = torch.cat((w_ih, _apart(w_hh)), 2)
            states = (x.new_zeros(D, B, H), states[1])
        w_hh = w_hh @ w_hr.transpose(1, 2)
    bias = None
    if weights[0].b_ih is not None:
        b_ih, b_hh = (_by_gate(op, b) for b in zip(*(w[2:4] for w in weights), strict=True))
        bias = torch.cat((b_ih, b_hh), 1)
    attributes = {
        "hidden_size": H,
        "direction": "bidirectional" if D == 2 else "forward",
        **({"linear_before_reset": 1} if op == "GRU" else {}),
        **({"activations": [function.capitalize()] * D} if function else {}),
    }
    count = 2 if op == "LSTM" else 1
    y, *final = torch.onnx.ops.symbolic_multi_out(
        op,
        (x, w_ih, w_hh, bias, None if lengths is None else lengths.int(), *(states or ())),
        attributes,
        dtypes=[x.dtype] * (1 + count),
        shapes=[(T, D, B, H)] + [(D, B, H)] * count,
    )
    if w_hr is not None:
        R = w_hr.shape[2]
        y = _shaped("MatMul", (y, w_hr), (T, D, B, R))
        final[0] = _shaped("MatMul", (final[0], w_hr), (D, B, R))
    return (y.transpose(1, 2).flatten(2) if D == 2 else y.squeeze(1)), final


def _by_gate(op, weights):
    """Each direction's (G*H, ...) -> one tensor (D, G*H, ...) with the gates in ONNX's order."""
    stacked, order = torch.stack(weights), GATES[op]
    if len(order) == 1:
        return stacked
    order = torch.tensor(order, device=stacked.device)
    return stacked.unflatten(1, (len(order), -1)).index_select(1, order).flatten(1, 2)


def _at_the_first_step(h, lengths, T):
    """h (D, B, R) -> (T, B, D*R): each direction's where that direction begins, zeros elsewhere."""
    _, B, R = h.shape
    t = torch.arange(T, device=h.device)[:, None, None]
    last = t == T - 1
    if lengths is not None:
        last = _shaped("Equal", (t, lengths.long().unsqueeze(1) - 1), (T, B, 1), torch.bool)
    zero = h.new_zeros(())
    starts = (t == 0, last)[: len(h)]
    parts = zip(starts, h, strict=True)
    return torch.cat([_shaped("Where", (*part, zero), (T, B, R)) for part in parts], 2)


def _shaped(op, inputs, shape, dtype=None):
    """An operator of ONNX's, with the shape that its result has."""
    return torch.onnx.ops.symbolic(op, inputs, dtype=dtype or inputs[-1].dtype, shape=shape)


def _apart(w):
    """(D, N, R) -> (D, N, D*R): each direction has its own R columns, with zeros in the other's."""
    own = torch.eye(len(w), dtype=w.dtype, device=w.device)
    return (own[:, None, :, None] * w.unsqueeze(2)).flatten(2)
