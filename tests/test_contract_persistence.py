"""Pickles, copies and moves: nothing is lost, nothing private travels along."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from tests.contract import (
    UNPROJECTED,
    assert_same_outcome,
    assert_twins_agree,
    every_kind,
    every_module,
    normal,
    our_class,
    packed,
    saved_and_loaded,
    state_for,
    tensors,
    twins,
)

DEEP = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
X = normal(9, 3, 5)


def used(kind, **options):
    """Twins that have run: forward, backward, with and without gradients."""
    native, ours = twins(kind, 5, 6, **{**DEEP, **options})
    for module in (native, ours):
        module(X)[0].sum().backward()
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            module(X, state_for(module, 3))
            module(packed([4, 2], 5))
    return native, ours


COPIES = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "old pickle": lambda module: pickle.loads(pickle.dumps(module, protocol=2)),
    "torch.save": saved_and_loaded,
    "deepcopy": copy.deepcopy,
}


@every_module
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_whole_and_independent(kind, way):
    native, ours = used(kind, dropout=0.25)
    ours.eval(), native.eval()
    revived = COPIES[way](ours)
    assert type(revived) is type(ours)
    assert repr(revived) == repr(ours)
    assert not revived.training
    assert_twins_agree(native, revived, X)
    for name, weight in zip(revived._flat_weights_names, revived._flat_weights, strict=True):
        assert weight is getattr(revived, name)
        assert weight is not getattr(ours, name)
    with torch.no_grad():
        revived.weight_hh_l0.zero_()
    assert_twins_agree(native, ours, X)


@every_module
def test_a_shallow_copy_shares_its_parameters(kind):
    native, ours = used(kind)
    shared = copy.copy(ours)
    assert all(p is q for p, q in zip(shared.parameters(), ours.parameters(), strict=True))
    for module in (native, ours):
        with torch.no_grad():
            module.weight_hh_l0.mul_(2)
    assert_twins_agree(native, shared, X)
    assert_twins_agree(native, ours, X)


@every_module
def test_the_pickled_state_has_native_keys(kind):
    native, ours = used(kind)
    assert set(ours.__getstate__()) == set(native.__getstate__())
    assert set(vars(ours)) == set(vars(native))


@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
def test_pickles_from_before_projections(kind):
    native, ours = used(kind)
    state = ours.__getstate__()
    del state["proj_size"]
    revived = type(ours).__new__(type(ours))
    revived.__setstate__(state)
    assert revived.proj_size == 0
    assert_twins_agree(native, revived, X)


@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_pickles_from_before_weight_names(kind, bias):
    """Very old states list tensors instead of names."""
    native, ours = used(kind, bias=bias)
    state = ours.__getstate__()
    state["_all_weights"] = [[getattr(ours, name) for name in row] for row in ours._all_weights]
    revived = type(ours).__new__(type(ours))
    revived.__setstate__(state)
    assert revived._all_weights == native._all_weights
    assert revived._flat_weights_names == native._flat_weights_names
    assert_twins_agree(native, revived, X)


@every_kind
def test_whole_modules_need_trust_and_state_dicts_do_not(kind):
    native, ours = twins(kind, 5, 6)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(buffer, weights_only=True)
    buffer = io.BytesIO()
    torch.save(ours.state_dict(), buffer)
    buffer.seek(0)
    native.load_state_dict(torch.load(buffer, weights_only=True))


@every_kind
def test_classes_are_found_where_they_say(kind):
    cls = our_class(kind)
    assert pickle.loads(pickle.dumps(cls)) is cls


MOVES = {
    "double": lambda module: module.double(),
    "float": lambda module: module.float(),
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "to dtype": lambda module: module.to(torch.bfloat16),
    "to cpu": lambda module: module.to("cpu"),
    "there and back": lambda module: module.half().float(),
    "cpu": lambda module: module.cpu(),
    "type": lambda module: module.type(torch.float64),
    "share_memory": lambda module: module.share_memory(),
    "requires_grad_": lambda module: module.requires_grad_(True),
    "apply": lambda module: module.apply(lambda m: None),
}


@every_module
@pytest.mark.parametrize("move", MOVES)
def test_moves(kind, move):
    native, ours = twins(kind, 5, 6, 2)
    for module in (native, ours):
        module(X.float())
        assert MOVES[move](module) is module
        assert all(
            weight is getattr(module, name)
            for name, weight in zip(module._flat_weights_names, module._flat_weights, strict=True)
        )
    dtype = native.weight_hh_l0.dtype
    assert ours.weight_hh_l0.dtype == dtype
    assert ours.weight_hh_l0.is_shared() == native.weight_hh_l0.is_shared()
    assert_twins_agree(native, ours, X.to(dtype), state_for(native, 3))


@every_module
@pytest.mark.parametrize("swap", [False, True])
def test_moves_by_swapping(kind, swap):
    native, ours = twins(kind, 5, 6, 2)
    torch.__future__.set_overwrite_module_params_on_conversion(not swap)
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for module in (native, ours):
            module(X.float())
        assert_same_outcome(lambda: bool(native.double()), lambda: bool(ours.double()))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert_twins_agree(native, ours, X.to(native.weight_hh_l0.dtype))


@every_kind
def test_to_empty_gives_storage_for_a_state_dict(kind):
    native, _ = twins(kind, 5, 6, dtype=torch.float64)
    _, ours = twins(kind, 5, 6, dtype=torch.float64, device="meta")
    ours = ours.to_empty(device="cpu")
    ours.load_state_dict(native.state_dict())
    assert_twins_agree(native, ours, X if isinstance(ours, nn.RNNBase) else X[0])


@every_module
def test_replicas_for_data_parallel_have_their_own_lists(kind):
    native, ours = used(kind)
    replica = ours._replicate_for_data_parallel()
    assert replica._flat_weights is not ours._flat_weights
    assert replica._flat_weights_names == ours._flat_weights_names
    for name, parameter in ours.named_parameters():
        setattr(replica, name, parameter)
    for mine, theirs in zip(tensors(replica(X)), tensors(native(X)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@every_module
def test_inside_a_container(kind):
    """State dict prefixes, moves and copies through a parent module."""
    native, ours = used(kind)
    parents = [nn.ModuleDict({"rnn": m, "head": nn.Linear(12, 2)}) for m in (native, ours)]
    assert list(parents[1].state_dict()) == list(parents[0].state_dict())
    parents[1].load_state_dict(parents[0].state_dict())
    revived = [copy.deepcopy(parent).float() for parent in parents]
    assert_twins_agree(revived[0]["rnn"], revived[1]["rnn"], X.float())
    assert repr(revived[1]["rnn"]) == repr(revived[0]["rnn"])
