"""What the kernels keep of a forward pass for the backward pass."""

from .setting import Setting, variable

MODES = ("save", "recompute")

_chosen = variable("use_memory", "save")


def use_memory(mode: str) -> Setting:
    """`with use_memory(mode):` within the block, or as a decorator within the calls of a function,
    forward passes in kernels keep this for their backward pass:

    "save" (the default): the gates of every step. "recompute": only x, h and c; the backward pass
    works out the gates anew, all steps at once, in two matrix products and a launch. Beside its
    input an LSTM layer then keeps h and c in place of h, c and four gates, a third, for about a
    third more arithmetic. No effect on torch's own operators.

    Raises:
        ValueError: no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"unknown memory mode {mode!r}; there are: {', '.join(MODES)}")
    return Setting("use_memory", _chosen, mode)


def memory_mode():
    return _chosen.get()[-1].value
