"""A step of a stream on a CPU: torch.nn's operator at once, which is what would be chosen."""

import copy

import pytest
import torch
from torch.func import functional_call, vmap

import fastrnn
from fastrnn.at_once import at_once
from fastrnn.flat_weights import current

KINDS = [("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
each_kind = pytest.mark.parametrize(("name", "options"), KINDS)


def once(module, x, hx):
    return at_once(module, current(module), x, hx)


def problem(name, dtype=torch.float32, **options):
    """(module, x, hx) of a step."""
    module = getattr(fastrnn, name)(5, 7, dtype=dtype, **options)
    first = options.get("batch_first", False)
    x = torch.randn((3, 1, 5) if first else (1, 3, 5), dtype=dtype)
    return module, x, torch.randn(1, 3, 7, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("more", [{}, {"bias": False}, {"batch_first": True}])
@pytest.mark.parametrize("grad", [True, False])
@each_kind
def test_is_what_would_be_chosen_and_torch_nns_bits(name, options, more, grad, dtype):
    module, x, hx = problem(name, dtype, **options, **more)
    native = fastrnn.restore(copy.deepcopy(module), report=None)
    with torch.set_grad_enabled(grad):
        found = once(module, x, hx)
        assert fastrnn.explain(module, x, hx).plan == "aten"
        for ours, at_once, theirs in zip(module(x, hx), found, native(x, hx), strict=True):
            assert torch.equal(ours, theirs)
            assert torch.equal(at_once, theirs)
            assert ours.requires_grad == grad


@each_kind
def test_takes_no_other_call(name, options):
    module, x, hx = problem(name, **options)
    for other in (x.expand(2, 3, 5), x[:, :0], x[0], x[..., :4], x.double(), x.to("meta")):
        assert once(module, other, hx) is None
    for other in (None, (hx,), hx[:, :2], hx.double(), hx.to("meta")):
        assert once(module, x, other) is None
    with fastrnn.use_engine("torch.reference"):
        assert once(module, x, hx) is None
    for larger in ({"num_layers": 2}, {"bidirectional": True}):
        module, x, _ = problem(name, **options, **larger)
        assert once(module, x, torch.zeros(2, 3, 7)) is None
    assert once(fastrnn.LSTM(5, 7), x, hx) is None


@each_kind
def test_weights_put_in_for_one_call_are_heeded(name, options):
    module, x, hx = problem(name, **options)
    zeros = {k: torch.zeros_like(w) for k, w in module.named_parameters()}
    expected = hx / 2 if name == "GRU" else torch.zeros_like(hx)
    assert torch.equal(functional_call(module, zeros, (x, hx))[1], expected)
    every = vmap(lambda x: module(x, hx)[0])(torch.stack((x, 2 * x)))
    torch.testing.assert_close(every[0], module(x, hx)[0])
