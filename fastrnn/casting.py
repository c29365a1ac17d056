"""What autocast comes to for a plan that is not an operator which autocast knows."""

import torch


def cast(x, states, weights, dtype):
    """The same in autocast's dtype; indices stay, and so does None for states."""
    x = x.to(dtype) if x.is_floating_point() else x
    states = None if states is None else [s.to(dtype) for s in states]
    return x, states, [w.to(dtype) for w in weights]


def casting(plan):
    """A plan, see `torch_engine.py`, on casts of all that it takes, and out of autocast's sight."""

    def under_autocast(call, x, sizes, state, weights, options, **marks):
        with torch.autocast(call.device, enabled=False):
            x, state, weights = cast(x, state, weights, call.dtype)
            call = call._replace(autocast=False)
            return plan(call, x, sizes, state, weights, options, **marks)

    return under_autocast
