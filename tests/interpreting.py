"""Less time in Triton's interpreter."""

from contextlib import contextmanager
from unittest import mock

from triton.runtime import interpreter


@contextmanager
def patching_once():
    """The interpreter looks through a module in each call of one of its functions, which takes half
    of the time: within the block, once for a module."""
    patch_lang, done = interpreter._patch_lang, set()

    def patch(function):
        if function.__module__ not in done:
            done.add(function.__module__)
            return patch_lang(function)

    with mock.patch.object(interpreter, "_patch_lang", patch):
        yield
