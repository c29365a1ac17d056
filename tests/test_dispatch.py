"""Which plan serves a call, and why: a pure choice, an engine asked for by name, `explain`."""

import asyncio
import itertools
import re
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn import torch_engine
from fastrnn.call import ENGINES, PLANS, TORCH_PLANS, TRITON_PLANS, Call, Choice
from fastrnn.dispatch import choose, forced_engine
from fastrnn.kernels.cell import CELLS, GRU, LSTM
from fastrnn.kernels.plans import Chip
from fastrnn.obstacles import obstacles

AUTOCAST = "autocast is on"
MODE = "a torch dispatch mode is at work"
H200 = Chip("sm_90", 132, 232448)
PLAIN = Call(
    cell=GRU,
    T=64,
    B=16,
    I=32,
    H=64,
    layers=1,
    directions=1,
    proj_size=0,
    dtype=torch.float32,
    precision="tf32",
    device="cpu",
    chip=None,
    packed=False,
    lengths=False,
    one_hot=False,
    asked=(),
    differentiable=True,
    transformed=False,
    hidden=False,
    onednn=True,
    autocast=False,
    special=None,
)
VALUES = {
    "cell": list(CELLS.values()),
    "T": [1, 4, 365],
    "B": [1, 64],
    "H": [8, 512],
    "directions": [1, 2],
    "proj_size": [0, 4],
    "dtype": [torch.float32, torch.float64, torch.bfloat16],
    "device": ["cpu", "xpu"],
    "packed": [False, True],
    "one_hot": [False, True],
    "differentiable": [False, True],
    "onednn": [False, True],
    "autocast": [False, True],
    "special": [None, MODE],
}
GRID = [
    PLAIN._replace(**dict(zip(VALUES, values, strict=True)))
    for values in itertools.product(*VALUES.values())
    if not values[5] or values[0] is LSTM
]


def test_every_call_has_a_plan_that_can_serve_it_and_a_reason():
    plans = set()
    for call in GRID:
        choice = choose(call, "auto")
        assert type(choice) is Choice
        assert choice.engine == "torch"
        assert choice.reason
        assert not obstacles(choice.name, call), call
        plans.add(choice.plan)
    assert plans == {"aten", "cell", "bptt"}


def test_the_same_call_gets_the_same_choice():
    """Whatever goes on around it: `choose` looks at nothing but the call."""
    calls = GRID[::97]
    expected = [choose(call, "auto") for call in calls]
    threads = torch.get_num_threads()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        try:
            assert [choose(call, "auto") for call in reversed(calls)] == expected[::-1]
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_num_threads(threads)
    assert [choose(call._replace(), "torch") for call in calls] == expected


ODD = {
    AUTOCAST: {"autocast": True},
    MODE: {"special": MODE},
    "device": {"device": "xpu"},
    "half precision": {"dtype": torch.bfloat16},
    "projections": {"cell": LSTM, "proj_size": 4},
}


@pytest.mark.parametrize("words", ODD)
def test_every_odd_case_falls_to_aten_and_says_why(words):
    for call in GRID[::7]:
        odd = call._replace(**ODD[words])
        choice = choose(odd, "auto")
        assert choice.plan == "aten"
        alone = PLAIN._replace(**ODD[words])
        assert words in choose(alone, "auto").reason


BEYOND = {
    "no resets": {"asked": ("resets",)},
    "no cell states and no gates": {"asked": ("cell states", "gates")},
    "torch.func": {"transformed": True},
}


@pytest.mark.parametrize("words", BEYOND)
def test_what_torch_nn_lacks_is_for_the_loop_or_the_formulas(words):
    for call in GRID[::7]:
        choice = choose(call._replace(**BEYOND[words]), "auto")
        assert words in choice.reason
        loop = obstacles("torch.bptt", call)
        assert choice.plan == ("reference" if loop else "bptt")
        assert all(reason in choice.reason for reason in loop)
        if BEYOND[words].get("asked"):
            for plan in ("torch.aten", "torch.cell"):
                assert any(words in r for r in obstacles(plan, call._replace(**BEYOND[words])))


def test_packed_input_and_indices_get_a_loop_of_their_own():
    assert choose(PLAIN._replace(packed=True), "auto").plan == "bptt"
    assert choose(PLAIN._replace(one_hot=True), "auto").plan == "bptt"
    reasons = {
        choose(PLAIN._replace(**change), "auto").reason
        for change in ({}, {"packed": True}, {"packed": True, "differentiable": False})
    }
    assert len(reasons) == 3


@pytest.mark.parametrize("name", PLANS)
def test_an_engine_asked_for_serves_or_raises_every_reason(name):
    served = set()
    for call in [*GRID[::5], *(c._replace(device="cuda", chip=H200) for c in GRID[::7])]:
        against = obstacles(name, call)
        served.add(not against)
        if against:
            with pytest.raises(RuntimeError) as error:
                choose(call, name)
            first, *lines = str(error.value).split("\n  - ")
            assert first == f"engine {name!r} cannot serve this call:"
            assert lines == against
        else:
            choice = choose(call, name)
            assert choice.name == name
            assert choice.engine == ("triton" if name in TRITON_PLANS else "torch")
            assert name in choice.reason
    assert served == ({True} if name in ("torch.aten", "torch.reference") else {True, False})


def test_several_reasons_at_once():
    all_at_once = PLAIN._replace(
        cell=LSTM,
        proj_size=4,
        directions=2,
        packed=True,
        one_hot=True,
        dtype=torch.float16,
        device="cuda",
        autocast=True,
        special=MODE,
    )
    cell, bptt = ("; ".join(obstacles(f"torch.{n}", all_at_once)) for n in ("cell", "bptt"))
    for word in (AUTOCAST, MODE, "proj_size", "bidirectional", "packed", "indices"):
        assert word in cell
    for word in (AUTOCAST, MODE, "proj_size", "cuda", "float16"):
        assert word in bptt


def test_a_module_raises_every_reason_too():
    model = fastrnn.LSTM(3, 6, proj_size=2, dtype=torch.bfloat16)
    with (
        fastrnn.use_engine("torch.bptt"),
        pytest.raises(RuntimeError, match=r"(?s)'torch\.bptt'.*- proj_size.*- .*bfloat16"),
    ):
        model(torch.zeros(9, 2, 3, dtype=torch.bfloat16))


def test_an_unknown_engine_is_refused_with_the_list_of_those_there_are():
    with (
        pytest.raises(ValueError, match="unknown engine") as error,
        fastrnn.use_engine("torch.fast"),
    ):
        pass
    for name in ENGINES:
        assert name in str(error.value)
    assert forced_engine() == "auto"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_of_the_list_serves_a_plain_call(name, device):
    if name in TRITON_PLANS:
        pytest.importorskip("triton", reason="needs Triton")
    if name == "torch.bptt" and device == "cuda":
        device = "cpu"  # the loop is for the CPU
    model, x = fastrnn.GRU(3, 4).to(device), torch.randn(9, 2, 3, device=device)
    with fastrnn.use_precision("ieee"):
        expected = model(x)[0]
        with fastrnn.use_engine(name):
            torch.testing.assert_close(model(x)[0], expected)


def test_use_engine_nests_and_restores():
    assert forced_engine() == "auto"
    with fastrnn.use_engine("torch.reference"):
        with fastrnn.use_engine("torch.bptt"):
            assert forced_engine() == "torch.bptt"
            with fastrnn.use_engine("auto"):
                assert choose(PLAIN) == choose(PLAIN, "auto")
            assert choose(PLAIN).plan == "bptt"
        assert choose(PLAIN).plan == "reference"
    assert forced_engine() == "auto"


def test_use_engine_restores_after_an_exception():
    with fastrnn.use_engine("torch.aten"):
        with pytest.raises(KeyError), fastrnn.use_engine("torch.bptt"):
            raise KeyError
        assert forced_engine() == "torch.aten"
        with pytest.raises(RuntimeError, match="cannot serve"), fastrnn.use_engine("torch.cell"):
            fastrnn.GRU(3, 4, bidirectional=True)(torch.zeros(9, 2, 3))
        assert forced_engine() == "torch.aten"
    assert forced_engine() == "auto"


def test_use_engine_decorates_a_function():
    @fastrnn.use_engine("torch.reference")
    def plan():
        return choose(PLAIN).plan

    assert [plan(), plan()] == ["reference", "reference"]
    assert forced_engine() == "auto"


def test_use_engine_is_of_its_thread_alone():
    seen = []

    def other():
        seen.append(forced_engine())
        with fastrnn.use_engine("torch.cell"):
            inside.set()
            assert done.wait(10)
            seen.append(forced_engine())

    inside, done = threading.Event(), threading.Event()
    with fastrnn.use_engine("torch.bptt"):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
        seen.append(forced_engine())
        done.set()
        thread.join()
    assert seen == ["auto", "torch.bptt", "torch.cell"]
    assert forced_engine() == "auto"


def test_use_engine_is_of_its_asynchronous_task_alone():
    async def task(name):
        with fastrnn.use_engine(name):
            for _ in range(3):
                await asyncio.sleep(0)
                assert forced_engine() == name
        return forced_engine()

    async def several():
        return await asyncio.gather(*map(task, ENGINES))

    assert asyncio.run(several()) == ["auto"] * len(ENGINES)


X = torch.linspace(-1, 1, 9 * 2 * 5).view(9, 2, 5)
PACKED = pack_sequence([X[:, 0], X[:4, 1]])
INDICES = torch.arange(18).view(9, 2) % 5
BIG = torch.zeros(64, 16, 5)


def build(name="GRU", **options):
    return getattr(fastrnn, name)(5, 6, **options)


# A module, its arguments, and a word that the explanation must hold.
CASES = {
    "dense": (build(), (X,), {}, "dense input of T=9, B=2, I=5, torch.float32, cpu, training"),
    "long": (build(), (BIG,), {}, "T=64, B=16"),
    "LSTM": (build("LSTM"), (BIG,), {}, "LSTM(5, 6)"),
    "deep": (build("RNN", num_layers=2, bidirectional=True), (X,), {}, "num_layers=2"),
    "dropout": (build(num_layers=2, dropout=0.5), (X,), {}, "dropout=0.5"),
    "batch first": (build(batch_first=True), (X,), {}, "T=2, B=9"),
    "packed": (build("LSTM"), (PACKED,), {}, "packed input of T=9, B=2"),
    "one-hot": (build("RNN"), (INDICES,), {"one_hot": True}, "dense one-hot indices of T=9, B=2"),
    "packed one-hot": (
        build(),
        (pack_sequence([INDICES[:, 0], INDICES[:4, 1]]),),
        {"one_hot": True},
        "packed",
    ),
    "unbatched": (build(), (X[:, 0],), {}, "T=9, B=1"),
    "one step": (build("LSTM"), (X[:1],), {}, "T=1"),
    "state": (build(), (X, torch.ones(1, 2, 6)), {}, "T=9"),
    "half": (build(dtype=torch.bfloat16), (X.bfloat16(),), {}, "bfloat16"),
    "double": (build(dtype=torch.float64), (X.double(),), {}, "float64"),
    "projection": (build("LSTM", proj_size=2), (X,), {}, "projections"),
    "empty": (build(), (X[:, :0],), {}, "left to torch.nn: the input is empty"),
    "subclass": (build(), (X.as_subclass(type("Mine", (torch.Tensor,), {})),), {}, "Mine"),
}
every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_an_explanation_has_all_fields_and_a_text(case):
    model, arguments, options, word = CASES[case]
    found = fastrnn.explain(model, *arguments, **options)
    assert found.engine == "torch"
    assert found.plan in TORCH_PLANS
    assert found.reason
    text = str(found)
    assert word in text
    assert f"plan {found.plan}: {PLANS[found.name]}" in text
    assert text.splitlines()[0] == found.call
    assert found.call.startswith(f"{type(model).__name__}({model.extra_repr()})")
    assert repr(found) == text
    assert found.error is None
    assert "error" not in text
    assert found.name not in found.against
    lines = [line for line in text.splitlines() if line.startswith("  else    ")]
    assert len(lines) == len({tuple(reasons) for reasons in found.against.values()})
    for name, reasons in found.against.items():
        (line,) = (line for line in lines if re.search(rf"[ ,]{re.escape(name)}[ ,]", line))
        assert all(reason in line for reason in reasons)
        assert ("cannot serve" in line) == bool(reasons)
    with pytest.raises(AttributeError):
        found.plan = "another"


@pytest.fixture
def ran(monkeypatch):
    """The plans that ran."""
    names = []

    def recorded(name, plan):
        def run(*args):
            names.append(name)
            return plan(*args)

        return run

    for name, plan in torch_engine.PLANS.items():
        monkeypatch.setitem(torch_engine.PLANS, name, recorded(name, plan))
    return names


@every_case
def test_the_module_does_what_was_explained(case, ran):
    model, arguments, options, _ = CASES[case]
    found = fastrnn.explain(model, *arguments, **options)
    assert not ran
    model(*arguments, **options)
    assert (ran or ["aten"]) == [found.plan]
    assert bool(ran) != found.reason.startswith("left to torch.nn: ")
    for name in TORCH_PLANS:
        if found.against.get(f"torch.{name}") == [] and ran:
            with fastrnn.use_engine(f"torch.{name}"):
                assert fastrnn.explain(model, *arguments, **options).plan == name
                model(*arguments, **options)
            assert ran[-1] == name


@pytest.mark.usefixtures("lstm_under_autocast")
def test_the_moment_counts(ran):
    model = build("LSTM")
    training = fastrnn.explain(model, PACKED)
    with torch.no_grad():
        inference = fastrnn.explain(model, PACKED)
    assert inference.reason != training.reason
    assert training.call.endswith("training")
    assert inference.call.endswith("inference")
    with torch.autocast("cpu", torch.bfloat16):
        found = fastrnn.explain(model, X)
        assert found.plan == "aten"
        assert AUTOCAST in found.reason
        assert any(AUTOCAST in reason for reason in found.against["torch.bptt"])
        model(X)
    assert ran == ["aten"]
    with fastrnn.use_engine("torch.reference"):
        assert fastrnn.explain(model, X).plan == "reference"
        assert "use_engine" in fastrnn.explain(model, X).reason


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_explain_runs_nothing_and_changes_nothing(name, ran):
    model = build(name, num_layers=2, dropout=0.5)
    calls = []
    model.register_forward_pre_hook(lambda *args: calls.append("before"))
    model.register_forward_hook(lambda *args: calls.append("after"))
    x = X.clone().requires_grad_()
    random, attributes = torch.get_rng_state(), dict(vars(model))
    versions = [p._version for p in model.parameters()]
    fastrnn.explain(model, x)
    fastrnn.explain(model, INDICES, one_hot=True)
    assert not calls
    assert not ran
    assert torch.equal(torch.get_rng_state(), random)
    assert vars(model) == attributes
    assert [p._version for p in model.parameters()] == versions
    assert x.grad is None


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_are_explained(name):
    cell = build(name)
    found = fastrnn.explain(cell, X[0])
    assert found.plan == "aten"
    assert f"{name}(5, 6)" in str(found)
    for engine in ("auto", "torch", "torch.aten"):
        with fastrnn.use_engine(engine):
            assert fastrnn.explain(cell, X[0]).plan == "aten"
            cell(X[0])


@pytest.mark.parametrize("engine", ["torch.bptt", "torch.reference"])
@pytest.mark.parametrize(
    ("model", "x"),
    [(build("LSTMCell"), X[0]), (build(), X[:, :0])],
    ids=["cell", "empty"],
)
def test_explain_raises_where_the_module_raises(model, x, engine):
    with fastrnn.use_engine(engine):
        with pytest.raises(RuntimeError, match="cannot serve") as error:
            model(x)
        with pytest.raises(RuntimeError, match="cannot serve") as explained:
            fastrnn.explain(model, x)
    assert str(explained.value) == str(error.value)


MALFORMED = {
    "features": (X[..., :4], None, "last dimension is 4, not input_size, 5"),
    "dtype": (X.double(), None, "float64"),
    "dimensions": (X[None], None, "two or three dimensions"),
    "scalar": (torch.zeros(()), None, "dimensions"),
    "no steps": (X[:0], None, "empty"),
    "no tensor": ([1, 2], None, "list"),
    "state": (X, torch.zeros(1, 3, 6), "hx is (1, 3, 6)"),
    "states": (X, (torch.zeros(1, 2, 6),) * 2, "hx is"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_calls_are_left_to_torch_and_explained(case, ran):
    x, hx, word = MALFORMED[case]
    model = build()
    found = fastrnn.explain(model, x, hx)
    assert found.plan == "aten"
    assert found.reason.startswith("left to torch.nn: ")
    assert word in found.reason
    assert str(found)
    native = nn.GRU(5, 6)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        native(x, hx)
    with pytest.raises(type(expected.value)):
        model(x, hx)
    assert not ran


def test_explain_checks_indices_like_the_module():
    with pytest.raises(TypeError, match="integer indices"):
        fastrnn.explain(build(), X, one_hot=True)
    with pytest.raises(IndexError, match=r"\[0, 5\)"):
        fastrnn.explain(build(), INDICES + 1, one_hot=True)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = build("LSTM")
        self.cells = nn.ModuleList([build("GRUCell")])
        self.head = nn.Linear(6, 2)


def test_explain_wants_a_fastrnn_module():
    with pytest.raises(TypeError, match=r"GRU of torch\.nn: fastrnn\.convert"):
        fastrnn.explain(nn.GRU(5, 6), X)
    with pytest.raises(TypeError, match=r"RNNCell of torch\.nn: fastrnn\.convert"):
        fastrnn.explain(nn.RNNCell(5, 6), X[0])
    with pytest.raises(TypeError, match=r"got Model; .*: encoder \(LSTM\), cells\.0 \(GRUCell\)$"):
        fastrnn.explain(Model(), X)
    with pytest.raises(TypeError, match=r"got Linear$"):
        fastrnn.explain(nn.Linear(5, 6), X)
    with pytest.raises(TypeError, match=r"got str$"):
        fastrnn.explain("a model", X)


def test_a_refusal_leaves_the_random_numbers_alone():
    module = fastrnn.GRU(3, 4, 2, dropout=0.5)
    before = torch.get_rng_state()
    with (
        fastrnn.use_engine("torch.bptt"),
        pytest.raises(RuntimeError, match="cannot serve this call"),
    ):
        module(torch.zeros(9, 0, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_explain_sees_what_forward_sees():
    module = fastrnn.GRU(3, 4)
    module.weight_hh_l0 = nn.Parameter(torch.zeros(12, 5))
    assert "left to torch.nn" in fastrnn.explain(module, torch.zeros(40, 2, 3)).reason
    module = fastrnn.GRU(3, 4)
    module.hidden_size = 5
    assert "hidden_size" in fastrnn.explain(module, torch.zeros(40, 2, 3)).reason
