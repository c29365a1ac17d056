"""An LSTM with projections (`proj_size`) as one without, for what knows of none.

With h = W_hr h̃ the recurrence in h̃ is a plain LSTM's whose recurrent matrix is W_hh W_hr. Only h_0
need not be any W_hr h̃_0: it enters as further input, at the first step, through W_hh.
"""

import torch
from torch.nn import functional as F


def unprojected(x, initial, weights, lengths, fresh):
    """(x, initial, weights) of the plain LSTM of one layer.

    x: (T, B, I), or (T, B) indices. initial: [] or [h_0 (D, B, R), c_0 (D, B, H)]. weights: a
    `Weights` for each direction. fresh: (D, T, B) bool or None.
    """
    plain = [w._replace(w_hh=w.w_hh @ w.w_hr, w_hr=None) for w in weights]
    if not initial:
        return x, initial, plain
    if not x.is_floating_point():
        x = F.one_hot(x.long(), weights[0].w_ih.shape[1]).to(weights[0].w_ih.dtype)
    h, c = initial
    x = torch.cat((x, *_at_the_first_step(h, x.shape[0], lengths, fresh)), 2)
    D = len(weights)
    for d, w in enumerate(weights):
        columns = [w.w_hh if d == k else torch.zeros_like(w.w_hh) for k in range(D)]
        plain[d] = plain[d]._replace(w_ih=torch.cat((w.w_ih, *columns), 1))
    return x, [torch.zeros_like(c), c], plain


def _at_the_first_step(h, T, lengths, fresh):
    """h (D, B, R) -> (T, B, R) each: where that direction begins, and zeros elsewhere."""
    t = torch.arange(T, device=h.device).unsqueeze(1)
    ends = T if lengths is None else lengths
    for d, (state, first) in enumerate(zip(h, (t == 0, t == ends - 1), strict=False)):
        if fresh is not None:
            first = first & ~fresh[d]
        yield torch.where(first.unsqueeze(2), state, 0.0)


def projected(rows, weights):
    """h of every direction, from h̃ (..., D*H): (..., D*R)."""
    parts = rows.chunk(len(weights), -1)
    return torch.cat([F.linear(h, w.w_hr) for h, w in zip(parts, weights, strict=True)], -1)


def projected_final(final, weights, initial, lengths):
    """h_n (D, B, R), from h̃_n (D, B, H); a sequence without a step keeps what it began with."""
    h = torch.stack([F.linear(h, w.w_hr) for h, w in zip(final, weights, strict=True)])
    if lengths is None or not initial:
        return h
    return torch.where((lengths == 0).unsqueeze(1), initial[0], h)
