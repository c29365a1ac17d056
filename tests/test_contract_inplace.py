"""Tensors changed in place, or made in inference mode, between forward and backward."""

import re

import pytest
import torch

from tests.contract import (
    DEEP,
    DOUBLE,
    PACKED,
    STEP,
    X,
    assert_near,
    assert_twins_agree,
    both,
    cotangents,
    each_class,
    every_form,
    every_module,
    insist_on_the_loop,
    leaves,
    mapped,
    outcome,
    state_for,
    tensors,
    twins,
)


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


@every_module
@pytest.mark.parametrize("x", [X, PACKED, STEP, X[:, :1]], ids=["padded", "packed", "step", "B=1"])
def test_results_may_be_changed_in_place_before_backward(kind, x):
    """Also past the version counter, through `.data`: native copies what it returns."""

    def changed(module, change):
        hx = leaves(state_for(module, x.size(1) if torch.is_tensor(x) else 3))
        results = tensors(module(x, hx))
        grads = cotangents(results)
        for result in results:
            change(result)
        torch.autograd.backward(results, grads)
        return [p.grad for p in module.parameters()] + [t.grad for t in tensors(hx)]

    for change in (
        lambda result: result.mul_(2),
        lambda result: result.relu_(),
        lambda result: result.data.zero_(),
        lambda result: result.detach().fill_(3),
    ):
        for bidirectional in (False, True):
            both(kind, lambda m: changed(m, change), bidirectional=bidirectional)  # noqa: B023


@every_module
@every_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_arguments_changed_before_backward(kind, x, dtype):
    """Where native finds a changed tensor that backward needs, so do we; where not, all is well.

    Except for biases: whether native keeps them depends on which of its implementations ran.
    """

    def targets(module, x, hx):
        return [*tensors((x, hx)), *module.parameters()]

    def step(module, target):
        module.zero_grad(set_to_none=True)
        own = mapped(lambda data: data.to(dtype).clone().requires_grad_(), x)
        hx = mapped(lambda h: h.clone().requires_grad_(), state_for(module, 3))
        results = tensors(module(own, hx))
        if target is not None:
            with torch.no_grad():
                targets(module, own, hx)[target].mul_(2)
        torch.autograd.backward(results, cotangents(results))
        return [t.grad for t in targets(module, own, hx)]

    native, _ = twins(kind, 5, 6, 2)
    states = tensors(state_for(native, 3))
    names = ["input", *["state"] * len(states), *dict(native.named_parameters())]
    unchanged = step(twins(kind, 5, 6, 2, dtype=dtype)[0], None)
    for target, name in enumerate(names):
        native, ours = twins(kind, 5, 6, 2, dtype=dtype)
        expected = outcome(lambda: step(native, target)).error  # noqa: B023
        got = outcome(lambda: step(ours, target))  # noqa: B023
        if not name.startswith("bias"):
            assert bool(got.error) == bool(expected), f"{name}: {got.error or expected}"
        for error in filter(None, (expected, got.error)):
            assert error[0] is RuntimeError
            assert re.search("modified (by an )?inplace", error[1])
        for mine, theirs in zip(got.value or unchanged, unchanged, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@each_class
@pytest.mark.parametrize("frozen", ["", "weight_ih"], ids=["all", "weight_ih"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_frozen_weights_let_the_input_buffer_be_reused(kind, frozen, create_graph):
    def reuse(module):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(frozen not in name)
        shift = torch.zeros(5, dtype=DOUBLE, requires_grad=True)
        buffer = X + shift
        output, _ = module(buffer)
        with torch.no_grad():
            buffer.zero_()
        (grad,) = torch.autograd.grad(output.pow(2).sum(), shift, create_graph=create_graph)
        return [output.detach(), grad.detach()]

    both(kind, reuse, num_layers=1, bidirectional=False)


@each_class
@every_form
def test_frozen_weights_take_inference_tensors(kind, x):
    """Native keeps the input only for the gradient of W_ih."""
    with torch.inference_mode():
        x = mapped(torch.clone, x)

    def step(module):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_("weight_ih" not in name)
        output = tensors(module(x))[0]
        return list(torch.autograd.grad(output.sum(), [module.weight_hh_l0, module.bias_ih_l0]))

    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    assert_near(step(ours), step(native))


@each_class
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_reused_inference_tensor_gives_no_wrong_gradient(kind, create_graph):
    """It has no version to check: the gradient is right, or there is an error."""

    def step(module):
        module.weight_ih_l0.requires_grad_(False)
        with torch.inference_mode():
            buffer = X.clone()
        output, _ = module(buffer)
        with torch.inference_mode():
            buffer.zero_()
        (grad,) = torch.autograd.grad(
            output.pow(2).sum(), module.weight_hh_l0, create_graph=create_graph
        )
        return grad.detach()

    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    expected, got = step(native), outcome(lambda: step(ours))
    if got.error is None:
        assert_near(got.value, expected)
    else:
        assert got.error[0] is RuntimeError


@every_module
def test_the_version_check_ignores_forward_without_gradients(kind):
    native, ours = twins(kind, 5, 6, **DEEP)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (native, ours)]
    for module, optimizer in zip((native, ours), optimizers, strict=True):
        with torch.no_grad():
            module(X)
        module(X)[0].sum().backward()
        optimizer.step()
        module(X)
    assert_twins_agree(native, ours, X)
