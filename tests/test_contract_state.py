"""Attributes, helper methods, parameters and state dicts: what other code reads of a module."""

import pytest
import torch
from torch import nn

from tests.contract import (
    LSTM,
    assert_same_outcome,
    assert_twins_agree,
    each_class,
    every_cell,
    every_kind,
    every_module,
    normal,
    our_class,
    packed,
    reseed,
    state_for,
    tensors,
    twins,
)

OPTIONS = [
    {},
    {"num_layers": 3, "bidirectional": True},
    {"bias": False},
    {"num_layers": 2, "bias": False, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "dropout": 0.25, "dtype": torch.float64},
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def sample(kind, dtype=torch.float32):
    """Input for a module or cell of input size 3."""
    return normal(2, 3, dtype=dtype) if kind.name.endswith("Cell") else normal(9, 2, 3, dtype=dtype)


@every_module
@every_option
def test_parameters_are_bit_equal_after_the_same_seed(kind, options):
    native, ours = twins(kind, 3, 5, **options)
    after = torch.get_rng_state()
    twins(kind, 3, 5, **options)
    assert torch.equal(torch.get_rng_state(), after)
    assert_same_parameters(native, ours)
    reseed(1)
    native.reset_parameters()
    after = torch.get_rng_state()
    reseed(1)
    ours.reset_parameters()
    assert torch.equal(torch.get_rng_state(), after)
    assert_same_parameters(native, ours)


def assert_same_parameters(native, ours):
    pairs = list(zip(native.named_parameters(), ours.named_parameters(), strict=True))
    for (name, theirs), (our_name, mine) in pairs:
        assert our_name == name
        assert mine.dtype == theirs.dtype
        assert mine.stride() == theirs.stride()
        assert torch.equal(mine, theirs), name


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_cell_parameters_are_bit_equal_after_the_same_seed(kind, bias):
    native, ours = twins(kind, 3, 5, bias=bias)
    assert_same_parameters(native, ours)
    assert list(ours._parameters) == list(native._parameters)
    assert (ours.bias_ih is None) == (native.bias_ih is None)


@every_module
@every_option
def test_attributes_are_native(kind, options):
    native, ours = twins(kind, 3, 5, **options)
    for name in (*native.__constants__, "nonlinearity", "_flat_weights_names", "_all_weights"):
        assert getattr(ours, name, "absent") == getattr(native, name, "absent")
    assert type(ours).__constants__ == type(native).__constants__
    assert repr(ours) == repr(native)
    assert ours.extra_repr() == native.extra_repr()


@every_module
@every_option
def test_flat_weights_and_all_weights_are_the_parameters(kind, options):
    _, ours = twins(kind, 3, 5, **options)
    assert ours.flatten_parameters() is None
    parameters = dict(ours.named_parameters())
    assert len(ours._flat_weights) == len(parameters)
    for name, weight in zip(ours._flat_weights_names, ours._flat_weights, strict=True):
        assert weight is parameters[name]
    for names, weights in zip(ours._all_weights, ours.all_weights, strict=True):
        assert all(w is parameters[n] for n, w in zip(names, weights, strict=True))


@every_kind
def test_buffers_extra_state_and_module_lists_are_native(kind):
    native, ours = twins(kind, 3, 5)
    ours(sample(kind))
    assert list(ours.named_buffers()) == []
    assert list(ours.named_children()) == []
    assert list(ours.state_dict()) == list(native.state_dict())


HELPERS = {
    "check_input": lambda m, x, b: m.check_input(x, b),
    "get_expected_hidden_size": lambda m, x, b: m.get_expected_hidden_size(x, b),
    "get_expected_cell_size": lambda m, x, b: m.get_expected_cell_size(x, b),
    "check_forward_args": lambda m, x, b: m.check_forward_args(x, state_for(m, 2), b),
    "check_forward_args with a bad state": lambda m, x, b: m.check_forward_args(
        x, state_for(m, 3), b
    ),
    "check_hidden_size": lambda m, x, b: m.check_hidden_size(x, tuple(x.shape)),
    "check_hidden_size with a message": lambda m, x, b: m.check_hidden_size(
        x, (1, 2, 3), "{} is not {}"
    ),
    "permute_hidden": lambda m, x, b: tensors(
        m.permute_hidden(state_for(m, 2), torch.tensor([1, 0]))
    ),
    "permute_hidden by None": lambda m, x, b: tensors(m.permute_hidden(state_for(m, 2), None)),
    "_weights_have_changed": lambda m, x, b: m._weights_have_changed(),
    "_update_flat_weights": lambda m, x, b: m._update_flat_weights(),
    "_init_flat_weights": lambda m, x, b: m._init_flat_weights(),
}


@each_class
@pytest.mark.parametrize("helper", HELPERS)
@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([2, 2, 1])], ids=["padded", "packed"])
def test_helper_methods_answer_like_native(kind, helper, batch_sizes):
    def answer(module, x):
        value = HELPERS[helper](module, x, batch_sizes)
        return [t.tolist() for t in value] if isinstance(value, list) else value

    def compare(options, x):
        native, ours = twins(kind, 3, 5, dtype=torch.float64, **options)
        expected, got = assert_same_outcome(lambda: answer(native, x), lambda: answer(ours, x))
        assert got == expected

    for options in OPTIONS[:2]:
        for x in (normal(2, 2, 3), normal(5, 3), normal(2, 2, 4), normal(2, 2, 3).float()):
            compare(options, x)


@every_kind
def test_state_dicts_load_both_ways(kind):
    native, ours = twins(kind, 3, 5, dtype=torch.float64)
    other, our_other = twins(kind, 3, 5, dtype=torch.float64, seed=1)
    x = sample(kind, torch.float64)
    assert not ours.load_state_dict(other.state_dict(), strict=True).missing_keys
    assert_twins_agree(other, ours, x)
    native.load_state_dict(our_other.state_dict(), strict=True)
    assert_twins_agree(native, our_other, x)


@every_module
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_load_state_dict_by_copy_assignment_or_swap(kind, assign, swap):
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    other, _ = twins(kind, 3, 5, seed=1, **options)
    native, ours = twins(kind, 3, 5, **options)
    native(normal(9, 2, 3)), ours(normal(9, 2, 3))
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        loaded, _ = assert_same_outcome(
            lambda: native.load_state_dict(other.state_dict(), assign=assign),
            lambda: ours.load_state_dict(other.state_dict(), assign=assign),
        )
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert_twins_agree(native, ours, normal(9, 2, 3))
    if loaded:
        assert_twins_agree(other, ours, normal(9, 2, 3))


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


def wrong_states(state):
    name = next(iter(state))
    return {
        "missing key": without(state, name),
        "unexpected key": {**state, "extra": state[name]},
        "wrong shape": {**state, name: state[name][1:]},
        "no tensor": {**state, name: 1.0},
    }


@every_kind
@pytest.mark.parametrize("wrong", ["missing key", "unexpected key", "wrong shape", "no tensor"])
def test_wrong_state_dicts_fail_like_native(kind, wrong):
    native, ours = twins(kind, 3, 5)
    state = wrong_states(native.state_dict())[wrong]
    assert_same_outcome(lambda: native.load_state_dict(state), lambda: ours.load_state_dict(state))
    expected, got = assert_same_outcome(
        lambda: str(native.load_state_dict(state, strict=False)),
        lambda: str(ours.load_state_dict(state, strict=False)),
    )
    assert got == expected


@each_class
def test_meta_module_filled_by_assignment(kind):
    native, _ = twins(kind, 3, 5, 2)
    _, ours = twins(kind, 3, 5, 2, device="meta")
    ours.load_state_dict(native.state_dict(), assign=True)
    assert_twins_agree(native, ours, normal(9, 2, 3, dtype=torch.float32))


@every_module
def test_partly_missing_weights_survive_a_move(kind):
    native, ours = twins(kind, 3, 5, 2)
    for module in (native, ours):
        saved = {name: getattr(module, name) for name in module._flat_weights_names}
        for name in saved:
            delattr(module, name)
        module.double()
        for name, weight in saved.items():
            setattr(module, name, nn.Parameter(weight.detach().double()))
    assert_twins_agree(native, ours, normal(9, 2, 3))


@every_module
def test_flatten_parameters_during_use_changes_nothing(kind):
    native, ours = twins(kind, 3, 5, 2, dtype=torch.float64)
    ours.flatten_parameters()
    assert_twins_agree(native, ours, normal(9, 2, 3))
    ours.flatten_parameters()
    assert_twins_agree(native, ours, packed([4, 2, 3], 3))


def test_the_output_state_is_a_tuple():
    _, ours = twins(LSTM, 3, 5)
    x, hx = normal(9, 2, 3, dtype=torch.float32), state_for(ours, 2)
    for result in (ours(x), ours(x, hx), ours(x, list(hx)), ours(packed([4, 2], 3).to(x.dtype))):
        assert type(result) is tuple
        assert type(result[1]) is tuple
    cell = our_class(LSTM._replace(name="LSTMCell"))(3, 5)
    assert type(cell(x[0])) is tuple
