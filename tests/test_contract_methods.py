"""Helper methods that a program replaces by its own, and methods called by a class's name."""

import types

import pytest
import torch
from torch import nn

import fastrnn
from tests.contract import (
    DEEP,
    DOUBLE,
    X,
    assert_same,
    every_cell,
    every_module,
    exercise,
    state_for,
    twins,
)
from tests.test_contract_attributes import CALLS, assert_alike


def lenient(self, *args):
    """Of a program that knows better."""


def reversed_batch(self, hx, permutation):
    return tuple(h.flip(1) for h in hx) if isinstance(hx, tuple) else hx.flip(1)


def narrower(self, input, batch_sizes):
    raise KeyError("mine")


def never(self):
    return False


HELPERS = {
    "check_forward_args": lenient,
    "check_input": lenient,
    "check_hidden_size": lenient,
    "get_expected_hidden_size": narrower,
    "get_expected_cell_size": narrower,
    "permute_hidden": reversed_batch,
    "_update_flat_weights": lenient,
    "_weights_have_changed": never,
    "_init_flat_weights": lenient,
}


def in_the_class(module, name):
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {name: HELPERS[name]})


def in_the_module(module, name):
    setattr(module, name, types.MethodType(HELPERS[name], module))


@every_module
@pytest.mark.parametrize("where", [in_the_class, in_the_module])
@pytest.mark.parametrize("name", HELPERS)
def test_own_helpers_are_called(kind, where, name):
    for x, batch in [*CALLS, (X[..., :4], 3), (X, 2)]:
        native, ours = twins(kind, 5, 6, **DEEP)
        for module in (native, ours):
            where(module, name)
            module.weight_ih_l0 = nn.Parameter(module.weight_ih_l0.detach() / 2)
        assert_alike(native, ours, x, state_for(native, batch) if batch else None)


def test_own_helpers_leave_a_module_to_torch_nn():
    module = fastrnn.GRU(5, 6, dtype=DOUBLE)
    in_the_module(module, "permute_hidden")
    assert "left to torch.nn: the module has a permute_hidden" in str(fastrnn.explain(module, X))
    with fastrnn.use_engine("torch.bptt"), pytest.raises(RuntimeError, match="permute_hidden"):
        module(X)


@every_module
def test_unbound_calls(kind):
    """By the name of either class, of a module of either."""
    for x, batch in CALLS:
        native, ours = twins(kind, 5, 6, **DEEP)
        hx = state_for(native, batch) if batch else None
        expected = exercise(native, x, hx)
        for module in (native, ours):
            for cls in (getattr(nn, kind.name), getattr(fastrnn, kind.name)):
                assert_same(exercise(module, x, hx, cls.forward), expected)
                assert_same(exercise(module, x, hx, cls.__call__), expected)


@every_cell
def test_unbound_calls_of_cells(kind):
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    for x, hx in ((X[0], state_for(native, 3)), (X[0], None), (X[0, 0], state_for(native))):
        expected = exercise(native, x, hx)
        for module in (native, ours):
            for cls in (getattr(nn, kind.name), getattr(fastrnn, kind.name)):
                assert_same(exercise(module, x, hx, cls.forward), expected)


def test_unbound_calls_of_modules_of_ones_own():
    """Derived from torch.nn's bases: they have all that torch.nn's forward needs."""
    base = nn.RNNBase("GRU", 5, 6, dtype=DOUBLE)
    expected = nn.GRU.forward(base, X)[0]
    assert torch.equal(fastrnn.GRU.forward(base, X)[0], expected)
    cell = nn.RNNCellBase(5, 6, True, 3, dtype=DOUBLE)
    assert torch.equal(fastrnn.GRUCell.forward(cell, X[0]), nn.GRUCell.forward(cell, X[0]))


@pytest.mark.parametrize("asked", [{"lengths": torch.tensor([9, 1, 2])}, {"one_hot": True}])
def test_an_unbound_call_asks_torch_nn_for_nothing_that_it_lacks(asked):
    (name,) = asked
    with pytest.raises(TypeError, match=f"takes no {name}: fastrnn.convert"):
        fastrnn.LSTM.forward(nn.LSTM(5, 6, dtype=DOUBLE), X, **asked)
