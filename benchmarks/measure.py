"""One row of results: a case, a cell, a mode and a dtype, measured for both sides."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.cases import Case
from benchmarks.clock import duel
from benchmarks.gate import judge
from benchmarks.memory import peak_bytes, recordable
from benchmarks.problem import Problem, without_cudnn

OK, FAILED, ERROR = "ok", "FAILED", "ERROR"


@dataclass(frozen=True)
class Row:
    """What to measure. `flush_denormal` says how the measuring process treats denormals."""

    case: Case
    cell: str
    mode: str
    dtype: str
    device: str
    flush_denormal: bool

    @property
    def key(self) -> str:
        parts = [self.case.name, self.cell, self.mode, self.dtype]
        return "/".join(parts + ["flushed"] if self.flush_denormal else parts)

    @property
    def kind(self) -> str:
        # Elsewhere gradients do not shrink to denormals, and flushing makes no difference.
        flushed = self.flush_denormal and self.case.loss == "last"
        return self.case.kind + (", denormals flushed" if flushed else "")


def describe(row: Row) -> dict:
    """What is known of a row before it is measured, as JSON."""
    return {
        "case": row.case.name,
        "kind": row.kind,
        "shape": row.case.label,
        "cell": row.cell,
        "mode": row.mode,
        "dtype": row.dtype,
        "origin": row.case.origin,
    }


def measure(row: Row, rounds: int) -> dict:
    """The row as JSON: timed if fastrnn passes the gate, else with the reason why not."""
    try:
        return describe(row) | _measure(row, rounds)
    # Whatever is wrong with one row, the hour spent on the others must not be lost with it.
    except Exception as error:
        return describe(row) | {"status": ERROR, "message": _one_line(error)}


def _measure(row: Row, rounds: int) -> dict:
    problem = Problem(row.case, row.cell, row.dtype, row.device)
    native, fastrnn, referee = problem.calls(row.mode)
    note = None
    try:
        native_first, theirs = _timed(native, row.device)
    except RuntimeError as error:
        if "cudnn" not in str(error).lower():
            raise
        note = f"torch.nn with cuDNN off, which says: {_one_line(error)}"
        native, referee = without_cudnn(native), without_cudnn(referee)
        native_first, theirs = _timed(native, row.device)
    fastrnn_first, ours = _timed(fastrnn, row.device)
    verdict = judge(problem.names, theirs, ours, referee())
    explanation = problem.explain(row.mode)
    sides = {
        "native": {"error": _finite(verdict.native)},
        "fastrnn": {
            "error": _finite(verdict.fastrnn),
            "engine": explanation.engine,
            "plan": explanation.plan,
        },
    }
    if verdict.complaint:
        return {"status": FAILED, "message": verdict.complaint} | sides
    del theirs, ours

    times = duel(native, fastrnn, row.device, rounds)
    remembered = row.device == "cuda" or recordable(row.case, row.mode)
    for side, call, first, seconds in (
        ("native", native, native_first, times.first),
        ("fastrnn", fastrnn, fastrnn_first, times.second),
    ):
        sides[side]["seconds"] = seconds._asdict()
        sides[side]["first_call_seconds"] = first
        sides[side]["peak_bytes"] = peak_bytes(call, row.device) if remembered else None
    result = {"status": OK, "ratio": times.ratio._asdict(), "rounds": times.rounds} | sides
    return result if note is None else result | {"note": note}


def _timed(call: Callable, device: str) -> tuple[float, tuple[torch.Tensor, ...]]:
    start = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
