"""The cells of `kernels/cells.py` in the form that is fastest for a loop on a CPU.

A step of time is a handful of calls into torch, so what counts is how few they are and that none of
them allocates. Each class says, for the rows of one chunk of time,

    project       the input side of the pre-activations, for the whole chunk
    forward       the loop over its steps, in place
    coefficients  every gate gradient is linear in dh and dc; what does not depend on these, for the
                  whole chunk
    backward      the loop that is left: a product and one or two multiplications a step

and which buffers that takes, in units of H columns. `one_sided` cells have one gradient for both
sides of a gate, input and recurrent. The formulas are those of `cells.py`, against
which the tests hold these.

The gates of the recurrent side are rotated by one, so that those that share a function lie side by
side: o i f g, and n r z. `rotate` does that to a weight, `unrotate` undoes it to its gradient.
"""

import torch


def rotate(w, H):
    return w.roll(H, 0) if w.shape[0] > H else w


def unrotate(dw, H):
    return None if dw is None else dw.roll(-H, 0) if dw.shape[0] > H else dw


def one_minus_square(y, out):
    """1 - y²: the derivative of tanh, given y = tanh(x)."""
    return torch.addcmul(y.new_ones(()), y, y, value=-1, out=out)


def columns(buffer, H, first, count=1):
    return buffer[:, first * H : (first + count) * H]


class RNN:
    """h' = φ(a). The buffer of pre-activations becomes that of the states."""

    one_sided = True
    forward_widths = (1,)  # h
    saved = ()
    backward_widths = (1, 1)  # a, d
    saved_states = ()

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

    def backward_parts(self, a, d):
        return d, a

    def coefficients(self, buffers, saved, before, h):
        a, _ = buffers
        if self.activation is torch.relu_:
            torch.gt(h, 0, out=a)
        else:
            one_minus_square(h, a)

    def backward(self, steps, carry, w):
        (product,) = carry
        for d, a in steps:
            d.add_(product).mul_(a)
            product = torch.mm(d, w, out=product)
        return (product,)

    def gate_gradients(self, a, d):
        return d, d


class GRU:
    """Buffers: h_n | r | z, of which one product makes all three; n apart, since tanh on a
    contiguous block is up to four times as fast as on a column of one (MKL, two threads)."""

    one_sided = False
    forward_widths = (3, 1, 1)  # h_n r z, n, h
    saved = (slice(0, 3), slice(0, 1))
    backward_widths = (4, 1, 1)  # h_n r z n, z, d
    saved_states = ()

    def __init__(self, H, weights):
        self.H = H
        w_ih, b_ih, b_hh = weights.w_ih, weights.b_ih, weights.b_hh
        self.w_rz, self.w_n = w_ih[: 2 * H], w_ih[2 * H :]
        self.w_ih = w_ih
        self.b_rz = self.b_n = self.b_hn = None
        if b_ih is not None:
            self.b_rz = b_ih[: 2 * H] + b_hh[: 2 * H]
            self.b_n, self.b_hn = b_ih[2 * H :], b_hh[2 * H :]

    def forward_parts(self, gates, n, h):
        H = self.H
        h_n, r, z = gates.split(H, 1)
        return gates, columns(gates, H, 1, 2), r, z, h_n, n, h

    def project(self, x, buffers):
        gates, n, _ = buffers
        x.project(self.w_rz, self.b_rz, columns(gates, self.H, 1, 2))
        x.project(self.w_n, self.b_n, n)
        h_n = columns(gates, self.H, 0)
        h_n.zero_() if self.b_hn is None else h_n.copy_(self.b_hn)

    def forward(self, steps, state, w):
        (h,) = state
        for gates, rz, r, z, h_n, n, out in steps:
            gates.addmm_(h, w)
            rz.sigmoid_()
            n.addcmul_(r, h_n).tanh_()
            h = torch.lerp(n, h, z, out=out)
        return (h,)

    def backward_parts(self, a, z, d):
        rows, H = d.shape
        return d, d.view(rows, 1, H), a.view(rows, 4, H), columns(a, H, 0, 3), z

    def coefficients(self, buffers, saved, before, h):
        H = self.H
        a, z, _ = buffers
        gates, n = saved
        h_n, r = columns(gates, H, 0), columns(gates, H, 1)
        a_hn, a_r, a_z, a_n = a.split(H, 1)
        z.copy_(columns(gates, H, 2))
        one_minus_z = 1 - z
        one_minus_square(n, a_n).mul_(one_minus_z)
        torch.mul(a_n, r, out=a_hn)
        torch.sub(1, r, out=a_r).mul_(h_n).mul_(a_hn)
        torch.sub(before[0], n, out=a_z).mul_(z).mul_(one_minus_z)

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
        return columns(a, self.H, 0, 3), columns(a, self.H, 1, 3)


class LSTM:
    """Buffers: o | i | f | g, where g moves to a block of its own for its tanh (see GRU)."""

    one_sided = True
    forward_widths = (4, 1, 1, 1, 1)  # o i f g, g, c, tanh c, h
    saved = (slice(0, 3), slice(0, 1), slice(0, 1), slice(0, 1))
    backward_widths = (5, 1, 1, 1)  # o i f g and c' past the product; dh to dc; dc; d
    saved_states = (2,)  # c

    def __init__(self, H, weights):
        self.H = H
        self.w_ih = rotate(weights.w_ih, H)
        self.b_ih = None if weights.b_ih is None else rotate(weights.b_ih + weights.b_hh, H)

    def forward_parts(self, gates, g, c, tanh_c, h):
        H = self.H
        o, i, f, raw_g = gates.split(H, 1)
        return gates, columns(gates, H, 0, 3), o, i, f, raw_g, g, c, tanh_c, h

    def project(self, x, buffers):
        x.project(self.w_ih, self.b_ih, buffers[0])

    def forward(self, steps, state, w):
        h, c_before = state
        for gates, oif, o, i, f, raw_g, g, c, tanh_c, out in steps:
            gates.addmm_(h, w)
            oif.sigmoid_()
            g.copy_(raw_g).tanh_()
            torch.mul(f, c_before, out=c).addcmul_(i, g)
            torch.tanh(c, out=tanh_c)
            h = torch.mul(o, tanh_c, out=out)
            c_before = c
        return h, c_before

    def backward_parts(self, a, a_c, dc, d):
        rows, H = d.shape
        per_c = columns(a, H, 1, 4).unflatten(1, (4, H))
        a_o, d_hh, past = columns(a, H, 0), columns(a, H, 0, 4), columns(a, H, 4)
        return d, a_c, dc, dc.view(rows, 1, H), per_c, a_o, d_hh, past

    def coefficients(self, buffers, saved, before, h):
        H = self.H
        a, a_c, _, _ = buffers
        oif, g, _, tanh_c = saved
        o, i, f = oif.split(H, 1)
        a_o, a_i, a_f, a_g, past = a.split(H, 1)
        torch.sub(1, oif, out=columns(a, H, 0, 3)).mul_(oif)
        a_o.mul_(tanh_c)
        a_i.mul_(g)
        a_f.mul_(before[1])
        one_minus_square(g, a_g).mul_(i)
        past.copy_(f)
        one_minus_square(tanh_c, a_c).mul_(o)

    def backward(self, steps, carry, w):
        product, past_c = carry
        for d, a_c, dc, dc_gates, per_c, a_o, d_hh, past in steps:
            d.add_(product)
            torch.addcmul(past_c, d, a_c, out=dc)
            per_c.mul_(dc_gates)
            a_o.mul_(d)
            product = torch.mm(d_hh, w, out=product)
            past_c = past
        return product, past_c

    def gate_gradients(self, a, a_c, dc, d):
        d = columns(a, self.H, 0, 4)
        return d, d
