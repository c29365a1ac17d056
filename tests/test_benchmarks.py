"""The benchmark harness: honest rows, files that survive, one-line complaints, a picture."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import benchmarks.measure as measuring
import fastrnn
from benchmarks import __main__ as command
from benchmarks import clock, machine, memory, problem, rates, run, summary
from benchmarks.__main__ import main
from benchmarks.cases import (
    ALL_CELLS,
    APPLICATIONS,
    CASES,
    DESKTOP,
    FORWARD,
    SUITES,
    TRAINING,
    Case,
    suite,
)
from benchmarks.cold import cold_start
from benchmarks.floor import Constants, floor
from benchmarks.gate import Verdict, disagreement, judge, poisoned
from benchmarks.measure import measure
from benchmarks.results import Results
from benchmarks.row import AUTO, ERROR, FAILED, NATIVE, OK, UNSERVED, Row, describe
from benchmarks.warm import compile_all, compilers
from benchmarks.worker import Worker

TINY = ["--case", "streaming-64", "--rounds", "1"]
SHAPES = {
    "stack": Case("stack", 3, 2, 4, 5, "", layers=2, bidirectional=True),
    "projected": Case("projected", 3, 2, 4, 5, "", proj_size=2),
    "packed": Case("packed", 5, 4, 3, 6, "", shortest=1, bidirectional=True),
    "last": Case("last", 4, 2, 3, 5, "", loss="last"),
    "streaming": Case("streaming", 1, 2, 3, 5, "", streaming=True),
}
# A machine that does an operation and moves a byte in a second, at a cycle a second.
SLOW = Constants({"float32": 1.0, "bfloat16": 1.0}, 1.0, 1.0, 10, 1000)
SHAPE_ROWS = run.rows(SHAPES.values(), ALL_CELLS, ["float32"], "cpu", flush_denormal=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short blocks, and one thread: two that wait for each other crawl on a busy machine."""
    monkeypatch.setitem(clock.PACES, "cpu", clock.Pace(0.002, 15.0, 1.0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def instant(monkeypatch):
    """Rows that need no measuring; returns those that were asked for."""
    asked = []

    def measured(row, rounds):
        asked.append(row.key)
        return invented(row)

    monkeypatch.setattr(run, "measure", measured)
    return asked


def invented(row: Row, seconds: float = 2e-3) -> dict:
    """A record in which fastrnn takes `seconds`, and torch.nn half of them."""
    side = {
        "error": 1e-7,
        "engine": "torch",
        "plan": "loop",
        "seconds": {"median": seconds, "p20": seconds, "p80": seconds},
        "first_call_seconds": 0.5,
        "peak_bytes": None,
        "kernels": [{"name": "forward_kernel", "seconds": 6.5, "cached": False}],
    }
    if row.engine == NATIVE:
        return describe(row) | {"status": OK, "rounds": 1, "native": side}
    ratio = {"median": 0.5, "p20": 0.4, "p80": 0.6}
    return describe(row) | {
        "status": OK, "ratio": ratio, "rounds": 1, "native": side, "fastrnn": side,
    }  # fmt: skip


def rows_in(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def test_every_case_has_a_name_of_its_own_and_an_origin():
    assert len(CASES) == len(APPLICATIONS) + len(DESKTOP)
    assert all(case.origin for case in CASES.values())
    for device in ("cpu", "cuda"):
        for name in SUITES:
            assert suite(name, device)
        assert set(suite("full", device)) == set(CASES.values())
    assert suite("full", "cuda")[0] in APPLICATIONS
    assert suite("full", "cpu")[0] in DESKTOP


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.shortest is not None])
def test_lengths_fill_the_batch_from_shortest_to_longest(case):
    assert len(case.lengths) == case.B
    assert (min(case.lengths), max(case.lengths)) == (case.shortest, case.T)
    assert list(case.lengths) != sorted(case.lengths, reverse=True)


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


class WrongGradient(fastrnn.RNN):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return output + 0.1 * (output - output.detach()), state


class Broken(fastrnn.RNN):
    def forward(self, input, hx=None):
        raise RuntimeError("out of\nluck")


@pytest.mark.parametrize(
    ("broken", "status", "message"),
    [
        (WrongGradient, FAILED, "gradient of input: error"),
        (Broken, ERROR, "RuntimeError: out of luck"),
    ],
)
def test_who_fails_the_gate_gets_no_time(monkeypatch, tmp_path, capsys, broken, status, message):
    monkeypatch.setattr(fastrnn, "RNN", broken)
    output = tmp_path / "results.json"
    argv = ["--case", "tiny", "streaming-64", "--cell", "RNN", "GRU", "--rounds", "1"]
    assert main([*argv, "--output", str(output)]) == 1
    rows = rows_in(output)
    row = rows[f"tiny/RNN/{TRAINING}/float32"]
    assert row["status"] == status
    assert message in row["message"]
    assert "ratio" not in row
    assert "seconds" not in row.get("fastrnn", {})
    assert rows["streaming-64/GRU/forward/float32"]["status"] == OK
    assert f"{status} tiny RNN {TRAINING} float32: " in capsys.readouterr().out


def test_the_gate_lets_neither_nan_nor_another_shape_pass():
    exact = torch.ones(2, 3, dtype=torch.float64)
    good = exact.float()
    assert judge(["output"], (good,), (good,), (exact,)).complaint == ""
    assert "nan" in judge(["output"], (good,), (good * float("nan"),), (exact,)).complaint
    assert "(3, 2)" in judge(["output"], (good,), (good.T,), (exact,)).complaint
    assert "0 tensors" in judge(["output"], (good,), (), (exact,)).complaint


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


def test_a_last_step_loss_is_shown_with_and_without_denormals():
    def kinds(device, flush):
        return [r.kind for r in run.rows([SHAPES["last"]], ["GRU"], ["float32"], device, flush)]

    assert kinds("cpu", False) == ["last step", "last step, denormals flushed"]
    assert kinds("cpu", True) == ["last step, denormals flushed"]
    assert kinds("cuda", False) == ["last step"]


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


def test_the_command_measures_and_prints(tmp_path):
    output = tmp_path / "new" / "results.json"
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *TINY, "--cell", "RNN"]
    done = subprocess.run(
        [*command, "--threads", "1", "--output", output],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["status"] for row in rows_in(output).values()] == [OK]
    for part in ("streaming-64", "geometric mean", f"torch {torch.__version__}", str(output)):
        assert part in done.stdout


def test_an_interrupted_run_leaves_a_file_to_resume(tmp_path, monkeypatch, capsys, instant):
    output = tmp_path / "results.json"
    argv = ["--case", "tiny", "--cell", "LSTM", "GRU", "--output", str(output)]
    until_now = run.measure

    def interrupted(row, rounds):
        if len(instant) == 3:
            raise KeyboardInterrupt
        return until_now(row, rounds)

    with monkeypatch.context() as patch:
        patch.setattr(run, "measure", interrupted)
        assert main(argv) == 130
    assert len(rows_in(output)) == 3
    assert "1 of 4 rows left" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [output]

    assert main([*argv, "--resume"]) == 0
    assert instant[3:] == ["tiny/GRU/forward+backward/float32"]
    assert len(rows_in(output)) == 4
    assert "3 of 4 rows are in" in capsys.readouterr().out


def test_resuming_elsewhere_is_refused(tmp_path, capsys, instant):
    output = tmp_path / "results.json"
    argv = [*TINY, "--cell", "RNN", "--output", str(output)]
    assert main(argv) == 0
    content = json.loads(output.read_text(encoding="utf-8"))
    content["environment"]["torch"] = "1.0"
    output.write_text(json.dumps(content), encoding="utf-8")
    capsys.readouterr()
    assert main([*argv, "--resume"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert f"{output}: torch was 1.0, is {torch.__version__}" in complaint


def test_the_time_budget_starts_no_more_rows(tmp_path, capsys, instant):
    output = tmp_path / "results.json"
    assert main([*TINY, "--time-budget", "0", "--output", str(output)]) == 0
    assert instant == []
    assert "3 of 3 rows left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--suite", "all"], ["--suite", "'all'", *SUITES]),
        (["--case", "tyni"], ["--case", "'tyni'", "tiny", "anchor"]),
        (["--cell", "QRNN"], ["--cell", "LSTM", "GRU", "RNN"]),
        (["--dtype", "int8"], ["--dtype", "bfloat16", "tf32"]),
        (["--device", "cpu", "--dtype", "tf32"], ["--dtype", "tf32 needs", "bfloat16"]),
        (["--threads", "0"], ["--threads", "0 is not positive"]),
        (["--rounds", "many"], ["--rounds", "'many'"]),
        (["--time-budget", "-1"], ["--time-budget", "-1"]),
        (["--case", "forecasting-projected", "--cell", "GRU"], ["nothing to measure"]),
        (["--quick", "--case", "tiny"], ["--case", "not allowed with"]),
        (["plot", "results.json", "-o", "results.bmp"], [".png", ".svg"]),
        (["plot"], ["results"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_argument_gets_one_line(capsys, argv, words):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    for word in words:
        assert word in complaint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_gets_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert capsys.readouterr().err.endswith("(choose from auto, cpu)\n")


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"environment": {}, "rows": {"a": 1}}', '{"rows": {}}']
)
def test_an_unreadable_file_gets_one_line(tmp_path, capsys, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main(["plot", str(path)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert str(path) in complaint


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path, capsys, instant, suffix, start):
    results, picture = tmp_path / "results.json", tmp_path / f"picture{suffix}"
    argv = ["--case", "tiny", "packed-50-bi", "--dtype", "float32", "bfloat16"]
    assert main([*argv, "--output", str(results)]) == 0
    assert main(["plot", str(results), "-o", str(picture)]) == 0
    assert picture.read_bytes().startswith(start)
    assert capsys.readouterr().out.endswith(f"{picture}\n")


def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    path = tmp_path / "taken" / "results.json"
    assert main(["--case", "tiny", "--output", str(path)]) == 2
    assert f"cannot write {path}" in capsys.readouterr().err


def test_nothing_measured_is_not_drawn(tmp_path, capsys):
    path = tmp_path / "empty.json"
    path.write_text('{"environment": {}, "rows": {}}')
    assert main(["plot", str(path)]) == 2
    assert "nothing has been measured yet" in capsys.readouterr().err


def test_the_cases_are_those_of_the_design():
    shapes = {
        (case.T, case.B, case.I, case.H, case.layers, case.bidirectional, case.proj_size, case.kind)
        for case in APPLICATIONS
    }
    hydrology = [(365, 256, 32, H, 1, False, 0, kind)
                 for H in (64, 128, 256) for kind in ("dense", "packed")]  # fmt: skip
    assert shapes == {
        *hydrology,
        (32, 8192, 64, 256, 1, False, 0, "dense"),
        (128, 256, 32, 512, 1, False, 0, "dense"),
        (1, 4096, 64, 256, 1, False, 0, "streaming"),
        (750, 16, 512, 512, 2, False, 0, "dense"),
        (589, 32, 60, 128, 4, True, 0, "dense"),
        (589, 32, 60, 128, 4, True, 0, "packed"),
        (32, 128, 512, 128, 2, True, 0, "dense"),
        (128, 32, 640, 640, 2, False, 0, "dense"),
        (1, 8, 640, 640, 2, False, 0, "streaming"),
        (20_000, 32, 1, 40, 1, False, 0, "dense"),
        (70_000, 8, 1, 40, 1, False, 0, "dense"),
        (400, 16, 640, 256, 1, True, 0, "packed"),
        (96, 1024, 8, 128, 2, False, 0, "dense"),
        (96, 1024, 8, 128, 2, False, 1, "dense"),
        (512, 64, 1024, 1024, 2, False, 0, "dense"),
        (1024, 16, 768, 768, 1, False, 0, "dense"),
    }
    twins = {case.name: case.twin for case in APPLICATIONS if case.twin}
    assert twins == {f"{name}-packed": name
                     for name in ("hydrology-64", "hydrology-128", "hydrology-256", "diarization")
                    }  # fmt: skip


# T=3 B=2 I=4 H=5, one layer of an LSTM: W_ih is 20x4, W_hh 20x5, two biases of 20.
@pytest.mark.parametrize(
    ("changes", "training", "constants", "expected"),
    [
        # 6 rows by W_ih, 4 by W_hh: before the first step there is nothing to multiply.
        ({}, False, {}, (2 * (6 * 80 + 4 * 100), "math")),
        ({}, True, {}, (3 * 2 * (6 * 80 + 4 * 100), "math")),
        ({"streaming": True}, False, {}, (2 * (6 * 80 + 6 * 100), "math")),
        ({"bidirectional": True}, False, {}, (2 * 2 * (6 * 80 + 4 * 100), "math")),
        ({"layers": 2}, False, {}, (2 * (6 * 80 + 4 * 100 + 6 * 100 + 4 * 100), "math")),
        ({"proj_size": 2}, False, {}, (2 * (6 * 80 + 4 * 40 + 6 * 10), "math")),
        # Lengths 3 and 1.
        ({"shortest": 1}, False, {"bandwidth": 9.0}, (2 * (4 * 80 + 2 * 100), "math")),
        # x, weights and biases, output, h_n and c_n; and in training the gradient of each.
        ({}, False, {"fast": True}, (4 * (24 + 220 + 30 + 20), "memory")),
        ({}, True, {"fast": True}, (2 * 4 * (24 + 220 + 30 + 20), "memory")),
        ({"loss": "last"}, True, {"fast": True}, (4 * (2 * (24 + 220) + 30 + 20 + 10), "memory")),
        # 400 bytes of W_hh at 128 a cycle, between three steps twice; back, the same again.
        ({}, False, {"fast": True, "bandwidth": 1e9}, (2 * 400 / 128, "latency")),
        ({}, True, {"fast": True, "bandwidth": 1e9}, (4 * 400 / 128, "latency")),
        ({"layers": 2}, False, {"fast": True, "bandwidth": 1e9}, (3 * 400 / 128, "latency")),
        (
            {"layers": 2, "bidirectional": True},
            False,
            {"fast": True, "bandwidth": 1e9},
            (5 * 400 / 128, "latency"),
        ),
        # In four of ten multiprocessors each, W_hh stands twice: a sequence for each, five numbers.
        (
            {},
            False,
            {"fast": True, "bandwidth": 1e9, "shared_bytes": 100, "barrier": 3.0},
            (2 * (3 + 20 / 64), "latency"),
        ),
        ({}, False, {"fast": True, "bandwidth": 1e9, "clock": None}, (1176 / 1e9, "memory")),
    ],
)
def test_the_floor(changes, training, constants, expected):
    shape = {"name": "shape", "T": 3, "B": 2, "I": 4, "H": 5, "origin": ""}
    if constants.pop("fast", False):
        constants["flops"] = {"float32": 1e30}
    seconds, bound = floor(
        Case(**shape | changes), "LSTM", "float32", training, SLOW._replace(**constants)
    )
    assert (seconds, bound) == (pytest.approx(expected[0]), expected[1])


def test_the_floor_knows_cells_and_sizes_of_numbers():
    def seconds(cell, dtype, constants):
        return floor(CASES["hydrology-64"], cell, dtype, False, constants).seconds

    assert seconds("LSTM", "float32", SLOW) == 4 * seconds("RNN", "float32", SLOW)
    assert seconds("LSTM", "float32", SLOW) == pytest.approx(
        4 / 3 * seconds("GRU", "float32", SLOW)
    )
    memory = SLOW._replace(flops={"float32": 1e30, "bfloat16": 1e30}, clock=None)
    assert seconds("GRU", "float32", memory) == 2 * seconds("GRU", "bfloat16", memory)


def test_what_a_machine_can_do_is_measured_once():
    measured = rates.measure("cpu", ["float32", "bfloat16"], width=64, copied=1 << 16)
    assert min(measured.flops.values()) > 0
    assert measured.bandwidth > 0
    known = {"floor": measured._asdict()}
    assert rates.constants("cpu", ["float32"], known) is known


def test_a_gpu_sees_the_most_telling_rows_first():
    gpu = suite("gpu", "cuda")
    dtypes = problem.DEFAULT_DTYPES["cuda"]
    selected = run.rows(gpu, None, dtypes, "cuda", False, cold_start="few")
    in_order = run.rows(gpu, None, dtypes, "cpu", False)
    assert {row.key for row in selected} == {row.key for row in in_order}
    assert {(row.dtype, row.mode) for row in selected} >= {("tf32", TRAINING), ("float16", FORWARD)}

    def first(condition):
        return next(place for place, row in enumerate(selected) if condition(row))

    half = len(selected) // 2
    assert {row.dtype for row in selected[:half]} == {"tf32", "bfloat16"}
    assert {row.dtype for row in selected[half:]} == {"float32", "float16"}
    packed = first(lambda row: row.case.kind == "packed")
    large = first(lambda row: row.case.H > 128 and row.case.kind == "dense")
    streaming = first(lambda row: row.case.kind == "streaming")
    endless = first(lambda row: row.case.name == "audio-70k")
    assert all(row.case.H <= 128 for row in selected[:packed])
    assert packed < large < endless < half
    assert packed < streaming < endless
    assert selected[0].key == "diarization/LSTM/forward/tf32"
    assert [row.key for row in selected if row.cold_start] == [
        f"hydrology-128/{cell}/{TRAINING}/tf32" for cell in ("LSTM", "GRU")
    ]


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


def test_memory_is_poisoned_for_the_gate_alone():
    with poisoned():
        assert torch.empty(3).isnan().all()
        assert torch.ones(3).new_empty(2, 2).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


class Unwritten(fastrnn.GRU):
    """Its output is right unless the memory for it was filled with NaN."""

    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        found = torch.empty_like(output)
        return torch.where(found.isnan(), found, output), state


def test_an_unwritten_element_fails_the_gate(monkeypatch):
    monkeypatch.setattr(fastrnn, "GRU", Unwritten)
    row = Row(SHAPES["streaming"], "GRU", FORWARD, "float32", "cpu", False, "torch.bptt")
    record = measure(row, 1)
    assert (record["status"], record["fastrnn"]["error"]) == (FAILED, None)
    assert record["message"].startswith("output: error nan")


def test_the_gate_tells_how_much_of_what_is_allowed_was_used():
    exact = torch.ones(4, dtype=torch.float64)
    theirs, ours = (exact * (1 + error) for error in (1e-3, 1e-3))
    verdict = judge(["output"], (theirs,), (ours,), (exact,))
    assert verdict.share == pytest.approx(0.5, rel=1e-3)
    far = Verdict(1e-3, 1e-3, "", 0.5)
    assert disagreement(["output"], (theirs,), (ours * 1.01,), far) == ""
    assert "output: 1.0e-01" in disagreement(["output"], (theirs,), (ours * 1.1,), far)
    assert disagreement(["output"], (theirs,), (ours * float("nan"),), far)


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


def test_a_named_engine_serves_or_says_why_not(tmp_path, capsys):
    output = tmp_path / "results.json"
    argv = ["--case", "streaming-64", "--cell", "RNN", "--rounds", "1", "--output", str(output)]
    assert main([*argv, "--engine", "torch.bptt"]) == 0
    (row,) = rows_in(output).values()
    assert (row["status"], row["fastrnn"]["plan"]) == (OK, "bptt")
    capsys.readouterr()

    assert main([*argv, "--engine", "torch.bptt", "--dtype", "bfloat16"]) == 0
    (row,) = rows_in(output).values()
    assert row["status"] == UNSERVED
    assert "not in torch.bfloat16" in row["message"]
    assert "ratio" not in row
    printed = capsys.readouterr().out
    assert "Rows: 1 n/a" in printed
    assert "engine torch.bptt" in printed

    assert main([*argv, "--resume"]) == 2
    assert "engine was torch.bptt, is None" in capsys.readouterr().err


def test_torch_nn_alone(tmp_path, capsys):
    output = tmp_path / "results.json"
    argv = ["--case", "streaming-64", "--rounds", "2", "--output", str(output)]
    assert main([*argv, "--native-only"]) == 0
    rows = rows_in(output)
    assert len(rows) == 3
    for row in rows.values():
        assert row["status"] == OK
        assert row["native"]["seconds"]["median"] > 0
        assert row["native"]["peak_bytes"] > 0
        assert "fastrnn" not in row
    printed = capsys.readouterr().out
    assert "µs a step" in printed
    assert "fastrnn ms" not in printed
    assert main(["plot", str(output)]) == 2
    assert f"cannot draw {output}: it has no ratios" in capsys.readouterr().err


def test_who_takes_too_long_is_given_up():
    worker = Worker(threads=1, flush_denormal=False, limit=0.01)
    row = Row(SHAPES["last"], "RNN", TRAINING, "float32", "cpu", False)
    record = worker.measure(row, 1)
    assert (record["status"], record["message"]) == (ERROR, "no result after 0.01 s, given up")
    worker.limit = 60
    assert worker.measure(row, 1)["status"] == OK


def test_the_first_call_of_new_processes():
    row = Row(SHAPES["streaming"], "RNN", FORWARD, "float32", "cpu", False, "torch.aten", True)
    record = measure(row, 1)
    cold = record["fastrnn"]["cold_start"]
    for name in ("empty", "filled"):
        assert cold[name]["first_call_seconds"] > 0
        assert cold[name]["kernels"] == []
    (line,) = summary.first_calls([record])
    assert "0 kernels compiled" in line


def test_a_new_process_that_fails_says_why():
    row = Row(SHAPES["streaming"], "RNN", FORWARD, "float32", "elsewhere", False)
    assert "RuntimeError: Expected one of cpu" in cold_start(row)["message"]


def test_kernels_are_compiled_ahead_for_as_long_as_there_is_time():
    row = Row(SHAPES["streaming"], "RNN", FORWARD, "float32", "cpu", False)
    absurd = Row(SHAPES["streaming"], "QRNN", FORWARD, "float32", "cpu", False)
    assert compile_all([row, absurd], 1, 60) == {row.key: [], absurd.key: []}
    assert compile_all([row], 1, 0) == {}
    assert compilers("cpu", AUTO) == compilers("cuda", NATIVE) == 0
    assert compilers("cuda", AUTO) > 0


COMPILE = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks.cold import kernels

@triton.jit
def nothing(x_ptr, N: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, N), 0.0)

with kernels("cuda") as built:
    for _ in range(2):
        source = ASTSource(nothing, {"x_ptr": "*fp32", "N": "constexpr"}, {"N": 32})
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
assert triton.knobs.compilation.listener is None
print([(kernel["name"], kernel["seconds"] > 0, kernel["cached"]) for kernel in built])
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_compiled_kernels_are_told_from_those_in_the_cache(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(COMPILE)
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, program],
        env=settings | {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "[('nothing', True, False), ('nothing', True, True)]\n"


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


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A run on a GPU, but for the GPU; what is measured is invented, and packed is slow."""
    asked = []

    def measured(self, row, rounds):
        asked.append(row)
        packed = row.case.kind == "packed"
        return invented(row, 2e-3 * (1.5 if packed and row.cell == "GRU" else 1))

    constants = {
        "floor": Constants(dict.fromkeys(problem.DTYPES, 1e14), 4e12, 2e9, 132, 232448)._asdict(),
        "clocks_at_work": {"multiprocessors": 1980.0, "memory": 3201.0},
    }
    environment = machine.environment("cpu", False)

    def surroundings(device, flush_denormal, engine, commit):
        here = {"device": device, "gpu": "Pretended", "engine": engine, "commit": commit}
        return environment | here

    monkeypatch.setattr(command, "chosen_device", lambda *_: "cuda")
    monkeypatch.setattr(command, "constants", lambda device, dtypes, known: known or constants)
    monkeypatch.setattr(machine, "environment", surroundings)
    monkeypatch.setattr(command, "compile_all", lambda rows, processes, seconds: {})
    monkeypatch.setattr(Worker, "measure", measured)
    return asked


def test_a_run_on_a_gpu(tmp_path, capsys, monkeypatch, pretended_gpu):
    output = tmp_path / "results.json"
    argv = ["--device", "cuda", "--output", str(output), "--commit", "abc"]
    assert main([*argv, "--time-budget", "0"]) == 0
    assert "tf32: all 84 rows" in capsys.readouterr().out
    assert pretended_gpu == []

    # What was compiled ahead stays in the record; in the measuring process it came from the cache.
    ahead = [{"name": "forward_kernel", "seconds": 1.25, "cached": False}]
    monkeypatch.setattr(
        command, "compile_all", lambda rows, processes, seconds: {rows[0].key: ahead}
    )
    now = time.monotonic()
    monkeypatch.setattr(run.time, "monotonic", lambda: now + 6 * len(pretended_gpu))
    assert main([*argv, "--resume"]) == 0
    assert len(pretended_gpu) == 90
    printed = capsys.readouterr().out
    for part in (
        "fastrnn µs/step",
        "bound by",
        "The time budget of 540 s is used up: 246 of 336 rows left; --resume goes on from here.",
        "  tf32: hydrology-256 4/4, ",
        "float16: all 84 rows",
        "matrix products float32 100, ",
        "copies 4 TB/s; clock up to 2000 MHz, 1980 MHz at work.",
        "90 ok; 90 slower than torch.nn by more than 3%, the slowest at ×0.50",
        "  and 78 more",
        "Compiled 90 kernels, many at a time: 6.5 s each (median), at most 6.5 s (forward_ker",
        "1 in 1.2 s",
        "89 above 5 s.",
    ):
        assert part in printed, part

    assert main([*argv, "--resume", "--time-budget", "99999"]) == 0
    assert len(pretended_gpu) == len({row.key for row in pretended_gpu}) == 336
    printed = capsys.readouterr().out
    for times in ("1.00/1.00", "1.50!/1.50!"):
        assert " ".join([times] * 4) in " ".join(printed.split())
    assert "rows left" not in printed
    # Only the end may be seen.
    end = printed.partition("allows.")[2]
    assert "hydrology-64 LSTM 0.50/0.50 0.50/0.50" in " ".join(end.split())
    assert len(end) < 9_500
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["constants"]["floor"]["multiprocessors"] == 132
    for row in content["rows"].values():
        assert row["floor"]["seconds"] > 0
    again = Results.load(output)
    assert (again.rows, again.constants) == (content["rows"], content["constants"])

    assert main(["show", str(output)]) == 0
    shown = capsys.readouterr().out
    assert (
        shown.partition("µs/step")[2]
        == printed.replace(f"Results: {output}\n", "").partition("µs/step")[2]
    )


def test_a_run_of_torch_nn_alone_on_a_gpu(tmp_path, capsys, pretended_gpu):
    output = tmp_path / "results.json"
    argv = ["--device", "cuda", "--output", str(output), "--native-only", "--dtype", "bfloat16"]
    assert main(argv) == 0
    assert not any(row.cold_start for row in pretended_gpu)
    printed = capsys.readouterr().out
    assert "torch.nn µs/step" in printed
    assert "fastrnn µs/step" not in printed
    assert "/ floor" in printed


def test_what_is_left_is_named():
    rows = run.rows([CASES["tiny"], CASES["small"]], ["LSTM"], ["float32", "bfloat16"], "cpu", True)
    left = [row for row in rows if row.dtype == "bfloat16"] + [rows[0]]
    assert summary.missing(rows, left) == ["  bfloat16: all 4 rows", "  float32: tiny 1/2"]
    assert summary.missing(rows, []) == []


def test_rows_that_fail_alike_are_told_in_one_line():
    row = Row(SHAPES["last"], "RNN", TRAINING, "float32", "cpu", False)
    records = [describe(row) | {"status": UNSERVED, "message": "no"} for _ in range(3)]
    records.append(describe(row) | {"status": ERROR, "message": "out of memory"})
    assert summary.remarks(records) == [
        f"ERROR last RNN {TRAINING} float32: out of memory",
        f"n/a last RNN {TRAINING} float32 and 2 more: no",
    ]
    assert summary.verdicts(records) == ["Rows: 3 n/a, 1 ERROR"]


@pytest.mark.parametrize("path", sorted((Path(command.__file__).parent / "results").glob("*.json")))
def test_kept_results_are_still_read(path, capsys):
    assert main(["show", str(path)]) == 0
    assert "geometric mean of" in capsys.readouterr().out


def test_a_row_survives_its_journey_to_another_process():
    row = Row(SHAPES["packed"], "GRU", FORWARD, "tf32", "cuda", False, AUTO, True)
    again = Row.from_dict(json.loads(json.dumps(asdict(row))))
    assert again.case.lengths == row.case.lengths
    assert (again.key, again.engine, again.cold_start) == (row.key, AUTO, True)
