"""A row of the benchmark: what is measured, of which numbers, in which process."""

import time

import pytest
import torch

import benchmarks.measure as measuring
from benchmarks import clock, memory, problem, run
from benchmarks.cases import ALL_CELLS, CASES, FORWARD, TRAINING
from benchmarks.measure import measure
from benchmarks.row import AUTO, ERROR, NATIVE, OK, Row
from benchmarks.worker import Worker
from tests.benchmarking import SHAPES

pytestmark = pytest.mark.usefixtures("short_blocks")
SHAPE_ROWS = run.rows(SHAPES.values(), ALL_CELLS, ["float32"], "cpu", flush_denormal=True)


# What torch.nn says of its own choice on a CPU.
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("row", SHAPE_ROWS, ids=lambda row: row.key)
def test_a_row_tells_everything(row):
    record = measure(row, rounds=1)
    assert record["status"] == OK, record
    assert record["ratio"]["median"] > 0
    for side in ("native", "fastrnn"):
        assert record[side]["seconds"]["median"] > 0
        assert record[side]["first_call_seconds"] > 0
        assert record[side]["peak_bytes"] > 0
        assert record[side]["error"] < 1e-5
    assert record["fastrnn"]["engine"]
    assert record["fastrnn"]["plan"]
    assert record["device"] == "cpu"
    assert record["waited"] is None or 0 <= record["waited"] <= 1


def test_the_slower_side_is_told_from_the_faster():
    times = clock.duel(lambda: time.sleep(0.004), lambda: time.sleep(0.001), "cpu", rounds=4)
    assert times.rounds == 4
    assert times.ratio.p20 <= times.ratio.median <= times.ratio.p80
    assert times.ratio.median > 1


def test_memory_is_what_was_held_at_once():
    def call():
        for _ in range(3):
            torch.ones(250_000)
        return torch.ones(250_000), torch.ones(250_000)

    assert memory.peak_bytes(call, "cpu") == 2_000_000


def test_no_recording_fills_the_memory():
    assert memory.recordable(CASES["tiny-long"], TRAINING)
    assert memory.recordable(CASES["packed-1000"], FORWARD)
    assert not memory.recordable(CASES["packed-1000"], TRAINING)
    assert not memory.recordable(CASES["audio-20k"], FORWARD)


def test_another_process_measures_and_its_death_is_reported():
    worker = Worker(threads=1, flush_denormal=True)
    row = Row(SHAPES["last"], "RNN", TRAINING, "float32", "cpu", True)
    record = worker.measure(row, 1)
    assert (record["status"], record["kind"]) == (OK, "last step, denormals flushed")
    worker.process.kill()
    worker.process.join()
    record = worker.measure(row, 1)
    assert record["status"] == ERROR
    assert "died (-9)" in record["message"]


def test_who_takes_too_long_is_given_up():
    worker = Worker(threads=1, flush_denormal=False, limit=0.01)
    row = Row(SHAPES["last"], "RNN", TRAINING, "float32", "cpu", False)
    record = worker.measure(row, 1)
    assert (record["status"], record["message"]) == (ERROR, "no result after 0.01 s, given up")
    worker.limit = 60
    assert worker.measure(row, 1)["status"] == OK


def test_precision_is_set_and_restored():
    rnn = torch.backends.cudnn.rnn
    before = rnn.fp32_precision
    for dtype, name in (("tf32", "tf32"), ("float32", "ieee")):
        with problem.precision(dtype):
            assert rnn.fp32_precision == name
    assert rnn.fp32_precision == before


def test_a_gpu_finds_other_numbers_in_each_call(monkeypatch):
    monkeypatch.setattr(problem, "_sets", lambda *_: 3)
    few = problem.Problem(SHAPES["packed"], "GRU", "float32", "cpu")
    for call in few.rotating(FORWARD):
        outputs = [call()[0] for _ in range(4)]
        assert torch.equal(outputs[0], outputs[3])
        assert not torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize("slow", [0.0, 100.0])
def test_of_too_many_steps_the_referee_sees_some(monkeypatch, slow):
    monkeypatch.setattr(measuring, "_long", lambda row: True)
    monkeypatch.setattr(measuring, "REFEREED_STEPS", 2)
    monkeypatch.setattr(measuring, "SLOW_SECONDS", slow)
    for mode in (FORWARD, TRAINING):
        record = measure(Row(SHAPES["stack"], "LSTM", mode, "float32", "cpu", False), 3)
        assert record["status"] == OK, record
        native = record["native"]
        once = native["seconds"]["median"] == native["first_call_seconds"]
        assert once == (native["peak_bytes"] is None) == (slow == 0)
        assert record["rounds"] == 3


class PretendedEvent:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 1000 * (other.time - self.time)


@pytest.mark.parametrize("engine", [AUTO, NATIVE])
def test_a_row_on_a_gpu(monkeypatch, engine):
    """All but the GPU: its tensors are on the CPU, its clock is the CPU's."""

    def on_cpu(case, cell, dtype, device):
        assert device == "cuda"
        return problem.Problem(case, cell, dtype, "cpu")

    monkeypatch.setattr(measuring, "Problem", on_cpu)
    monkeypatch.setattr(torch.cuda, "Event", PretendedEvent)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name, size in (("memory_allocated", 10), ("max_memory_allocated", 110)):
        monkeypatch.setattr(torch.cuda, name, lambda size=size: size)
    monkeypatch.setitem(clock.PACES, "cuda", clock.PACES["cpu"])
    for case in ("stack", "packed"):
        row = Row(SHAPES[case], "GRU", TRAINING, "tf32", "cuda", False, engine)
        record = measure(row, 2)
        assert (record["status"], record["rounds"]) == (OK, 2), record
        for side in ("native",) if engine == NATIVE else ("native", "fastrnn"):
            assert record[side]["peak_bytes"] == 100
            assert record[side]["seconds"]["median"] > 0
