"""Hooks see what native shows them; optimizers follow native's path."""

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from tests.contract import (
    assert_same,
    assert_twins_agree,
    each_class,
    every_kind,
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
DEEP = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


def shape_of(value):
    """The nesting of a hook's argument, with shapes for tensors."""
    if torch.is_tensor(value):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {name: shape_of(item) for name, item in value.items()}
    return value if value is None else (type(value).__name__, [shape_of(item) for item in value])


def sample(module):
    return X if isinstance(module, nn.RNNBase) else X[0]


@every_kind
def test_hooks_see_what_native_shows(kind):
    seen = []
    for module in twins(kind, 5, 6, dtype=torch.float64):
        log = []
        module.register_forward_pre_hook(
            lambda m, args, kwargs: log.append(("pre", shape_of(args), shape_of(kwargs))),  # noqa: B023
            with_kwargs=True,
        )
        module.register_forward_hook(
            lambda m, args, kwargs, result: log.append(  # noqa: B023
                ("forward", shape_of(args), shape_of(kwargs), shape_of(result))
            ),
            with_kwargs=True,
        )
        module.register_full_backward_pre_hook(
            lambda m, grads: log.append(("backward pre", shape_of(grads)))  # noqa: B023
        )
        module.register_full_backward_hook(
            lambda m, before, after: log.append(  # noqa: B023
                ("backward", shape_of(before), shape_of(after))
            )
        )
        everywhere = register_module_forward_hook(
            lambda m, args, result: log.append(("global", shape_of(args), shape_of(result)))  # noqa: B023
        )
        x = sample(module).clone().requires_grad_()
        batch = 3
        tensors(module(x))[0].sum().backward()
        tensors(module(x, state_for(module, batch)))[-1].sum().backward()
        module(x, hx=state_for(module, batch))
        everywhere.remove()
        seen.append(log)
    assert seen[1] == seen[0]
    assert len(seen[0]) > 8


@every_kind
def test_hooks_may_replace_arguments_results_and_gradients(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)

    def doubled(value):
        if value is None or torch.is_tensor(value):
            return None if value is None else 2 * value
        return tuple(doubled(item) for item in value)

    for module in (native, ours):
        module.register_forward_pre_hook(lambda m, args: (args[0] + 1, *args[1:]))
        module.register_forward_hook(lambda m, args, result: doubled(result))
    x = sample(native)
    assert_twins_agree(native, ours, x, state_for(native, 3))
    for module in (native, ours):
        module.register_full_backward_hook(lambda m, before, after: doubled(before))
        module.register_full_backward_pre_hook(lambda m, grads: doubled(grads))
    assert_twins_agree(native, ours, x)


@every_module
def test_hooks_on_parameters_and_results(kind):
    seen = []
    for module in twins(kind, 5, 6, **DEEP):
        log = []
        for parameter in module.parameters():
            parameter.register_hook(lambda grad: 3 * grad)
            parameter.register_post_accumulate_grad_hook(
                lambda p: log.append(p.grad.clone())  # noqa: B023
            )
        output, _ = module(X)
        output.register_hook(lambda grad: log.append(grad) or 2 * grad)  # noqa: B023
        output.retain_grad()
        output.pow(2).sum().backward()
        log.append(output.grad)
        log.extend(p.grad for p in module.parameters())
        seen.append(sorted(log, key=lambda t: (tuple(t.shape), t.abs().sum().item())))
    for mine, theirs in zip(seen[1], seen[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, 0.01),
}


@every_module
@pytest.mark.parametrize(
    ("optimizer", "form"),
    [("SGD", "padded"), ("SGD", "packed"), ("Adam", "padded")],
)
def test_training_follows_native(kind, optimizer, form):
    """Five steps in double precision; an optimizer's divisions amplify the last digits a little."""
    paths = []
    for module in twins(kind, 5, 6, dropout=0.2, **DEEP):
        reseed(1)
        head = nn.Linear(12 if not kind.options.get("proj_size") else 6, 2, dtype=torch.float64)
        parameters = [*module.parameters(), *head.parameters()]
        steps = OPTIMIZERS[optimizer](parameters)

        def loss(module=module, head=head, steps=steps, step=0):
            steps.zero_grad()
            x = normal(9, 3, 5, seed=step) if form == "padded" else packed([9, 2, 4], 5, seed=step)
            reseed(step)
            value = head(tensors(module(x))[0]).pow(2).mean()
            value.backward()
            return value

        for step in range(5):
            steps.step(lambda step=step: loss(step=step))
        paths.append([p.detach() for p in parameters])
    for mine, theirs in zip(paths[1], paths[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@each_class
def test_an_optimizer_keeps_its_parameters(kind):
    """Created before forward, moves and state dicts: it still updates what forward reads."""
    native, ours = twins(kind, 5, 6, **DEEP)
    other, _ = twins(kind, 5, 6, seed=4, **DEEP)
    for module in (native, ours):
        optimizer = torch.optim.SGD(module.parameters(), 0.5)
        module(X)
        module.to("cpu").double()
        module.load_state_dict(other.state_dict())
        module.flatten_parameters()
        module(X)[0].sum().backward()
        optimizer.step()
    assert_twins_agree(native, ours, X)


@each_class
def test_gradients_accumulate_over_batches(kind):
    native, ours = twins(kind, 5, 6, **DEEP)
    grads = []
    for module in (native, ours):
        for n in range(3):
            module(normal(8 + n, 2, 5, seed=n))[0].sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        grads.append([p.grad for p in module.parameters()])
    for mine, theirs in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@each_class
def test_stacked_with_other_modules(kind):
    """Between layers that change their input in place or hand on views."""
    native, ours = twins(kind, 5, 6, batch_first=True, dtype=torch.float64)

    def sandwich(module, x, hx):
        shifted = (x + 1).relu_()
        output, state = module(shifted.transpose(0, 1).contiguous().transpose(0, 1), hx)
        return output.relu_()[:, -1], state

    assert_twins_agree(native, ours, normal(3, 9, 5), state_for(native, 3), sandwich)
    assert_same(exercise(ours, normal(3, 9, 5)), exercise(native, normal(3, 9, 5)))
