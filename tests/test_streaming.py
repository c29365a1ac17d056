"""One step at a time: `module.step`, and the cells, in kernels."""

import copy

import pytest
import torch

import fastrnn
from tests.contract import (
    CELLS,
    UNPROJECTED,
    assert_same,
    assert_same_outcome,
    each_class,
    exercise,
    normal,
    packed,
    state_for,
    tensors,
    twins,
    widened,
)
from tests.problems import DTYPES, ENGINES, assert_near, by_engine, launches, move, on_cpu

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("kernels")
NAMES = ("auto", *ENGINES)
every_name = pytest.mark.parametrize("engine", NAMES)
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
T = 4


def stream(module, steps, hx=None, dim=0, **options):
    """What T calls of `step` give, as one call of the module would."""
    outputs = []
    for x in steps:
        output, hx = module.step(x, hx, **options)
        outputs.append(output)
    return torch.stack(outputs, dim), hx


@every_name
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
@every_dtype
@pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
def test_steps_are_the_sequence(kind, engine, dtype, state, device):
    """To the rounding of the input's product, and in half precision of a state handed over."""
    module = twins(kind, 3, 6, num_layers=2, dtype=dtype)[1].to(device)
    x = normal(T, 5, 3, dtype=dtype).to(device)
    hx = move(state_for(module.cpu(), 5), device) if state else None
    module.to(device)
    with fastrnn.use_engine(engine):
        whole, got = tensors(module(x, hx)), tensors(stream(module, x, hx))
    assert [t.shape for t in got] == [t.shape for t in whole]
    assert_near(got, [t.double() for t in whole], 4)


@every_engine
@each_class
def test_steps_have_the_bits_of_the_sequence(kind, engine):
    """Where the input's product has: of small numbers that add up without rounding."""
    module = twins(kind, 3, 6)[1]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "_ih" in name:
                parameter.mul_(64).round_().div_(64)
    x = normal(T, 5, 3, dtype=torch.float32).mul(4).round()
    with fastrnn.use_engine(engine), torch.no_grad():
        whole, got = tensors(module(x)), tensors(stream(module, x))
    assert all(map(torch.equal, got, whole))


@every_name
@each_class
def test_forms_of_input(kind, engine, device):
    module = twins(kind, 5, 6)[1].to(device)
    first = twins(kind, 5, 6, batch_first=True)[1].to(device)
    x = normal(2, 3, 5, dtype=torch.float32).to(device)
    indices = torch.arange(6).remainder(5).view(2, 3).to(device)
    with fastrnn.use_engine(engine), torch.no_grad():
        pairs = [
            (first(x.transpose(0, 1)), stream(first, x, dim=1)),
            (module(x[:, 0]), stream(module, x[:, 0])),
            (first(x[:, 0]), stream(first, x[:, 0])),
            (module(indices, one_hot=True), stream(module, indices, one_hot=True)),
            (module(indices[:, 0], one_hot=True), stream(module, indices[:, 0], one_hot=True)),
            (
                first(indices.t(), one_hot=True),
                stream(first, indices, dim=1, one_hot=True),
            ),
        ]
    for whole, got in pairs:
        assert [t.shape for t in tensors(got)] == [t.shape for t in tensors(whole)]
        assert_near(tensors(got), [t.double() for t in tensors(whole)], 4)


@every_name
@each_class
def test_gradients_through_steps(kind, engine, device):
    module = twins(kind, 3, 6)[1].to(device)
    x = normal(T, 5, 3, dtype=torch.float32).to(device)
    hx = move(state_for(module, 5), device)
    whole = exercise(module, x, hx, by_engine(engine))

    def streamed(module, x, hx):
        with fastrnn.use_engine(engine):
            return stream(module, x, hx)

    seen = exercise(module, x, hx, streamed)
    assert_near(seen.values(), [whole[name].double() for name in seen], 64)


@every_name
def test_steps_that_cannot_be(engine):
    x = normal(5, 3, dtype=torch.float32)
    with fastrnn.use_engine(engine):
        with pytest.raises(ValueError, match="bidirectional"):
            fastrnn.GRU(3, 6, bidirectional=True).step(x)
        with pytest.raises(ValueError, match="PackedSequence"):
            fastrnn.GRU(3, 6).step(packed([2, 1], 3, dtype=torch.float32))
        with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size"):
            fastrnn.GRU(3, 6).step(x[:, :2])
        with pytest.raises(TypeError, match="integer indices"):
            fastrnn.GRU(3, 6).step(x, one_hot=True)


def test_a_step_calls_hooks_like_a_call():
    module, calls = fastrnn.GRU(3, 6), []
    module.register_forward_hook(lambda *args: calls.append(args[2][0].shape))
    module.step(torch.zeros(5, 3))
    assert calls == [(1, 5, 6)]


@every_engine
@pytest.mark.parametrize("kind", CELLS, ids=str)
@every_dtype
@pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
@pytest.mark.parametrize("batch", [None, 5], ids=["single", "batch"])
def test_cells(kind, engine, dtype, state, bias, batch, device, monkeypatch):
    native, ours = twins(kind, 3, 17, bias=bias, dtype=dtype)
    x = 2 * normal(*([] if batch is None else [batch]), 3, dtype=dtype)
    hx = state_for(native, batch) if state else None
    referee = exercise(*widened(native, x, hx))
    here = move(x, device), move(hx, device)
    expected = exercise(native.to(device), *here)

    def call(module, x, hx):
        with fastrnn.use_engine(engine):
            return module(x, hx)

    with launches(monkeypatch) as noted:
        seen = exercise(ours.to(device), *here, call)
    # Where each step is a launch, `cooperative` has another back, for the gradient of the state.
    assert list(dict.fromkeys(noted)) == [f"{engine}.forward", f"{engine}.backward"]
    assert_same(on_cpu(seen), on_cpu(expected), referee)


@pytest.mark.parametrize("kind", CELLS, ids=str)
def test_cells_on_a_cpu_are_torchs(kind, monkeypatch):
    native, ours = twins(kind, 3, 6)
    x = normal(5, 3, dtype=torch.float32)
    with launches(monkeypatch) as noted:
        assert all(map(torch.equal, tensors(ours(x)), tensors(native(x))))
    assert not noted
    assert fastrnn.explain(ours, x).plan == "aten"


@every_engine
@pytest.mark.parametrize("kind", CELLS, ids=str)
def test_cells_are_explained(kind, engine, device):
    ours, x = twins(kind, 3, 6)[1].to(device), torch.zeros(5, 3, device=device)
    with fastrnn.use_engine(engine):
        found = fastrnn.explain(ours, x)
    assert (found.engine, found.plan) == ("triton", engine)
    assert "T=1, B=5, I=3" in found.call


BAD = {
    "features": lambda h: (torch.zeros(5, 4), None),
    "three dimensions": lambda h: (torch.zeros(1, 5, 3), None),
    "no dimensions": lambda h: (torch.zeros(()), None),
    "state of another batch": lambda h: (torch.zeros(5, 3), h(4, 6)),
    "state of another size": lambda h: (torch.zeros(5, 3), h(5, 7)),
    "single state for a batch": lambda h: (torch.zeros(5, 3), h(6)),
    "state for a batch with a single": lambda h: (torch.zeros(3), h(1, 6)),
    "dtype": lambda h: (torch.zeros(5, 3).double(), None),
    "dtype of the state": lambda h: (torch.zeros(5, 3), h(5, 6, dtype=torch.float64)),
    "no tensor": lambda h: ([1.0, 2.0, 3.0], None),
    "integers": lambda h: (torch.zeros(5, 3, dtype=torch.int64), None),
}


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
@pytest.mark.parametrize("kind", CELLS, ids=str)
@pytest.mark.parametrize("case", BAD)
def test_cells_refuse_what_torchs_refuse(kind, engine, case):
    """With the same error, whatever the engine."""
    native, ours = twins(kind, 3, 6)
    single = "LSTM" not in kind.name
    x, hx = BAD[case](
        lambda *s, **k: torch.zeros(*s, **k) if single else (torch.zeros(*s, **k),) * 2
    )

    def call():
        with fastrnn.use_engine(engine):
            return ours(x, hx)

    assert_same_outcome(lambda: native(x, hx), call)


@every_engine
@pytest.mark.parametrize("kind", CELLS, ids=str)
def test_a_cell_over_time(kind, engine, device):
    """In a loop, as they are used: gradients go back through all of the steps."""
    native, ours = twins(kind, 3, 6)
    x = normal(T, 5, 3, dtype=torch.float32)

    def loop(module, x, hx, engine="auto"):
        with fastrnn.use_engine(engine):
            for x_t in x:
                hx = module(x_t, hx)
        return hx

    referee = exercise(copy.deepcopy(native).double(), x.double(), None, loop)
    expected = exercise(native.to(device), x.to(device), None, loop)
    here = ours.to(device), x.to(device)
    seen = exercise(*here, None, lambda *args: loop(*args, engine=engine))
    assert_same(on_cpu(seen), on_cpu(expected), referee)
