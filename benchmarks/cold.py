"""What a first call costs: kernels are compiled, or found as an earlier process left them.

    python -m benchmarks.cold ROW

is such a process; ROW is the JSON of a Row, and what it prints is `first_calls`' answer.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.problem import DTYPES, Problem, precision
from benchmarks.row import Row

# For one process; it starts in a few seconds.
LIMIT = 60


def timed(call: Callable, device: str) -> tuple[float, tuple[torch.Tensor, ...]]:
    """The seconds of one call to the end of the device's work, and its result."""
    start = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


@contextmanager
def kernels(device: str) -> Iterator[list[dict]]:
    """The kernels that Triton builds for a GPU within the block, in the form
    {"name": ..., "seconds": ..., "cached": whether it found them on the disk}."""
    built = []
    if device != "cuda" or find_spec("triton") is None:
        yield built
        return
    from triton import knobs

    def heard(*, src, times, cache_hit, **_):
        built.append({"name": src.name, "seconds": times.total / 1e6, "cached": cache_hit})

    before, knobs.compilation.listener = knobs.compilation.listener, heard
    try:
        yield built
    finally:
        knobs.compilation.listener = before


def first_calls(row: Row) -> dict:
    """fastrnn's first call in this process, the kernels built for it, and its second call."""
    with precision(row.dtype), row.use_engine():
        _, fastrnn, _ = Problem(row.case, row.cell, row.dtype, row.device).calls(row.mode)
        # Whatever a program did before its first recurrent layer, it has used the device.
        some = torch.ones(16, 16, dtype=DTYPES[row.dtype][0], device=row.device)
        timed(lambda: some @ some, row.device)
        start = time.perf_counter()
        # Which loads Triton, as a user's first call does.
        with kernels(row.device) as built:
            timed(fastrnn, row.device)
        first = time.perf_counter() - start
        second, _ = timed(fastrnn, row.device)
    return {"first_call_seconds": first, "second_call_seconds": second, "kernels": built}


def cold_start(row: Row) -> dict:
    """`first_calls` in a process that finds no compiled kernels, then in one that finds them all:
    {"empty": ..., "filled": ...}, or {"message": ...} about what went wrong."""
    text = json.dumps(asdict(replace(row, cold_start=False)))
    command = [sys.executable, "-m", "benchmarks.cold", text]
    root = Path(__file__).parents[1]
    results = {}
    with TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        for name in ("empty", "filled"):
            try:
                done = subprocess.run(
                    command,
                    cwd=root,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=LIMIT,
                )
            except subprocess.TimeoutExpired:
                return {"message": f"no first call within {LIMIT} s"}
            if done.returncode:
                last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
                return {"message": last}
            results[name] = json.loads(done.stdout.splitlines()[-1])
    return results


if __name__ == "__main__":
    print(json.dumps(first_calls(Row.from_dict(json.loads(sys.argv[1])))))
