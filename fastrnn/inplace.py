"""The cells of `kernels/cells.py` in the form that is fastest for a loop on a CPU.

A step of time is a handful of calls into torch, so what counts is how few they are and that none of
them allocates. Each class says, for the rows of one chunk of time,

    project       the input side of the pre-activations, for the whole chunk
    forward       the loop over its steps, in place
    coefficients  every gate gradient is linear in dh and dc; what does not depend on these, for the
                  whole chunk
    backward      the loop that is left: a product and one or two multiplications a step

and which buffers that takes, in units of H columns: which of them hold states beside h (`others`),
and of which how much is kept for the backward pass (`saved`). `join` puts the gradients of those
other states into the buffers of the way back. Blocks of gates are in torch's order, so that weights
and their gradients need no rearranging. The formulas are those of `cells.py`, against which
the tests hold these.

`gate_gradients` gives the gradient of the recurrent side, and a list of (gradient, rows of W_ih)
for the input side.
"""

from typing import ClassVar

import torch


def one_minus_square(y, out):
    """1 - y²: the derivative of tanh, given y = tanh(x)."""
    return torch.addcmul(y.new_ones(()), y, y, value=-1, out=out)


def columns(buffer, H, first, count=1):
    return buffer[:, first * H : (first + count) * H]


class RNN:
    """h' = φ(a). The buffer of pre-activations becomes that of the states."""

    forward_widths = (1,)  # h
    others = ()
    saved: ClassVar[dict[int, int]] = {}
    backward_widths = (1, 1)  # a, d

    def __init__(self, H, weights, activation):
        self.H = H
        self.activation = activation
        self.w_ih = weights.w_ih
        self.b_ih = None if weights.b_ih is None else weights.b_ih + weights.b_hh

    def forward_parts(self, h):
        return (h,)

    def project(self, x, buffers):
        x.project(self.w_ih, self.b_ih, buffers[0])

    def forward(self, steps, state, w):
        activation = self.activation
        (h,) = state
        for (a,) in steps:
            h = activation(a.addmm_(h, w))
        return (h,)

    def finish(self, buffers):
        """After the last step of a chunk, before its buffers are saved."""

    def backward_parts(self, a, d):
        return d, a

    def coefficients(self, buffers, saved, before, h):
        a, _ = buffers
        if self.activation is torch.relu_:
            torch.gt(h, 0, out=a)
        else:
            one_minus_square(h, a)

    def join(self, buffers, dothers):
        """There is no state but h."""

    def backward(self, steps, carry, w):
        (product,) = carry
        for d, a in steps:
            d.add_(product).mul_(a)
            product = torch.mm(d, w, out=product)
        return (product,)

    def gate_gradients(self, a, d):
        return d, [(d, slice(None))]


class GRU:
    """Buffers: r | z | h_n, of which one product makes all three; n apart, since tanh on a
    contiguous block is up to four times as fast as on a column of one (MKL, two threads)."""

    forward_widths = (3, 1, 1)  # r z h_n, n, h
    others = ()
    saved: ClassVar[dict[int, int]] = {0: 3, 1: 1}
    backward_widths = (4, 1, 1)  # n r z h_n, z, d

    def __init__(self, H, weights):
        self.H = H
        w_ih, b_ih, b_hh = weights.w_ih, weights.b_ih, weights.b_hh
        self.w_rz, self.w_n = w_ih[: 2 * H], w_ih[2 * H :]
        self.b_rz = self.b_n = self.b_hn = None
        if b_ih is not None:
            self.b_rz = b_ih[: 2 * H] + b_hh[: 2 * H]
            self.b_n, self.b_hn = b_ih[2 * H :], b_hh[2 * H :]

    def forward_parts(self, gates, n, h):
        H = self.H
        r, z, h_n = gates.split(H, 1)
        return gates, columns(gates, H, 0, 2), r, z, h_n, n, h

    def project(self, x, buffers):
        gates, n, _ = buffers
        x.project(self.w_rz, self.b_rz, columns(gates, self.H, 0, 2))
        x.project(self.w_n, self.b_n, n)
        h_n = columns(gates, self.H, 2)
        h_n.zero_() if self.b_hn is None else h_n.copy_(self.b_hn)

    def forward(self, steps, state, w):
        (h,) = state
        for gates, rz, r, z, h_n, n, out in steps:
            gates.addmm_(h, w)
            rz.sigmoid_()
            n.addcmul_(r, h_n).tanh_()
            h = torch.lerp(n, h, z, out=out)
        return (h,)

    def finish(self, buffers):
        """Nothing to do."""

    def backward_parts(self, a, z, d):
        rows, H = d.shape
        return d, d.view(rows, 1, H), a.view(rows, 4, H), columns(a, H, 1, 3), z

    def coefficients(self, buffers, saved, before, h):
        H = self.H
        a, z, _ = buffers
        gates, n = saved
        r, saved_z, h_n = gates.split(H, 1)
        a_n, a_r, a_z, a_hn = a.split(H, 1)
        z.copy_(saved_z)
        one_minus_z = 1 - z
        one_minus_square(n, a_n).mul_(one_minus_z)
        torch.mul(a_n, r, out=a_hn)
        torch.sub(1, r, out=a_r).mul_(h_n).mul_(a_hn)
        torch.sub(before[0], n, out=a_z).mul_(z).mul_(one_minus_z)

    def join(self, buffers, dothers):
        """There is no state but h."""

    def backward(self, steps, carry, w):
        (past,) = carry
        product = torch.empty_like(past)
        for d, d_gates, a, d_hh, z in steps:
            d.add_(past)
            torch.mul(d, z, out=past)
            a.mul_(d_gates)
            past.add_(torch.mm(d_hh, w, out=product))
        return (past,)

    def gate_gradients(self, a, z, d):
        H = self.H
        d_ih = [(columns(a, H, 1, 2), slice(0, 2 * H)), (columns(a, H, 0), slice(2 * H, 3 * H))]
        return columns(a, H, 1, 3), d_ih


class LSTM:
    """Buffers: i | f | g | o, where g moves to a block of its own for its tanh (see GRU)."""

    forward_widths = (4, 1, 1, 1, 1)  # i f g o, g, c, tanh c, h
    others = (2,)  # c
    saved: ClassVar[dict[int, int]] = {0: 4, 3: 1}  # `finish` has put g back among the gates
    backward_widths = (5, 1, 1, 1)  # c' past the product, i f g o; dh to dc; dc; d

    def __init__(self, H, weights):
        self.H = H
        self.w_ih = weights.w_ih
        self.b_ih = None if weights.b_ih is None else weights.b_ih + weights.b_hh

    def forward_parts(self, gates, g, c, tanh_c, h):
        i, f, raw_g, o = gates.split(self.H, 1)
        return gates, i, f, raw_g, o, g, c, tanh_c, h

    def project(self, x, buffers):
        x.project(self.w_ih, self.b_ih, buffers[0])

    def forward(self, steps, state, w):
        h, c_before = state
        for gates, i, f, raw_g, o, g, c, tanh_c, out in steps:
            gates.addmm_(h, w)
            g.copy_(raw_g).tanh_()
            gates.sigmoid_()  # of all four: one call on a whole block, and g has moved out
            torch.mul(f, c_before, out=c).addcmul_(i, g)
            torch.tanh(c, out=tanh_c)
            h = torch.mul(o, tanh_c, out=out)
            c_before = c
        return h, c_before

    def finish(self, buffers):
        columns(buffers[0], self.H, 2).copy_(buffers[1])

    def backward_parts(self, a, a_c, dc, d):
        rows, H = d.shape
        per_c = columns(a, H, 0, 4).unflatten(1, (4, H))
        past, a_o, d_hh = columns(a, H, 0), columns(a, H, 4), columns(a, H, 1, 4)
        return d, a_c, dc, dc.view(rows, 1, H), per_c, a_o, d_hh, past

    def coefficients(self, buffers, saved, before, h):
        H = self.H
        a, a_c, _, _ = buffers
        gates, tanh_c = saved
        i, f, g, o = gates.split(H, 1)
        past, a_i, a_f, a_g, a_o = a.split(H, 1)
        past.copy_(f)
        torch.sub(1, i, out=a_i).mul_(i).mul_(g)
        torch.sub(1, f, out=a_f).mul_(f).mul_(before[1])
        one_minus_square(g, a_g).mul_(i)
        torch.sub(1, o, out=a_o).mul_(o).mul_(tanh_c)
        one_minus_square(tanh_c, a_c).mul_(o)

    def join(self, buffers, dothers):
        (dc,) = dothers
        self.joined = dc is not None
        if self.joined:
            buffers[2].copy_(dc)

    def backward(self, steps, carry, w):
        product, past_c = carry
        for d, a_c, dc, dc_gates, per_c, a_o, d_hh, past in steps:
            d.add_(product)
            if self.joined:
                dc.add_(past_c).addcmul_(d, a_c)
            else:
                torch.addcmul(past_c, d, a_c, out=dc)
            per_c.mul_(dc_gates)
            a_o.mul_(d)
            product = torch.mm(d_hh, w, out=product)
            past_c = past
        return product, past_c

    def gate_gradients(self, a, a_c, dc, d):
        d_hh = columns(a, self.H, 1, 4)
        return d_hh, [(d_hh, slice(None))]
