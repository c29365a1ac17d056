"""torch.nn's own operators with what cuDNN lacks: a backward pass in eval mode, one that can be
differentiated, and dropout that the generator's state replays.

cuDNN remembers a forward pass only when it is told to train, has no second derivatives, and draws
its dropout from a state that nobody can set. So it is always told to train, without dropout, which
torch does between the layers. The backward pass is cuDNN's, or, where that is itself to be
differentiated, the one that autograd finds for the formulas (`reference.py`).
"""

import re
import warnings

import torch
from torch.autograd.function import Function
from torch.autograd.graph import get_gradient_edge

from .casting import casting
from .legacy import is_batched, one_by_one
from .results import Results
from .values import numbers, transforming

PIECES = (
    "ignore",
    re.compile("RNN module weights are not part of single contiguous", re.IGNORECASE),
    UserWarning,
    re.compile(r"fastrnn\.torch_engine"),
    0,
)


def differentiable(plan, formulas):
    """A plan, see `torch_engine.py`, from that of torch.nn's operators and that of the formulas."""

    def layers(call, x, sizes, state, weights, options):
        L, D = call.layers, call.directions
        if L == 1 or not options.dropout or not options.training:
            return _whole(plan, formulas, call, x, sizes, state, weights, options)
        per, finals = len(weights) // L, []
        for k in range(L):
            _quiet()
            results = _whole(
                plan,
                formulas,
                call._replace(I=x.shape[-1] if k else call.I, layers=1),
                x,
                sizes,
                None if state is None else [s[k * D : k * D + D] for s in state],
                weights[k * per : k * per + per],
                options._replace(num_layers=1, one_hot=options.one_hot and k == 0),
            )
            finals.append(results.final)
            x = results.output
            if k < L - 1:
                x = torch.dropout(x, options.dropout, True)
        return Results(x, tuple(map(torch.cat, zip(*finals, strict=True))))

    return layers


def _quiet():
    """What a module keeps in one piece are the weights of all layers: of a single one cuDNN makes a
    copy, and torch advises what would not help. Only where it speaks of a call from here."""
    # To add a filter makes Python forget which warnings it has shown, so it is added once.
    if PIECES not in warnings.filters:
        warnings.filterwarnings("ignore", PIECES[1].pattern, PIECES[2], PIECES[3].pattern)


def _whole(plan, formulas, call, x, sizes, state, weights, options):
    """Layers without dropout between them."""
    options = options._replace(dropout=0.0, training=True)
    states = state or ()
    # What the graph holds for the backward pass must be none of the caller's tensors.
    count, steps = len(states), None if sizes is None else tuple(numbers(sizes))

    def by(plan):
        def function(x, *tensors):
            sizes = None if steps is None else torch.tensor(steps)
            results = plan(call, x, sizes, tensors[:count] or None, tensors[count:], options)
            return results.output, *results.final

        return function

    formulas = casting(formulas) if call.autocast else formulas
    output, *final = Native.apply(by(plan), by(formulas), x, *states, *weights)
    return Results(output, tuple(final))


class Native(Function):
    """outputs = Native.apply(operators, formulas, *tensors): both functions of the tensors.

    The operators have a graph of their own, whose ends are kept. It holds no tensor but what they
    have saved, and of that torch's hooks for saved tensors know.
    """

    @staticmethod
    def forward(ctx, operators, formulas, *tensors):
        ctx.formulas = formulas
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        needs = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            inputs, starts = zip(*map(_begun, tensors, needs), strict=True)
            outputs = operators(*inputs)
        ctx.graph = starts, [get_gradient_edge(output) for output in outputs]
        # An output becomes one of this Function's, but for a view, which would be the operators'.
        return tuple(o.detach() if o._is_view() else o for o in outputs)

    @staticmethod
    def backward(ctx, *grads):
        needs = ctx.needs_input_grad[2:]
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        again = torch.is_grad_enabled() or transforming() or any(map(is_batched, grads))
        inputs = ctx.saved_tensors  # an error of torch's if they have been freed
        if again:
            with torch.enable_grad():
                outputs = ctx.formulas(*inputs)
        else:
            inputs, outputs = ctx.graph
        wanted = [t for t, need in zip(inputs, needs, strict=True) if need]
        given = [(o, d) for o, d in zip(outputs, grads, strict=True) if d is not None]
        if not given:
            return (None,) * (2 + len(needs))

        def back(*grads):
            return torch.autograd.grad(
                [o for o, _ in given],
                wanted,
                grads,
                retain_graph=again or keep,
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )

        grads = [d for _, d in given]
        found = iter(one_by_one(back, grads) if any(map(is_batched, grads)) else back(*grads))
        if not keep:
            ctx.graph = None
        return None, None, *(next(found) if need else None for need in needs)


def _begun(tensor, needed):
    """A tensor for a graph of its own to begin with, and the place of its gradient in that graph,
    if one is needed."""
    alone = tensor.detach()
    if not needed:
        return alone, None
    alone.requires_grad_()
    if isinstance(tensor, torch.nn.Parameter):
        return alone, get_gradient_edge(alone)
    # The graph holds on to the leaf that it begins with, so that is to have no memory.
    begun = alone.view_as(alone)
    alone.data = alone.new_empty(0)
    return begun, get_gradient_edge(begun)
