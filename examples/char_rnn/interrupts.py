"""Ctrl-C that waits for the end of a window, so that what is saved then is whole."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Gives a function; within the block, Ctrl-C is a KeyboardInterrupt of its next call."""
    came = False

    def note(*_) -> None:
        nonlocal came
        came = True

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
