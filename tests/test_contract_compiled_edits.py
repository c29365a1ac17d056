"""Modules that a program has altered, by torch.compile and torch.export: as torch.nn's in eager."""

import pytest
import torch
from torch import nn

import fastrnn
from tests.contract import (
    DEEP,
    DOUBLE,
    GRU,
    LSTM,
    STEP,
    TANH,
    X,
    assert_near,
    each_class,
    exercise,
    outcome,
    state_for,
    tensors,
    twins,
)
from tests.test_contract_attributes import EDITS as ATTRIBUTES
from tests.test_contract_flat_weights import EDITS, like, put
from tests.test_contract_methods import HELPERS, in_the_class, in_the_module

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def assert_compiled_alike(native, ours, edit):
    """Before an edit, after it, and once more. An error may come in torch.compile's wrapping."""
    compiled = torch.compile(ours, backend="eager")
    assert_near(compiled(X), native(X))
    states = state_for(native, 3), None
    edit(native), edit(ours)
    for hx in states:
        with torch.no_grad():
            expected, got = outcome(lambda: native(X, hx)), outcome(lambda: compiled(X, hx))  # noqa: B023
        assert (got.error is None) == (expected.error is None), (got.error, expected.error)
        if expected.error is None:
            assert_near(got.value, expected.value)


@pytest.mark.parametrize("edit", EDITS)
def test_the_list(edit):
    assert_compiled_alike(*twins(TANH, 5, 6, 2, dtype=DOUBLE), EDITS[edit])


# Without dropout, which is drawn, and without what is no bool or int, where torch.nn fails.
PLAIN = [
    (name, value)
    for name, value in ATTRIBUTES
    if name != "dropout" and type(value) is not float and (name != "bias" or not value)
]


@pytest.mark.parametrize(("name", "value"), PLAIN)
def test_attributes(name, value):
    assert_compiled_alike(*twins(LSTM, 5, 6, **DEEP), lambda m: setattr(m, name, value))


@pytest.mark.parametrize("where", [in_the_class, in_the_module])
@pytest.mark.parametrize("name", HELPERS)
def test_helpers(where, name):
    assert_compiled_alike(*twins(GRU, 5, 6, **DEEP), lambda m: where(m, name))


@each_class
def test_edits_of_the_list_in_one_graph(kind):
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    for x in (X, STEP):
        for k in (0, 1, -1):
            leaves = put(native, k, 30), put(ours, k, 30)
            found = [exercise(m, x) for m in (native, compiled)]
            assert_near(list(found[1].values())[:3], list(found[0].values())[:3])
            assert_near(*[[leaf.grad for leaf in part] for part in reversed(leaves)])


@each_class
def test_an_order_that_a_graph_cannot_know_is_an_error(kind):
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    for module in (native, ours):
        module(X)
        put(module, 0, 30)
        module.weight_hh_l0 = nn.Parameter(like(module.weight_hh_l0, 31).detach())
    for read in (
        lambda: torch.compile(ours, backend="eager", fullgraph=True)(X),
        lambda: torch.export.export(ours, (X,)),
    ):
        with pytest.raises(Exception, match=r"_flat_weights|flat_weights\.py|modules\.py"):
            read()
    assert_near(torch.compile(ours, backend="eager")(X), native(X))
    # Told by a call without torch.compile.
    ours(X)
    torch._dynamo.reset()
    assert_near(torch.compile(ours, backend="eager", fullgraph=True)(X), native(X))


@each_class
def test_export_leaves_the_list_alone(kind):
    _, ours = twins(kind, 5, 6, dtype=DOUBLE)
    program = torch.export.export(ours, (X,))
    assert all(a is b for a, b in zip(ours._flat_weights, ours.parameters(), strict=True))
    assert_near(tensors(program.module()(X)), tensors(ours(X)))
    put(ours, 0, 30)
    with pytest.raises(RuntimeError, match=r"_flat_weights\[0\] was replaced"):
        torch.export.export(ours, (X,))


@each_class
def test_diagnose_goes_by_the_list(kind):
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    expected = twins(kind, 5, 6, dtype=DOUBLE)[0]
    expected.weight_hh_l0 = nn.Parameter(like(expected.weight_hh_l0, 30).detach())
    for module in (native, ours):
        put(module, 1, 30)
        assert_near(fastrnn.diagnose(module, X).h, fastrnn.diagnose(expected, X).h)
    ours.input_size = 4
    with pytest.raises(RuntimeError, match="must be equal to input_size"):
        fastrnn.diagnose(ours, X)
    native.mode = "ELMAN"
    # torch.nn.RNN refuses it itself, in torch 2.9 without a word.
    error, words = (AssertionError, "") if kind.name == "RNN" else (ValueError, "ELMAN")
    with pytest.raises(error, match=words):
        fastrnn.diagnose(native, X)
