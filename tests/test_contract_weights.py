"""Forward reads the weights that are there: replaced, reparametrised, pruned, tied or changed."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.contract import (
    assert_same_outcome,
    assert_twins_agree,
    each_class,
    every_module,
    exercise,
    insist_on_the_loop,
    normal,
    packed,
    reseed,
    state_for,
    tensors,
    twins,
)

X = normal(9, 3, 5)
PACKED = packed([9, 1, 3], 5)
DEEP = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


class Symmetric(nn.Module):
    """Every gate's recurrent matrix made symmetric."""

    def forward(self, weight):
        gates = weight.unflatten(0, (-1, weight.size(1)))
        return ((gates + gates.transpose(1, 2)) / 2).flatten(0, 1)


def new_parameter(weight):
    return nn.Parameter(normal(*weight.shape, seed=17, dtype=weight.dtype) / 4)


def weight_drop(module):
    """The AWD-LSTM idiom: a plain tensor where the parameter was."""
    raw = module.weight_hh_l0
    del module.weight_hh_l0
    module.register_parameter("weight_hh_l0_raw", nn.Parameter(raw.detach()))
    module.weight_hh_l0 = F.dropout(module.weight_hh_l0_raw, 0.5, True)


def transposed(module):
    for name, weight in list(module.named_parameters()):
        if name.startswith("weight"):
            setattr(module, name, nn.Parameter(weight.detach().t().contiguous().t()))


def sliced(module):
    """Weights that are windows of larger tensors."""
    for name, weight in list(module.named_parameters()):
        large = normal(*(2 * n for n in weight.shape), seed=18, dtype=weight.dtype) / 4
        window = tuple(slice(None, None, 2) for _ in weight.shape)
        setattr(module, name, nn.Parameter(large[window]))


def assigned(module):
    module.weight_hh_l0 = new_parameter(module.weight_hh_l0)
    module.bias_ih_l1_reverse = new_parameter(module.bias_ih_l1_reverse)


def replaced_behind(module):
    module._parameters["weight_hh_l0"] = new_parameter(module.weight_hh_l0)


def fresh_data(module):
    module.weight_hh_l0.data = new_parameter(module.weight_hh_l0).data


def changed_under_no_grad(module):
    with torch.no_grad():
        module.weight_hh_l0.mul_(0.5)
        module.weight_ih_l1.fill_(0.125)


def changed_past_the_version_counter(module):
    module.weight_hh_l0.data.mul_(0.5)
    module.weight_ih_l0_reverse.detach().numpy()[:] *= 0.5
    module.bias_hh_l0.data[0] = 3


def tied(module):
    module.bias_ih_l0_reverse = module.bias_ih_l0
    module.weight_hh_l1 = module.weight_hh_l0


def tied_in_memory(module):
    module.weight_hh_l0_reverse.data = module.weight_hh_l0.data


def from_vector(module):
    vector = nn.utils.parameters_to_vector(module.parameters())
    nn.utils.vector_to_parameters(vector.detach() * 0.5, module.parameters())


def spectral_norm(module):
    parametrizations.spectral_norm(module, "weight_ih_l1")


CHANGES = {
    "assigned": assigned,
    "replaced in _parameters": replaced_behind,
    "fresh data": fresh_data,
    "changed under no_grad": changed_under_no_grad,
    "changed past the version counter": changed_past_the_version_counter,
    "transposed": transposed,
    "sliced": sliced,
    "tied": tied,
    "tied in memory": tied_in_memory,
    "from vector": from_vector,
    "weight drop": weight_drop,
    "legacy weight_norm": lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
    "legacy weight_norm of two": lambda m: nn.utils.weight_norm(
        nn.utils.weight_norm(m, "weight_ih_l1"), "weight_hh_l1_reverse"
    ),
    "legacy spectral_norm": lambda m: nn.utils.spectral_norm(m, "weight_hh_l0"),
    "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "spectral_norm": spectral_norm,
    "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_hh_l0"),
    "symmetric": lambda m: parametrize.register_parametrization(m, "weight_hh_l0", Symmetric()),
    "l1_unstructured": lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.3),
    "random_unstructured": lambda m: prune.random_unstructured(m, "weight_ih_l0", 0.3),
    "pruned for good": lambda m: prune.remove(
        prune.ln_structured(m, "weight_hh_l0", 0.3, n=2, dim=0), "weight_hh_l0"
    ),
}


def change(module, how):
    reseed(5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        CHANGES[how](module)


def assert_agree_while_training(native, ours, x):
    """At once, after a step of an optimizer, and without gradients."""
    assert_twins_agree(native, ours, x)
    for module in (native, ours):
        seen = exercise(module, x)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.sub_(0.1 * seen[f"d {name}"])
    assert_twins_agree(native, ours, x, state_for(ours, 3))
    with torch.no_grad():
        for mine, theirs in zip(tensors(ours(x)), tensors(native(x)), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@each_class
@pytest.mark.parametrize("how", [how for how in CHANGES if how != "weight drop"])
def test_changed_weights_are_read(kind, how):
    native, ours = twins(kind, 5, 6, **DEEP)
    ours(X), native(X)
    change(native, how), change(ours, how)
    assert list(dict(ours.named_parameters())) == list(dict(native.named_parameters()))
    assert_agree_while_training(native, ours, X)
    assert_twins_agree(native, ours, PACKED)


@every_module
def test_weight_drop_renewed_before_each_forward(kind):
    native, ours = twins(kind, 5, 6, **DEEP)
    change(native, "weight drop"), change(ours, "weight drop")

    def renewed(module, x, hx):
        reseed(7)
        module.weight_hh_l0 = F.dropout(module.weight_hh_l0_raw, 0.5, True)
        return module(x, hx)

    for _ in range(2):
        assert_twins_agree(native, ours, X, state_for(ours, 3), renewed)
    assert exercise(ours, X, None, renewed)["d weight_hh_l0_raw"].abs().sum() > 0


@each_class
@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "orthogonal", "symmetric"])
def test_parametrizations_come_and_go(kind, how):
    native, ours = twins(kind, 5, 6, **DEEP)
    change(native, how), change(ours, how)
    assert type(ours).__name__ == type(native).__name__
    name = "weight_ih_l1" if how == "spectral_norm" else "weight_hh_l0"
    with parametrize.cached():
        assert_twins_agree(native, ours, X)
    for module in (native, ours):
        module.eval()
        parametrize.remove_parametrizations(module, name)
    assert type(ours).__name__ == kind.name
    assert_agree_while_training(native, ours, X)


@each_class
@pytest.mark.parametrize("how", ["legacy weight_norm", "weight_norm", "l1_unstructured"])
def test_copies_of_reparametrised_modules(kind, how):
    native, ours = twins(kind, 5, 6, **DEEP)
    change(native, how), change(ours, how)
    expected, got = assert_same_outcome(lambda: copy.deepcopy(native), lambda: copy.deepcopy(ours))
    if expected is not None:
        assert_agree_while_training(expected, got, X)


@each_class
def test_a_deleted_weight_without_replacement(kind):
    native, ours = twins(kind, 5, 6, **DEEP)
    native(X), ours(X)
    del native.weight_hh_l0, ours.weight_hh_l0
    expected, got = assert_same_outcome(lambda: native(X), lambda: ours(X))
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@each_class
def test_weights_of_a_wrong_shape_or_dtype_fail_like_native(kind):
    for wrong in (
        lambda w: nn.Parameter(w.detach()[:, :-1]),
        lambda w: nn.Parameter(w.detach()[:-1]),
        lambda w: nn.Parameter(w.detach().float()),
        lambda w: nn.Parameter(w.detach().to("meta")),
        lambda w: None,
    ):
        native, ours = twins(kind, 5, 6, **DEEP)
        for module in (native, ours):
            module.weight_hh_l0 = wrong(module.weight_hh_l0)
        assert_same_outcome(lambda: native(X), lambda: ours(X))  # noqa: B023


@every_module
@pytest.mark.parametrize("tie", [True, False])
def test_functional_call(kind, tie):
    native, ours = twins(kind, 5, 6, **DEEP)
    weights = {name: new_parameter(p) for name, p in native.named_parameters()}
    some = {name: weights[name] for name in list(weights)[::2]}

    def functional(chosen):
        return lambda module, x, hx: torch.func.functional_call(
            module, chosen, (x,), {"hx": hx}, tie_weights=tie
        )

    assert_twins_agree(native, ours, X, state_for(ours, 3), functional(weights))
    assert_twins_agree(native, ours, X, None, functional(some))
    assert_twins_agree(native, ours, X)
    grads = []
    for module in (native, ours):
        output, _ = functional(weights)(module, X, None)
        grads.append(torch.autograd.grad(output.sum(), list(weights.values())))
    for mine, theirs in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@each_class
def test_parameters_without_gradient_or_of_a_subclass(kind):
    class Marked(nn.Parameter):
        pass

    native, ours = twins(kind, 5, 6, **DEEP)
    for module in (native, ours):
        module.weight_ih_l0 = Marked(module.weight_ih_l0.detach())
        module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach(), requires_grad=False)
        module.register_buffer("bias_ih_l0", module._parameters.pop("bias_ih_l0").detach())
    assert_twins_agree(native, ours, X)
