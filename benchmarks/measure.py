"""A row measured for both sides, or for torch.nn alone."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from benchmarks.clock import Spread, duel, spread, take_turns
from benchmarks.cold import cold_start, kernels, timed
from benchmarks.gate import Verdict, disagreement, judge, poisoned
from benchmarks.memory import peak_bytes, recordable
from benchmarks.problem import Problem, precision, without_cudnn
from benchmarks.row import ERROR, FAILED, NATIVE, OK, UNSERVED, Row, describe
from benchmarks.waiting import scheduled, share_waited

# Beyond so many steps in a row a GPU takes a minute in float64, and seconds in torch.nn: there the
# referee sees fewer of them, and if torch.nn is as slow as this, its first call is its only one.
MOST_STEPS, REFEREED_STEPS, SLOW_SECONDS = 32_768, 4096, 2.0


class Native(NamedTuple):
    """torch.nn's first call: its seconds and result, `wrap`, which turns a call of torch.nn's into
    one that works, and what there is to say about that. It pays for what torch does once, such as
    starting threads, so fastrnn's first call, the second of all, is not to be held against it."""

    seconds: float
    result: tuple[Tensor, ...]
    wrap: Callable[[Callable], Callable]
    remark: dict


def measure(row: Row, rounds: int) -> dict:
    """The row as JSON: timed if fastrnn passes the gate, else with the reason why not."""
    try:
        with precision(row.dtype), row.use_engine():
            measured = (_native_alone if row.engine == NATIVE else _both)(row, rounds)
        return describe(row) | measured
    # Whatever is wrong with one row, the hour spent on the others must not be lost with it.
    except Exception as error:
        status = UNSERVED if "cannot serve this call" in str(error) else ERROR
        return describe(row) | {"status": status, "message": _one_line(error)}


def _both(row: Row, rounds: int) -> dict:
    problem = Problem(row.case, row.cell, row.dtype, row.device)
    native, fastrnn, _ = problem.calls(row.mode)
    explanation = problem.explain(row.mode)
    theirs = _first_call(native, row.device)
    with kernels(row.device) as built:
        fastrnn_first, ours = timed(fastrnn, row.device)
    ours_alone = (explanation.engine, explanation.plan) != ("torch", "aten")
    verdict = _verdict(problem, row, theirs, ours, poison=ours_alone)
    sides = {
        "native": {"error": _finite(verdict.native)},
        "fastrnn": {
            "error": _finite(verdict.fastrnn),
            "error_share": _finite(verdict.share),
            "engine": explanation.engine,
            "plan": explanation.plan,
            "details": explanation.details,
            "kernels": built,
        },
    }
    if verdict.complaint:
        return {"status": FAILED, "message": verdict.complaint} | sides
    known = theirs.seconds if _too_slow(row, theirs) else None
    theirs, ours = theirs._replace(result=()), None

    rotating_native, rotating_fastrnn = problem.rotating(row.mode)
    before = scheduled()
    times = duel(theirs.wrap(rotating_native), rotating_fastrnn, row.device, rounds, known)
    waited = share_waited(before, scheduled())
    native = None if known else theirs.wrap(native)
    sides["native"] |= _side(row, native, theirs.seconds, times.first)
    sides["fastrnn"] |= _side(row, fastrnn, fastrnn_first, times.second)
    if row.cold_start:
        sides["fastrnn"]["cold_start"] = cold_start(row)
    timing = {"ratio": times.ratio._asdict(), "rounds": times.rounds, "waited": waited}
    return {"status": OK} | timing | sides | theirs.remark


def _native_alone(row: Row, rounds: int) -> dict:
    problem = Problem(row.case, row.cell, row.dtype, row.device)
    native, *_ = problem.calls(row.mode)
    theirs = _first_call(native, row.device)._replace(result=())
    before = scheduled()
    if _too_slow(row, theirs):
        native, times = None, [theirs.seconds]
    else:
        native, rotating = theirs.wrap(native), theirs.wrap(problem.rotating(row.mode)[0])
        (times,) = take_turns([rotating], row.device, rounds)
    timing = {"rounds": len(times), "waited": share_waited(before, scheduled())}
    side = _side(row, native, theirs.seconds, spread(times))
    return {"status": OK} | timing | {"native": side} | theirs.remark


def _first_call(native: Callable, device: str) -> Native:
    """Call torch.nn; without cuDNN if that refuses."""
    try:
        return Native(*timed(native, device), lambda call: call, {})
    except RuntimeError as error:
        if "cudnn" not in str(error).lower():
            raise
        note = f"torch.nn with cuDNN off, which says: {_one_line(error)}"
    return Native(*timed(without_cudnn(native), device), without_cudnn, {"note": note})


def _verdict(
    problem: Problem, row: Row, theirs: Native, ours: tuple[Tensor, ...], poison: bool
) -> Verdict:
    """The gate's, on all steps or, if these are too many, on some."""
    part = problem
    if _long(row):
        part = Problem(replace(row.case, T=REFEREED_STEPS), row.cell, row.dtype, row.device)
    native, fastrnn, referee = part.calls(row.mode)
    result, checked = (theirs.result, ours) if part is problem else (native(), fastrnn())
    if poison:
        del checked
        with poisoned():
            checked = fastrnn()
    wrap = theirs.wrap if part is problem else lambda call: call
    verdict = judge(problem.names, result, checked, wrap(referee)())
    if part is not problem and not verdict.complaint:
        complaint = disagreement(problem.names, theirs.result, ours, verdict)
        verdict = verdict._replace(complaint=complaint)
    return verdict


def _long(row: Row) -> bool:
    return row.device == "cuda" and row.case.T * row.case.layers > MOST_STEPS


def _too_slow(row: Row, theirs: Native) -> bool:
    return _long(row) and theirs.seconds > SLOW_SECONDS


def _side(row: Row, call: Callable | None, first: float, seconds: Spread) -> dict:
    """A side's times and, unless there is none to make for it, its memory in a call."""
    remembered = call and (row.device == "cuda" or recordable(row.case, row.mode))
    return {
        "seconds": seconds._asdict(),
        "first_call_seconds": first,
        "peak_bytes": peak_bytes(call, row.device) if remembered else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
