"""The benchmark harness: honest rows, files that survive, one-line complaints, a picture."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastrnn
from benchmarks import clock, memory, run
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
from benchmarks.gate import judge
from benchmarks.measure import measure
from benchmarks.row import ERROR, FAILED, OK, Row, describe
from benchmarks.worker import Worker

TINY = ["--case", "streaming-64", "--rounds", "1"]
SHAPES = {
    "stack": Case("stack", 3, 2, 4, 5, "", layers=2, bidirectional=True),
    "projected": Case("projected", 3, 2, 4, 5, "", proj_size=2),
    "packed": Case("packed", 5, 4, 3, 6, "", shortest=1, bidirectional=True),
    "last": Case("last", 4, 2, 3, 5, "", loss="last"),
    "streaming": Case("streaming", 1, 2, 3, 5, "", streaming=True),
}
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
        side = {
            "error": 1e-7,
            "engine": "torch",
            "plan": "loop",
            "seconds": {"median": 2e-3, "p20": 1e-3, "p80": 3e-3},
            "first_call_seconds": 0.5,
            "peak_bytes": None,
        }
        ratio = {"median": 0.5, "p20": 0.4, "p80": 0.6}
        return describe(row) | {
            "status": OK, "ratio": ratio, "rounds": 1, "native": side, "fastrnn": side,
        }  # fmt: skip

    monkeypatch.setattr(run, "measure", measured)
    return asked


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


def test_the_second_process_measures_and_its_death_is_reported():
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
