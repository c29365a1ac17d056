"""The plans of the kernels, by the clock of the GPU at hand.

Of `resident` the fastest cut is kept for each number of sequences a program, and no such number
where a larger one is as fast. Of `cooperative`, the fastest for each number of hidden units a
program and of sequences a group.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from rich import box
from rich.table import Table
from triton.runtime.errors import OutOfResources

from benchmarks import clock, cooperative_sweep, machine, report
from benchmarks.columns import digits
from benchmarks.plans import KINDS, order, write
from benchmarks.sweep import SHARING, UNITS, WAYS, candidates
from fastrnn import cooperation
from fastrnn.chips import chip_of
from fastrnn.kernels import resident
from fastrnn.kernels.cell import Cell
from fastrnn.kernels.cooperative_plans import CooperativeRow
from fastrnn.kernels.plans import SHARED, Chip, Row, read
from fastrnn.kernels.rows import Rows
from fastrnn.precision import PRECISIONS

DESCRIPTION = "Find the fastest plans of the kernels for the GPU at hand."
BLOCKS = (8, 16, 32, 64)
WARPS = (4, 8, 16)
ROUNDS = 5


class Timed(NamedTuple):
    """A plan, and the seconds that a launch takes with it."""

    row: Row | CooperativeRow
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=KINDS, default="resident")
    parser.add_argument("--cell", nargs="+", choices=SHARING, default=list(SHARING))
    parser.add_argument("--way", nargs="+", choices=WAYS, default=WAYS)
    precisions = ("half", *PRECISIONS)
    parser.add_argument("--precision", nargs="+", choices=precisions, default=["half", "tf32"])
    parser.add_argument(
        "--units", nargs="+", type=int, metavar="H", help="multiples of 32, of cooperative of 128"
    )
    sizes = {"block-b": BLOCKS, "warps": WARPS}
    for name, default in sizes.items():
        parser.add_argument(
            f"--{name}", nargs="+", type=int, default=default, metavar="N", help="of resident"
        )
    numbers = {"batch": 64, "steps": 256, "directions": 1}
    for name, default in numbers.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"(default: {default})"
        )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: in Triton's interpreter"
    )
    parser.add_argument("-o", "--output", type=Path, help="a table of the fastest plans")
    parser.add_argument(
        "--write", action="store_true", help="put them into kernels/plans.csv in place of others"
    )


def main(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here to time plans on")
    chip = chip_of(torch.device(options.device))
    if chip is None or chip.family not in SHARED:
        parser.error("kernels don't run here (on a CPU they do with TRITON_INTERPRET=1)")
    every, least = (UNITS, 32) if options.engine == "resident" else (cooperative_sweep.UNITS, 128)
    chosen = options.units or every
    wrong = [units for units in chosen if units < least or units % least]
    if wrong:
        parser.error(f"argument --units: {wrong[0]} is no multiple of {least}")
    if options.write and options.device == "cpu":
        parser.error("argument --write: the clock of an interpreter says nothing of a GPU")
    out = report.console()
    out.print(machine.line(machine.environment(options.device, False)), style="dim")
    fastest = []
    kind = KINDS[options.engine]
    plans, best = (resident_plans, choose)
    if options.engine == "cooperative":
        plans, best = (cooperative_plans, choose_cooperative)
    for group in product(options.cell, options.way, options.precision, chosen):
        timed = list(times(chip, plans(chip.family, *group, options), options))
        kept = best(timed)
        if timed:
            out.print(table(timed, kept, options.steps))
        fastest += kept
    fastest.sort(key=order)
    if options.output:
        write(options.output, kind.row._fields, fastest)
    if options.write:
        new = {row[:5] for row in fastest}
        others = [row for row in read(kind.table, kind.row) if row[:5] not in new]
        write(kind.table, kind.row._fields, sorted(others + fastest, key=order))
        out.print(
            f"{len(fastest)} plans in {kind.table}; `python -m benchmarks plans` reports on them."
        )
    return 0


def resident_plans(
    family: str, cell: str, way: str, precision: str, units: int, options: argparse.Namespace
) -> Iterator[Row]:
    for block_b in options.block_b:
        row = Row(family, cell, way, precision, units, block_b, 0, 0, 0)
        for plans in candidates(row, options.warps):
            yield from plans


def cooperative_plans(
    family: str, cell: str, way: str, precision: str, units: int, options: argparse.Namespace
) -> Iterator[CooperativeRow]:
    who = (family, cell, way, precision, units)
    for block_h, batch in product(cooperative_sweep.BLOCK_H, cooperative_sweep.BATCHES):
        yield from cooperative_sweep.candidates(CooperativeRow(*who, batch, 1, block_h, 0, 0, 0, 0))


def times(
    chip: Chip, rows: Iterable[Row | CooperativeRow], options: argparse.Namespace
) -> Iterator[Timed]:
    """Of every plan that runs."""
    for row in rows:
        if isinstance(row, CooperativeRow) and not together(chip, row, options):
            continue
        call = launch(chip, row, options)
        try:
            call()
        except OutOfResources:
            continue
        rounds = clock.take_turns([call], options.device, ROUNDS)
        yield Timed(row, median(rounds[0]))


def together(chip: Chip, row: CooperativeRow, options: argparse.Namespace) -> int:
    """How many groups a GPU runs at the same time."""
    groups = chip.sms // (row.plan.slices(row.units) * options.directions)
    return min(groups, row.plan.chunks(options.batch))


def launch(
    chip: Chip, row: Row | CooperativeRow, options: argparse.Namespace
) -> Callable[[], None]:
    """A call of an engine on random numbers."""
    B, T, D, device = options.batch, options.steps, options.directions, options.device
    cell: Cell = SHARING[row.cell]
    engine, plan = resident, row.plan
    if isinstance(row, CooperativeRow):
        engine, plan = cooperation, row.plan._replace(groups=together(chip, row, options))
    H, G = row.units, len(cell.gates)
    dtype = torch.bfloat16 if row.precision == "half" else torch.float32

    def normal(*shape):
        return torch.randn(shape, device=device, dtype=dtype)

    rows = Rows(T, B, T * B)
    gates = normal(D, T * B, cell.slots, H)
    other = torch.empty_like(gates)
    w, b = normal(D, G * H, H) / H**0.5, normal(D, G * H)
    initial, final = ([normal(D, B, H) for _ in cell.states] for _ in range(2))
    states = [normal(T * B, D, H) for _ in cell.states]
    how = (cell, plan, row.precision)
    if row.way == "forward":
        saved = other if cell.saved else None
        return lambda: engine.forward(*how, gates, saved, w, b, initial, states, final, rows)
    saved = gates.sigmoid() if cell.saved else None
    dstates = [normal(T * B, D, H), None][: len(cell.states)]
    dfinal = [normal(D, B, H) for _ in cell.states]
    tensors = (saved, other, w, initial, states, dstates, dfinal, final)
    return lambda: engine.backward(*how, *tensors, rows)


def choose(timed: list[Timed]) -> list[Row]:
    """The fastest for each number of sequences a program, up to the fastest of all."""
    kept, least = [], float("inf")
    for block_b in sorted({row.block_b for row, _ in timed}, reverse=True):
        best = min(
            (one for one in timed if one.row.block_b == block_b), key=lambda one: one.seconds
        )
        if best.seconds < least:
            kept.append(best.row)
            least = best.seconds
    return kept[::-1]


def choose_cooperative(timed: list[Timed]) -> list[CooperativeRow]:
    """The fastest for each number of hidden units a program and of sequences a group."""
    best = {}
    for one in sorted(timed, key=lambda one: one.seconds):
        best.setdefault((one.row.block_h, one.row.block_b * one.row.tiles), one.row)
    return list(best.values())


def table(timed: list[Timed], kept: list[Row], steps: int) -> Table:
    row = timed[0].row
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=" ".join(map(str, row[:5])))
    for title in (*Row._fields[5:], "µs a step", ""):
        out.add_column(title, justify="right")
    for row, seconds in timed:
        step = digits(1e6 * seconds / steps)
        out.add_row(*map(str, row[5:]), step, "kept" if row in kept else "")
    return out
