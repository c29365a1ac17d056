"""Constructors: what they accept, refuse and warn about, in torch.nn's words and order."""

import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from tests.contract import (
    GRU,
    LSTM,
    TANH,
    Kind,
    assert_same_construction,
    assert_same_outcome,
    described,
    each_class,
    every_kind,
    every_module,
    native_class,
    our_class,
    outcome,
    reseed,
    tensors,
    twins,
)

LAYERS = {"num_layers": 2}

# Positional and keyword arguments of one call.
CALLS = [
    ((3, 5), {}),
    ((3, 5, 2), {}),
    ((), {"input_size": 3, "hidden_size": 5}),
    ((3,), {"hidden_size": 5}),
    ((3, 5), {"dropout": "a"}),
    ((3, 5), {"dropout": "0.5"}),
    ((3, 5), {"dropout": None}),
    ((3, 5), {"dropout": True}),
    ((3, 5), {"dropout": False}),
    ((3, 5), {"dropout": float("nan")}),
    ((3, 5), {"dropout": -0.1}),
    ((3, 5), {"dropout": 1.1}),
    ((3, 5), {"dropout": torch.tensor(0.5)}),
    ((3, 5), {"dropout": 0.5}),
    ((3, 5), {"dropout": 1}),
    ((3, 5), {"dropout": 0.5, **LAYERS}),
    ((3, 5), {"dropout": 1, **LAYERS}),
    ((3, 5), {"dropout": np.float32(0.5), **LAYERS}),
    ((3, 5), {"dropout": Fraction(1, 2), **LAYERS}),
    ((3, 5), {"bias": False}),
    ((3, 5), {"bias": 1}),
    ((3, 5), {"bias": None}),
    ((3, 5), {"batch_first": True}),
    ((3, 5), {"batch_first": 1}),
    ((3, 5), {"batch_first": "yes"}),
    ((3.0, 5), {}),
    (("3", 5), {}),
    ((None, 5), {}),
    ((True, 5), {}),
    ((np.int64(3), 5), {}),
    ((0, 5), {}),
    ((-1, 5), {}),
    ((3, 5.0), {}),
    ((3, "5"), {}),
    ((3, True), {}),
    ((3, 0), {}),
    ((3, -1), {}),
    ((3, 5, 0), {}),
    ((3, 5, -1), {}),
    ((3, 5, 2.0), {}),
    ((3, 5, "2"), {}),
    ((3, 5, True), {}),
    ((3, 5), {"bidirectional": True}),
    ((3, 5), {"bidirectional": 1}),
    ((3, 5), {"bidirectional": "yes"}),
    ((3, 5), {"bidirectional": []}),
    ((3, 5), {"bidirectional": None, **LAYERS}),
    ((3, 5), {"proj_size": 0}),
    ((3, 5), {"proj_size": 2}),
    ((3, 5), {"proj_size": -1}),
    ((3, 5), {"proj_size": 5}),
    ((3, 5), {"proj_size": 6}),
    ((3, 5), {"proj_size": 1.5}),
    ((3, 5), {"nonlinearity": "relu"}),
    ((3, 5), {"nonlinearity": "tanh"}),
    ((3, 5), {"nonlinearity": "gelu"}),
    ((3, 5), {"nonlinearity": None}),
    ((3, 5), {"flavour": "sweet"}),
    ((3, 5), {"device": "cpu", "dtype": torch.float64}),
    ((3, 5), {"device": torch.device("meta"), "dtype": torch.bfloat16}),
    ((3, 5), {"device": "nowhere"}),
    ((3, 5), {"dtype": torch.float16}),
    ((3, 5), {"dtype": torch.int64}),
    ((3, 5), {"dtype": torch.complex64}),
    ((3, 5), {"dtype": "float32"}),
    # Two mistakes at once: the first check to fail is native's.
    ((0, 0), {"dropout": "a", "bias": 1}),
    ((0, 5.0), {"dropout": -1, "bias": 1}),
    ((0, 5.0), {"bias": 1, "batch_first": 1}),
    ((0, 5.0), {"batch_first": 1}),
    ((0, 5.0), {}),
    ((3, 0, 0), {}),
    ((3, 5, 0), {"dropout": 0.5}),
    ((3, 5, 1), {"dropout": 0.5, "bias": 1}),
    ((3, 5), {"nonlinearity": "gelu", "proj_size": 0}),
    ((0, 5), {"nonlinearity": "gelu", "dropout": "a"}),
    ((3, 0), {"proj_size": -1}),
]

POSITIONAL = [
    (LSTM, (3, 5, 2, True, True, 0.5, True, 2, "cpu", torch.float64)),
    (LSTM, (3, 5, 2, False, False, 0.0, False, 0)),
    (LSTM, (3, 5, 2, True, 7)),
    (GRU, (3, 5, 2, True, True, 0.5, True)),
    (GRU, (3, 5, 2, False, False)),
    (GRU, (3, 5, 2, True, 7)),
    (GRU, (3, 5, 2, True, False, 0.0, False, 0, "cpu", torch.float64)),
    (TANH, (3, 5, 2, "relu", False, True, 0.5, True)),
    (TANH, (3, 5, 2, "tanh", True, 7)),
    (TANH, (3, 5, 2, "gelu")),
    (TANH, (3, 5, 2, True)),
]

# Mistakes in the call itself: the same type of error, since the text counts native's arguments.
MISCALLS = [
    ((), {}),
    ((3,), {}),
    ((3, 5, 1, *[0] * 16), {}),
    ((3, 5), {"input_size": 3}),
    ((3, 5, 1, "tanh"), {"nonlinearity": "relu"}),
]

SIGNATURES = {
    "LSTM": "bias batch_first dropout bidirectional proj_size device dtype",
    "GRU": "bias batch_first dropout bidirectional device dtype",
    "RNN": "nonlinearity bias batch_first dropout bidirectional device dtype",
}
DEFAULTS = {
    "num_layers": 1,
    "nonlinearity": "tanh",
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
    "device": None,
    "dtype": None,
}


@each_class
@pytest.mark.parametrize(("args", "kwargs"), CALLS, ids=str)
def test_a_call_constructs_or_fails_like_native(kind, args, kwargs):
    assert_same_construction(kind, args, kwargs)


@pytest.mark.parametrize(("kind", "args"), POSITIONAL, ids=str)
def test_positional_arguments_come_in_native_order(kind, args):
    assert_same_construction(kind, args, {})


@each_class
@pytest.mark.parametrize(("args", "kwargs"), MISCALLS, ids=str)
def test_a_miscall_raises_the_same_type(kind, args, kwargs):
    native = outcome(lambda: native_class(kind)(*args, **kwargs))
    ours = outcome(lambda: our_class(kind)(*args, **kwargs))
    assert native.error is not None
    assert ours.error is not None
    assert ours.error[0] is native.error[0]


@pytest.mark.parametrize("kind", [GRU, TANH], ids=str)
def test_a_positional_projection_never_builds_a_projected_gru_or_rnn(kind):
    args = (3, 5, 1, *(["tanh"] if kind is TANH else []), True, False, 0.0, False, 2)
    built = outcome(lambda: our_class(kind)(*args)).value
    assert built is None or not any("weight_hr" in name for name, _ in built.named_parameters())


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_names_the_parameters(name):
    parameters = inspect.signature(our_class(Kind(name, {}))).parameters
    documented = ["input_size", "hidden_size", "num_layers", *SIGNATURES[name].split()]
    assert [n for n in parameters if n in documented] == documented
    for n in documented:
        assert parameters[n].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameters[n].default == DEFAULTS.get(n, inspect.Parameter.empty)


@every_kind
def test_forward_accepts_input_and_hx_by_name(kind):
    parameters = inspect.signature(our_class(kind).forward).parameters
    assert list(parameters)[:3] == ["self", "input", "hx"]
    assert parameters["hx"].default is None


@every_kind
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_skip_init_gives_an_uninitialised_module(kind, device):
    made = nn.utils.skip_init(our_class(kind), 3, 5, device=device, **kind.options)
    native, _ = twins(kind, 3, 5)
    assert {n: p.shape for n, p in made.named_parameters()} == {
        n: p.shape for n, p in native.named_parameters()
    }
    assert all(p.device.type == device for p in made.parameters())


@every_module
@pytest.mark.parametrize("batch_first", [False, True])
def test_meta_modules_run_forward(kind, batch_first):
    native, ours = twins(kind, 3, 5, 2, batch_first=batch_first, bidirectional=True, device="meta")
    x = torch.empty(4, 2, 3, device="meta")
    expected, got = assert_same_outcome(lambda: native(x), lambda: ours(x))
    assert [t.shape for t in tensors(got)] == [t.shape for t in tensors(expected)]
    assert all(t.device.type == "meta" for t in tensors(got))


@every_kind
def test_default_device_and_dtype_apply(kind):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            native, ours = twins(kind, 3, 5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert described(ours) == described(native)


@every_module
def test_modules_are_rnn_bases_but_not_native_modules(kind):
    assert issubclass(our_class(kind), nn.RNNBase)
    assert not issubclass(our_class(kind), (nn.LSTM, nn.GRU, nn.RNN))
    assert our_class(kind).__name__ == kind.name


@every_kind
def test_a_subclass_constructs_and_runs(kind):
    class Subclass(our_class(kind)):
        def __init__(self, size):
            super().__init__(size, 2 * size, **kind.options)

        def forward(self, input, hx=None):
            return super().forward(2 * input, hx)

    reseed(0)
    subclassed = Subclass(4)
    native, _ = twins(kind, 4, 8)
    x = torch.randn(3, 2, 4) if isinstance(native, nn.RNNBase) else torch.randn(3, 4)
    for got, expected in zip(tensors(subclassed(x)), tensors(native(2 * x)), strict=True):
        torch.testing.assert_close(got, expected)
