"""The functional face: the modules' numbers from a list of weights, and its own errors."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fastrnn
from fastrnn import functional

CASES = {
    "lstm": (fastrnn.LSTM, functional.lstm, {}),
    "gru": (fastrnn.GRU, functional.gru, {}),
    "rnn": (fastrnn.RNN, functional.rnn, {}),
    "relu": (fastrnn.RNN, functional.rnn, {"nonlinearity": "relu"}),
}
every_case = pytest.mark.parametrize("case", CASES)


def leaves(value):
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in leaves(v)]


@every_case
@pytest.mark.parametrize("form", ["dense", "batch first", "single", "packed", "one-hot"])
@pytest.mark.parametrize("T", [3, 40])
def test_equals_the_module(case, form, T):
    kind, function, cell = CASES[case]
    stack = {"num_layers": 2, "bidirectional": True, "batch_first": form == "batch first"}
    module = kind(5, 7, **cell, **stack).double()
    x = {
        "single": lambda: torch.randn(T, 5).double(),
        "packed": lambda: pack_sequence([torch.randn(n, 5).double() for n in (T, 3, 1)]),
        "one-hot": lambda: torch.randint(5, (T, 4)),
    }.get(form, lambda: torch.randn(T, 4, 5).double())()
    one_hot = form == "one-hot"
    expected = module(x, one_hot=one_hot)
    got = function(x, None, list(module.parameters()), **cell, **stack, one_hot=one_hot)
    for mine, theirs in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_projection_is_found_among_the_weights():
    module = fastrnn.LSTM(5, 7, proj_size=2)
    x = torch.randn(9, 3, 5)
    output, (h, c) = functional.lstm(x, None, list(module.parameters()))
    assert output.shape == (9, 3, 2)
    assert h.shape == (1, 3, 2)
    assert c.shape == (1, 3, 7)
    torch.testing.assert_close(output, module(x)[0])


@every_case
@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: (x[..., :4], w),
        lambda x, w: (x[:0], w),
        lambda x, w: (x.double(), w),
        lambda x, w: (x[0, 0], w),
        lambda x, w: (x, w[:3]),
        lambda x, w: (x, []),
        lambda x, w: (x, [w[0], w[1].t()[:2], *w[2:]]),
    ],
)
def test_what_does_not_fit_is_a_value_error(case, change):
    kind, function, cell = CASES[case]
    weights = list(kind(5, 7, **cell).parameters())
    x, weights = change(torch.randn(20, 3, 5), weights)
    with pytest.raises(ValueError, match=r"\w"):
        function(x, None, weights, **cell)


def test_options_by_name():
    with pytest.raises(TypeError, match="layers"):
        functional.gru(torch.randn(2, 2, 2), None, list(fastrnn.GRU(2, 2).parameters()), layers=1)
    with pytest.raises(ValueError, match="Unknown nonlinearity 'None'"):
        functional.rnn(torch.randn(2, 2, 2), None, [], nonlinearity=None)
