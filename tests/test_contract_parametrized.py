"""Parametrizations that change at each reading: weights are read as often as torch.nn does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastrnn
from tests.contract import (
    DOUBLE,
    GRU,
    PACKED,
    STEP,
    X,
    assert_same,
    each_class,
    every_module,
    exercise,
    insist_on_the_loop,
    reseed,
    state_for,
    twins,
)


class Worn(nn.Module):
    """Smaller at each reading."""

    def __init__(self):
        super().__init__()
        self.register_buffer("times", torch.zeros(()))

    def forward(self, weight):
        self.times += 1
        return weight * 0.9**self.times


def worn(module, name):
    parametrize.register_parametrization(module, name, Worn())


def dropped(module, name):
    parametrize.register_parametrization(module, name, nn.Dropout(0.5))


def spectral(module, name):
    reseed(1)
    parametrizations.spectral_norm(module, name)


KINDS = [worn, dropped, spectral]
NAMES = ["weight_ih_l0", "weight_hh_l0", "bias_hh_l1"]
CALLS = {
    "padded": lambda m: exercise(m, X),
    "step": lambda m: exercise(m, STEP, state_for(m, 3)),
    "packed": lambda m: exercise(m, PACKED),
    "empty, so left to torch.nn": lambda m: exercise(m, X[:, :0]),
    "cached": lambda m: cached(m),
}


def cached(module):
    with parametrize.cached():
        module(X)
        return exercise(module, X)


def parametrized(kind, how, *names, **options):
    """The twins, the one of torch.nn and ours, of one or two layers."""
    layers = 2 if "bias_hh_l1" in names else 1
    pair = twins(kind, 5, 6, layers, dtype=DOUBLE, **options)
    for module in pair:
        for name in names:
            how(module, name)
    return pair


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", KINDS)
@each_class
def test_training_is_torch_nns(kind, how, name, call, monkeypatch):
    if how is spectral and name.startswith("bias"):
        return
    if "torch.nn" not in call:
        insist_on_the_loop(monkeypatch)
    native, ours = parametrized(kind, how, name)
    for _ in range(3):
        reseed(7)
        expected = CALLS[call](native)
        reseed(7)
        assert_same(CALLS[call](ours), expected)
    assert_same(dict(ours.named_buffers()), dict(native.named_buffers()))


@every_module
def test_several_weights_at_once(kind):
    native, ours = parametrized(kind, worn, "weight_ih_l0", "weight_hh_l0")
    for x in (X, STEP, PACKED, X[:, :0]):
        assert_same(exercise(ours, x), exercise(native, x))


@pytest.mark.parametrize("how", KINDS)
@each_class
def test_explain_and_diagnose_change_nothing(kind, how):
    native, ours = parametrized(kind, how, "weight_hh_l0")
    ours(X), native(X)
    for module in (ours, native):
        state, drawn = copy.deepcopy(module.state_dict()), torch.get_rng_state()
        before = module._flat_weights, module._flat_weight_refs
        if module is ours:
            fastrnn.explain(module, X)
        fastrnn.diagnose(module, X)
        assert_same(module.state_dict(), state)
        assert torch.equal(torch.get_rng_state(), drawn)
        assert (module._flat_weights, module._flat_weight_refs) == before


@pytest.mark.parametrize("kind", [GRU], ids=str)
def test_what_is_computed_for_a_call_is_not_kept(kind):
    _, ours = parametrized(kind, spectral, "weight_hh_l0")
    x = X.clone().requires_grad_()
    ours(x)
    assert all(w.is_leaf for w in ours._flat_weights)
    assert torch.equal(copy.deepcopy(ours).eval()(X)[0], ours.eval()(X)[0])


@pytest.mark.parametrize("how", [worn, spectral])
@each_class
@pytest.mark.filterwarnings("ignore")
def test_compiled_training_is_torch_nns(kind, how):
    torch._dynamo.reset()
    native, ours = parametrized(kind, how, "weight_hh_l0")
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    for _ in range(3):
        torch.testing.assert_close(compiled(X)[0], native(X)[0])
    assert_same(dict(ours.named_buffers()), dict(native.named_buffers()))
