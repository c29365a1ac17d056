"""What leaves a module is the caller's, as with torch.nn: to change in place, hooks and all."""

import pytest
import torch

from tests.contract import each_class, normal, state_for, tensors, twins
from tests.problems import ENGINES, by_engine, dtype_of, every_engine, move

pytestmark = pytest.mark.usefixtures("ieee", "quick")
KERNELS = ("auto", *ENGINES)
every_depth = pytest.mark.parametrize("depth", [1, 2])


def problem(kind, engine, depth, device):
    """Module, input and state: one layer in one direction, or two in both where there are two."""
    dtype = dtype_of(engine)
    deep = {"num_layers": depth, "bidirectional": depth == 2 and engine != "torch.cell"}
    module = twins(kind, 5, 6, dtype=dtype, **deep)[1].to(device)
    return module, normal(3, 4, 5, dtype=dtype).to(device), move(state_for(module, 4), device)


@every_engine
@each_class
@every_depth
def test_hooks_survive_a_change_in_place(kind, engine, depth, device):
    """FSDP2 hooks into results; a hook on a view is lost where the view is changed in place.

    Not so the output of kernels, which may not be changed before the backward pass, as cuDNN's.
    """
    module, x, hx = problem(kind, engine, depth, device)
    results = tensors(by_engine(engine)(module, x, hx))
    called = []
    for n, result in enumerate(results):
        result.register_hook(lambda d, n=n: called.append(n))
        if n or engine not in KERNELS:
            result.mul_(2)
    sum(result.sum() for result in results).backward()
    assert sorted(called) == [*range(len(results))]


@pytest.mark.parametrize("engine", ENGINES)
@each_class
@every_depth
def test_an_output_of_kernels_that_was_changed_is_noticed(kind, engine, depth, device):
    module, x, hx = problem(kind, engine, depth, device)
    output, _ = by_engine(engine)(module, x, hx)
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@every_engine
@each_class
@every_depth
def test_what_is_made_without_gradients_takes_some_in(kind, engine, depth, device):
    """In place, which torch refuses for views that were made without."""
    module, x, hx = problem(kind, engine, depth, device)
    with torch.no_grad():
        results = tensors(by_engine(engine)(module, x, hx))
    factor = torch.ones((), dtype=x.dtype, device=device, requires_grad=True)
    expected = sum(result.sum() for result in results)
    sum(result.mul_(factor).sum() for result in results).backward()
    torch.testing.assert_close(factor.grad, expected)
