"""Both directions of a layer under one roof, for `operators.py`: layers as `autograd.py` knows them
that are made of one layer for each direction."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import bptt, linear, reference
from .adjoint import at, of_direction
from .kernels.cell import Cell
from .walk import walk_of
from .weights import Weights


class Formulas(NamedTuple):
    """One direction by the formulas and, back, by `linear.py`: any dtype, device and lengths.

    lengths: None, or (B,); fresh: None, or (N,) bool.
    """

    cell: Cell
    T: int
    B: int
    reverse: bool
    lengths: Tensor | None
    fresh: Tensor | None

    def forward(self, x, state, weights, keep_all):
        (w,), state = weights, [s[0] for s in state]
        sizes = (self.B,) * self.T
        h, final, others = reference.recurrence(
            self.cell, x, state, w, sizes, self.reverse, self.lengths, self.fresh
        )
        return h, [f.unsqueeze(0) for f in final], others, []

    def backward(self, x, state, weights, h, others, saved, dstates, dfinal, needs, spare):
        (w,), state = weights, at(state, 0)
        walk = walk_of((self.B,) * self.T, self.reverse, self.lengths, self.fresh, x.device)
        states = (h, *others)
        dgates, dstate = linear.gate_gradients(
            self.cell, walk, x, state, w, states, dstates, at(dfinal, 0)
        )
        dx, dw = linear.products(self.cell, walk, x, state[0], w, h, dgates, needs[0])
        return dx, *(d.unsqueeze(0) for d in dstate), *dw


class Apart(NamedTuple):
    """A layer in each of its directions, one after the other."""

    layers: tuple[bptt.Layer | Formulas, ...]

    def forward(self, x, state, weights, keep_all):
        D = len(self.layers)
        parts = [
            layer.forward(x, _kept(state, d), [weights[d]], keep_all)
            for d, layer in enumerate(self.layers)
        ]
        h, final, others, saved = zip(*parts, strict=True)
        final = [torch.cat(s) for s in zip(*final, strict=True)]
        others = [torch.cat(s, 1) for s in zip(*others, strict=True)]
        return (
            h[0] if D == 1 else torch.cat(h, 1),
            final,
            others,
            [s for part in saved for s in part],
        )

    def backward(self, x, state, weights, h, others, saved, dstates, dfinal, needs, spare):
        D, S, per = len(self.layers), len(state), len(Weights._fields)
        dx, dstate, dweights = None, [], []
        for d, layer in enumerate(self.layers):
            h_d, *others_d = (s.contiguous() for s in of_direction((h, *others), d, D))
            count = len(saved) // D
            first = 1 + S + d * per
            part, *rest = layer.backward(
                x,
                _kept(state, d),
                [weights[d]],
                h_d,
                others_d,
                saved[d * count : d * count + count],
                of_direction(dstates, d, D),
                _kept(dfinal, d),
                (*needs[: 1 + S], *needs[first : first + per]),
                spare,
            )
            dx = part if dx is None or part is None else dx + part
            dstate.append(rest[:S])
            dweights += rest[S:]
        return dx, *(torch.cat(s) for s in zip(*dstate, strict=True)), *dweights


def _kept(states, d):
    """Direction d's of states (D, B, H), as (1, B, H)."""
    return [None if s is None else s[d : d + 1] for s in states]
