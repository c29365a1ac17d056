"""`python -m benchmarks`: files that survive, one-line complaints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import run
from benchmarks.__main__ import main
from benchmarks.cases import SUITES
from benchmarks.row import OK, UNSERVED
from tests.benchmarking import TINY, heading, rows_in

pytestmark = pytest.mark.usefixtures("short_blocks")


def test_the_command_measures_and_prints(tmp_path):
    output = tmp_path / "new" / "results.json"
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *TINY, "--cell", "LSTM"]
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


def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    path = tmp_path / "taken" / "results.json"
    assert main(["--case", "tiny", "--output", str(path)]) == 2
    assert f"cannot write {path}" in capsys.readouterr().err


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
    assert heading(printed) == "torch.nn torch.nn torch.nn | case cell mode ms 20-80 % ms MB"
    assert main(["plot", str(output)]) == 2
    assert f"cannot draw {output}: it has no ratios" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((Path(command.__file__).parent / "results").glob("*.json")))
def test_kept_results_are_still_read(path, capsys):
    assert main(["show", str(path)]) == 0
    assert "geometric mean of" in capsys.readouterr().out
