"""Autocast on the CPU: which dtypes come out, and how far the values may stray."""

import copy

import pytest
import torch

from tests.contract import (
    RELU,
    assert_same,
    assert_same_outcome,
    assert_twins_agree,
    each_class,
    every_module,
    exercise,
    mapped,
    normal,
    packed,
    reseed,
    state_for,
    tensors,
    twins,
    widened,
)

pytestmark = pytest.mark.usefixtures("lstm_under_autocast")
LOW = [torch.bfloat16, torch.float16]
every_low = pytest.mark.parametrize("low", LOW, ids=str)
INPUTS = {"padded": normal(7, 3, 5), "unbatched": normal(7, 5), "packed": packed([4, 7, 2], 5)}
every_input = pytest.mark.parametrize("form", INPUTS)


def under_autocast(low):
    def call(module, x, hx):
        with torch.autocast("cpu", dtype=low):
            return module(x, hx)

    return call


def batch_of(x):
    return None if torch.is_tensor(x) and x.dim() == 2 else 3


def assert_same_step(native, ours, x, hx, low):
    """The dtypes are equal and ours is at most twice as far off."""
    call = under_autocast(low)
    expected, got = (exercise(module, x, hx, call) for module in (native, ours))
    assert_same(got, expected, exercise(*widened(native, x, hx)), torch.finfo(low).eps)


@every_module
@every_low
@every_input
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_training_step(kind, low, form, given, options):
    native, ours = twins(kind, 5, 17, **options)
    x = mapped(torch.Tensor.float, INPUTS[form])
    assert_same_step(native, ours, x, state_for(native, batch_of(x)) if given else None, low)


@each_class
@every_low
@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("module_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16], ids=str)
def test_mixed_dtypes_without_gradients(kind, low, form, module_dtype, input_dtype, state_dtype):
    native, ours = twins(kind, 5, 6, 2, dtype=module_dtype)
    x = mapped(lambda data: data.to(input_dtype), INPUTS[form])
    hx = None if state_dtype is None else state_for(native, batch_of(x), dtype=state_dtype)
    call = under_autocast(low)
    with torch.no_grad():
        expected, got = call(native, x, hx), call(ours, x, hx)
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.02, atol=0.02)


@every_module
@every_low
@every_input
def test_double_precision_stays(kind, low, form):
    native, ours = twins(kind, 5, 6, 2, bidirectional=True, dtype=torch.float64)
    assert_twins_agree(native, ours, INPUTS[form], None, under_autocast(low))


@every_module
def test_autocast_disabled_inside(kind):
    native, ours = twins(kind, 5, 6)
    x = INPUTS["padded"].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = x.bfloat16()
        with torch.autocast("cpu", enabled=False):
            assert_twins_agree(native, ours, x)
            assert_same_outcome(lambda: native(low), lambda: ours(low))


@every_module
def test_backward_inside_and_optimizer_step_between(kind):
    """The casts of weights that autocast caches do not outlive a change of the weights."""
    native, ours = twins(kind, 5, 6)
    x = INPUTS["padded"].float()
    results = []
    for module in (native, ours):
        optimizer = torch.optim.SGD(module.parameters(), 0.5)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output, _ = module(x)
                output.float().pow(2).sum().backward()
            optimizer.step()
        results.append([p.detach() for p in module.parameters()])
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)


@every_module
@every_low
def test_dropout_draws_as_native(kind, low):
    native, ours = twins(kind, 5, 6, 2, dropout=0.5)
    x = INPUTS["padded"].float()

    def drawn(module):
        reseed(3)
        with torch.no_grad(), torch.autocast("cpu", dtype=low):
            return module(x)[0].float(), torch.get_rng_state()

    expected, got = drawn(native), drawn(ours)
    torch.testing.assert_close(got[0], expected[0], rtol=0.02, atol=0.02)
    assert torch.equal(got[1], expected[1])


def test_large_values_overflow_alike():
    native, ours = twins(RELU, 5, 6)
    x = 1e5 * INPUTS["padded"].float()
    with torch.autocast("cpu", dtype=torch.float16), torch.no_grad():
        expected, got = native(x)[0], copy.deepcopy(ours)(x)[0]
    assert torch.equal(expected.isfinite(), got.isfinite())
