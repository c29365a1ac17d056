"""A run of the benchmark on a GPU, but for the GPU."""

import json
import time

import pytest

from benchmarks import __main__ as command
from benchmarks import machine, problem, run
from benchmarks.__main__ import main
from benchmarks.floor import Constants
from benchmarks.results import Results
from benchmarks.worker import Worker
from tests.benchmarking import heading, invented

pytestmark = pytest.mark.usefixtures("short_blocks")


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
    assert heading(printed) == (
        "torch.nn fastrnn torch.nn fastrnn torch.nn fastrnn fastrnn's first torch.nn fastrnn error "
        "/ | case cell mode dtype µs/step µs/step speed-up spread engine / floor / floor bound by "
        "MB MB call, ms kernels error error allowed"
    )
    for part in (
        "The time budget of 540 s is used up: 246 of 336 rows left; --resume goes on from here.",
        "  tf32: hydrology-256 4/4, ",
        "float16: all 84 rows",
        "matrix products float32 100, ",
        "copies 4 TB/s; clock up to 2000 MHz, 1980 MHz at work.",
        "90 ok; 0 faster than torch.nn and 90 slower, by more than 3% over their whole spread",
        "  ×0.50 (0.40-0.60) diarization LSTM forward tf32 (torch.loop)",
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
    ends = f"Results: {output}\nPicture: {output.with_suffix('.png')}\n"
    assert shown.partition("µs/step")[2] == printed.replace(ends, "").partition("µs/step")[2]
    assert "µs/step" in shown


def test_a_run_of_torch_nn_alone_on_a_gpu(tmp_path, capsys, pretended_gpu):
    output = tmp_path / "results.json"
    argv = ["--device", "cuda", "--output", str(output), "--native-only", "--dtype", "bfloat16"]
    assert main(argv) == 0
    assert not any(row.cold_start for row in pretended_gpu)
    printed = capsys.readouterr().out
    assert heading(printed) == (
        "torch.nn torch.nn torch.nn torch.nn "
        "| case cell mode µs/step 20-80 % ms / floor bound by MB"
    )
