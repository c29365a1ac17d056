"""torch.nn's operators as they serve on a GPU: with the backward pass that cuDNN lacks.

The same code around torch's operators for a CPU: there these can do what cuDNN's cannot, so they
are the measure of it. On a GPU it is cuDNN's.
"""

import warnings

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import fastrnn
from fastrnn import torch_engine
from tests.contract import (
    DOUBLE,
    PACKED,
    assert_twins_agree,
    cotangents,
    each_class,
    every_module,
    leaves,
    normal,
    state_for,
    tensors,
    twins,
)
from tests.problems import move

pytestmark = pytest.mark.usefixtures("mended")
DEEP = {"num_layers": 2, "bidirectional": True, "dtype": DOUBLE}
X = normal(4, 3, 5)


@pytest.fixture(autouse=True)
def mended(monkeypatch):
    """Wherever the tensors are."""
    monkeypatch.setitem(torch_engine.PLANS, "aten", torch_engine.mended)
    with fastrnn.use_engine("torch.aten"):
        yield


@pytest.mark.parametrize("x", [X, PACKED], ids=["padded", "packed"])
@every_module
def test_is_torch_nns_step(kind, x, device):
    native, ours = (m.to(device) for m in twins(kind, 5, 7, **DEEP))
    assert_twins_agree(native, ours, move(x, device), move(state_for(ours, 3), device))


@pytest.mark.slow
@every_module
def test_derivatives_in_eval_mode(kind, device):
    """Of the first order and of the second, one by one and in batches."""
    module = twins(kind, 2, 4, dropout=0.5, **DEEP)[1].to(device).eval()
    x = normal(3, 2, 2).to(device).requires_grad_()
    hx = leaves(move(state_for(module, 2), device))
    inputs = (x, *tensors(hx), *module.parameters())

    def function(x, *rest):
        states = rest[: len(tensors(hx))]
        results = module(x, states if len(states) > 1 else states[0])
        return tuple(tensors(results))

    # `module` reads its own parameters, so those are checked as they are.
    assert gradcheck(function, inputs[: 1 + len(tensors(hx))], check_batched_grad=True)
    assert gradgradcheck(function, inputs[: 1 + len(tensors(hx))], check_batched_grad=True)


@each_class
def test_second_derivatives_by_weights(kind, device):
    native, ours = (m.to(device) for m in twins(kind, 5, 7, **DEEP))
    products = []
    for module in (native, ours):
        x = X.to(device).requires_grad_()
        with torch.backends.cudnn.flags(enabled=False):
            output = module(x)[0]
            parameters = list(module.parameters())
            grads = torch.autograd.grad(output.square().sum(), parameters, create_graph=True)
            products.append(torch.autograd.grad(grads, [x, *parameters], cotangents(grads)))
    for mine, theirs in zip(products[1], products[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@each_class
def test_dropout_replays(kind, device):
    """From the generator's state, and so under checkpointing."""
    module = twins(kind, 5, 7, dropout=0.5, **DEEP)[1].to(device)
    x = X.to(device).requires_grad_()

    def step(call):
        torch.manual_seed(3)
        output = call(x)
        return [output, *torch.autograd.grad(output.square().sum(), [x, *module.parameters()])]

    def output(x):
        return module(x)[0]

    runs = [
        step(call)
        for call in (
            output,
            output,
            lambda x: checkpoint(output, x, use_reentrant=False),
        )
    ]
    for run in runs[1:]:
        assert all(map(torch.equal, runs[0], run))
    torch.manual_seed(4)
    assert not torch.equal(output(x), runs[0][0])
    # Eval mode has no dropout, second derivatives have the same.
    torch.manual_seed(3)
    (again,) = torch.autograd.grad(output(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(again, runs[0][1])


def test_a_graph_is_kept_where_that_is_asked_for(device):
    module = fastrnn.GRU(5, 7, dtype=DOUBLE).to(device)
    output = module(X.to(device))[0].square().sum()
    output.backward(retain_graph=True)
    first = module.weight_hh_l0.grad.clone()
    output.backward()
    torch.testing.assert_close(module.weight_hh_l0.grad, 2 * first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        output.backward()


@each_class
def test_autocast(kind, device):
    """Second derivatives in autocast's dtype, as the first."""
    module = twins(kind, 5, 7)[1].to(device)
    x = X.float().to(device).requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        output = module(x)[0]
    loss = output.float().square().sum()
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(twice, once, rtol=5e-2, atol=5e-2)
    assert twice.requires_grad


def test_of_weights_in_pieces_nobody_is_warned(device):
    module = fastrnn.LSTM(3, 4, num_layers=2, dropout=0.5).to(device)
    x = torch.randn(5, 2, 3, device=device)
    with warnings.catch_warnings():
        module(x)
        count = len(warnings.filters)
        module(x)
        assert len(warnings.filters) == count
        message = "RNN module weights are not part of single contiguous chunk of memory."
        warnings.warn_explicit(message, UserWarning, "torch_engine.py", 1, torch_engine.__name__)
        with pytest.raises(UserWarning, match="RNN module weights"):
            warnings.warn_explicit(message, UserWarning, "train.py", 1, "train")
