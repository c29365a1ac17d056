"""Cells: constructors, forms of forward, dtypes, gradients, and the weights they read."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

from tests.contract import (
    CELLS,
    assert_near,
    assert_same_call,
    assert_same_construction,
    assert_same_outcome,
    assert_twins_agree,
    every_cell,
    exercise,
    mapped,
    native_class,
    normal,
    our_class,
    state_for,
    tensors,
    twins,
)

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
with_state = pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])


@every_cell
def test_the_signature_of_a_cell_is_native(kind):
    native, ours = (
        inspect.signature(cls).parameters for cls in (native_class(kind), our_class(kind))
    )
    shown = [[(p.name, p.kind, p.default) for p in side.values()] for side in (native, ours)]
    assert shown[1] == shown[0]


@every_cell
def test_cells_are_rnn_cell_bases(kind):
    assert issubclass(our_class(kind), nn.RNNCellBase)
    assert our_class(kind).__name__ == kind.name


CELL_CALLS = [
    ((3, 5), {}),
    ((3, 0), {}),
    ((0, 5), {}),
    ((-1, 5), {}),
    ((3.0, 5), {}),
    (("3", 5), {}),
    ((True, True), {}),
    ((3, 5, False), {}),
    ((3, 5, "yes"), {}),
    ((3, 5, 0), {}),
    ((3, 5, None), {}),
    ((3, 5), {"nonlinearity": "relu"}),
    ((3, 5), {"nonlinearity": "gelu"}),
    ((3, 5, True, "relu"), {}),
    ((3, 5, True, "gelu"), {}),
    ((3, 5), {"device": "meta", "dtype": torch.float64}),
    ((3, 5), {"dtype": torch.int64}),
    ((3, 5), {"flavour": "sweet"}),
    ((3, 5), {"num_layers": 2}),
    ((3,), {}),
    ((), {}),
    ((3, 5), {"input_size": 3}),
]


@pytest.mark.parametrize("kind", CELLS[:3], ids=str)
@pytest.mark.parametrize(("args", "kwargs"), CELL_CALLS, ids=str)
def test_a_cell_constructs_or_fails_like_native(kind, args, kwargs):
    assert_same_construction(kind, args, kwargs)


@every_cell
@every_float
@with_state
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
@pytest.mark.parametrize(("B", "H"), [(1, 1), (3, 17)])
def test_one_step(kind, dtype, given, bias, B, H):
    native, ours = twins(kind, 5, H, bias, dtype=dtype)
    hx = state_for(native, B) if given else None
    assert_twins_agree(native, ours, normal(B, 5, dtype=dtype), hx)


@every_cell
@with_state
def test_unbatched(kind, given):
    native, ours = twins(kind, 5, 17, dtype=torch.float64)
    hx = state_for(native) if given else None
    assert_twins_agree(native, ours, normal(5), hx)
    assert all(t.dim() == 1 for t in tensors(ours(normal(5), hx)))


@every_cell
@with_state
@pytest.mark.parametrize(("B", "I", "H"), [(0, 5, 3), (3, 0, 4), (3, 5, 0), (0, 0, 0)])
def test_empty_sizes(kind, given, B, I, H):
    native, ours = twins(kind, I, H, dtype=torch.float64)
    hx = state_for(native, B) if given else None
    assert_same_call(native, ours, lambda m: m(normal(B, I), hx))
    assert_twins_agree(native, ours, normal(B, I), hx)


@every_cell
def test_strided_arguments(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    x, hx = normal(6, 10)[::2, ::2], mapped(lambda h: h.t().contiguous().t(), state_for(native, 3))
    assert not x.is_contiguous()
    assert_twins_agree(native, ours, x, hx)
    for module in (native, ours):
        module.weight_hh = nn.Parameter(module.weight_hh.detach().t().contiguous().t())
    assert_twins_agree(native, ours, x, hx)


@every_cell
def test_state_as_a_list_and_by_name(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    hx = state_for(native, 3)

    def by_name(module, x, hx):
        return module(hx=list(hx) if isinstance(hx, tuple) else hx, input=x)

    assert_twins_agree(native, ours, normal(3, 5), hx, by_name)


@every_cell
def test_a_loop_of_steps(kind):
    """Twenty steps, the state of one fed to the next, and the gradient through all of them."""
    native, ours = twins(kind, 5, 6, dtype=torch.float64)

    def loop(module, x, hx):
        seen = []
        for step in x:
            hx = module(step, hx)
            seen += tensors(hx)
        return seen

    assert_twins_agree(native, ours, normal(20, 3, 5), state_for(native, 3), loop)
    assert_twins_agree(native, ours, normal(20, 3, 5), None, loop)


@every_cell
def test_layout_and_memory(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    x, hx = normal(3, 5), state_for(native, 3)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            expected, got = native(x, hx), ours(x, hx)
        assert type(got) is type(expected)
        for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
            assert mine.stride() == theirs.stride()
            assert mine.requires_grad == theirs.requires_grad
        memory = [t.untyped_storage().data_ptr() for t in tensors((got, x, hx))]
        assert len(set(memory)) == len(memory)


@every_cell
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_double_backward(kind, dtype):
    native, ours = twins(kind, 5, 6, dtype=dtype)

    def penalty(module, x, hx):
        results = tensors(module(x, hx))
        loss = sum(result.pow(2).sum() for result in results)
        inputs = [x, *tensors(hx), *module.parameters()]
        return list(torch.autograd.grad(loss, inputs, create_graph=True))

    assert_twins_agree(native, ours, normal(3, 5, dtype=dtype), state_for(native, 3), penalty)


@every_cell
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_forward_mode_and_function_transforms(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    x, hx = normal(3, 5), state_for(native, 3)

    def first(module):
        return lambda x: tensors(module(x, hx))[0]

    for transform in (
        lambda f: torch.func.jvp(f, (x,), (normal(3, 5, seed=9),)),
        lambda f: torch.func.jacrev(f)(x),
        lambda f: torch.func.jacfwd(f)(x),
        lambda f: torch.func.hessian(lambda x: f(x).sum())(x),
    ):
        assert_near(transform(first(ours)), transform(first(native)), rtol=1e-10)


@pytest.mark.parametrize("kind", CELLS[1:], ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    x, hx = normal(2, 3, 5), state_for(native, 3)
    got = torch.func.vmap(lambda x: ours(x, hx))(x)
    assert_near(list(got), [native(x_b, hx) for x_b in x])


def test_vmap_of_an_lstm_cell_is_what_torch_lacks():
    native, ours = twins(CELLS[0], 5, 6)
    for module in (native, ours):
        with pytest.raises(RuntimeError, match="Batching rule not implemented for aten::lstm_cell"):
            torch.func.vmap(module)(torch.zeros(2, 3, 5))


@every_cell
def test_frozen_and_functional_weights(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    x, hx = normal(3, 5), state_for(native, 3)
    for module in (native, ours):
        module.weight_hh.requires_grad_(False)
        module.bias_ih.requires_grad_(False)
    assert_twins_agree(native, ours, x, hx)
    assert exercise(ours, x, hx)["d weight_hh"] is None
    replaced = {name: 2 * p.detach() for name, p in native.named_parameters()}

    def functional(module, x, hx):
        return torch.func.functional_call(module, replaced, (x, hx))

    assert_twins_agree(native, ours, x, hx, functional)


@every_cell
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(kind, dtype, state_dtype, input_dtype):
    native, ours = twins(kind, 5, 17)
    x = normal(3, 5, dtype=input_dtype)
    hx = None if state_dtype is None else state_for(native, 3, dtype=state_dtype)
    with torch.autocast("cpu", dtype=dtype):
        expected, got = assert_same_outcome(lambda: native(x, hx), lambda: ours(x, hx))
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.02, atol=0.02)


@every_cell
def test_pickle_copy_and_conversion(kind):
    native, ours = twins(kind, 5, 6)
    x, hx = normal(3, 5, dtype=torch.float32), state_for(native, 3)
    for revived in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), copy.copy(ours)):
        assert type(revived) is our_class(kind)
        assert_twins_agree(native, revived, x, hx)
    assert set(ours.__getstate__()) == set(native.__getstate__())
    x, hx = x.double(), mapped(torch.Tensor.double, hx)
    assert_twins_agree(copy.deepcopy(native).double(), copy.deepcopy(ours).double(), x, hx)


@pytest.mark.parametrize("kind", CELLS[:3], ids=str)
def test_dtypes_that_promote(kind):
    """A state wider than the weights, where native lets it pass."""
    native, ours = twins(kind, 5, 6)
    h, c = normal(3, 6, dtype=torch.float32), normal(3, 6)
    x = normal(3, 5, dtype=torch.float32)
    assert_same_call(native, ours, lambda m: m(x, (h, c)))
    assert_same_call(native, ours, lambda m: m(x, (c, c)))
    assert_same_call(native, ours, lambda m: m(x, c))
