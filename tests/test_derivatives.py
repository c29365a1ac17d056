"""First and second derivatives, backwards and forwards, by finite differences in double precision;
of the kernels, which have none, against double precision."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence

from tests.contract import (
    CELLS,
    GRU,
    LSTM,
    MODULES,
    PROJECTED,
    RELU,
    TANH,
    UNPROJECTED,
    assert_near,
    assert_same,
    cotangents,
    exercise,
    leaves,
    mapped,
    normal,
    packed,
    state_for,
    tensors,
    twins,
)
from tests.functions import flat, function_of
from tests.problems import ENGINES, HERE, assert_right, by_engine, dtype_of, move

DOUBLE = torch.float64
T, B, I, H = 3, 2, 2, 2
X = normal(T, B, I)
LENGTHS = torch.tensor([0, 2])
RESETS = torch.tensor([[0, 1], [1, 0], [0, 1]]).bool()
BOTH_WAYS = {"bidirectional": True}
DEEP = {"num_layers": 2, "bidirectional": True}

# Options of the module, the input, options of the call.
CASES = {
    "plain": ({}, X, {}),
    "deep, with dropout": (DEEP | {"dropout": 0.4}, X, {}),
    "without bias": ({"bias": False}, X, {}),
    "batch first": (BOTH_WAYS | {"batch_first": True}, X.transpose(0, 1), {}),
    "one sequence": ({}, X[:, 0], {}),
    "packed": (BOTH_WAYS, packed([2, 3], I), {}),
    "lengths": (BOTH_WAYS, X, {"lengths": LENGTHS}),
    "resets": ({}, X, {"resets": RESETS}),
    "lengths and resets": (BOTH_WAYS, X, {"lengths": torch.tensor([3, 2]), "resets": RESETS}),
    "indices": (BOTH_WAYS, torch.tensor([[0, 1], [1, 1], [0, 0]]), {"one_hot": True}),
}
BATCHED = ("one sequence", "packed", "lengths and resets")
every_case = pytest.mark.parametrize("case", CASES)


def problem(kind, options, x, state=True, dtype=DOUBLE):
    """Our module and an initial state for x."""
    size = {"proj_size": 1} if kind is PROJECTED else {}
    module = twins(kind, I, H, **options, **size, dtype=dtype)[1]
    data = x.data if isinstance(x, PackedSequence) else x
    batch = None if data.dim() == 2 and data.is_floating_point() and data is x else B
    return module, state_for(module, batch) if state else None


def as_one(function, arguments):
    """The same as a function from one vector to one: gradcheck then takes far fewer calls."""
    sizes = [t.numel() for t in arguments]

    def of_vector(vector):
        parts = zip(vector.split(sizes), arguments, strict=True)
        return torch.cat([r.reshape(-1) for r in function(*(p.view(t.shape) for p, t in parts))])

    return of_vector, [torch.cat([t.detach().reshape(-1) for t in arguments]).requires_grad_()]


def check(function, arguments, batched=False):
    """Both derivatives, in both modes; `batched`: several of them at once, too."""
    assert gradcheck(
        function,
        arguments,
        fast_mode=True,
        check_forward_ad=True,
        check_batched_grad=batched,
        check_batched_forward_grad=batched,
    )
    assert gradgradcheck(
        function, arguments, fast_mode=True, check_fwd_over_rev=True, check_batched_grad=batched
    )


@every_case
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
def test_of_the_loops(kind, case):
    options, x, call = CASES[case]
    module, hx = problem(kind, options, x)
    check(*as_one(*function_of(module, x, hx, "torch.bptt", **call)), batched=case in BATCHED)


@every_case
def test_with_projections(case):
    options, x, call = CASES[case]
    module, hx = problem(PROJECTED, options, x)
    check(*as_one(*function_of(module, x, hx, **call)), batched=case in BATCHED)


@pytest.mark.parametrize("case", ["deep, with dropout", "packed", "lengths and resets"])
@pytest.mark.parametrize("kind", UNPROJECTED[:2], ids=str)
@pytest.mark.parametrize("engine", ["auto", "torch.reference"])
def test_by_other_engines(kind, case, engine):
    options, x, call = CASES[case]
    module, _ = problem(kind, options, x)
    check(*as_one(*function_of(module, x, None, engine, **call)))


@pytest.mark.parametrize("kind", [LSTM, PROJECTED, GRU], ids=str)
@pytest.mark.parametrize("engine", ["auto", "torch.reference"])
def test_of_what_is_asked_for(kind, engine):
    """Of cell states and gates, whose derivatives go through the states."""
    module, hx = problem(kind, BOTH_WAYS, X)
    asked = {"return_gates": True, "return_cell_states": kind is not GRU}
    check(*as_one(*function_of(module, X, hx, engine, resets=RESETS, **asked)))


@pytest.mark.parametrize("kind", CELLS, ids=str)
def test_of_cells(kind):
    module = twins(kind, I, H, dtype=DOUBLE)[1]
    check(*as_one(*function_of(module, X[0], state_for(module, B))))


@pytest.mark.parametrize("part", ["results", "weights"])
def test_of_some_of_it(part):
    """Not of every result, nor with respect to every argument."""
    module, hx = problem(LSTM, BOTH_WAYS, X)
    function, arguments = function_of(module, X, hx, "torch.bptt")
    if part == "results":
        check(lambda *tensors: function(*tensors)[2], arguments)
    else:
        x, *states = (t.detach() for t in arguments[:3])
        check(lambda *weights: function(x, *states, *weights), arguments[3:])
        chosen = arguments[4]
        rest = [t.detach() for t in arguments]
        check(lambda w_hh: function(*rest[:4], w_hh, *rest[5:]), [chosen])


def scattered(tensor):
    """The same numbers, side by side in no dimension."""
    spread = torch.stack([tensor, torch.full_like(tensor, 7.0)], -1)
    return spread.transpose(0, 1).contiguous().transpose(0, 1)[..., 0]


def second(call, given=lambda d: d):
    """The gradients, and of their squares the gradient: by input, states, weights and the
    gradients that come in; `given` is done to these first."""

    def run(module, x, hx):
        results = flat(call(module, x, hx))
        incoming = [given(d) for d in leaves(cotangents(results))]
        inputs = [*tensors((x, hx)), *module.parameters()]
        grads = torch.autograd.grad(results, inputs, incoming, create_graph=True)
        norm = sum(grad.pow(2).sum() for grad in grads)
        return [*grads, *torch.autograd.grad(norm, incoming, create_graph=True)]

    return run


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_of_scattered_tensors(kind, engine, device):
    """Input, states and incoming gradients; the same numbers as of contiguous ones."""
    module = twins(kind, 3, 4, dtype=dtype_of(engine))[1].to(device)
    x, hx = normal(3, 2, 3, dtype=dtype_of(engine)), state_for(module, 2, dtype=dtype_of(engine))
    x, hx = move((x, hx), device)
    call = by_engine(engine)
    expected = exercise(module, x, hx, second(call))
    seen = exercise(module, scattered(x), mapped(scattered, hx), second(call, scattered))
    assert not scattered(x).is_contiguous()
    for name, tensor in expected.items():
        torch.testing.assert_close(seen[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "engine"),
    [(kind, name) for kind in MODULES for name in ("auto", "torch.reference")]
    + [(kind, "torch.bptt") for kind in UNPROJECTED],
    ids=str,
)
@pytest.mark.parametrize("case", ["plain", "batch first", "packed"])
def test_a_hessian_times_a_vector_is_that_of_torch(kind, case, engine):
    options, x, _ = CASES[case]
    size = {"proj_size": 1} if kind is PROJECTED else {}
    native, ours = twins(kind, I, H, **options, **size, dtype=DOUBLE)
    found = []
    for module, name in ((native, "auto"), (ours, engine)):
        function, arguments = function_of(module, x, state_for(module, B), name)
        loss = sum(r.pow(3).sum() for r in function(*arguments))
        grads = torch.autograd.grad(loss, arguments, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(grads, cotangents(grads), strict=True))
        found.append(list(torch.autograd.grad(along, arguments)))
    assert_near(*reversed(found))


FORMS = {
    "dense": {},
    "packed": {},
    "lengths": {"lengths": torch.tensor([2, 0, 3])},
    "resets": {"resets": torch.tensor([[0, 1, 0], [1, 0, 0], [1, 1, 0]]).bool()},
}


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [LSTM, GRU, RELU], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_forward_mode_of_kernels(kind, engine, form, device):
    """By the rule for numbers, with the formulas in float32 in the place of torch.nn."""
    pytest.importorskip("triton", reason="needs Triton")
    asked = {"return_cell_states": True} if kind is LSTM else {}
    seen = {}
    for path, dtype, where in (
        (engine, torch.float32, device),
        ("torch.reference", torch.float32, "cpu"),
        ("torch.reference", DOUBLE, "cpu"),
    ):
        module = twins(kind, 3, 4, bidirectional=True)[1].to(where, dtype)
        x = packed([2, 3, 1], 3, dtype=dtype) if form == "packed" else normal(3, 3, 3, dtype=dtype)
        x, hx = move((x, state_for(module, 3)), where)
        marks = {name: mark.to(where) for name, mark in FORMS[form].items()}
        function, arguments = function_of(module, x, hx, path, **marks, **asked)
        with forward_ad.dual_level():
            moving = cotangents(arguments, seed=30)
            results = function(*map(forward_ad.make_dual, arguments, moving))
            pairs = [forward_ad.unpack_dual(r) for r in results]
        found = {f"result {n}": p.primal.detach().cpu() for n, p in enumerate(pairs)}
        found |= {f"tangent {n}": p.tangent.detach().cpu() for n, p in enumerate(pairs)}
        seen[path, dtype] = found
    assert_same(*seen.values())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [LSTM, TANH], ids=str)
def test_gradients_in_eval_mode(kind, engine, device):
    """Which cuDNN refuses."""
    pytest.importorskip("triton", reason="needs Triton")
    pair = [module.eval() for module in twins(kind, 3, 4, dropout=0.5, num_layers=2)]
    x = normal(3, 2, 3, dtype=torch.float32)
    assert_right(pair, by_engine(engine), x, state_for(pair[0], 2), device)
