"""What a first call costs, and kernels that are compiled before anything is timed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import summary
from benchmarks.cases import FORWARD
from benchmarks.cold import cold_start
from benchmarks.measure import measure
from benchmarks.row import AUTO, NATIVE, Row
from benchmarks.warm import compile_all, compilers
from tests.benchmarking import SHAPES

pytestmark = pytest.mark.usefixtures("short_blocks")


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
