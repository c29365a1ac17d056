"""What the kernels' engines refuse, with every reason; autocast, empty input, `explain`."""

import pytest
import torch
from torch import nn

import fastrnn
from fastrnn import chips, obstacles
from fastrnn.call import PLANS
from fastrnn.kernels.cooperative_plans import CooperativePlan
from fastrnn.kernels.plans import SHARED, Chip, Plan
from tests.contract import (
    DOUBLE,
    UNPROJECTED,
    assert_same_outcome,
    each_class,
    exercise,
    normal,
    tensors,
    twins,
)
from tests.problems import ENGINES, assert_near, by_engine, launches, on_cpu

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("kernels")
every_engine = pytest.mark.parametrize("engine", ENGINES)


def refused(engine, call):
    """The reasons against an engine that is asked for."""
    with fastrnn.use_engine(engine), pytest.raises(RuntimeError) as error:
        call()
    first, *reasons = str(error.value).split("\n  - ")
    assert first == f"engine {engine!r} cannot serve this call:"
    return reasons


@every_engine
def test_double_precision(engine, device):
    model = fastrnn.GRU(3, 6, dtype=DOUBLE, device=device)
    x = torch.zeros(4, 2, 3, dtype=DOUBLE, device=device)
    (reason,) = refused(engine, lambda: model(x))
    assert "float32, bfloat16 or float16, not in torch.float64" in reason


@every_engine
def test_projections(engine, device):
    model = fastrnn.LSTM(3, 6, proj_size=2, device=device)
    (reason,) = refused(engine, lambda: model(torch.zeros(4, 2, 3, device=device)))
    assert "proj_size" in reason


@every_engine
def test_lengths_and_resets_that_vmap_hides(engine, device):
    """They would have to be the same for every problem, and no one can look."""
    model = fastrnn.GRU(3, 6, device=device)
    x = torch.zeros(4, 2, 3, device=device)
    for name, value in (
        ("lengths", torch.tensor([4, 2], device=device)),
        ("resets", torch.zeros(4, 2, dtype=torch.bool, device=device)),
    ):
        mapped = torch.func.vmap(lambda v, name=name: model(x, **{name: v})[0])
        (reason,) = refused(engine, lambda mapped=mapped, value=value: mapped(value[None]))
        assert reason == obstacles.HIDDEN
        assert mapped(value[None]).shape == (1, 4, 2, 6)


@every_engine
def test_without_triton(engine, monkeypatch):
    monkeypatch.setattr(obstacles, "has_triton", lambda: False)
    model = fastrnn.GRU(3, 6)
    (reason,) = refused(engine, lambda: model(torch.zeros(4, 2, 3)))
    assert reason == "Triton is not installed"
    assert model(torch.zeros(4, 2, 3))[0].shape == (4, 2, 6)


@every_engine
def test_on_a_cpu_without_the_interpreter(engine, monkeypatch):
    monkeypatch.setattr(obstacles, "INTERPRETED", False)
    model = fastrnn.GRU(3, 6)
    (reason,) = refused(engine, lambda: model(torch.zeros(4, 2, 3)))
    assert "TRITON_INTERPRET=1" in reason


@every_engine
def test_on_an_unknown_gpu(engine, monkeypatch):
    monkeypatch.setattr("fastrnn.describe.chip_of", lambda device: None)
    model = fastrnn.GRU(3, 6)
    (reason,) = refused(engine, lambda: model(torch.zeros(4, 2, 3)))
    assert "compute capability 8.0" in reason


def test_too_large_to_stay_on_chip(device, monkeypatch):
    monkeypatch.undo()  # `quick`, so that plans are those of the table
    model = fastrnn.GRU(3, 1000, device=device)
    x = torch.zeros(4, 2, 3, device=device)
    (reason,) = refused("resident", lambda: model(x))
    assert "W_hh does not fit on the chip" in reason
    assert "H=1000, training of GRU in ieee precision takes" in reason
    with torch.no_grad():
        (reason,) = refused("resident", lambda: model(x))
    assert "H=1000, inference of GRU in ieee precision takes" in reason


H200 = Chip("sm_90", 132, SHARED["sm_90"])
NOT_TOGETHER = {
    "no cooperative launch": (
        H200._replace(cooperative=False),
        "the GPU (sm_90) does not run all programs of a launch at the same time",
    ),
    "few multiprocessors": (
        H200._replace(sms=4),
        "W_hh does not fit on 4 multiprocessors (sm_90) together: H=512 in 2 directions, "
        "training of LSTM in half precision takes ",
    ),
    "little shared memory": (
        H200._replace(shared=SHARED["sm_90"] - 1),
        "there is no plan for training of LSTM in half precision on sm_90",
    ),
    "another GPU": (
        H200._replace(family="sm_75"),
        "there is no plan for training of LSTM in half precision on sm_75",
    ),
}


@pytest.mark.parametrize("case", NOT_TOGETHER)
def test_programs_that_cannot_run_together(case, device, monkeypatch):
    monkeypatch.undo()  # `quick`, so that plans are those of the table
    model = fastrnn.LSTM(3, 512, bidirectional=True, dtype=torch.bfloat16, device=device)
    x = torch.zeros(4, 2, 3, dtype=torch.bfloat16, device=device)
    monkeypatch.setattr("fastrnn.describe.chip_of", lambda device: H200)
    assert fastrnn.explain(model, x).against.get("cooperative", []) == []
    chip, expected = NOT_TOGETHER[case]
    monkeypatch.setattr("fastrnn.describe.chip_of", lambda device: chip)
    found = fastrnn.explain(model, x)
    assert found.name != "cooperative"
    (reason,) = found.against["cooperative"]
    assert reason.startswith(expected)
    assert refused("cooperative", lambda: model(x)) == [reason]
    with fastrnn.use_engine("cooperative"), pytest.raises(RuntimeError, match="cannot serve"):
        fastrnn.explain(model, x)


@every_engine
def test_all_reasons_at_once(engine, monkeypatch):
    monkeypatch.setattr(obstacles, "has_triton", lambda: False)
    model = fastrnn.LSTM(3, 6, proj_size=2, dtype=DOUBLE)
    x = torch.zeros(4, 2, 3, dtype=DOUBLE)
    reasons = refused(engine, lambda: model(x))
    assert len(reasons) == 3
    for word in ("not installed", "float64", "proj_size"):
        assert word in "; ".join(reasons)
    against = fastrnn.explain(model, x).against[engine]
    assert against == reasons


@every_engine
@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3)], ids=["no steps", "no sequences"])
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
def test_empty_input(kind, engine, shape, device):
    """By itself it is torch.nn's: its result, or its error. An engine asked for has no plan."""
    native, ours = (m.to(device) for m in twins(kind, 3, 6))
    x = torch.zeros(shape, device=device)
    expected, got = assert_same_outcome(lambda: native(x), lambda: ours(x))
    assert [t.shape for t in tensors(got)] == [t.shape for t in tensors(expected)]
    if shape[0]:
        assert refused(engine, lambda: ours(x)) == ["the input is empty"]
    else:
        with fastrnn.use_engine(engine):
            assert_same_outcome(lambda: native(x), lambda: ours(x))


MALFORMED = {
    "features": lambda x: (x[..., :2], None),
    "dimensions": lambda x: (x[None], None),
    "dtype": lambda x: (x.double(), None),
    "state": lambda x: (x, x.new_zeros(1, 3, 6)),
    "states": lambda x: (x, (x.new_zeros(1, 2, 6),) * 3),
}


@every_engine
@each_class
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_calls_have_torchs_errors(kind, engine, case, device, monkeypatch):
    native, ours = (m.to(device) for m in twins(kind, 3, 6))
    x, hx = MALFORMED[case](torch.zeros(4, 2, 3, device=device))

    def call():
        with fastrnn.use_engine(engine):
            return ours(x, hx)

    with launches(monkeypatch) as noted:
        assert_same_outcome(lambda: native(x, hx), call)
    assert not noted


@every_engine
@each_class
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_autocast(kind, engine, dtype, inside, device):
    """Computes in its dtype; gradients come back in the parameters', with the same numbers."""
    _, ours = twins(kind, 3, 6, num_layers=2)
    half = twins(kind, 3, 6, num_layers=2, dtype=dtype)[1]
    half.load_state_dict(ours.state_dict())
    ours, half = ours.to(device), half.to(device)
    x = normal(3, 4, 3, dtype=torch.float32).to(device)
    call = by_engine(engine)

    def cast(module, x, hx):
        with torch.autocast(device, dtype):
            return call(module, x, hx)

    if inside:
        with torch.autocast(device, dtype):
            seen = exercise(ours, x, None, call)
    else:
        seen = exercise(ours, x, None, cast)
    plain = exercise(half, x.to(dtype), None, call)
    for name, exact in plain.items():
        assert seen[name].dtype == (dtype if name.startswith("result") else torch.float32)
        assert torch.equal(seen[name], exact.to(seen[name].dtype)), name


@every_engine
def test_autocast_takes_mixed_dtypes(engine, device):
    ours = fastrnn.LSTM(3, 6).to(device)
    x = normal(3, 4, 3, dtype=torch.float32).to(device)
    hx = torch.ones(1, 4, 6, dtype=torch.float16, device=device), torch.ones(1, 4, 6).to(device)
    with torch.autocast(device, torch.bfloat16), fastrnn.use_engine(engine):
        output, final = ours(x.bfloat16(), hx)
        expected, _ = ours(x, tuple(s.float() for s in hx))
    assert output.dtype == final[0].dtype == final[1].dtype == torch.bfloat16
    assert torch.equal(output, expected)


def test_an_explanation_of_the_kernels(device, monkeypatch):
    plan = Plan(block_b=16, block_h=32, tiles=2, kept=5, warps=4)
    monkeypatch.setattr(chips, "_plans", lambda *args: (plan, plan if args[-1] else None))
    model = fastrnn.GRU(3, 60, bidirectional=True, device=device)
    x, lengths = torch.zeros(9, 40, 3, device=device), torch.full((40,), 9, device=device)
    with fastrnn.use_engine("resident"):
        found = fastrnn.explain(model, x, lengths=lengths)
        with torch.no_grad():
            inference = fastrnn.explain(model, x)
    assert (found.engine, found.plan, found.name) == ("triton", "resident", "resident")
    assert "padded input of T=9, B=40, I=3, torch.float32 (ieee)" in found.call
    forward, back = found.details
    for line, way in ((forward, "forward"), (back, "back")):
        assert f"{way}: programs of 16 sequences and 4 warps, 6 in all" in line
        assert "5 of 12 tiles of W_hh stay in shared memory" in line
        assert line in str(found)
    assert len(inference.details) == 1
    assert set(found.against) == set(PLANS) - {"resident"}
    assert found.against["step"] == []
    with fastrnn.use_engine("step"):
        found = fastrnn.explain(model, x)
    assert found.name == "step"
    assert not found.details


def test_an_explanation_of_programs_that_share_a_layer(device, monkeypatch):
    plan = CooperativePlan(16, 2, 16, 64, 1, 1, 4, groups=3)
    monkeypatch.setattr(
        chips, "_cooperative_plans", lambda *args: (plan, plan if args[-1] else None)
    )
    model = fastrnn.GRU(3, 200, bidirectional=True, device=device)
    x = torch.zeros(9, 100, 3, device=device)
    with fastrnn.use_engine("cooperative"):
        found = fastrnn.explain(model, x)
        with torch.no_grad():
            inference = fastrnn.explain(model, x)
    assert (found.engine, found.plan, found.name) == ("triton", "cooperative", "cooperative")
    first, held, _, held_back, *cudnn = found.details
    assert "forward: 13 slices of 16 hidden units, 3 groups x 2 directions: 78 programs" in first
    assert "2 x 16 sequences a group at a time, walks through time: 2" in first
    # Of three gates in twelve tiles one is kept; 200 numbers of 16 sequences come from the others.
    kept, all_ = 3 * 16 * 200 * 4 // 12, 3 * 16 * 200 * 4
    assert f"each holds {kept} of {all_} bytes of W_hh; exchanges a step: 4, of 12800" in held
    least = 4 * (kept / 128 + (all_ - kept + 12800) / 64)
    assert f"takes some {round(least)} cycles" in held
    assert "exchanges a step: 4, of 38400 bytes" in held_back
    assert cudnn == [
        f"        cuDNN {way}: a matrix product and a kernel for the gates in each step"
        for way in ("forward", "back")
    ]
    assert inference.details == [*found.details[:2], cudnn[0]]


def test_an_explanation_of_a_detour_over_packing():
    model, x = fastrnn.GRU(3, 6), torch.zeros(9, 4, 3)
    with fastrnn.use_engine("torch.aten"):
        found = fastrnn.explain(model, x, lengths=torch.tensor([1, 2, 3, 9]))
    assert "PackedSequence" in "".join(found.details)


@every_engine
def test_a_converted_model(engine, device):
    """Whole models go through the engine that is asked for, and come out as before."""
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 6, 2), "head": nn.Linear(6, 2)}).to(device)
    x = normal(4, 5, 3, dtype=torch.float32).to(device)
    expected = on_cpu({"": model["head"](model["rnn"](x)[0])})[""].detach()
    ours = fastrnn.convert(model)
    with fastrnn.use_engine(engine):
        got = ours["head"](ours["rnn"](x)[0]).detach()
    assert_near([got], [expected.double()])
