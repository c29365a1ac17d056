"""Kernels compiled ahead, by as many processes as there are cores: a GPU is lent by the minute, and
one process would spend most of them compiling."""

import multiprocessing
import os
import time
from collections.abc import Sequence

import torch

from benchmarks.cold import kernels, timed
from benchmarks.problem import Problem, precision
from benchmarks.row import NATIVE, Row

# Cores left to the processes that are there anyway.
SPARED = 2
# Seconds: a kernel that hangs must not hold up a run without a time budget.
LIMIT = 600.0


def compilers(device: str, engine: str) -> int:
    """How many processes pay: none where there is nothing to compile."""
    if device != "cuda" or engine == NATIVE:
        return 0
    return max(1, (os.cpu_count() or 1) - SPARED)


def compile_all(rows: Sequence[Row], processes: int, seconds: float) -> dict[str, list[dict]]:
    """What `kernels` heard in the first call of each row, by the row's key.

    Ends after `seconds`, or ten minutes, with the rows that are done; the others compile for
    themselves.
    """
    if not rows or not processes:
        return {}
    deadline = time.monotonic() + min(seconds, LIMIT)
    built = {}
    # Leaving the block ends the processes, also one whose kernel hangs.
    with multiprocessing.get_context("spawn").Pool(min(processes, len(rows))) as pool:
        answers = pool.imap_unordered(_compile, rows)
        try:
            for _ in rows:
                key, heard = answers.next(max(0.0, deadline - time.monotonic()))
                built[key] = heard
        except multiprocessing.TimeoutError:
            pass
    return built


def _compile(row: Row) -> tuple[str, list[dict]]:
    heard = []
    try:
        with precision(row.dtype), row.use_engine(), kernels(row.device) as heard:
            problem = Problem(row.case, row.cell, row.dtype, row.device)
            if problem.explain(row.mode).engine != "torch":
                timed(problem.calls(row.mode)[1], row.device)
            del problem
        if row.device == "cuda":
            torch.cuda.empty_cache()
    # Whatever it is, it will come up again, and be told, where the row is measured.
    except Exception:
        pass
    return row.key, heard
