"""Programs that wait for one another: all steps of a layer in one launch, as if in one each.

Without a GPU the programs of such a launch take turns in Triton's interpreter: before one of them
touches memory, another may go on, by chance. All code of the kernels runs as it is but for the loop
that looks at a counter. What is not seen here is a processor that puts off what it stores.
"""

import ctypes
import inspect
import itertools
import math
import random
import threading
import time
from types import SimpleNamespace

import numpy
import pytest
import torch

pytest.importorskip("triton", reason="needs Triton")
tl = pytest.importorskip("triton.language", reason="needs Triton")
interpreter = pytest.importorskip("triton.runtime.interpreter", reason="needs Triton")

import fastrnn  # noqa: E402
from fastrnn import chips, cooperation  # noqa: E402
from fastrnn.autograd import Recurrence  # noqa: E402
from fastrnn.chips import chip_of  # noqa: E402
from fastrnn.kernels import barrier  # noqa: E402
from fastrnn.kernels.cell import CELLS  # noqa: E402
from fastrnn.kernels.cooperative_plans import CooperativePlan  # noqa: E402
from tests.contract import LSTM, exercise, normal, tensors, twins  # noqa: E402
from tests.interpreting import patching_once  # noqa: E402
from tests.problems import assert_near, by_engine, launches, move  # noqa: E402
from tests.test_kernels import (  # noqa: E402
    SMALL,
    assert_layer_is_right,
    layer_for,
    shown,
    split,
    tensors_for,
)

GPU = torch.cuda.is_available()
pytestmark = pytest.mark.usefixtures("kernels", "together")
on_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU, whose programs run at the same time")

# Of 20 units: two slices. Of 17 sequences: a third chunk that is not full.
PLANS = {
    "two groups": CooperativePlan(16, 1, 16, 32, 1, 9, 4, groups=2),
    "two groups, three chunks": CooperativePlan(8, 1, 16, 32, 2, 1, 4, groups=2),
    "two tiles at a time": CooperativePlan(8, 2, 16, 32, 1, 0, 4, groups=2),
    "two tiles at a time, two rounds": CooperativePlan(8, 2, 16, 32, 2, 9, 4),
    "a group of one": CooperativePlan(16, 1, 32, 32, 1, 9, 4),
}
# The second and the third chunk end early; or begin late, on the way back.
LENGTHS = [3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1]


class Programs:
    """The programs of a launch, each in a thread of its own, of which one at a time runs."""

    def __init__(self):
        self.chance, self.stays = random.Random(0), 0.9
        self.waiting = {}

    def run(self, program, grid):
        interpreter.interpreter_builder.set_grid_dim(*grid, 1)
        self.errors = []
        self.waiting = {at: threading.Semaphore(0) for at in itertools.product(*map(range, grid))}
        threads = [threading.Thread(target=self._run, args=(at, program)) for at in self.waiting]
        for thread in threads:
            thread.start()
        self._choose()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _run(self, at, program):
        self.waiting[at].acquire()
        try:
            program()
        except BaseException as error:
            self.errors.append(error)
        del self.waiting[at]
        self._choose()

    def _choose(self):
        if self.waiting:
            self.running = self.chance.choice(list(self.waiting))
            interpreter.interpreter_builder.set_grid_idx(*self.running, 0)
            self.waiting[self.running].release()

    def turn(self):
        """The program that runs lets others go first."""
        mine = self.waiting[self.running]
        self._choose()
        mine.acquire()

    def before(self, access):
        def accessing(*args):
            if self.waiting and self.chance.random() > self.stays:
                self.turn()
            return access(*args)

        return accessing

    def wait(self, text, constraints, values, *rest):
        """What the assembly in `barrier.py` does."""
        counter, count, nanoseconds = (value.data.item() for value in values)
        for _ in range(nanoseconds // 1000):  # as if a turn took so long
            if ctypes.c_int64.from_address(counter).value >= count:
                break
            self.turn()
        vain = ctypes.c_int64.from_address(counter).value < count
        handle = interpreter.TensorHandle(numpy.array([vain], numpy.int32), tl.int32)
        return SimpleNamespace(get_result=lambda n: handle)


@pytest.fixture
def programs():
    return Programs()


@pytest.fixture
def together(programs, monkeypatch):
    """Launches whose programs can wait for one another: on a GPU as they are."""
    cooperation._counters.cache_clear()
    if GPU:
        monkeypatch.setattr(cooperation, "PATIENCE_AT_FIRST", cooperation.PATIENCE)
    else:
        take_turns(programs, monkeypatch)
    yield
    cooperation._counters.cache_clear()


def take_turns(programs, monkeypatch):
    """All that is a GPU's in a cooperative launch, and what is torch's of it."""
    builder, one_by_one = interpreter.interpreter_builder, interpreter.GridExecutor.__call__

    def launch(self, *arguments, launch_cooperative_grid=False, **options):
        if not launch_cooperative_grid:
            return one_by_one(self, *arguments, **options)
        with patching_once():
            options = {name: options[name] for name in self.arg_names if name in options}
            given = inspect.getcallargs(self.fn, *arguments, **options)
            for name in given.keys() - set(self.constexprs):
                given[name] = interpreter._implicit_cvt(given[name])
            scope = interpreter._patch_lang(self.fn)
            try:
                programs.run(lambda: self.fn(**given), self.grid)
            finally:
                scope.restore()

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
    for name in ("create_masked_load", "create_masked_store", "create_atomic_rmw"):
        monkeypatch.setattr(builder, name, programs.before(getattr(builder, name)))
    monkeypatch.setattr(builder, "create_inline_asm", programs.wait)
    vain = torch.zeros(1, dtype=torch.int32)
    monkeypatch.setattr(cooperation, "_vain", lambda device: vain)
    monkeypatch.setattr(cooperation, "INTERPRETED", False)
    monkeypatch.setattr(cooperation, "PATIENCE", 10_000)
    monkeypatch.setattr(cooperation, "PATIENCE_AT_FIRST", 10_000)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda d: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


@pytest.fixture
def step_by_step(monkeypatch):
    """Does something as where programs can't wait for one another."""

    def do(run, *args):
        with monkeypatch.context() as patch:
            patch.setattr(cooperation, "INTERPRETED", True)
            return run(*args)

    return do


def problem(cell, mode, plan, device):
    """A layer of two directions, and its tensors."""
    lengths = LENGTHS[::-1] if mode == "padded" else LENGTHS
    layer = layer_for(CELLS[cell], mode, plan, 3, lengths, device)
    return layer, move(tensors_for(layer, 2, 20, 2), device)


def results(layer, inputs):
    """All that forward and backward give."""

    def run(inputs):
        h, *final = Recurrence.apply(layer, None, *inputs)
        return h, final[: len(layer.cell.states)]

    return shown(run, inputs)


def assert_equal(got, expected):
    """In every bit; on a GPU two ways are two kernels, whose compiler may round otherwise."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert not tensor.isnan().any(), name
        if GPU:
            assert_near([got[name]], [tensor.double()])
        else:
            assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("mode", ["dense", "padded"])
def test_all_steps_in_one_launch(plan, mode, device, step_by_step, monkeypatch):
    """The bits of a launch for each step."""
    problem_ = problem("GRU", mode, PLANS[plan], device)
    with launches(monkeypatch) as noted:
        got = results(*problem_)
    assert noted == ["cooperative.forward", "cooperative.backward"]
    assert_equal(got, step_by_step(results, *problem_))


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell(cell, device, step_by_step):
    problem_ = problem(cell, "packed", PLANS["two groups"], device)
    assert_equal(results(*problem_), step_by_step(results, *problem_))


def test_any_order_of_what_programs_do(device, programs, step_by_step):
    """One rarely gets ahead of the others, or as far as it can without them."""
    problem_ = problem("LSTM", "dense", PLANS["two tiles at a time, two rounds"], device)
    expected = step_by_step(results, *problem_)
    for programs.stays in (0.0, 0.5, 0.99):
        assert_equal(results(*problem_), expected)


def test_nobody_sets_the_counters_to_zero(device):
    """They count on from launch to launch, forward and back."""
    plan = PLANS["two tiles at a time"]
    layer, inputs = problem("RNN_TANH", "dense", plan, device)
    expected = results(layer, inputs)
    counters = cooperation._waiting(inputs[0].device, plan, 2, 20).counters
    counters[barrier.SPACING :] = 2**40
    before = counters.clone()
    assert_equal(results(layer, inputs), expected)
    grown = (counters - before).view(-1, barrier.SPACING)
    # Both slices sign in for 3 steps and, on the way back, for 4. In two directions, groups, tiles;
    # the first line is for those who wait in vain.
    assert grown[:, 0].tolist() == [0] + [2 * (1 + 3 + 1 + 4)] * 8
    assert not grown[:, 1:].any()


@pytest.fixture
def spoiled(monkeypatch):
    """Does something with counters by which one program of a group is missing, as it seems."""
    counters_of = cooperation._counters

    def counters(*key):
        made = counters_of(*key)
        made[barrier.SPACING :] = -1
        return made

    def do(run, *args):
        with monkeypatch.context() as patch:
            patch.setattr(cooperation, "_counters", counters)
            if not GPU:
                patch.setattr(cooperation, "PATIENCE_AT_FIRST", 100)
            made = run(*args)
            if GPU:
                torch.cuda.synchronize()
            return made

    return do


@pytest.mark.parametrize("cell", CELLS)
def test_waiting_in_vain(cell, device, spoiled):
    """NaN, and so for whatever comes before the host sees it; then an error, then all is well."""
    plan = PLANS["two tiles at a time, two rounds"]
    layer, inputs = problem(cell, "dense", plan, device)
    states = inputs[1 : 1 + len(layer.cell.states)]

    def forward():
        h, final, *_ = layer.forward(inputs[0], states, split(inputs, layer), keep_all=False)
        return [h, *final]

    expected = forward()
    place = inputs[0].device
    begin = time.monotonic()
    h, *final = spoiled(forward)
    assert time.monotonic() - begin < 10
    assert h.isnan().all()
    assert all(made.isnan().all() for made in final)
    counters, vain, *_ = cooperation._waiting(place, plan, 2, 20)
    assert counters[0] == 1
    assert vain.item() == 1
    vain.zero_()  # as if the host had looked before
    assert all(made.isnan().all() for made in forward())
    assert vain.item() == 0
    vain.fill_(3)
    with pytest.raises(RuntimeError, match=f"on {place}, .* waited in vain .* at exchange 2;"):
        forward()
    assert all(map(torch.equal, forward(), expected))


def test_waiting_in_vain_on_the_way_back(device, spoiled):
    layer, inputs = problem("GRU", "dense", PLANS["two groups"], device)
    inputs = [t if t is None else t.requires_grad_() for t in inputs]
    h, _ = Recurrence.apply(layer, None, *inputs)
    gradients = spoiled(torch.autograd.grad, h.sum(), [t for t in inputs if t is not None])
    assert not h.isnan().any()
    assert all(gradient.isnan().all() for gradient in gradients)
    with pytest.raises(RuntimeError, match=r"fastrnn.use_engine\('step'\) does without waiting"):
        Recurrence.apply(layer, None, *inputs)


@pytest.fixture
def large(device):
    """An LSTM that `cooperative` is for, and its input."""
    model = twins(LSTM, 128, 512, dtype=torch.bfloat16)[1].to(device)
    x = normal(64, 20, 128, dtype=torch.bfloat16).to(device)
    against = fastrnn.explain(model, x).against.get("cooperative")
    if against:
        pytest.skip("; ".join(against))
    return model, x


@on_gpu
def test_equal_bits_while_the_gpu_is_busy(large, device):
    """Of a thousand runs, while another stream takes multiprocessors away."""
    model, x = large
    call, side = by_engine("cooperative"), torch.cuda.Stream()
    busy = torch.randn(2048, 2048, device=device)
    expected = exercise(model, x, None, call)
    differs = torch.zeros((), dtype=torch.bool, device=device)
    torch.cuda.synchronize()
    for k in range(1000):
        with torch.cuda.stream(side):
            for _ in range(k % 8):
                busy @ busy
        seen = exercise(model, x, None, call)
        for name, tensor in expected.items():
            differs |= (seen[name] != tensor).any()  # NaN, too
        if k % 50 == 49:  # the host is not to get far ahead
            torch.cuda.synchronize()
    assert not differs


@on_gpu
def test_two_layers_at_the_same_time(large, device):
    """On streams of different priority; neither starts with only a part of its programs."""
    model, x = large
    call = by_engine("cooperative")
    streams = [torch.cuda.Stream(), torch.cuda.Stream(priority=-1)]
    expected = exercise(model, x, None, call)
    torch.cuda.synchronize()
    seen = []
    for k in range(200):
        with torch.cuda.stream(streams[k % 2]):
            seen.append(tensors(call(model, x, None))[0].detach())
        if k % 20 == 19:
            torch.cuda.synchronize()
            assert all(torch.equal(output, expected["result 0"]) for output in seen)
            seen.clear()


@on_gpu
def test_more_programs_than_a_gpu_runs_at_once(device, monkeypatch):
    """They are refused, and a launch for each step does instead."""
    monkeypatch.setattr(chips, "_refusing", set())
    here = torch.device(device, torch.cuda.current_device())
    chip_of.cache_clear()
    try:
        assert chip_of(here).cooperative
        layer, inputs = problem("GRU", "dense", SMALL._replace(groups=10_000), device)
        with launches(monkeypatch) as noted:
            assert_layer_is_right(layer, inputs)
        assert len(noted) == (1 + 3) + (1 + 4)
        assert not chip_of(here).cooperative
    finally:
        chip_of.cache_clear()


@on_gpu
def test_in_a_graph(large, device):
    """Its counters are its own, and zero at the begin of every run."""
    model, x = large
    call = by_engine("cooperative")
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            expected = tensors(call(model, x, None))
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = tensors(call(model, x, None))
    for _ in range(2):
        for tensor in made:
            tensor.fill_(math.nan)
        graph.replay()
        assert all(map(torch.equal, made, expected))
