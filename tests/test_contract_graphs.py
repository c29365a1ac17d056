"""Graphs between forward and backward: several at once, kept, freed, packed away, in threads."""

import gc
import threading
import weakref

import pytest
import torch

from tests.contract import (
    DEEP,
    DOUBLE,
    GRU,
    X,
    assert_near,
    assert_same,
    both,
    cotangents,
    each_class,
    every_form,
    every_module,
    exercise,
    insist_on_the_loop,
    mapped,
    normal,
    state_for,
    tensors,
    twins,
)


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


@every_module
@every_form
def test_retained_graphs_accumulate(kind, x):
    def twice(module):
        results = tensors(module(x, state_for(module, 3)))
        for _ in range(2):
            torch.autograd.backward(results, cotangents(results), retain_graph=True)
        return [p.grad for p in module.parameters()]

    def once(module):
        results = tensors(module(x, state_for(module, 3)))
        torch.autograd.backward(results, cotangents(results))
        return [2 * p.grad for p in module.parameters()]

    assert_near(both(kind, twice), both(kind, once))


@every_module
@every_form
def test_a_freed_graph_cannot_run_again(kind, x):
    _, ours = twins(kind, 5, 6, **DEEP)
    results = tensors(ours(x))
    torch.autograd.backward(results, cotangents(results), retain_graph=False)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.backward(results, cotangents(results))


@every_module
@every_form
def test_two_graphs_alive_at_once(kind, x):
    """Two forwards of equal shapes, the state of one fed to the other, backward in both orders."""

    def tangled(module):
        first, state = module(x, state_for(module, 3))
        second, _ = module(mapped(lambda data: data + 1, x), state)
        third, _ = module(x, mapped(torch.Tensor.detach, state))
        grads = []
        for result in (third, first, second):
            result = tensors(result)
            grads += torch.autograd.grad(
                result, list(module.parameters()), cotangents(result), retain_graph=True
            )
        return grads

    both(kind, tangled)


@every_module
def test_truncated_backpropagation_in_segments(kind):
    def segments(module):
        state, grads = state_for(module, 3), []
        for n in range(4):
            output, state = module(normal(9, 3, 5, seed=n), mapped(torch.Tensor.detach, state))
            output.pow(2).sum().backward()
        return grads + [p.grad for p in module.parameters()]

    both(kind, segments)


@each_class
def test_threads_share_a_module(kind):
    native, ours = twins(kind, 5, 6, **DEEP)
    inputs = [normal(9 + n % 2, 3, 5, seed=n) for n in range(4)]

    def grads(module, x):
        output, _ = module(x)
        return torch.autograd.grad(output, list(module.parameters()), cotangents([output])[0])

    found = [[] for _ in inputs]

    def work(n):
        for _ in range(5):
            found[n].append(grads(ours, inputs[n]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, repeated in zip(inputs, found, strict=True):
        assert len(repeated) == 5
        for got in repeated:
            assert_near(got, grads(native, x))


@each_class
def test_saved_tensors_pass_the_hooks(kind):
    """What backward keeps can be packed away, to the CPU or to a disk, and brought back."""

    def offloaded(module):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: tensor.detach().clone().numpy(), torch.from_numpy
        ):
            output, _ = module(X)
        output.sum().backward()
        return [p.grad for p in module.parameters()]

    both(kind, offloaded)


@pytest.mark.parametrize("kind", [GRU], ids=str)
def test_a_second_thread_changes_nothing(kind):
    _, ours = twins(kind, 40, 70, dtype=DOUBLE)
    x = normal(9, 16, 40)
    alone = exercise(ours, x)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert_same(exercise(ours, x), alone)
    finally:
        torch.set_num_threads(threads)


@each_class
@every_form
def test_a_dropped_graph_is_freed_at_once(kind, x):
    """No cycle holds what backward saved: memory does not wait for the garbage collector."""
    _, ours = twins(kind, 5, 6, **DEEP)
    gc.disable()
    try:
        data = mapped(lambda t: t.clone().requires_grad_(), x)
        watched = weakref.ref(tensors(data)[0])
        results = tensors(ours(data))
        del data
        assert watched() is not None
        results[0].sum().backward()
        del results
        assert watched() is None
    finally:
        gc.enable()
