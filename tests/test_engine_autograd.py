"""The kernels' engines under autograd: kept and freed graphs, tensors changed meanwhile, higher
derivatives, inference."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fastrnn
from tests.contract import (
    GRU,
    LSTM,
    UNPROJECTED,
    assert_same,
    cotangents,
    each_class,
    exercise,
    normal,
    state_for,
    tensors,
    twins,
    widened,
)
from tests.problems import (
    ENGINES,
    assert_near,
    assert_right,
    by_engine,
    graph,
    launches,
    move,
    natively,
    on_cpu,
    some_input,
)

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("kernels")
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_mode = pytest.mark.parametrize("memory", ["save", "recompute"])
every_form = pytest.mark.parametrize("form", ["dense", "packed", "padded"])
SINGLE = torch.float32


@every_engine
@each_class
@every_mode
@every_form
def test_a_graph_gives_the_same_gradients_again(kind, engine, memory, form, device):
    results, inputs = graph(kind, engine, memory, form, device)
    first = torch.autograd.grad(results, inputs, cotangents(results), retain_graph=True)
    kept = [d.clone() for d in first]
    second = torch.autograd.grad(results, inputs, cotangents(results))
    for one, two, was in zip(first, second, kept, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, was)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(results, inputs, cotangents(results))


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_gradients_accumulate(kind, engine, device):
    results, inputs = graph(kind, engine, "save", "dense", device)
    torch.autograd.backward(results, cotangents(results), retain_graph=True)
    once = [t.grad.clone() for t in inputs]
    torch.autograd.backward(results, cotangents(results))
    assert all(torch.equal(t.grad, 2 * d) for t, d in zip(inputs, once, strict=True))


@every_engine
@each_class
@every_mode
def test_nobody_elses_tensors_are_changed(kind, engine, memory, device):
    """Input, state and weights are not, nor are results and the gradients that come in."""
    results, inputs = graph(kind, engine, memory, "dense", device, num_layers=2)
    theirs = [*inputs, *results, *cotangents(results)]
    before = [(t.detach().clone(), t._version) for t in theirs]
    grads = torch.autograd.grad(results, inputs, theirs[-len(results) :], retain_graph=True)
    for tensor, (was, version) in zip(theirs, before, strict=True):
        assert torch.equal(tensor, was)
        assert tensor._version == version
    memory = {t.untyped_storage().data_ptr() for t in theirs}
    assert not memory & {d.untyped_storage().data_ptr() for d in grads}


@every_engine
@each_class
@every_mode
@pytest.mark.parametrize("which", ["x", "state", "weight_ih_l0", "weight_hh_l0", "output"])
def test_a_tensor_changed_before_the_backward_pass(kind, engine, memory, which, device):
    """Autograd knows and says so, rather than give gradients of something else."""
    module = twins(kind, 3, 6)[1].to(device)
    x, hx = some_input("dense", device)[0], move(state_for(module, 4), device)
    results = tensors(by_engine(engine, None, memory)(module, x, hx))
    changed = {"x": x, "state": tensors(hx)[0], "output": results[0]}.get(which)
    with torch.no_grad():
        (getattr(module, which) if changed is None else changed).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sum(r.sum() for r in results).backward()


@every_engine
@each_class
@pytest.mark.parametrize("form", ["dense", "packed"])
def test_results_may_be_changed_where_no_backward_pass_follows(kind, engine, form, device):
    """As torch.nn's, though grad mode is on."""
    results, _ = graph(kind, engine, "save", form, device)
    before = [r.detach().clone() for r in results]
    assert all(torch.equal(r.mul_(2), 2 * was) for r, was in zip(results, before, strict=True))


@every_engine
def test_final_states_may_be_changed(engine, device):
    """They are not the tensors that the backward pass reads."""
    results, inputs = graph(LSTM, engine, "save", "dense", device)
    expected = torch.autograd.grad([2 * r for r in results[1:]], inputs, cotangents(results[1:]))
    results, inputs = graph(LSTM, engine, "save", "dense", device)
    doubled = [r.mul_(2) for r in results[1:]]
    got = torch.autograd.grad(doubled, inputs, cotangents(doubled))
    assert all(map(torch.equal, got, expected))


@every_engine
def test_with_frozen_weights_the_input_may_be_reused(engine, device):
    """As torch.nn allows on a CPU: only the gradient of W_ih reads x."""
    module = twins(GRU, 3, 6)[1].to(device)
    module.weight_ih_l0.requires_grad_(False)
    x = some_input("dense", device)[0]
    results = tensors(by_engine(engine)(module, x, None))
    expected = torch.autograd.grad(results, [module.weight_hh_l0], cotangents(results))
    results = tensors(by_engine(engine)(module, x, None))
    x.zero_()
    got = torch.autograd.grad(results, [module.weight_hh_l0], cotangents(results))
    assert torch.equal(got[0], expected[0])


def penalty(call):
    """The gradients of a loss, to be differentiated once more."""

    def second(module, x, hx):
        results = tensors(call(module, x, hx))
        loss = sum((r * r).sum() for r in results)
        inputs = [*tensors((x, hx)), *module.parameters()]
        return list(torch.autograd.grad(loss, inputs, create_graph=True))

    return second


@every_engine
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
@every_form
def test_double_backward(kind, engine, form, device):
    """On the CPU torch.nn has it too, and in double precision is the referee."""
    native, ours = twins(kind, 3, 6, bidirectional=True)
    x, lengths = some_input(form, "cpu")
    hx = state_for(native, 4)
    there = None if lengths is None else lengths.to(device)
    second = penalty(by_engine(engine, there))
    seen = exercise(ours.to(device), move(x, device), move(hx, device), second)
    expected = exercise(native, x, hx, penalty(natively(lengths)))
    referee = exercise(*widened(native, x, hx), penalty(natively(lengths)))
    assert_same(on_cpu(seen), expected, referee)


@every_engine
@each_class
def test_batched_gradients(kind, engine, device):
    results, inputs = graph(kind, engine, "save", "dense", device)
    several = [torch.stack([d, 2 * d, d.flip(0)]) for d in cotangents(results)]
    together = torch.autograd.grad(
        results, inputs, several, is_grads_batched=True, retain_graph=True
    )
    for n in range(3):
        alone = torch.autograd.grad(results, inputs, [d[n] for d in several], retain_graph=True)
        assert_near([t[n] for t in together], [d.double() for d in alone], 64)


@every_engine
@each_class
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(kind, engine, reentrant, device):
    module = twins(kind, 3, 6)[1].to(device)
    x = some_input("dense", device)[0]
    plain = by_engine(engine)

    def checkpointed(module, x, hx):
        return checkpoint(lambda x: plain(module, x, None)[0], x, use_reentrant=reentrant)

    expected = exercise(module, x, None, lambda *args: plain(*args)[0])
    got = exercise(module, x, None, checkpointed)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@every_engine
@each_class
@every_form
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference(kind, engine, form, mode, device):
    """Of nothing more than is needed, and with the numbers of training."""
    module = twins(kind, 3, 6, num_layers=2)[1].to(device)
    x, lengths = some_input(form, device)
    call = by_engine(engine, lengths)
    trained = tensors(call(module, x, None))
    with mode():
        inferred = tensors(call(module, x, None))
    assert all(map(torch.equal, inferred, trained))
    assert not any(t.requires_grad for t in inferred)
    assert all(t.is_inference() == (mode is torch.inference_mode) for t in inferred)


@every_engine
def test_each_layer_is_launched_once_each_way(engine, device, monkeypatch):
    """Or each step of it; and nothing when nothing is to be differentiated."""
    module = twins(LSTM, 3, 6, num_layers=2, bidirectional=True)[1].to(device)
    x = some_input("dense", device)[0]
    # `cooperative` takes a launch for each step where programs can't wait for one another.
    by_steps = engine == "step" or (engine == "cooperative" and device == "cpu")
    count = 2 * (3 if by_steps else 1)
    with launches(monkeypatch) as noted:
        by_engine(engine)(module, x, None)[0].sum().backward()
    assert noted == [f"{engine}.forward"] * count + [f"{engine}.backward"] * count


@every_engine
def test_parameters_under_two_names(engine, device):
    """One tensor as the weights of both directions, and of both layers, has one gradient."""
    native, ours = twins(GRU, 12, 6, num_layers=2, bidirectional=True)
    for module in (native, ours):
        for name in ("weight_ih", "weight_hh", "bias_hh"):
            for k in ("l0_reverse", "l1", "l1_reverse"):
                setattr(module, f"{name}_{k}", getattr(module, f"{name}_l0"))
    x = normal(3, 4, 12, dtype=SINGLE)
    assert_right((native, ours), by_engine(engine), x, None, device)


@every_engine
def test_training_follows_torch(engine, device):
    """Some steps of an optimizer, from the same start."""
    pair = twins(LSTM, 3, 6)
    x = normal(3, 4, 3, dtype=SINGLE).to(device)
    for module, name in zip(pair, ("torch.aten", engine), strict=True):
        module.to(device)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(4):
            optimizer.zero_grad()
            with fastrnn.use_engine(name):
                module(x)[0].pow(2).sum().backward()
            optimizer.step()
    native, ours = (copy.deepcopy(m).double().state_dict() for m in pair)
    for name, exact in native.items():
        assert (ours[name] - exact).abs().max() < 1e-5, name
