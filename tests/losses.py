"""Both libraries have the same losses from the same seed."""

import pytest


def assert_same(ours, theirs, steps=100):
    """To the four decimals that one would print.

    Not compared as printed: of two numbers, however close, one may be rounded up and one down.
    """
    assert len(ours) == len(theirs) == steps
    assert ours == pytest.approx(theirs, rel=0, abs=5e-6)
