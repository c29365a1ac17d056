"""The run: which rows, in which order, until when."""

import time
from collections.abc import Iterable

from benchmarks.cases import APPLICATIONS, TRAINING, Case
from benchmarks.floor import Constants, floor
from benchmarks.measure import measure
from benchmarks.report import Live
from benchmarks.results import Results
from benchmarks.row import AUTO, OK, Row
from benchmarks.worker import Worker

# Up to there a GPU keeps a layer's weights on chip, and torch.nn has most to lose.
SMALL = 128
# torch.nn refuses more steps on a GPU, and is then slow.
MOST_STEPS = 65_535
# Whose first call is measured in processes of its own as well.
COLD_CASE, COLD_CELLS = "hydrology-128", ("LSTM", "GRU")
COLD_STARTS = ("few", "all", "none")
# Seconds for a row on a GPU: ten times what the slowest of them should take.
ROW_LIMIT = 180


def rows(
    cases: Iterable[Case],
    cells: Iterable[str] | None,
    dtypes: Iterable[str],
    device: str,
    flush_denormal: bool,
    engine: str = AUTO,
    cold_start: str = "none",
) -> list[Row]:
    """What there is to measure. `cells` overrides each case's own choice.

    On a CPU, a loss on the last step alone makes denormal gradients, which cost torch.nn dearly
    unless its user flushes them: such rows come twice, for either kind of user. For a GPU, which is
    lent by the minute, the most telling rows come first.
    """
    selected = []
    dtypes = list(dict.fromkeys(dtypes))
    for case in dict.fromkeys(cases):
        both = case.loss == "last" and device == "cpu" and not flush_denormal
        for cell in dict.fromkeys(cells or case.cells):
            # torch.nn has projections for the LSTM alone.
            if case.proj_size and cell != "LSTM":
                continue
            for dtype in dtypes:
                for mode in case.modes:
                    telling = case.name == COLD_CASE and cell in COLD_CELLS and mode == TRAINING
                    few = cold_start == "few" and telling and dtype == dtypes[0]
                    cold = few or cold_start == "all"
                    for flushed in (False, True) if both else (flush_denormal,):
                        selected.append(Row(case, cell, mode, dtype, device, flushed, engine, cold))
    return sorted(selected, key=_rank) if device == "cuda" else selected


def _rank(row: Row) -> tuple:
    """Where a row stands on a GPU: rows of equal rank stay in the order of their cases.

    What people train in before what they seldom use; small layers, packed batches, the rest, and
    what torch.nn takes seconds for.
    """
    case = row.case
    if case.T > MOST_STEPS:
        group = 3
    elif case.kind == "dense" and case.H <= SMALL:
        group = 0
    else:
        group = 1 if case.kind == "packed" else 2
    usual = ("tf32", "bfloat16")
    return (
        case not in APPLICATIONS,
        row.dtype not in usual,
        group,
        row.cell == "RNN",
        row.cell == "GRU",
        row.dtype != "tf32",
        row.dtype,
    )


def run(
    selected: list[Row],
    results: Results,
    rounds: int,
    deadline: float,
    live: Live,
    built: dict[str, list[dict]],
) -> None:
    """Measure `selected` and save each row as it ends.

    None is started after `deadline`, a time of `time.monotonic`. built: `compile_all`'s answer.
    """
    environment = results.environment
    threads, flush = environment["threads"], environment["flush_denormal"]
    on_gpu, flushing = Worker(threads, flush, ROW_LIMIT), Worker(threads, True)
    for row in selected:
        if time.monotonic() >= deadline:
            return
        live.started(row)
        if row.device == "cuda":
            record = on_gpu.measure(row, rounds)
        elif row.flush_denormal == flush:
            record = measure(row, rounds)
        else:
            record = flushing.measure(row, rounds)
        if results.constants and record["status"] == OK:
            record["floor"] = _floor(row, Constants(**results.constants["floor"]))
        if built.get(row.key) and "fastrnn" in record:
            record["fastrnn"]["kernels"] = built[row.key]
        results.add(row.key, record)
        live.finished(row, record)


def _floor(row: Row, constants: Constants) -> dict:
    return floor(row.case, row.cell, row.dtype, row.mode == TRAINING, constants)._asdict()
