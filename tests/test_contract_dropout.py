"""Dropout: between layers only, from torch's generator, bit for bit the numbers native draws."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.contract import (
    assert_same,
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

INPUTS = {
    "padded": normal(9, 3, 5),
    "unbatched": normal(9, 5),
    "packed": packed([4, 9, 2], 5),
    "equal lengths": packed([4, 4], 5),
    "one step": normal(1, 3, 5),
    "no sequences": normal(9, 0, 5),
}


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


def dropping(kind, p=0.5, layers=3, **options):
    return twins(kind, 5, 6, layers, dropout=p, dtype=torch.float64, **options)


def reseeded(module, x, hx):
    reseed(11)
    return module(x, hx)


def assert_same_draws(native, ours, x, hx=None):
    """Equal steps, and equal generator states after them."""
    seen = []
    for module in (native, ours):
        seen.append((exercise(module, x, hx, reseeded), torch.get_rng_state()))
    (expected, after), (got, our_after) = seen
    assert torch.equal(our_after, after)
    assert_same(got, expected)


@every_module
@pytest.mark.parametrize("form", INPUTS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forth", "both"])
def test_training_drops_what_native_drops(kind, form, bidirectional):
    native, ours = dropping(kind, bidirectional=bidirectional)
    assert_same_draws(native, ours, INPUTS[form])


@every_module
@pytest.mark.parametrize("p", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("layers", [2, 3])
def test_any_probability(kind, p, layers):
    native, ours = dropping(kind, p, layers, batch_first=True)
    assert_same_draws(native, ours, normal(3, 9, 5), state_for(native, 3))


@every_module
def test_the_generator_moves_and_differs_from_call_to_call(kind):
    _, ours = dropping(kind)
    first, second = ours(INPUTS["padded"])[0], ours(INPUTS["padded"])[0]
    assert not torch.equal(first, second)


@every_module
@pytest.mark.parametrize("form", INPUTS)
def test_eval_draws_nothing(kind, form):
    native, ours = dropping(kind)
    native.eval(), ours.eval()
    before = torch.get_rng_state()
    assert_twins_agree(native, ours, INPUTS[form])
    assert torch.equal(torch.get_rng_state(), before)
    native.train(), ours.train()
    assert_same_draws(native, ours, INPUTS[form])


@every_module
def test_one_layer_draws_nothing(kind):
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        native, ours = dropping(kind, 0.5, 1)
    before = torch.get_rng_state()
    assert_twins_agree(native, ours, INPUTS["padded"])
    assert torch.equal(torch.get_rng_state(), before)


@every_module
def test_dropout_is_read_at_each_forward(kind):
    native, ours = dropping(kind, 0.0)
    for p in (0.5, 0.0, 1.0, 1, 0.25):
        native.dropout = ours.dropout = p
        assert_same_draws(native, ours, INPUTS["padded"])
        assert_same_draws(native, ours, INPUTS["packed"])


@each_class
@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["padded", "packed"])
def test_a_bad_attribute_fails_like_native(kind, p, training, form):
    native, ours = dropping(kind)
    native.dropout = ours.dropout = p
    native.train(training), ours.train(training)
    expected, got = assert_same_outcome(
        lambda: reseeded(native, INPUTS[form], None), lambda: reseeded(ours, INPUTS[form], None)
    )
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(mine, theirs)


@each_class
@pytest.mark.parametrize("p", [None, "0.5"])
@pytest.mark.parametrize("form", ["padded", "packed", "one step"])
def test_an_attribute_of_a_wrong_type_is_a_type_error(kind, p, form):
    _, ours = dropping(kind)
    ours.dropout = p
    with pytest.raises(TypeError):
        ours(INPUTS[form])


@every_module
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_mode_without_gradients_drops_too(kind, mode):
    native, ours = dropping(kind)
    seen = []
    for module in (native, ours):
        with mode():
            seen.append((tensors(reseeded(module, INPUTS["padded"], None)), torch.get_rng_state()))
    assert torch.equal(seen[0][1], seen[1][1])
    for theirs, mine in zip(seen[0][0], seen[1][0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@each_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_dtypes_draw_as_much_as_native(kind, dtype):
    native, ours = twins(kind, 5, 6, 2, dropout=0.5, dtype=dtype)
    x = normal(9, 3, 5, dtype=dtype)
    results = []
    for module in (native, ours):
        results.append((reseeded(module, x, None)[0].float(), torch.get_rng_state()))
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=0.02)


@every_module
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_replays_the_same_draws(kind, reentrant):
    native, ours = dropping(kind)

    def checkpointed(module, x, hx):
        def flat(x, *states):
            return tuple(tensors(module(x, states if len(states) > 1 else states[0])))

        reseed(11)
        return checkpoint(flat, x, *tensors(hx), use_reentrant=reentrant)

    hx = state_for(native, 3)
    plain = exercise(native, INPUTS["padded"], hx, reseeded)
    assert_same(exercise(ours, INPUTS["padded"], hx, checkpointed), plain)


@each_class
def test_double_backward_reuses_the_mask(kind):
    native, ours = dropping(kind)

    def penalty(module, x, hx):
        output, _ = reseeded(module, x, hx)
        inputs = [x, *module.parameters()]
        return list(torch.autograd.grad(output.pow(2).sum(), inputs, create_graph=True))

    assert_twins_agree(native, ours, INPUTS["padded"], None, penalty)


@each_class
def test_batched_gradients_reuse_the_mask(kind):
    native, ours = dropping(kind)
    grads = []
    for module in (native, ours):
        x = INPUTS["padded"].clone().requires_grad_()
        output, _ = reseeded(module, x, None)
        batch = normal(4, *output.shape)
        grads += torch.autograd.grad(output, x, batch, is_grads_batched=True)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-12, atol=1e-12)
