"""Attributes that a program changes after a module was made."""

import copy
from functools import partial

import pytest
import torch

import fastrnn
from tests.contract import (
    DEEP,
    DOUBLE,
    GRU,
    LSTM,
    PACKED,
    PROJECTED,
    STEP,
    TANH,
    X,
    assert_same,
    every_cell,
    exercise,
    insist_on_the_loop,
    outcome,
    state_for,
    twins,
)

SHALLOW = {"dtype": DOUBLE}
CALLS = [(X, None), (X, 3), (STEP, None), (STEP, 3), (PACKED, 3), (X[:, 0], None)]

CHANGES = {
    "bias": [False, None, 1, "no"],
    "input_size": [4, 6, 0],
    "hidden_size": [5, 7, 12, 3],
    "num_layers": [1, 2, 3, 4, 0, 2.0, "2"],
    "batch_first": [True],
    "dropout": [0.5, 0, 1, 1.0, 1.5, -0.1, True, "0.5", None],
    "bidirectional": [True, False],
    "proj_size": [0, 2, 3, 5],
    "mode": ["LSTM", "GRU", "RNN_TANH", "RNN_RELU", "ELMAN", None],
    "nonlinearity": ["relu", "gelu"],
    "training": [False],
}
EDITS = [(name, value) for name, values in CHANGES.items() for value in values]


def assert_alike(native, ours, x, hx):
    """Of a training step each. What torch.nn refuses as no bool or int, fastrnn may take as one."""
    seen = []
    for module in (native, ours):
        torch.default_generator.manual_seed(5)
        seen.append(outcome(lambda: exercise(module, x, hx)))  # noqa: B023
    expected, got = seen
    if expected.error is not None and "invalid combination" in expected.error[1]:
        return
    assert got.error == expected.error
    if expected.error is None:
        assert_same(got.value, expected.value)


@pytest.mark.parametrize("options", [SHALLOW, DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize("kind", [LSTM, PROJECTED, GRU, TANH], ids=str)
@pytest.mark.parametrize(("name", "value"), EDITS)
def test_changed_attributes(kind, options, name, value, monkeypatch):
    for n, (x, batch) in enumerate(CALLS):
        native, ours = twins(kind, 5, 6, **options)
        if n % 2:
            ours = fastrnn.convert(copy.deepcopy(native), None)
            native(X), ours(X)
        hx = state_for(native, batch) if batch else None
        setattr(native, name, value), setattr(ours, name, value)
        assert_alike(native, ours, x, hx)
        with monkeypatch.context() as patch:
            insist_on_the_loop(patch)
            if name != "dropout" or value in (0, 1):  # drawn in another order
                assert_alike(native, ours, x, hx)


CELL_EDITS = [
    ("bias", False),
    ("input_size", 4),
    ("hidden_size", 5),
    ("nonlinearity", "relu"),
    ("nonlinearity", "TANH"),
    ("nonlinearity", None),
    ("bias_ih", None),
    ("weight_hh", None),
    ("training", False),
]


@every_cell
@pytest.mark.parametrize(("name", "value"), CELL_EDITS)
@pytest.mark.parametrize("engine", ["auto", "step"])
def test_changed_attributes_of_cells(kind, name, value, engine):
    inputs = X[0].float()
    for x, batch in ((inputs, None), (inputs, 3), (inputs[0], None)):
        native, ours = twins(kind, 5, 6)
        hx = state_for(native, batch) if batch else None
        setattr(native, name, value), setattr(ours, name, value)
        with fastrnn.use_engine(engine):
            expected, got = (outcome(partial(exercise, m, x, hx)) for m in (native, ours))
        if engine == "step" and expected.error is None and got.error is not None:
            assert "cannot serve this call" in got.error[1]
            continue
        assert got.error == expected.error
        if expected.error is None:
            torch.testing.assert_close(got.value, expected.value)
