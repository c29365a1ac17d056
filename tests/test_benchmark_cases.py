"""The benchmark's cases, and which rows they make, in which order."""

import json
from dataclasses import asdict

import pytest

from benchmarks import problem, run
from benchmarks.cases import APPLICATIONS, CASES, DESKTOP, FORWARD, SUITES, TRAINING, suite
from benchmarks.row import AUTO, Row
from tests.benchmarking import SHAPES


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


def test_a_last_step_loss_is_shown_with_and_without_denormals():
    def kinds(device, flush):
        return [r.kind for r in run.rows([SHAPES["last"]], ["GRU"], ["float32"], device, flush)]

    assert kinds("cpu", False) == ["last step", "last step, denormals flushed"]
    assert kinds("cpu", True) == ["last step, denormals flushed"]
    assert kinds("cuda", False) == ["last step"]


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


def test_a_row_survives_its_journey_to_another_process():
    row = Row(SHAPES["packed"], "GRU", FORWARD, "tf32", "cuda", False, AUTO, True)
    again = Row.from_dict(json.loads(json.dumps(asdict(row))))
    assert again.case.lengths == row.case.lengths
    assert (again.key, again.engine, again.cold_start) == (row.key, AUTO, True)
