"""One set of kernels, two ways to run them: compiled on a GPU, in Triton's interpreter without."""

import os

import pytest
import torch

GPU = torch.cuda.is_available()
if not GPU:
    # Triton reads it when a kernel is defined, so it must be set before any import of one.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tensors here are tiny: a second thread only waits.
torch.set_num_threads(1)


@pytest.fixture
def device():
    """Where the kernels of a test run."""
    return "cuda" if GPU else "cpu"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
