"""Whether the benchmark's machine had other things to do, and how its reader learns of it."""

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import machine
from benchmarks.__main__ import main
from benchmarks.busy import ADVICE, report
from benchmarks.cases import CASES, TRAINING
from benchmarks.row import ERROR, Row, describe
from benchmarks.waiting import scheduled, share_waited
from tests.benchmarking import ENVIRONMENT, invented

ROW = Row(CASES["tiny"], "GRU", TRAINING, "float32", "cpu", False)
STEADY = invented(ROW, ratio=(1.0, 1.1, 1.19))
WIDE = invented(ROW, ratio=(1.0, 1.1, 1.21))
WAITED = invented(ROW, ratio=(1.0, 1.1, 1.19), waited=0.5)
LOAD = "load average {} at the start and {} at the end, this benchmark included, on 2 cores"
ROWS = "in {} rows times vary by more than 20% or threads waited for a core"


def said(records, *loads, **environment):
    runs = [{"date": "", "load": {"start": start, "end": end}} for start, end in loads]
    return report(records, ENVIRONMENT | environment, runs)


def test_an_idle_machine():
    text = f"{LOAD.format(0.3, 1.1)}; {ROWS.format('0 of 1')}."
    assert said([STEADY], (0.3, 1.1)) == (text[0].upper() + text[1:], False)


@pytest.mark.parametrize(
    ("loads", "threads", "busiest"),
    [
        ([(0.1, 3.2)], 2, (0.1, 3.2)),
        # The benchmark itself was yet to come.
        ([(1.8, 2.1)], 1, (1.8, 2.1)),
        ([(0.8, 2.1)], 2, (0.8, 2.1)),
        # Of several runs into one file the busiest.
        ([(0.1, 1.0), (0.2, 4.0), (0.1, 1.0)], 1, (0.2, 4.0)),
    ],
)
def test_a_busy_machine(loads, threads, busiest):
    text = f"This machine was busy: {LOAD.format(*busiest)}; {ROWS.format('0 of 1')}. {ADVICE}"
    assert said([STEADY], *loads, threads=threads) == (text, True)


@pytest.mark.parametrize("loads", [[(0.4, 1.4)], [(0.0, 2.4), (1.4, 0.0)], [(None, None)], []])
def test_no_busy_machine(loads):
    assert not said([STEADY], *loads)[1]


def test_a_gpu_is_fed_by_one_thread():
    for device, busy in (("cuda", False), ("cpu", True)):
        assert said([STEADY], (1.0, 1.0), threads=2, device=device)[1] == busy


def test_times_that_are_not_steady():
    text = f"These times are not steady: {ROWS.format('3 of 20')}. {ADVICE}"
    assert said([STEADY] * 17 + [WIDE, WIDE, WAITED]) == (text, True)
    assert not said([STEADY] * 18 + [WIDE, WAITED])[1]
    assert not said([STEADY, WIDE])[1]
    # Of torch.nn alone it is the times that have a spread.
    seconds = {"median": 1.0, "p20": 1.0, "p80": 1.3}
    alone = {"status": "ok", "native": {"seconds": seconds}}
    failed = describe(ROW) | {"status": ERROR, "message": ""}
    assert said([alone, alone, failed])[0].startswith("These times are not steady: in 2 of 2 rows")


def test_a_file_tells_it_again(tmp_path, monkeypatch, capsys, instant):
    """As the run did; and a second run into the same file adds to it."""
    loads = iter([0.5, 3.0, 9.5, 0.25, 0.75])
    monkeypatch.setattr(machine, "load", lambda: next(loads))
    output = tmp_path / "results.json"
    argv = ["--case", "tiny", "--cell", "GRU", "--threads", "1", "--output", str(output)]
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    assert main(argv) == 0
    line = f"This machine was busy: {LOAD.format(0.5, 9.5)}; {ROWS.format('2 of 2')}. "
    assert line in " ".join(capsys.readouterr().out.split())
    assert main(["show", str(output)]) == 0
    assert line in " ".join(capsys.readouterr().out.split())

    content = json.loads(output.read_text())
    (first,) = content["runs"]
    assert first["load"] == {"start": 0.5, "end": 9.5}
    content["rows"].pop(f"tiny/GRU/{TRAINING}/float32")
    output.write_text(json.dumps(content))
    assert main([*argv, "--resume"]) == 0
    runs = json.loads(output.read_text())["runs"]
    assert [run["load"] for run in runs] == [first["load"], {"start": 0.25, "end": 0.75}]
    assert line in " ".join(capsys.readouterr().out.split())
    # Nothing is left to measure: no run.
    assert main([*argv, "--resume"]) == 0
    assert json.loads(output.read_text())["runs"] == runs


def test_a_system_without_a_load_average(monkeypatch):
    assert machine.load() >= 0
    monkeypatch.delattr(os, "getloadavg")
    assert machine.load() is None


def test_the_share_of_time_that_threads_waited():
    before = {"1": (100, 50), "2": (7, 7)}
    after = {"1": (160, 70), "3": (9, 9)}
    assert share_waited(before, after) == 20 / 80
    assert share_waited(before, before) is None
    assert share_waited({}, {}) is None


@pytest.mark.skipif(not scheduled(), reason="this system does not tell how long threads wait")
def test_who_shares_a_core_waits_for_it():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
    try:
        before, end = scheduled(), time.perf_counter() + 1
        while time.perf_counter() < end:
            pass
        assert share_waited(before, scheduled()) > 0.1
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)
