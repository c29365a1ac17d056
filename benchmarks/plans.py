"""`python -m benchmarks plans`: the tables of plans, and the reports of what they need.

The tables are `kernels/plans.csv` for `resident` and `kernels/cooperative.csv`, the reports
`kernels.csv` and `cooperative.csv` in `benchmarks/results`. Plans that fit with the Triton at hand
stay; others are replaced. So a table that several versions went over has plans that fit with all of
them.
"""

import argparse
import csv
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import triton
from rich.console import Console
from rich.progress import track

from benchmarks import cooperative_sweep, report, sweep
from benchmarks.compiling import Needs
from benchmarks.sweep import ARCHITECTURES, BYTES, SHARING, WAYS, Line
from fastrnn.kernels import cooperative_plans, plans
from fastrnn.kernels.plans import Row, read

RESULTS = Path(__file__).parent / "results"
DESCRIPTION = "Find the plans of the kernels with the compiler alone."


class Kind(NamedTuple):
    """An engine's plans: table and report, the class of a row, and the module that finds them."""

    table: Path
    report: Path
    row: type
    sweep: ModuleType

    @property
    def fields(self) -> tuple[str, ...]:
        """Of a line of the report."""
        return (*self.row._fields, *Needs._fields)


KINDS = {
    "resident": Kind(plans.TABLE, RESULTS / "kernels.csv", plans.Row, sweep),
    "cooperative": Kind(
        cooperative_plans.TABLE,
        RESULTS / "cooperative.csv",
        cooperative_plans.CooperativeRow,
        cooperative_sweep,
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", nargs="+", choices=KINDS, default=list(KINDS))
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--new", action="store_true", help="look for every plan afresh, also where there is none"
    )
    what.add_argument(
        "--check", action="store_true", help="write nothing, and print what has changed since"
    )
    parser.add_argument(
        "--family", nargs="+", choices=ARCHITECTURES, help="of GPUs; the others' rows are left"
    )


def main(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """The exit status: 1 if a check finds anything, else 0."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("with TRITON_INTERPRET=1 nothing is compiled; unset it")
    out = report.console()
    families = options.family or list(ARCHITECTURES)
    if options.check:
        return 1 if sum(check(engine, families, out) for engine in options.engine) else 0
    for engine in options.engine:
        find(engine, families, options.new, out)
    return 0


def check(engine: str, families: list[str], out: Console) -> int:
    """How many differences were found and printed."""
    kind = KINDS[engine]
    rows = [row for row in read(kind.table, kind.row) if row.family in families]
    found = list(differences(engine, rows))
    for line in found:
        out.print(line)
    out.print(f"{len(rows)} plans, {len(found)} differences, with Triton {triton.__version__}.")
    return len(found)


def find(engine: str, families: list[str], new: bool, out: Console) -> None:
    """Write the table and the report: what fits of the table, or if `new` all there is."""
    kind = KINDS[engine]
    table = read(kind.table, kind.row)
    rows = [row for row in table if row.family in families]
    if new:
        groups = [group for group in kind.sweep.groups() if group[0] in families]
        lines = [line for lines in each(_sweep, engine, groups) for line in lines]
    else:
        found = list(each(repaired, engine, rows))
        for row, line in zip(rows, found, strict=True):
            if line is None or line.row != row:
                out.print(f"{row} does not fit; now {line and line.row}")
        lines = [line for line in found if line is not None]
    others = [row for row in table if row.family not in families]
    rows = sorted([line.row for line in lines] + others, key=order)
    write(kind.table, kind.row._fields, rows)
    if others:
        lines += [line for line in read_report(kind)[1] if line.row in others]
    write_report(kind, sorted(lines, key=lambda line: order(line.row)))
    out.print(f"{len(rows)} plans in {kind.table}, what they need in {kind.report}.")


def each(function: Callable, engine: str, arguments: Iterable) -> Iterator:
    """function(engine, argument) for each, in as many processes as there are cores."""
    arguments = list(arguments)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        results = pool.map(partial(function, engine), arguments)
        yield from track(results, "Compiling", len(arguments), transient=True)


def _sweep(engine: str, group: tuple[str, str, str, str]) -> list[Line]:
    return KINDS[engine].sweep.sweep(*group)


def repaired(engine: str, row: Row) -> Line | None:
    finder = KINDS[engine].sweep
    return finder.measured(row) or finder.best(row)


def measure(engine: str, row: Row) -> Needs:
    return KINDS[engine].sweep.measure(row)


def differences(engine: str, rows: list[Row]) -> Iterator[str]:
    """What does not fit, and where the report says something else of the same Triton."""
    kind = KINDS[engine]
    version, lines = read_report(kind)
    reported = {line.row: line for line in lines}
    for row in rows:
        if row not in reported:
            yield f"{row} is not in {kind.report}"
    known = [reported[row] for row in rows if row in reported]
    used = each(measure, engine, [line.row for line in known])
    for line, now in zip(known, used, strict=True):
        if not kind.sweep.fits(line.row, now):
            yield f"{line.row} does not fit: {now}"
        elif version == triton.__version__ and now != line.needs:
            yield f"{line.row} needed {line.needs}, now {now}"


def order(row: Row) -> tuple:
    """Where a row stands in the table."""
    names = (list(ARCHITECTURES), list(SHARING), WAYS, list(BYTES))
    return (*(n.index(value) for n, value in zip(names, row, strict=False)), row[4:])


def write(path: Path, fields: Iterable[str], records: Iterable, first: str = "") -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(first)
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(fields)
        lines.writerows(records)


def write_report(kind: Kind, lines: Iterable[Line]) -> None:
    records = [(*line.row, *line.needs) for line in lines]
    write(kind.report, kind.fields, records, f"# Triton {triton.__version__}\n")


def read_report(kind: Kind) -> tuple[str, list[Line]]:
    """Triton's version, and the lines."""
    with open(kind.report, encoding="utf-8", newline="") as file:
        version = file.readline().split()[-1]
        lines = csv.reader(file)
        assert tuple(next(lines)) == kind.fields
        return version, [_line(kind, line) for line in lines]


def _line(kind: Kind, values: list[str]) -> Line:
    size = len(kind.row._fields)
    row = kind.row(*values[:4], *map(int, values[4:size]))
    registers, spills, shared, instruction = values[size:]
    return Line(row, Needs(int(registers), int(spills), int(shared), instruction))
