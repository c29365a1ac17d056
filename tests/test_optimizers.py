"""What training does with gradients and parameters: optimizers, averages, copies."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fastrnn
from tests.contract import (
    GRU,
    LSTM,
    UNPROJECTED,
    cotangents,
    each_class,
    exercise,
    normal,
    state_for,
    tensors,
    twins,
)
from tests.problems import MOST, by_engine, dtype_of, every_engine, move

pytestmark = pytest.mark.usefixtures("ieee", "quick")
T, B, I, H = 3, 4, 5, 6


def module_of(kind, engine, device):
    deep = {"num_layers": 2, "bidirectional": engine != "torch.cell"}
    return twins(kind, I, H, dtype=dtype_of(engine), **deep)[1].to(device)


def input_for(engine, device, seed=1):
    return normal(T, B, I, seed=seed, dtype=dtype_of(engine)).to(device)


@every_engine
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
def test_no_gradient_is_anothers_memory(kind, engine, device):
    """So that each may be scaled or clipped in place."""
    module = module_of(kind, engine, device)
    x, hx = input_for(engine, device).requires_grad_(), move(state_for(module, B), device)
    states = [s.requires_grad_() for s in tensors(hx)]
    results = tensors(by_engine(engine)(module, x, hx))
    torch.autograd.backward(results, cotangents(results))
    grads = [t.grad for t in (x, *states, *module.parameters())]
    assert len({g.untyped_storage().data_ptr() for g in grads}) == len(grads)
    assert all(g.untyped_storage().nbytes() == g.nbytes for g in grads)


# Fused Adagrad is for CPUs.
OPTIMIZERS = {
    "SGD foreach": partial(torch.optim.SGD, lr=0.1, momentum=0.9, foreach=True),
    "SGD fused": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "Adam for": partial(torch.optim.Adam, lr=0.01, foreach=False),
    "Adam foreach": partial(torch.optim.Adam, lr=0.01, foreach=True, amsgrad=True),
    "AdamW fused": partial(torch.optim.AdamW, lr=0.01, fused=True),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.01, fused=not torch.cuda.is_available()),
}


@pytest.mark.parametrize("engine", [e for e in MOST if e not in ("auto", "torch.aten")])
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_optimizers(kind, engine, optimizer, clip, device):
    """Gradients of two batches accumulated and clipped, in double precision as torch.nn's."""
    finals = []
    ours = module_of(kind, engine, device)
    native = fastrnn.restore(copy.deepcopy(ours), report=None)
    for module, name in ((native, "auto"), (ours, engine)):
        steps = OPTIMIZERS[optimizer](module.parameters())
        for n in range(3):
            steps.zero_grad(set_to_none=n % 2 == 0)
            for seed in (n, n + 10):
                with fastrnn.use_engine(name):
                    module(input_for(engine, device, seed))[0].square().sum().backward()
            clip(module.parameters(), 1.0, foreach=True)
            steps.step()
        finals.append([p.detach() for p in module.parameters()])
    exact = dtype_of(engine) is torch.float64
    tolerance = {"rtol": 0, "atol": 1e-9 if exact else 1e-4}
    for mine, theirs in zip(finals[1], finals[0], strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


@every_engine
@each_class
def test_steps_within_the_backward_pass(kind, engine, device):
    """Each parameter is changed as soon as its gradient is there: the gradients of the layers
    below are still those of the weights that were."""
    seen = []
    for within in (False, True):
        module, x = module_of(kind, engine, device), input_for(engine, device)

        def update(p):
            with torch.no_grad():
                p -= 0.1 * p.grad
            p.grad = None

        if within:
            for p in module.parameters():
                p.register_post_accumulate_grad_hook(update)
        with fastrnn.use_engine(engine):
            module(x)[0].square().sum().backward()
        if not within:
            for p in module.parameters():
                update(p)
        seen.append([p.detach() for p in module.parameters()])
    assert all(map(torch.equal, *seen))


@every_engine
@each_class
def test_averaged_models(kind, engine, device):
    module = module_of(kind, engine, device)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    expected = None
    with fastrnn.use_engine(engine):
        for n in range(3):
            optimizer.zero_grad()
            module(input_for(engine, device, n))[0].square().sum().backward()
            optimizer.step()
            average.update_parameters(module)
            here = [p.detach().clone() for p in module.parameters()]
            pairs = zip(expected or here, here, strict=True)
            expected = [p.lerp(q, 0.5) for p, q in pairs]
        assert type(average.module) is type(module)
        plain = copy.deepcopy(module)
        for p, q in zip(plain.parameters(), expected, strict=True):
            p.data.copy_(q)
        with torch.no_grad():
            outputs = (tensors(m(input_for(engine, device))) for m in (average, plain))
    for mine, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(mine, theirs)


@every_engine
@each_class
def test_a_copy_between_forward_and_backward(kind, engine, device):
    """Has no part in the graph; trained, it leaves the other as it is."""
    module, x = module_of(kind, engine, device), input_for(engine, device)
    expected = exercise(module, x, None, by_engine(engine))

    def copied(module, x, hx):
        results = by_engine(engine)(module, x, hx)
        other = copy.deepcopy(module)
        optimizer = torch.optim.SGD(other.parameters(), 0.1)
        tensors(by_engine(engine)(other, x.detach(), hx))[0].sum().backward()
        optimizer.step()
        assert all(p.grad is None for p in module.parameters())
        return results

    got = exercise(module, x, None, copied)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
