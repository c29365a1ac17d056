"""Errors of forward: torch.nn's type and text, and nothing half done."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from tests.contract import (
    CELLS,
    LSTM,
    assert_same_call,
    each_class,
    mapped,
    normal,
    outcome,
    packed,
    reseed,
    state_for,
    tensors,
    twins,
)

T, B, I, H = 3, 4, 3, 5
FLOAT = torch.float32


def data(*shape, dtype=FLOAT):
    return normal(*shape, dtype=dtype)


def states(module, *shape, dtype=FLOAT):
    """States of any shape, as many as the module has."""
    h = data(*shape, dtype=dtype)
    return (h, h.clone()) if "LSTM" in type(module).__name__ else h


def lengths(*sizes):
    return packed(list(sizes), I, dtype=FLOAT)


X = data(T, B, I)

# Modules have two layers and both directions: a state is (4, B, 5).
MISTAKES = {
    "input 0-D": lambda m: m(data()),
    "input 1-D": lambda m: m(data(I)),
    "input 4-D": lambda m: m(data(1, T, B, I)),
    "input 4-D and a state": lambda m: m(data(1, T, B, I), states(m, 4, B, H)),
    "state 2-D": lambda m: m(X, states(m, 4, H)),
    "state 1-D": lambda m: m(X, states(m, H)),
    "state 4-D": lambda m: m(X, states(m, 1, 4, B, H)),
    "unbatched, state 3-D": lambda m: m(data(T, I), states(m, 4, 1, H)),
    "unbatched, state 1-D": lambda m: m(data(T, I), states(m, H)),
    "unbatched, state of one layer": lambda m: m(data(T, I), states(m, 1, H)),
    "two features": lambda m: m(data(T, B, 2)),
    "four features": lambda m: m(data(T, B, 4)),
    "no features": lambda m: m(data(T, B, 0)),
    "unbatched, two features": lambda m: m(data(T, 2)),
    "two features and a wrong state": lambda m: m(data(T, B, 2), states(m, 4, 3, H)),
    "state of three sequences": lambda m: m(X, states(m, 4, 3, H)),
    "state of one sequence": lambda m: m(X, states(m, 4, 1, H)),
    "state of two rows": lambda m: m(X, states(m, 2, B, H)),
    "state of four units": lambda m: m(X, states(m, 4, B, 4)),
    "state batch first": lambda m: (
        m(X, states(m, B, 4, H).transpose(0, 1)[:3])
        if "LSTM" not in type(m).__name__
        else m(X, tuple(s.transpose(0, 1)[:3] for s in states(m, B, 4, H)))
    ),
    "input double": lambda m: m(X.double()),
    "input bfloat16": lambda m: m(X.bfloat16()),
    "input complex": lambda m: m(X.to(torch.complex64)),
    "input of integers": lambda m: m(X.long()),
    "input of booleans": lambda m: m(X > 0),
    "input and state double": lambda m: m(X.double(), states(m, 4, B, H, dtype=torch.float64)),
    "input double, two features": lambda m: m(data(T, B, 2).double()),
    "state double": lambda m: m(X, states(m, 4, B, H, dtype=torch.float64)),
    "state of integers": lambda m: m(X, mapped(torch.Tensor.long, states(m, 4, B, H))),
    "no steps": lambda m: m(data(0, B, I)),
    "no steps and a state": lambda m: m(data(0, B, I), states(m, 4, B, H)),
    "unbatched, no steps": lambda m: m(data(0, I)),
    "no steps, no sequences": lambda m: m(data(0, 0, I)),
    "state a tuple of three": lambda m: m(X, (data(4, B, H),) * 3),
    "state a tuple of one": lambda m: m(X, (data(4, B, H),)),
    "state an empty tuple": lambda m: m(X, ()),
    "state a tuple of None": lambda m: m(X, (None, None)),
    "state a number": lambda m: m(X, 0.0),
    "input None": lambda m: m(None),
    "input a list": lambda m: m([X]),
    "input a number": lambda m: m(1.0),
    "input on another device": lambda m: m(X.to("meta")),
    "no input": lambda m: m(),
    "unknown keyword": lambda m: m(X, state=None),
    "too many arguments": lambda m: m(X, None, None),
    "packed, two features": lambda m: m(packed([3, 2], 2, dtype=FLOAT)),
    "packed double": lambda m: m(packed([3, 2], I)),
    "packed double and a state": lambda m: (
        m(packed([3, 2], I), states(m, 4, 2, H).double())
        if "LSTM" not in type(m).__name__
        else m(packed([3, 2], I), states(m, 4, 2, H, dtype=torch.float64))
    ),
    "packed, state of three": lambda m: m(lengths(3, 2), states(m, 4, 3, H)),
    "packed, state of one": lambda m: m(lengths(3, 2), states(m, 4, 1, H)),
    "packed, state of two rows": lambda m: m(lengths(3, 2), states(m, 2, 2, H)),
    "packed, state of four units": lambda m: m(lengths(3, 2), states(m, 4, 2, 4)),
    "packed, state 2-D": lambda m: m(lengths(3, 2), states(m, 4, H)),
    "packed, state double": lambda m: m(lengths(3, 2), states(m, 4, 2, H, dtype=torch.float64)),
    "packed, no batch sizes": lambda m: m(
        PackedSequence(data(0, I), torch.empty(0, dtype=torch.int64))
    ),
    "packed, too few rows": lambda m: m(PackedSequence(data(5, I), torch.tensor([4, 2]))),
    "packed, 3-D data": lambda m: m(PackedSequence(data(5, 1, I), torch.tensor([3, 2]))),
}

LSTM_MISTAKES = {
    "stacked state": lambda m: m(X, data(2, 4, B, H)),
    "state one tensor": lambda m: m(X, data(4, B, H)),
    "h right, c 2-D": lambda m: m(X, (data(4, B, H), data(4, H))),
    "h 2-D, c right": lambda m: m(X, (data(4, H), data(4, B, H))),
    "c of three sequences": lambda m: m(X, (data(4, B, H), data(4, 3, H))),
    "c of four units": lambda m: m(X, (data(4, B, H), data(4, B, 4))),
    "h of four units": lambda m: m(X, (data(4, B, 4), data(4, B, H))),
    "c double": lambda m: m(X, (data(4, B, H), data(4, B, H).double())),
    "h double": lambda m: m(X, (data(4, B, H).double(), data(4, B, H))),
    "c None": lambda m: m(X, (data(4, B, H), None)),
    "unbatched, c 3-D": lambda m: m(data(T, I), (data(4, H), data(4, 1, H))),
    "packed, c of three": lambda m: m(lengths(3, 2), (data(4, 2, H), data(4, 3, H))),
    "packed, c double": lambda m: m(lengths(3, 2), (data(4, 2, H), data(4, 2, H).double())),
    "projected, h of hidden size": lambda m: m(X, (data(4, B, H), data(4, B, H))),
    "projected, c of projected size": lambda m: m(X, (data(4, B, 2), data(4, B, 2))),
}


def assert_unharmed(module, native, call, x):
    """After the error: equal parameters and random state, no gradients, and a working module."""
    before = [(p, p.detach().clone(), p._version) for p in module.parameters()]
    keys, random = set(vars(module)), torch.get_rng_state()
    outcome(lambda: call(module))
    assert torch.equal(torch.get_rng_state(), random)
    assert set(vars(module)) == keys
    for now, (was, bits, version) in zip(module.parameters(), before, strict=True):
        assert now is was
        assert torch.equal(now, bits)
        assert now._version == version
        assert now.grad is None
    for mine, theirs in zip(tensors(module(x)), tensors(native(x)), strict=True):
        torch.testing.assert_close(mine, theirs)


@each_class
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_raises_like_native(kind, mistake):
    native, ours = twins(kind, I, H, 2, bidirectional=True, dropout=0.5)
    native.eval(), ours.eval()
    call = MISTAKES[mistake]
    assert_same_call(native, ours, call)
    assert_unharmed(ours, native, call, X)


@each_class
@pytest.mark.parametrize("mistake", [name for name in MISTAKES if "packed" not in name])
def test_a_mistake_raises_like_native_batch_first(kind, mistake):
    native, ours = twins(kind, I, H, 2, bidirectional=True, batch_first=True)
    assert_same_call(native, ours, MISTAKES[mistake])


@pytest.mark.parametrize("mistake", LSTM_MISTAKES)
def test_a_mistake_with_two_states_raises_like_native(mistake):
    options = {"proj_size": 2} if "projected" in mistake else {}
    native, ours = twins(LSTM, I, H, 2, bidirectional=True, **options)
    call = LSTM_MISTAKES[mistake]
    assert_same_call(native, ours, call)
    assert_unharmed(ours, native, call, X)


@each_class
@pytest.mark.parametrize("mistake", ["no steps", "state double", "packed, state of one"])
def test_an_error_in_training_draws_no_random_numbers(kind, mistake):
    native, ours = twins(kind, I, H, 2, bidirectional=True, dropout=0.5)
    for module in (native, ours):
        reseed(3)
        before = torch.get_rng_state()
        assert outcome(lambda: MISTAKES[mistake](module)).error  # noqa: B023
        assert torch.equal(torch.get_rng_state(), before)


@each_class
def test_jagged_input_is_refused(kind):
    native, ours = twins(kind, I, H)
    x = torch.nested.nested_tensor([data(2, I), data(3, I)], layout=torch.jagged)
    errors = [outcome(lambda: module(x)).error for module in (native, ours)]  # noqa: B023
    assert errors[0]
    assert errors[1]
    assert issubclass(errors[1][0], (RuntimeError, ValueError, TypeError))


@each_class
def test_autocast_skips_the_dtype_check(kind):
    native, ours = twins(kind, I, H)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_call(native, ours, lambda m: m(X.bfloat16()))


CELL_MISTAKES = {
    "input 0-D": lambda m: m(data()),
    "input 3-D": lambda m: m(data(1, B, I)),
    "state 0-D": lambda m: m(data(B, I), states(m)),
    "state 3-D": lambda m: m(data(B, I), states(m, 1, B, H)),
    "unbatched, state 2-D": lambda m: m(data(I), states(m, 1, H)),
    "unbatched, state 2-D of two": lambda m: m(data(I), states(m, 2, H)),
    "batched, state 1-D": lambda m: m(data(B, I), states(m, H)),
    "one sequence, state 1-D": lambda m: m(data(1, I), states(m, H)),
    "two features": lambda m: m(data(B, 2)),
    "unbatched, two features": lambda m: m(data(2)),
    "two features and a state": lambda m: m(data(B, 2), states(m, B, H)),
    "state of four units": lambda m: m(data(B, I), states(m, B, 4)),
    "state of three sequences": lambda m: m(data(B, I), states(m, 3, H)),
    "state of one sequence": lambda m: m(data(B, I), states(m, 1, H)),
    "input double": lambda m: m(data(B, I).double()),
    "input of integers": lambda m: m(data(B, I).long()),
    "state double": lambda m: m(data(B, I), states(m, B, H, dtype=torch.float64)),
    "both double": lambda m: m(data(B, I).double(), states(m, B, H, dtype=torch.float64)),
    "both integers": lambda m: m(data(B, I).long(), mapped(torch.Tensor.long, states(m, B, H))),
    "stacked state": lambda m: m(data(B, I), data(2, B, H)),
    "state a tuple of three": lambda m: m(data(B, I), (data(B, H),) * 3),
    "state a tuple of one": lambda m: m(data(B, I), (data(B, H),)),
    "state a pair": lambda m: m(data(B, I), (data(B, H), data(B, H).double())),
    "c 3-D": lambda m: m(data(B, I), (data(B, H), data(1, B, H))),
    "c of three sequences": lambda m: m(data(B, I), (data(B, H), data(3, H))),
    "c of four units": lambda m: m(data(B, I), (data(B, H), data(B, 4))),
    "h of four units": lambda m: m(data(B, I), (data(B, 4), data(B, H))),
    "state a list": lambda m: m(data(B, I), [data(B, H), data(B, H)]),
    "state a number": lambda m: m(data(B, I), 0.0),
    "input None": lambda m: m(None),
    "packed": lambda m: m(lengths(3, 2)),
    "no input": lambda m: m(),
    "unknown keyword": lambda m: m(data(B, I), state=None),
    "input on another device": lambda m: m(data(B, I).to("meta")),
}


@pytest.mark.parametrize("kind", CELLS[:3], ids=str)
@pytest.mark.parametrize("mistake", CELL_MISTAKES)
def test_a_cell_raises_like_native(kind, mistake):
    native, ours = twins(kind, I, H)
    call = CELL_MISTAKES[mistake]
    assert_same_call(native, ours, call)
    assert_unharmed(ours, native, call, data(B, I))


def test_an_unknown_nonlinearity_fails_in_forward():
    native, ours = twins(CELLS[2], I, H)
    native.nonlinearity = ours.nonlinearity = "gelu"
    assert_same_call(native, ours, lambda m: m(data(B, I)))


@each_class
def test_an_error_inside_no_grad_or_autocast_leaves_both_as_they_were(kind):
    _, ours = twins(kind, I, H)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert outcome(lambda: ours(data(T, B, 2))).error
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_inference_mode_enabled()
    assert outcome(lambda: ours(data(T, B, 2))).error
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@each_class
def test_state_defaults_follow_the_input(kind):
    _, ours = twins(kind, I, H, dtype=torch.float64)
    zeros = mapped(torch.zeros_like, state_for(ours, B))
    given, default = ours(X.double(), zeros)[0], ours(X.double())[0]
    torch.testing.assert_close(default, given, rtol=0, atol=0)
