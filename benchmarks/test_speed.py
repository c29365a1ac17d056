"""`pytest benchmarks`: the quick suite in pytest-benchmark's table, both libraries side by side."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks.cases import suite
from benchmarks.gate import judge
from benchmarks.problem import DEFAULT_DTYPES, Problem, precision
from benchmarks.run import rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = DEFAULT_DTYPES[DEVICE][0]
# One process has one way with denormals: `python -m benchmarks` shows both.
ROWS = [
    row
    for row in rows(suite("quick", DEVICE), None, [DTYPE], DEVICE, flush_denormal=False)
    if not row.flush_denormal
]


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.key)
def calls(request) -> Iterator[dict]:
    """Both libraries' calls by name, once fastrnn has proved as exact as torch.nn."""
    row = request.param
    with precision(row.dtype):
        problem = Problem(row.case, row.cell, row.dtype, row.device)
        native, fastrnn, referee = problem.calls(row.mode)
        assert judge(problem.names, native(), fastrnn(), referee()).complaint == ""
        yield {"torch.nn": native, "fastrnn": fastrnn, "group": row.key}


@pytest.mark.benchmark(min_rounds=3, max_time=0.3, warmup=False)
@pytest.mark.parametrize("library", ["torch.nn", "fastrnn"])
def test_speed(benchmark, calls, library):
    benchmark.group = calls["group"]
    call = calls[library]
    if DEVICE == "cuda":
        benchmark(lambda: (call(), torch.cuda.synchronize()))
    else:
        benchmark(call)
