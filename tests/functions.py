"""A module's call as a function of all that it can be differentiated by."""

import torch
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

import fastrnn


def flat(value) -> list[torch.Tensor]:
    """The tensors of results in their order, those of a dict of gates too."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value or ()
    return [tensor for part in parts for tensor in flat(part)]


def function_of(module, x, hx=None, engine="auto", **options):
    """(function, arguments): all results, flat, from x (unless it is indices), states, weights.

    The arguments are leaves of their own. Dropout falls alike in every call.
    """
    names = [name for name, _ in module.named_parameters()]
    data, states = flat(x)[0], flat(hx)
    leading = [data] if data.is_floating_point() else []

    def function(*arguments):
        arguments = list(arguments)
        here = arguments.pop(0) if leading else data
        here = PackedSequence(here, *x[1:]) if isinstance(x, PackedSequence) else here
        given = tuple(arguments.pop(0) for _ in states)
        given = given if len(given) > 1 else given[0] if given else None
        if getattr(module, "dropout", 0):
            torch.manual_seed(3)
        weights = dict(zip(names, arguments, strict=True))
        with fastrnn.use_engine(engine):
            return tuple(flat(functional_call(module, weights, (here, given), options)))

    arguments = [*leading, *states, *module.parameters()]
    return function, [t.detach().clone().requires_grad_() for t in arguments]
