"""What the kernels keep of a forward pass for the backward pass."""

from contextlib import contextmanager
from contextvars import ContextVar

MODES = ("save", "recompute")

_chosen: ContextVar[str] = ContextVar("fastrnn_memory", default="save")


@contextmanager
def use_memory(mode: str):
    """Within the block, forward passes in kernels keep this for their backward pass:

    "save" (the default): the gates of every step. "recompute": only x, h and c; the backward pass
    works out the gates anew, all steps at once, in two matrix products and a launch. Beside its
    input an LSTM layer then keeps h and c in place of h, c and four gates, a third, for about a
    third more arithmetic. No effect on torch's own operators.

    Raises:
        ValueError: no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"unknown memory mode {mode!r}; there are: {', '.join(MODES)}")
    token = _chosen.set(mode)
    try:
        yield
    finally:
        _chosen.reset(token)


def memory_mode():
    return _chosen.get()
