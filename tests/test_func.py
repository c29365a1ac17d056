"""torch.func's transforms, and torch's older ways to the same, each against a loop in Python."""

import pytest
import torch
from torch.autograd import functional as older
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)
from torch.utils._pytree import tree_leaves, tree_map

import fastrnn
from tests.contract import GRU, LSTM, TANH, UNPROJECTED, Kind, cotangents, normal, twins
from tests.functions import flat
from tests.problems import ENGINES, HERE, assert_near, dtype_of

pytestmark = pytest.mark.usefixtures("kernels")
V, T, B, I, H = 3, 3, 2, 2, 3
# What of our own has rules for transforms.
NAMES = tuple(name for name in HERE if name not in ("torch.aten", "torch.cell"))
every_engine = pytest.mark.parametrize("engine", NAMES)
LOOPS = ("torch.bptt", "auto")


class Problem:
    """A module as a function of weights and input, V inputs, and a loss."""

    def __init__(self, kind, engine, device="cpu", **options):
        dtype = dtype_of(engine)
        self.modules = [
            twins(kind, I, H, seed=v, dtype=dtype, **options)[1].to(device) for v in range(V)
        ]
        self.weights = {name: p.detach() for name, p in self.modules[0].named_parameters()}
        self.xs = normal(V, T, B, I, dtype=dtype).to(device)
        self.v = normal(T, B, I, seed=9, dtype=dtype).to(device)

    def results(self, weights, x, hx=None, **call):
        return tuple(flat(functional_call(self.modules[0], weights, (x, hx), call)))

    def output(self, x, **call):
        return self.results(self.weights, x, **call)[0]

    def loss(self, weights, x, **call):
        return sum(r.pow(2).sum() for r in self.results(weights, x, **call))

    def loss_of_x(self, x):
        return self.loss(self.weights, x)


def stacked(results):
    return tree_map(lambda *parts: torch.stack(parts), *results)


def assert_equal(got, expected, rounding=64):
    """To some roundings, leaf by leaf."""
    assert_near(tree_leaves(got), [t.double() for t in tree_leaves(expected)], rounding)


def over_inputs(p):
    return vmap(p.output)(p.xs), stacked(map(p.output, p.xs))


def over_another_dimension(p):
    got = vmap(p.output, in_dims=2, out_dims=1)(p.xs.movedim(0, 2))
    return got.movedim(1, 0), stacked(map(p.output, p.xs))


def over_inputs_twice(p):
    xs = torch.stack([p.xs, -p.xs])
    return vmap(vmap(p.output))(xs), stacked(stacked(map(p.output, x)) for x in xs)


def over_all_results(p):
    def results(x):
        return p.results(p.weights, x)

    return vmap(results)(p.xs), stacked(map(results, p.xs))


def over_states(p):
    state = normal(V, p.modules[0].num_layers, B, H, dtype=p.xs.dtype).to(p.xs.device)

    def final(h):
        hx = (h, 2 * h) if len(p.results(p.weights, p.v)) == 3 else h
        return p.results(p.weights, p.v, hx)

    return vmap(final)(state), stacked(map(final, state))


def over_weights(p):
    weights, _ = stack_module_state(p.modules)
    got = vmap(lambda w: p.results(w, p.v))(weights)
    return got, stacked(tuple(flat(module(p.v))) for module in p.modules)


def gradients_of_an_ensemble(p):
    weights, _ = stack_module_state(p.modules)
    each = [dict(module.named_parameters()) for module in p.modules]
    got = vmap(grad(p.loss))(weights, p.xs)
    return got, stacked(grad(p.loss)(w, x) for w, x in zip(each, p.xs, strict=True))


def gradients_per_sample(p):
    got = vmap(grad(p.loss), (None, 0))(p.weights, p.xs)
    return got, stacked(grad(p.loss)(p.weights, x) for x in p.xs)


def gradients_per_sequence(p):
    """Of a batch's sequences, unbatched within."""
    got = vmap(grad(p.loss), (None, 1))(p.weights, p.v)
    return got, stacked(grad(p.loss)(p.weights, x) for x in p.v.unbind(1))


def gradient(p):
    weights = {name: w.clone().requires_grad_() for name, w in p.weights.items()}
    expected = torch.autograd.grad(p.loss(weights, p.v), list(weights.values()))
    return tuple(grad(p.loss)(p.weights, p.v).values()), expected


def product_with_the_jacobian(p):
    """Against finite differences in the place of a loop."""
    wide = Problem.__new__(Problem)
    wide.modules = [p.modules[0].double().cpu()]
    wide.weights = {name: w.double().cpu() for name, w in p.weights.items()}
    x, v = p.xs[0].double().cpu(), p.v.double().cpu()
    with fastrnn.use_engine("torch.reference"):
        difference = (wide.output(x + 1e-5 * v) - wide.output(x - 1e-5 * v)) / 2e-5
    p.modules[0].to(p.xs)
    got = jvp(p.output, (p.xs[0],), (p.v,))[1].double().cpu()
    torch.testing.assert_close(got, difference, rtol=1e-4, atol=1e-6)
    return got, got


def product_with_its_transpose(p):
    x = p.v.clone().requires_grad_()
    (d,) = cotangents([p.output(p.v)])
    expected = torch.autograd.grad(p.output(x), x, d)
    return vjp(p.output, p.v)[1](d), expected


TRANSFORMS = {
    f.__name__: f
    for f in (
        over_inputs,
        over_another_dimension,
        over_inputs_twice,
        over_all_results,
        over_states,
        over_weights,
        gradients_of_an_ensemble,
        gradients_per_sample,
        gradients_per_sequence,
        gradient,
        product_with_the_jacobian,
        product_with_its_transpose,
    )
}


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_is_a_loop(transform, kind, engine, device):
    p = Problem(kind, engine, device)
    with fastrnn.use_engine(engine):
        got, expected = TRANSFORMS[transform](p)
    assert_equal(got, expected)


@pytest.mark.parametrize("transform", ["over_inputs", "over_weights", "gradients_of_an_ensemble",
                                       "gradients_per_sample"])  # fmt: skip
@pytest.mark.parametrize("kind", [*UNPROJECTED, Kind("LSTM", {"proj_size": 2})], ids=str)
def test_of_two_layers_and_directions(transform, kind):
    p = Problem(kind, "torch.bptt", num_layers=2, bidirectional=True)
    got, expected = TRANSFORMS[transform](p)
    assert_equal(got, expected)


def by_rows(p):
    """All second derivatives by the rows of the gradient, one at a time."""
    x = p.v.clone().requires_grad_()
    (d,) = torch.autograd.grad(p.loss_of_x(x), x, create_graph=True)
    rows = [torch.autograd.grad(part, x, retain_graph=True)[0] for part in d.flatten()]
    return torch.stack(rows).view(*x.shape, *x.shape)


HESSIANS = {
    "hessian": hessian,
    "forward over forward": lambda f: jacfwd(jacfwd(f)),
    "reverse over reverse": lambda f: jacrev(jacrev(f)),
    "reverse over forward": lambda f: jacrev(jacfwd(f)),
    "older": lambda f: lambda x: older.hessian(f, x),
    "older, in batches": lambda f: lambda x: older.hessian(f, x, vectorize=True),
    "older, forward over reverse": lambda f: (
        lambda x: older.hessian(f, x, vectorize=True, outer_jacobian_strategy="forward-mode")
    ),
}


@pytest.mark.parametrize("engine", [*LOOPS, "torch.reference"])
@pytest.mark.parametrize("kind", [LSTM, GRU, TANH], ids=str)
@pytest.mark.parametrize("way", HESSIANS)
def test_hessians(way, kind, engine):
    p = Problem(kind, engine)
    with fastrnn.use_engine(engine):
        assert_equal(HESSIANS[way](p.loss_of_x)(p.v), by_rows(p))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", HESSIANS)
def test_hessians_by_kernels(way, engine, device):
    pytest.importorskip("triton", reason="needs Triton")
    p = Problem(GRU, engine, device)
    p.v = p.v[:2, :1].contiguous()
    with fastrnn.use_engine(engine):
        assert_equal(HESSIANS[way](p.loss_of_x)(p.v), by_rows(p))


def test_third_derivatives():
    """Forward mode three times over, and in every mix with reverse mode."""
    p = Problem(LSTM, "torch.bptt")
    x, v = p.v[:, :1], p.xs[0][:, :1]

    def forwards(f):
        return lambda x: jvp(f, (x,), (v,))[1]

    def backwards(f):
        return lambda x: (grad(f)(x) * v).sum()

    found = []
    with fastrnn.use_engine("torch.bptt"):
        for first in (forwards, backwards):
            for then in (forwards, backwards):
                for last in (forwards, backwards):
                    found.append(last(then(first(p.loss_of_x)))(x))
    with fastrnn.use_engine("torch.reference"):
        expected = forwards(forwards(forwards(p.loss_of_x)))(x)
    assert expected.abs() > 1e-3
    assert_equal(found, [expected] * len(found))


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_jacobians(kind, engine, strategy, device):
    p = Problem(kind, engine, device)
    with fastrnn.use_engine(engine):
        rows = older.jacobian(p.output, p.v)
        assert_equal(older.jacobian(p.output, p.v, vectorize=True, strategy=strategy), rows)
        way = jacrev if strategy == "reverse-mode" else jacfwd
        assert_equal(way(p.output)(p.v), rows)


@pytest.mark.parametrize("engine", [name for name in NAMES if name != "auto"])
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_batches_of_gradients_for_a_graph_that_goes(kind, engine, device):
    """Nobody will need what was saved again but the rest of the batch."""
    p = Problem(kind, engine, device)
    several = torch.stack([*cotangents([p.output(p.v)]), *cotangents([p.output(p.v)], seed=8)])
    with fastrnn.use_engine(engine):
        x = p.v.clone().requires_grad_()
        alone = [torch.autograd.grad(p.output(x), x, d)[0] for d in several]
        (got,) = torch.autograd.grad(p.output(x), x, several, is_grads_batched=True)
        (new,) = vmap(lambda d: vjp(p.output, p.v)[1](d))(several)
        output = p.output(x)
        (mapped,) = vmap(lambda d: torch.autograd.grad(output, x, d, retain_graph=True))(several)
    assert_equal([got, new, mapped], [torch.stack(alone)] * 3)


@pytest.mark.parametrize("engine", ["auto", "torch.bptt", "torch.reference", "step"])
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_with_lengths_and_resets(kind, engine, device):
    """The same for every problem: the loops and kernels serve."""
    if engine not in HERE:
        pytest.skip("needs Triton")
    p = Problem(kind, engine, device)
    call = {
        "lengths": torch.tensor([3, 0], device=device),
        "resets": torch.tensor([[0, 1], [1, 0], [0, 0]], device=device).bool(),
    }
    with fastrnn.use_engine(engine):
        got = vmap(lambda x: grad(p.loss)(p.weights, x, **call))(p.xs)
        assert_equal(got, stacked(grad(p.loss)(p.weights, x, **call) for x in p.xs))
        got = jvp(lambda x: p.output(x, **call), (p.v,), (p.xs[0],))[1]
        _, back = vjp(lambda x: p.output(x, **call), p.v)
        (d,) = cotangents([got])
        assert_equal((got * d).sum(), (p.xs[0] * back(d)[0]).sum())


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
@pytest.mark.parametrize("given", ["lengths", "resets"])
def test_lengths_and_resets_of_each_problem(kind, given):
    """Only the formulas serve; who names another engine learns why it does not."""
    p = Problem(kind, "auto", bidirectional=True)
    marks = {
        "lengths": torch.tensor([[3, 0], [1, 2], [3, 3]]),
        "resets": normal(V, T, B) > 0.3,
    }[given]

    def gradients(x, mark):
        return grad(p.loss)(p.weights, x, **{given: mark})

    expected = stacked(map(gradients, p.xs, marks))
    assert_equal(vmap(gradients)(p.xs, marks), expected)
    names = ("torch.bptt", *(name for name in HERE if name in ENGINES))
    for name in names:
        with fastrnn.use_engine(name), pytest.raises(RuntimeError, match="each problem of a torch"):
            vmap(lambda x, mark: p.output(x, **{given: mark}))(p.xs, marks)


@pytest.mark.parametrize("engine", LOOPS)
def test_indices_cells_and_gates(engine):
    p = Problem(LSTM, engine, bidirectional=True)
    ids = torch.arange(V * T * B).remainder(I).view(V, T, B)
    call = {"one_hot": True, "return_cell_states": True, "return_gates": True}

    def gradients(i):
        return grad(p.loss)(p.weights, i, **call)

    with fastrnn.use_engine(engine):
        assert_equal(vmap(gradients)(ids), stacked(map(gradients, ids)))

        def cells(w):
            return p.results(w, ids[0], **call)[3:]

        assert_equal(jacfwd(cells)(p.weights), jacrev(cells)(p.weights))


@pytest.mark.parametrize("engine", [*LOOPS, "torch.reference", "resident"])
@pytest.mark.parametrize("randomness", ["different", "same", "error"])
def test_dropout(randomness, engine, device):
    if engine not in HERE:
        pytest.skip("needs Triton")
    p = Problem(GRU, engine, device, num_layers=2, dropout=0.5)
    xs = p.v.expand(V, T, B, I)

    def dropped(module):
        torch.manual_seed(0)
        return vmap(lambda x: module(x)[0], randomness=randomness)(xs)

    with fastrnn.use_engine(engine):
        if randomness == "error":
            with pytest.raises(RuntimeError, match="randomness error mode"):
                dropped(p.modules[0])
            return
        got = dropped(p.modules[0])
    alike = all(torch.allclose(part, got[0]) for part in got)
    assert alike == (randomness == "same")
    if randomness == "same":
        torch.manual_seed(0)
        with fastrnn.use_engine(engine):
            assert_equal(got[0], p.modules[0](p.v)[0])
