"""The gate math of every cell, forward and backward: what all else is held against.

These are plain functions over tuples of tiles. A tile is anything that adds and multiplies: a torch
tensor (then they are the reference, and `gradcheck` proves them in float64) or a block of registers
in a Triton kernel (`device.py` compiles the same code objects with its own sigmoid, tanh and relu).

    forward(x, h, state)                    -> (after, saved)
    backward(dafter, saved, before, after)  -> (dx, dh, dbefore)

`x` and `h` hold one tile per gate, from the input side (W_ih x + b_ih) and from the recurrent side
(W_hh h + b_hh). `state`, `before`, `after` are `(h,)` or `(h, c)`; `saved` is what backward needs
of forward. `dx` and `dh` are the gradients of the tiles `x` and `h`; `dbefore` is the gradient that
reaches the previous state directly, past the matrix product, and 0.0 where no such path exists.

Gates are in torch's order: i f g o (LSTM) and r z n (GRU). Formulas: the documentation of
torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN.
"""

from torch import relu, sigmoid, tanh


def lstm_forward(x, h, state):
    """i, f, o = σ(x + h);  g = tanh(x + h);  c' = f·c + i·g;  h' = o·tanh(c')."""
    i = sigmoid(x[0] + h[0])
    f = sigmoid(x[1] + h[1])
    g = tanh(x[2] + h[2])
    o = sigmoid(x[3] + h[3])
    c = f * state[1] + i * g
    return (o * tanh(c), c), (i, f, g, o)


def lstm_backward(dafter, saved, before, after):
    """Input and recurrent side are only ever added, so their gradients are the same tiles."""
    i, f, g, o = saved
    tanh_c = tanh(after[1])
    dc = dafter[1] + dafter[0] * o * (1 - tanh_c * tanh_c)
    dgates = (
        dc * g * i * (1 - i),
        dc * before[1] * f * (1 - f),
        dc * i * (1 - g * g),
        dafter[0] * tanh_c * o * (1 - o),
    )
    return dgates, dgates, (0.0, dc * f)


def gru_forward(x, h, state):
    """r, z = σ(x + h);  n = tanh(x_n + r·h_n);  h' = n + z·(h - n).

    The reset gate acts after the matrix product, on h_n = W_hn h + b_hn: torch's variant (and
    cuDNN's), which is why a GRU has two biases that matter.
    """
    r = sigmoid(x[0] + h[0])
    z = sigmoid(x[1] + h[1])
    n = tanh(x[2] + r * h[2])
    return (n + z * (state[0] - n),), (h[2], r, z, n)


def gru_backward(dafter, saved, before, after):
    h_n, r, z, n = saved
    dn = dafter[0] * (1 - z) * (1 - n * n)
    dz = dafter[0] * (before[0] - n) * z * (1 - z)
    dr = dn * h_n * r * (1 - r)
    return (dr, dz, dn), (dr, dz, dn * r), (dafter[0] * z,)


def rnn_tanh_forward(x, h, state):
    """h' = tanh(x + h)."""
    return (tanh(x[0] + h[0]),), ()


def rnn_tanh_backward(dafter, saved, before, after):
    dgates = (dafter[0] * (1 - after[0] * after[0]),)
    return dgates, dgates, (0.0,)


def rnn_relu_forward(x, h, state):
    """h' = max(0, x + h)."""
    return (relu(x[0] + h[0]),), ()


def rnn_relu_backward(dafter, saved, before, after):
    dgates = (dafter[0] * (after[0] > 0),)
    return dgates, dgates, (0.0,)
