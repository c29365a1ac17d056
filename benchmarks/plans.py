"""`python -m benchmarks plans`: the table of plans, and the report of what they need.

The table is `kernels/plans.csv`, the report `benchmarks/results/kernels.csv`. Plans that fit with
the Triton at hand stay; others are replaced. So a table that several versions went over has plans
that fit with all of them.
"""

import argparse
import csv
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import triton
from rich.progress import track

from benchmarks import report
from benchmarks.compiling import Needs
from benchmarks.sweep import (
    ARCHITECTURES,
    BYTES,
    SHARING,
    WAYS,
    Line,
    best,
    fits,
    measure,
    measured,
    sweep,
)
from fastrnn.kernels.plans import TABLE, Row, read

REPORT = Path(__file__).parent / "results/kernels.csv"
FIELDS = (*Row._fields, *Needs._fields)
DESCRIPTION = "Find the plans of the resident kernels with the compiler alone."


def add_options(parser: argparse.ArgumentParser) -> None:
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
    # Of Triton 3.9: the default until 3.10, where it warns.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    out = report.console()
    families = options.family or list(ARCHITECTURES)
    table = read(TABLE)
    rows = [row for row in table if row.family in families]
    if options.check:
        found = list(differences(rows))
        for line in found:
            out.print(line)
        out.print(f"{len(rows)} plans, {len(found)} differences, with Triton {triton.__version__}.")
        return 1 if found else 0
    if options.new:
        groups = list(product(families, SHARING, WAYS, BYTES))
        lines = [line for lines in each(_sweep, groups) for line in lines]
    else:
        found = list(each(repaired, rows))
        for row, line in zip(rows, found, strict=True):
            if line is None or line.row != row:
                out.print(f"{name(row)}: {cut(row)} does not fit; now {line and cut(line.row)}")
        lines = [line for line in found if line is not None]
    others = [row for row in table if row.family not in families]
    rows = sorted([line.row for line in lines] + others, key=order)
    write(TABLE, Row._fields, rows)
    if others:
        lines += [line for line in read_report()[1] if line.row in others]
    write_report(REPORT, sorted(lines, key=lambda line: order(line.row)))
    out.print(f"{len(rows)} plans in {TABLE}, what they need in {REPORT}.")
    return 0


def each(function: Callable, arguments: Iterable) -> Iterator:
    """The results in their order, of as many processes as there are cores."""
    arguments = list(arguments)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from track(pool.map(function, arguments), "Compiling", len(arguments), transient=True)


def _sweep(group: tuple[str, str, str, str]) -> list[Line]:
    return sweep(*group)


def repaired(row: Row) -> Line | None:
    return measured(row) or best(row)


def differences(rows: list[Row]) -> Iterator[str]:
    """What does not fit, and where the report says something else of the same Triton."""
    version, lines = read_report()
    reported = {line.row: line for line in lines}
    for row in rows:
        if row not in reported:
            yield f"{name(row)}: {cut(row)} is not in {REPORT.name}"
    known = [reported[row] for row in rows if row in reported]
    for line, now in zip(known, each(measure, [line.row for line in known]), strict=True):
        if not fits(line.row, now):
            yield f"{name(line.row)}: {cut(line.row)} does not fit: {now}"
        elif version == triton.__version__ and now != line.needs:
            yield f"{name(line.row)}: {cut(line.row)} needed {line.needs}, now {now}"


def name(row: Row) -> str:
    return " ".join(map(str, row[:6]))


def cut(row: Row) -> str:
    return f"tiles of {row.block_h}, {row.kept} kept, {row.warps} warps"


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


def write_report(path: Path, lines: Iterable[Line]) -> None:
    records = [(*line.row, *line.needs) for line in lines]
    write(path, FIELDS, records, f"# Triton {triton.__version__}\n")


def read_report() -> tuple[str, list[Line]]:
    """Triton's version, and the lines."""
    with open(REPORT, encoding="utf-8", newline="") as file:
        version = file.readline().split()[-1]
        lines = csv.reader(file)
        assert tuple(next(lines)) == FIELDS
        return version, [_line(line) for line in lines]


def _line(values: list[str]) -> Line:
    size = len(Row._fields)
    row = Row(*values[:4], *map(int, values[4:size]))
    registers, spills, shared, instruction = values[size:]
    return Line(row, Needs(int(registers), int(spills), int(shared), instruction))
