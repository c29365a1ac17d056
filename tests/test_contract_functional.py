"""torch.func and forward-mode AD over the modules, wherever native supports them."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.utils.rnn import pad_packed_sequence

from fastrnn.modules import _Recurrent
from tests.contract import (
    UNPROJECTED,
    each_class,
    every_module,
    insist_on_the_loop,
    mapped,
    normal,
    packed,
    state_for,
    tensors,
    twins,
    without_onednn,
)

X = normal(9, 3, 5)
LENGTHS = [9, 2, 3]
PACKED = packed(LENGTHS, 5)
# The rows of its data that are each sequence's.
ROWS = [
    rows[:length]
    for rows, length in zip(
        pad_packed_sequence(PACKED._replace(data=torch.arange(14)))[0].unbind(1),
        LENGTHS,
        strict=True,
    )
]
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning", "ignore:Using a non-tuple sequence"
)


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


def parameters_of(module):
    return {name: p.detach() for name, p in module.named_parameters()}


def output_of(module):
    return lambda x: module(x)[0]


def by_weights(module, x=X):
    return lambda weights: functional_call(module, weights, (x,))[0].pow(2).sum()


def on_packed(module):
    """The output of packed data, by the data alone; of native, which has no transform of that, the
    outputs of each sequence."""

    def output(data):
        if isinstance(module, _Recurrent):
            return module(PACKED._replace(data=data))[0].data
        outputs = torch.cat([module(data[rows])[0] for rows in ROWS])
        return outputs[torch.cat(ROWS).argsort()]

    return output


TRANSFORMS = {
    "grad": lambda m, x: grad(lambda x: m(x)[0].pow(2).sum())(x),
    "grad of weights": lambda m, x: list(grad(by_weights(m, x))(parameters_of(m)).values()),
    "vjp": lambda m, x: vjp(output_of(m), x)[1](torch.ones_like(m(x)[0])),
    "jvp": lambda m, x: jvp(output_of(m), (x,), (torch.ones_like(x),)),
    "jvp of weights": lambda m, x: jvp(by_weights(m, x), (parameters_of(m),), (parameters_of(m),)),
    "jvp of the state": lambda m, x: jvp(
        lambda hx: tuple(tensors(m(x, hx))), (state_for(m, 3),), (state_for(m, 3, seed=8),)
    ),
    "grad of packed data": lambda m, x: grad(lambda data: on_packed(m)(data).pow(2).sum())(
        PACKED.data.to(x.dtype)
    ),
    "jvp of packed data": lambda m, x: jvp(
        on_packed(m), (PACKED.data.to(x.dtype),), (normal(14, 5, seed=8, dtype=x.dtype),)
    ),
    "jacrev": lambda m, x: jacrev(output_of(m))(x),
    "jacfwd": lambda m, x: jacfwd(output_of(m))(x),
    "hessian": lambda m, x: hessian(lambda x: m(x)[0].sum())(x[:2]),
    "grad of grad": lambda m, x: grad(lambda x: grad(lambda x: m(x)[0].sum())(x).pow(2).sum())(x),
    "jvp of grad": lambda m, x: jvp(
        grad(lambda x: m(x)[0].pow(2).sum()), (x,), (torch.ones_like(x),)
    ),
    "grad per sample": lambda m, x: list(
        vmap(grad(lambda w, x: by_weights(m, x)(w)), (None, 1))(parameters_of(m), x).values()
    ),
}


def one_by_one(m, x):
    """Of "grad per sample"."""
    gradients = [grad(by_weights(m, x_b))(parameters_of(m)).values() for x_b in x.unbind(1)]
    return [torch.stack(parts) for parts in zip(*gradients, strict=True)]


@each_class
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_transforms(kind, transform, dtype):
    """Native has none of vmap in general, nor of packed data, nor forward mode through oneDNN."""
    native, ours = twins(kind, 5, 6, 2, bidirectional=True, dtype=dtype)
    x, reference = X.to(dtype), TRANSFORMS[transform]
    with without_onednn():
        expected = (one_by_one if transform == "grad per sample" else reference)(native, x)
    got = reference(ours, x)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {}
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


@every_module
def test_dual_numbers(kind):
    native, ours = twins(kind, 5, 6, 2, bidirectional=True, dtype=torch.float64)
    seen = []
    for module in (native, ours):
        with forward_ad.dual_level():
            x = forward_ad.make_dual(X, normal(9, 3, 5, seed=8))
            hx = mapped(lambda h: forward_ad.make_dual(h, h + 1), state_for(module, 3))
            parts = [forward_ad.unpack_dual(result) for result in tensors(module(x, hx))]
        seen.append([part for pair in parts for part in pair])
    for mine, theirs in zip(seen[1], seen[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@every_module
@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("dtype", FLOATS[:2], ids=str)
def test_batched_gradients(kind, form, dtype):
    native, ours = twins(kind, 5, 6, 2, bidirectional=True, dtype=dtype)
    x = X.to(dtype) if form == "padded" else packed([9, 2, 3], 5, dtype=dtype)
    hx = state_for(native, 3)
    seen = []
    for module in (native, ours):
        inputs = mapped(lambda t: t.clone().requires_grad_(), (x, hx))
        results = tensors(module(*inputs))
        batches = [normal(4, *r.shape, seed=n, dtype=dtype) for n, r in enumerate(results)]
        wanted = [*tensors(inputs), *module.parameters()]
        seen.append(torch.autograd.grad(results, wanted, batches, is_grads_batched=True))
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    for mine, theirs in zip(seen[1], seen[0], strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


@every_module
def test_vectorised_jacobian(kind):
    native, ours = twins(kind, 5, 6, dtype=torch.float64)
    expected, got = (
        torch.autograd.functional.jacobian(output_of(m), X, vectorize=True) for m in (native, ours)
    )
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
def test_gradcheck(kind):
    _, ours = twins(kind, 3, 2, 2, bidirectional=True, dtype=torch.float64)
    x = normal(9, 2, 3).requires_grad_()
    hx = mapped(lambda h: h.requires_grad_(), state_for(ours, 2))

    def flat(x, *states):
        return tuple(tensors(ours(x, states if len(states) > 1 else states[0])))

    arguments = (x, *tensors(hx))
    assert torch.autograd.gradcheck(
        flat, arguments, fast_mode=True, check_batched_grad=True, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(flat, arguments, fast_mode=True)
