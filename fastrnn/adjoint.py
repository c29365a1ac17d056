"""The walk back through a layer, as an autograd.Function that has derivatives of its own."""

import torch
from torch.autograd.function import Function

from . import linear
from .folding import vmapped
from .legacy import is_batched, one_by_one
from .nesting import nestable
from .weights import Weights


class Adjoint(Function):
    """dgates, *dstate = Adjoint.apply(layer, D, *tensors), of a layer in D directions.

    The tensors are x, the states, the weights; h, the other states and what else was saved; the
    gradients of h and of the other states, and those of the final states. The layer carries it out,
    by its loop or kernels. Its derivatives are made from the same saved states, by `linear.py`.
    """

    @staticmethod
    def forward(layer, D, *tensors):
        p = _Parts(layer, D, tensors)
        h, *others = p.states
        dgates, dstate = layer.gate_gradients(
            p.x, p.state, p.weights, h, others, p.saved, p.dstates, p.dfinal
        )
        return dgates, *dstate

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.layer, ctx.D, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *d):
        if any(map(is_batched, d)):
            return one_by_one(lambda *alone: Adjoint.backward(ctx, *alone), d)
        function, primals, places = _as_function(ctx.layer, ctx.D, ctx.saved_tensors)
        _, pull = torch.func.vjp(function, *primals)
        grads = [None] * len(ctx.saved_tensors)
        for place, grad in zip(places, pull(d), strict=True):
            grads[place] = grad
        return None, None, *grads

    @staticmethod
    @nestable
    def jvp(ctx, saved, _, __, *tangents):
        function, primals, places = _as_function(ctx.layer, ctx.D, saved)
        changes = tuple(
            torch.zeros_like(primal) if tangents[place] is None else tangents[place]
            for primal, place in zip(primals, places, strict=True)
        )
        # There is no torch.func.jvp within torch.autograd.forward_ad. But the way back is linear in
        # what comes in, so its own way back is the way forth.
        outputs, pull = torch.func.vjp(function, *primals)
        zeros = tuple(map(torch.zeros_like, outputs))
        return torch.func.vjp(lambda *d: pull(d), *zeros)[1](changes)

    @staticmethod
    def vmap(info, in_dims, layer, D, *tensors):
        S = len(layer.cell.states)
        weights = [None] * (D * len(Weights._fields))
        ends = [0, *[1] * S, *weights, *[0] * S], [*[0] * S, *[1] * S]
        saved = [layer.rows_of_saved] * (len(tensors) - sum(map(len, ends)))
        dims = [*ends[0], *saved, *ends[1]]
        return vmapped(
            Adjoint, info.batch_size, in_dims[2:], layer, tensors, dims, [1] * (1 + S), D
        )


class _Parts:
    """The tensors of `Adjoint` by what they are."""

    def __init__(self, layer, D, tensors):
        S = len(layer.cell.states)
        states = 1 + S + D * len(Weights._fields)
        self.x = tensors[0]
        self.state, self.weights = inputs_of(layer.cell, tensors[1:states])
        self.states = tensors[states : states + S]
        self.saved = tensors[states + S : -2 * S]
        self.dstates, self.dfinal = tensors[-2 * S : -S], tensors[-S:]


def _as_function(layer, D, tensors):
    """`Adjoint.forward` by torch's own operators, as a function of those tensors that have
    derivatives: (function, these tensors, their places)."""
    places = [k for k, t in enumerate(tensors) if t is not None and t.is_floating_point()]

    def function(*primals):
        whole = list(tensors)
        for place, primal in zip(places, primals, strict=True):
            whole[place] = primal
        p = _Parts(layer, D, whole)
        return gate_gradients(layer, p.x, p.state, p.weights, p.states, p.dstates, p.dfinal)

    return function, [tensors[place] for place in places], places


def gate_gradients(layer, x, state, weights, states, dstates, dfinal):
    """dgates, *dstate by torch's own operators."""
    D = len(weights)
    parts = [
        linear.gate_gradients(
            layer.cell, walk, x, at(state, d), w, of_direction(states, d, D),
            of_direction(dstates, d, D), at(dfinal, d),
        )
        for d, (walk, w) in enumerate(zip(layer.walks(D, x.device), weights, strict=True))
    ]  # fmt: skip
    dgates, dstate = zip(*parts, strict=True)
    return torch.stack(dgates), *map(torch.stack, zip(*dstate, strict=True))


def inputs_of(cell, tensors):
    """The states, and the `Weights` of each direction."""
    states, per = len(cell.states), len(Weights._fields)
    weights = [Weights(*tensors[k : k + per]) for k in range(states, len(tensors), per)]
    return tensors[:states], weights


def of_direction(states, d, D):
    """Direction d's of rows (N, D*H)."""
    return [s if s is None or D == 1 else s.chunk(D, 1)[d] for s in states]


def at(states, d):
    """Direction d's of states (D, B, H)."""
    return [None if s is None else s[d] for s in states]
