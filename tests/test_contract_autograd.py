"""Gradients beyond one plain backward: what autograd and torch.func let a caller do."""

import pytest
import torch
from torch import nn

from tests.contract import (
    DEEP,
    DOUBLE,
    PACKED,
    PROJECTED,
    X,
    assert_near,
    assert_same,
    assert_twins_agree,
    both,
    cotangents,
    each_class,
    every_form,
    every_module,
    exercise,
    insist_on_the_loop,
    leaves,
    mapped,
    normal,
    outcome,
    state_for,
    tensors,
    twins,
)

LOSSES = {
    "output": lambda result: result[:1],
    "h_n": lambda result: result[1:2],
    "last state": lambda result: result[-1:],
    "states": lambda result: result[1:],
    "last step": lambda result: [result[0][-1:]],
    "first step": lambda result: [result[0][:1]],
    "one number": lambda result: [result[0].flatten()[7]],
    "lower layer": lambda result: [result[1][:1]],
    "one sequence": lambda result: [result[1][:, 1]],
    "expanded": lambda result: [result[0].sum()],
}


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


@every_module
@pytest.mark.parametrize("x", [X, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("part", LOSSES)
def test_a_loss_on_part_of_the_results(kind, x, part):
    def call(module, x, hx):
        return LOSSES[part](tensors(module(x, hx)))

    native, ours = twins(kind, 5, 6, **DEEP)
    assert_twins_agree(native, ours, x, state_for(native, 3), call)
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    assert_twins_agree(native, ours, x, None, call)


@every_module
@every_form
def test_eval_mode_has_gradients(kind, x):
    native, ours = twins(kind, 5, 6, **DEEP)
    assert_twins_agree(native.eval(), ours.eval(), x, state_for(native, 3))


@every_module
@pytest.mark.parametrize("x", [X, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_double_backward(kind, x, dtype, options):
    """The gradient of a gradient, with respect to input, state, weights and first gradients."""
    native, ours = twins(kind, 5, 6, dtype=dtype, **options)
    x = mapped(lambda data: data.to(dtype), x)

    def penalty(module, x, hx):
        results = tensors(module(x, hx))
        weights = leaves(cotangents(results))
        inputs = [*tensors((x, hx)), *module.parameters()]
        grads = torch.autograd.grad(results, inputs, weights, create_graph=True)
        norm = sum(grad.pow(2).sum() for grad in grads)
        return [*grads, *torch.autograd.grad(norm, weights, create_graph=True)]

    assert_twins_agree(native, ours, x, state_for(native, 3), penalty)


@each_class
def test_gradient_penalty_through_backward(kind):
    def step(module):
        x = X.clone().requires_grad_()
        output, _ = module(x)
        (dx,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        (output.pow(2).sum() + (dx.norm() - 1) ** 2).backward()
        return [x.grad, *(p.grad for p in module.parameters())]

    both(kind, step)


@each_class
def test_third_derivative(kind):
    def third(module):
        x = X[:3].clone().requires_grad_()
        value = module(x)[0].pow(3).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            value = grad.sum()
        return [grad]

    native, ours = twins(kind, 5, 6, **DEEP)
    assert_near(third(ours), third(native), rtol=1e-10)


@every_module
@every_form
def test_every_parameter_frozen_in_turn(kind, x):
    native, ours = twins(kind, 5, 6, 1, bidirectional=True, dtype=DOUBLE)
    names = [name for name, _ in native.named_parameters()]
    for frozen in [{name} for name in names] + [set(names) - {name} for name in names]:
        for module in (native, ours):
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name not in frozen)
        assert_twins_agree(native, ours, x, state_for(native, 3))
        seen = exercise(ours, x)
        assert all(seen[f"d {name}"] is None for name in frozen)


@every_module
@every_form
def test_input_and_state_need_no_gradient(kind, x):
    def weights_only(module):
        results = tensors(module(x, state_for(module, 3)))
        torch.autograd.backward(results, cotangents(results))
        return [p.grad for p in module.parameters()]

    def input_only(module):
        module.requires_grad_(False)
        data = leaves(x)
        results = tensors(module(data, state_for(module, 3)))
        torch.autograd.backward(results, cotangents(results))
        assert all(p.grad is None for p in module.parameters())
        return [t.grad for t in tensors(data)]

    def state_only(module):
        module.requires_grad_(False)
        hx = leaves(state_for(module, 3))
        results = tensors(module(x, hx))
        torch.autograd.backward(results, cotangents(results))
        return [t.grad for t in tensors(hx)]

    for function in (weights_only, input_only, state_only):
        both(kind, function)


@every_module
@every_form
def test_nothing_to_differentiate(kind, x):
    native, ours = twins(kind, 5, 6, **DEEP)
    for module in (native, ours):
        module.requires_grad_(False)
    assert_near(ours(x), native(x))
    assert not any(t.requires_grad for t in tensors(ours(x)))


@every_module
@every_form
def test_no_grad_and_inference_mode(kind, x):
    native, ours = twins(kind, 5, 6, **DEEP)
    hx = state_for(native, 3)
    with torch.no_grad():
        assert_near(ours(x, hx), native(x, hx))
        assert not any(t.requires_grad for t in tensors(ours(x, hx)))
        assert not any(t.is_inference() for t in tensors(ours(x, hx)))
    with torch.inference_mode():
        assert_near(ours(x, hx), native(x, hx))
        assert all(t.is_inference() for t in tensors(ours(x, hx)))
        inferred = mapped(torch.clone, x)
    assert_twins_agree(native, ours, x, hx)
    with torch.no_grad():
        assert_near(ours(inferred, hx), native(inferred, hx))
    errors = [outcome(lambda: exercise(m, inferred)).error for m in (native, ours)]  # noqa: B023
    assert errors[0] == errors[1]


@every_module
def test_gradients_are_ordinary_tensors(kind):
    """They can be changed in place, saved by another graph, and used again."""
    _, ours = twins(kind, 5, 6, **DEEP)
    ours(X)[0].sum().backward()
    for parameter in ours.parameters():
        assert not parameter.grad.is_inference()
        assert parameter.grad.grad_fn is None
        assert parameter.grad.shape == parameter.shape
        parameter.grad.mul_(2)
        (parameter * parameter.grad).sum().backward()
    memory = [p.grad.untyped_storage().data_ptr() for p in ours.parameters()]
    ours.zero_grad(set_to_none=False)
    ours(X)[0].sum().backward()
    assert [p.grad.untyped_storage().data_ptr() for p in ours.parameters()] == memory


@each_class
def test_anomaly_mode_names_no_fault(kind):
    native, ours = twins(kind, 5, 6, **DEEP)
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        seen = exercise(ours, X)
    assert_same(seen, exercise(native, X))


def test_projection_gradients_of_the_cell_state_alone():
    native, ours = twins(PROJECTED, 5, 6, 2, dtype=DOUBLE)
    assert isinstance(ours, nn.RNNBase)

    def cell_state(module, x, hx):
        return module(x, hx)[1][1]

    for T in (1, 2, 7):
        assert_twins_agree(native, ours, normal(T, 3, 5), state_for(native, 3), cell_state)
