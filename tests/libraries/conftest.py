"""Other people's libraries, with fastrnn's modules in their hands. `.ci/libraries` installs them.

A library is imported by the test that needs it, so that a plain `pytest` passes by quickly.
"""

from pathlib import Path

import pytest
import torch

import fastrnn


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # theirs, about themselves


@pytest.fixture
def library():
    """`library(name)` imports one, or skips the test."""

    def get(name):
        return pytest.importorskip(name, reason=f"{name} of the extra `libraries` is missing")

    return get


@pytest.fixture(autouse=True)
def as_before():
    """Seeds, and the names in torch.nn."""
    torch.manual_seed(0)
    yield
    fastrnn.unpatch()
