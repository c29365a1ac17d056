"""The run: which rows, in which order, until when."""

import time
from collections.abc import Iterable

from benchmarks.cases import Case
from benchmarks.flushed import Worker
from benchmarks.measure import Row, measure
from benchmarks.report import Live
from benchmarks.results import Results


def rows(
    cases: Iterable[Case],
    cells: Iterable[str] | None,
    dtypes: Iterable[str],
    device: str,
    flush_denormal: bool,
) -> list[Row]:
    """What there is to measure. `cells` overrides each case's own choice.

    On a CPU, a loss on the last step alone makes denormal gradients, which cost torch.nn dearly
    unless its user flushes them: such rows come twice, for either kind of user.
    """
    selected = []
    for case in dict.fromkeys(cases):
        both = case.loss == "last" and device == "cpu" and not flush_denormal
        for cell in dict.fromkeys(cells or case.cells):
            # torch.nn has projections for the LSTM alone.
            if case.proj_size and cell != "LSTM":
                continue
            for dtype in dict.fromkeys(dtypes):
                for mode in case.modes:
                    for flushed in (False, True) if both else (flush_denormal,):
                        selected.append(Row(case, cell, mode, dtype, device, flushed))
    return selected


def run(selected: list[Row], results: Results, rounds: int, seconds: float, live: Live) -> None:
    """Measure `selected` and save each row as it ends; start none once `seconds` are over."""
    deadline = time.monotonic() + seconds
    environment = results.environment
    worker = Worker(environment["threads"])
    for row in selected:
        if time.monotonic() >= deadline:
            return
        live.started(row)
        here = row.flush_denormal == environment["flush_denormal"]
        record = measure(row, rounds) if here else worker.measure(row, rounds)
        results.add(row.key, record)
        live.finished(row, record)
