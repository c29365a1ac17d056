"""torch.nn computes with `_flat_weights`: programs put tensors there, and under the names."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fastrnn
from tests.contract import (
    LSTM,
    MODULES,
    PACKED,
    PROJECTED,
    STEP,
    TANH,
    X,
    assert_same,
    exercise,
    insist_on_the_loop,
    normal,
    outcome,
    reseed,
    state_for,
    twins,
)

DOUBLE = torch.float64
FORMS = {"padded": (X, 3), "step": (STEP, 3), "packed": (PACKED, 3), "single": (X[:, 0], None)}


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


def like(weight, seed):
    """Other numbers of the same form, a leaf."""
    return (normal(*weight.shape, seed=seed, dtype=weight.dtype) / 4).requires_grad_()


def put(module, k, seed):
    """A leaf put into the list in the k-th place."""
    leaf = like(module._flat_weights[k], seed)
    module._flat_weights[k] = leaf
    return [leaf]


def detached(module):
    put(module, 0, 30)[0].requires_grad_(False)


def computed(module):
    leaf = like(module._flat_weights[0], 31)
    module._flat_weights[0] = leaf.tanh()
    return [leaf]


def tied_to_a_cell(module):
    cells = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN_TANH": nn.RNNCell}
    reseed(3)
    cell = cells[module.mode](module.input_size, module.hidden_size, dtype=DOUBLE)
    for k, name in enumerate(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
        if module._flat_weights[k].shape == getattr(cell, name).shape:  # not with a projection
            module._flat_weights[k] = getattr(cell, name)
    return list(cell.parameters())


def other_list(module):
    leaves = [like(w, 40 + k) for k, w in enumerate(module._flat_weights)]
    module._flat_weights = list(leaves)
    return leaves


def put_then_assigned(module):
    leaves = put(module, 0, 32)
    module.weight_hh_l0 = nn.Parameter(like(module.weight_hh_l0, 33).detach())
    return leaves


def assigned_then_put(module):
    module.weight_hh_l0 = nn.Parameter(like(module.weight_hh_l0, 34).detach())
    return put(module, 0, 35)


def behind_then_put(module):
    module._parameters["weight_hh_l0"] = nn.Parameter(like(module.weight_hh_l0, 36).detach())
    return put(module, 0, 37)


def put_then_moved(module):
    leaves = put(module, 0, 38)
    module.double()
    return leaves


def put_then_loaded(module):
    leaves = put(module, 0, 39)
    other = {name: like(w, 50).detach() for name, w in module.state_dict().items()}
    module.load_state_dict(other)
    return leaves


def put_then_loaded_by_assignment(module):
    leaves = put(module, 0, 39)
    other = {name: like(w, 50).detach() for name, w in module.state_dict().items()}
    module.load_state_dict(other, assign=True)
    return leaves


def put_under_a_gone_name(module):
    del module.weight_hh_l0
    return put(module, 1, 51)


def gone(module):
    del module.weight_ih_l0


def none(module):
    module.bias_hh_l0 = None


def buffer(module):
    module.register_buffer("bias_ih_l0", module._parameters.pop("bias_ih_l0").detach() / 2)
    return put(module, 0, 52)


def fewer_names(module):
    module._flat_weights_names = module._flat_weights_names[:2]


def fewer_weights(module):
    module._flat_weights = module._flat_weights[:2]


def fewer_weights_without_bias(module):
    module.bias = False
    module._flat_weights = [w for w in module._flat_weights if w.dim() == 2]


def no_references(module):
    module._flat_weight_refs = []
    return put(module, 0, 53)


def made_anew(module):
    put(module, 0, 54)
    module._init_flat_weights()


def flattened(module):
    leaves = put(module, 0, 55)
    module.flatten_parameters()
    return leaves


def updated(module):
    leaves = put(module, 0, 56)
    module._update_flat_weights()
    return leaves


def swapped_names(module):
    """Both biases have one shape, so torch.nn sees nothing wrong."""
    names = module._flat_weights_names
    names[2], names[3] = names[3], names[2]


def of_another_dtype(module):
    module._flat_weights[0] = module._flat_weights[0].detach().float()


def of_another_shape(module):
    module._flat_weights[1] = module._flat_weights[1].detach()[:-1]


def no_tensor(module):
    module._flat_weights[2] = None


def parametrized(module):
    leaves = put(module, 0, 57)
    parametrizations.weight_norm(module, "weight_hh_l0")
    return leaves


def put_when_parametrized(module):
    parametrizations.weight_norm(module, "weight_hh_l0")
    return put(module, 0, 58)


EDITS = {
    "weight": lambda m: put(m, 0, 30),
    "recurrent weight": lambda m: put(m, 1, 30),
    "bias": lambda m: put(m, -1, 30),
    "detached": detached,
    "computed": computed,
    "tied to a cell": tied_to_a_cell,
    "another list": other_list,
    "a tuple": lambda m: setattr(m, "_flat_weights", tuple(m._flat_weights)),
    "put, assigned": put_then_assigned,
    "assigned, put": assigned_then_put,
    "replaced in _parameters, put": behind_then_put,
    "put, moved": put_then_moved,
    "put, loaded": put_then_loaded,
    "put, loaded by assignment": put_then_loaded_by_assignment,
    "put under a name that is gone": put_under_a_gone_name,
    "a name that is gone": gone,
    "None": none,
    "a buffer, put": buffer,
    "fewer names": fewer_names,
    "fewer weights": fewer_weights,
    "fewer weights, no bias": fewer_weights_without_bias,
    "no references": no_references,
    "_init_flat_weights": made_anew,
    "flatten_parameters": flattened,
    "_update_flat_weights": updated,
    "names in another order": swapped_names,
    "another dtype": of_another_dtype,
    "another shape": of_another_shape,
    "no tensor": no_tensor,
    "put, parametrized": parametrized,
    "parametrized, put": put_when_parametrized,
}


def seen(module, edit, before, x, hx):
    """What two training steps after an edit show, its leaves' gradients too, or the errors."""
    if before:
        module(x)
    leaves = EDITS[edit](module) or []
    for _ in range(2):
        for leaf in leaves:
            leaf.grad = None
        found = outcome(lambda: exercise(module, x, hx))
        grads = {f"d leaf {k}": leaf.grad for k, leaf in enumerate(leaves)}
        yield found._replace(value=found.value and found.value | grads)


def place_of_each(module):
    """Which weights of the list are those under the names."""
    names = module._flat_weights_names
    flat = list(module._flat_weights)
    return len(flat), [w is getattr(module, n, None) for n, w in zip(names, flat)]  # noqa: B905


@pytest.mark.parametrize("kind", [LSTM, PROJECTED, TANH], ids=str)
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("edit", EDITS)
def test_edits_of_the_list(kind, edit, before):
    for n, (x, batch) in enumerate(FORMS.values()):
        native, ours = twins(kind, 5, 6, 2, dtype=DOUBLE)
        if n % 2:
            ours = fastrnn.convert(copy.deepcopy(native), None)
        native.train(n < 2), ours.train(n < 2)
        hx = state_for(native, batch) if n else None
        pairs = zip(*(seen(m, edit, before, x, hx) for m in (native, ours)), strict=True)
        for expected, got in pairs:
            assert got.error == expected.error
            if expected.error is None:
                assert_same(got.value, expected.value)
        if "parametrized" not in edit:  # torch.nn keeps what it has computed
            assert place_of_each(ours) == place_of_each(native)


def test_a_single_step_at_once_goes_by_the_list_too(monkeypatch):
    monkeypatch.undo()
    for kind in MODULES:
        native, ours = twins(kind, 5, 6)
        hx = state_for(native, 3)
        for module in (native, ours):
            put(module, 0, 30)
            put(module, 1, 31)
        for x in (STEP.float(), X[:8].float()):
            expected, got = native(x, hx)[0], ours(x, hx)[0]
            torch.testing.assert_close(got, expected)
