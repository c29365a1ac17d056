"""The plans of `resident.py`, found with the compiler alone.

A plan fits if its programs get by with a GPU's shared memory and spill nothing, whatever the rows.
Of those that fit, what keeps all of W_hh on chip comes first, then what has the largest tiles, then
what keeps the most, then what leaves registers free, then the fewest warps.
"""

from collections.abc import Iterator, Sequence
from itertools import product, takewhile
from typing import NamedTuple

from benchmarks.compiling import ABSENT, Needs, needs, resident_kernel
from fastrnn.kernels.cell import CELLS
from fastrnn.kernels.plans import SHARED, Row

# A family's first is what its rows are reported for; the others run the same rows.
ARCHITECTURES = {"sm_80": (80,), "sm_86": (86, 120), "sm_90": (90,), "sm_100": (100,)}
DTYPES = {"half": ("bf16", "fp16"), "tf32": ("fp32",), "tf32x3": ("fp32",), "ieee": ("fp32",)}
# Of a number of W_hh; three products for one have the upper and the lower half of it apart.
BYTES = {"half": 2, "tf32": 4, "tf32x3": 8, "ieee": 4}
# One of the cells that share rows.
SHARING = {"LSTM": CELLS["LSTM"], "GRU": CELLS["GRU"], "RNN": CELLS["RNN_TANH"]}
WAYS = ("forward", "backward")
UNITS = (32, 64, 128, 256)
# Three tiles, where there is no plan for the next power of two.
BETWEEN = {128: 96, 256: 192}
BLOCKS = {"half": (8, 16, 32), "tf32": (8, 16, 32), "tf32x3": (8, 16), "ieee": (8, 16)}
TILES = (128, 64, 32)
MOST_TILES = 3
WARPS = (4, 8)  # more have never fitted where these do not
# How many numbers of tiles to keep are tried, from what shared memory has room for downwards.
TRIED = 2
# Bytes a thread. An odd H is rare, and its loads are of single numbers, with an address for each.
ODD_SPILLS = 64
# With sequences of different lengths there is the most to keep. Other rows and the other dtype need
# a few registers more at times: they are looked at where no more than so many are left.
MOST_DEMANDING = "padded"
SPARE = 16


class Line(NamedTuple):
    """A line of the report: a plan, and what it needs."""

    row: Row
    needs: Needs


def groups() -> Iterator[tuple[str, str, str, str]]:
    """What `sweep` can be asked for."""
    yield from product(ARCHITECTURES, SHARING, WAYS, BYTES)


def sweep(family: str, cell: str, way: str, precision: str) -> list[Line]:
    """The best plans, by units and sequences a program."""
    lines = []
    for units in UNITS:
        found = best_of(family, cell, way, precision, units)
        if not found and units in BETWEEN:
            found = best_of(family, cell, way, precision, BETWEEN[units])
        lines += found
        if not found:
            break
    return lines


def best_of(family: str, cell: str, way: str, precision: str, units: int) -> list[Line]:
    rows = (Row(family, cell, way, precision, units, b, 0, 0, 0) for b in BLOCKS[precision])
    # Where there is no plan for so many sequences, there is none for more.
    return list(takewhile(bool, map(best, rows)))


def best(row: Row) -> Line | None:
    """The first plan that fits for what `row` is for; the plan that it has is not looked at."""
    for same in candidates(row):
        tight = None
        for candidate in same:
            line = measured(candidate)
            if line is None:
                continue
            if line.needs.registers < registers(candidate):
                return line
            tight = tight or line
        if tight is not None:
            return tight
    return None


def candidates(row: Row, warps: Sequence[int] = WARPS) -> Iterator[list[Row]]:
    """Plans for what `row` is for, the best first; those of a list differ in warps alone."""
    for everything, block_h in product((True, False), TILES):
        tiles, rest = divmod(row.units, block_h)
        if rest or not 1 <= tiles <= MOST_TILES:
            continue
        count = len(SHARING[row.cell].gates) * tiles * tiles
        size = BYTES[row.precision]
        room = (SHARED[row.family] - size * row.units * row.block_b) // (size * block_h * block_h)
        if everything:
            counts = [count] if count <= room else []
        elif row.precision == "ieee":
            counts = []  # what is read in each step would be in registers, too many of them
        else:
            # A tile that is read in each step passes through shared memory.
            counts = range(min(room, count) - 1, -(-count // 2) - 1, -1)[:TRIED]
        for kept in counts:
            plans = [row._replace(block_h=block_h, kept=kept, warps=number) for number in warps]
            yield [plan for plan in plans if held(plan) < registers(plan)]


def registers(row: Row) -> int:
    """The most that a thread can have: up to 255 of the 65536 that a program has at most."""
    return min(255, 65536 // (32 * row.warps))


def held(row: Row) -> float:
    """The numbers that a thread holds at the least: of two steps what is loaded, and the state."""
    cell = SHARING[row.cell]
    gates, saved, states = map(len, (cell.gates, cell.saved, cell.states))
    numbers = 2 * gates + states
    if row.way == "backward":
        numbers = 2 * (saved + 1 + states) + 2 * states  # 1: the gradient of h
    return numbers * row.units * row.block_b / (32 * row.warps)


def measured(row: Row) -> Line | None:
    """What a plan needs, or None if it does not fit."""
    used = measure(row)
    if not fits(row, used):
        return None
    others = [{"arch": arch} for arch in ARCHITECTURES[row.family][1:]]
    if used.registers > registers(row) - SPARE:
        others += [{"rows": rows} for rows in ABSENT if rows != MOST_DEMANDING]
        others += [{"dtype": dtype} for dtype in DTYPES[row.precision][1:]]
    if not all(fits(row, measure(row, **other)) for other in others):
        return None
    if measure(row, row.units - 1).spills > ODD_SPILLS:
        return None
    return Line(row, used)


def measure(
    row: Row,
    H: int | None = None,
    rows: str = MOST_DEMANDING,
    dtype: str | None = None,
    arch: int | None = None,
) -> Needs:
    """What a plan needs; unless told of other circumstances, as it is reported."""
    H = row.units if H is None else H
    dtype = dtype or DTYPES[row.precision][0]
    arch = arch or ARCHITECTURES[row.family][0]
    return needs(resident_kernel(row, H, rows, dtype, arch))


def fits(row: Row, used: Needs) -> bool:
    return used.spills == 0 and used.shared <= SHARED[row.family]
