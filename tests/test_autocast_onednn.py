"""An LSTM under autocast on a CPU for which oneDNN has no kernels in 16 bits."""

import pytest
import torch
from torch.nn.functional import one_hot

from fastrnn import describe
from tests.contract import LSTM, normal, twins

LOW = (torch.bfloat16, torch.float16)
T, B, I, H = 4, 3, 5, 6


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("form", ["dense", "one-hot"])
def test_an_lstm_of_which_onednn_has_no_kernel(low, form, monkeypatch):
    """Results are those of a module of autocast's dtype, where torch.nn raises oneDNN's error."""
    monkeypatch.setattr(describe, "ONEDNN_SUPPORTS", dict.fromkeys(LOW, lambda: False))
    native, ours = twins(LSTM, I, H, num_layers=2, bidirectional=True)
    x = normal(T, B, I).float() if form == "dense" else torch.randint(I, (T, B))
    with torch.autocast("cpu", low):
        output, state = ours(x, one_hot=form == "one-hot")
    output.float().sum().backward()
    dense = x if form == "dense" else one_hot(x, I)
    expected, expected_state = native.to(low)(dense.to(low))
    expected.float().sum().backward()
    for mine, theirs in zip((output, *state), (expected, *expected_state), strict=True):
        assert mine.dtype is low
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(ours.parameters(), native.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.to(low), theirs.grad)
