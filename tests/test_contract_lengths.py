"""Sequence lengths from one step to hundreds, and how accurate single precision stays."""

import pytest
import torch

from tests.contract import (
    assert_twins_agree,
    each_class,
    every_module,
    exercise,
    insist_on_the_loop,
    normal,
    packed,
    state_for,
    twins,
    widened,
)

every_length = pytest.mark.parametrize("T", [1, 2, 3, 5, 8, 16, 33, 140])
every_form = pytest.mark.parametrize("form", ["padded", "packed"])


@every_module
@every_length
@pytest.mark.parametrize(("H", "bidirectional"), [(17, False), (4, True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@every_form
def test_grid_of_lengths(kind, T, H, bidirectional, dtype, form):
    native, ours = twins(kind, 5, H, bidirectional=bidirectional, dtype=dtype)
    if form == "padded":
        x = normal(T, 3, 5, dtype=dtype)
    else:
        x = packed([max(1, T // 2), T, 1], 5, dtype=dtype)
    assert_twins_agree(native, ours, x, state_for(native, 3))


@each_class
@every_length
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_grid_of_lengths_in_low_precision(kind, T, dtype):
    native, ours = twins(kind, 5, 17, 2, bidirectional=True, dtype=dtype)
    assert_twins_agree(native, ours, normal(T, 3, 5, dtype=dtype), state_for(native, 3))


@each_class
@every_length
@every_form
def test_grid_of_lengths_double_backward(kind, T, form):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    x = normal(T, 2, 5) if form == "padded" else packed([max(1, T // 2), T], 5)

    def penalty(module, x, hx):
        inputs = [x if torch.is_tensor(x) else x.data, *module.parameters()]
        output = module(x, hx)[0]
        loss = (output if torch.is_tensor(output) else output.data).pow(2).sum()
        return list(torch.autograd.grad(loss, inputs, create_graph=True))

    assert_twins_agree(native, ours, x, state_for(native, 2), penalty)


@every_module
@every_form
def test_accuracy(kind, form, monkeypatch):
    """On average over many draws: at most twice native's error in single precision, half an ulp."""
    insist_on_the_loop(monkeypatch)
    errors = {}
    for seed in range(24):
        T = (1, 9, 33)[seed % 3]
        native, ours = twins(kind, 5, 17, seed=seed)
        if form == "padded":
            x = normal(T, 3, 5, seed=seed, dtype=torch.float32)
        else:
            x = packed([max(1, T // 2), T, 1], 5, seed=seed, dtype=torch.float32)
        hx = state_for(native, 3, seed=seed + 1)
        exact = exercise(*widened(native, x, hx))
        theirs, mine = exercise(native, x, hx), exercise(ours, x, hx)
        for name, tensor in exact.items():
            pair = [(t[name] - tensor).abs().max() / tensor.abs().max() for t in (mine, theirs)]
            errors.setdefault(name, []).append(torch.stack(pair))
    eps = torch.finfo(torch.float32).eps
    for name, pairs in errors.items():
        mine, theirs = (torch.stack(pairs).mean(0) / eps).tolist()
        assert mine <= 2 * theirs + 0.5, f"{name}: {mine:.2f} ulp, native's {theirs:.2f}"


@each_class
@pytest.mark.parametrize("T", [40, 300])
def test_a_loss_at_the_end_of_a_long_sequence(kind, T):
    """Gradients that vanish on the way back are as small as native's, and zeros stay harmless."""
    native, ours = twins(kind, 5, 6, dtype=torch.float64)

    def last(module, x, hx):
        return module(x, hx)[0][-1:]

    assert_twins_agree(native, ours, normal(T, 2, 5), None, last)
