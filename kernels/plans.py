"""How a kernel is cut for a device: sizes of tiles, warps, what of W_hh stays on chip.

The plans are data, in `plans.csv`: for each family of GPUs, cell, way, precision and number of
hidden units, one for each number of sequences a program. `python -m benchmarks plans` finds them
with the compiler alone, `python -m benchmarks tune` by the clock.
"""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

# Families of GPUs that share rows, and the bytes of shared memory that their plans may take.
SHARED = {"sm_80": 166912, "sm_86": 101376, "sm_90": 232448, "sm_100": 232448}
# Those whose matrix instructions are tcgen05.
TCGEN05 = ("sm_100",)
TABLE = Path(__file__).with_name("plans.csv")


class Chip(NamedTuple):
    """A GPU: its family, processors, and bytes of shared memory that a program may use.

    cooperative: whether it can be asked to run all programs of a launch at the same time.
    """

    family: str
    sms: int
    shared: int
    cooperative: bool = True


class Plan(NamedTuple):
    """BLOCK_B sequences a program, TILES tiles of BLOCK_H hidden units, KEPT tiles of W_hh on chip.

    warps: of 32 threads each. tcgen05: whether the GPU has these instructions.
    """

    block_b: int
    block_h: int
    tiles: int
    kept: int
    warps: int
    tcgen05: bool = False

    def constants(self):
        """As `resident.py` names them."""
        return {
            "BLOCK_B": self.block_b,
            "BLOCK_H": self.block_h,
            "TILES": self.tiles,
            "KEPT": self.kept,
        }


class Row(NamedTuple):
    """A line of `plans.csv`: whom a plan is for, and the plan, with units = tiles * block_h."""

    family: str
    cell: str
    way: str
    precision: str
    units: int
    block_b: int
    block_h: int
    kept: int
    warps: int

    @property
    def plan(self):
        tiles = self.units // self.block_h
        cut = (self.block_b, self.block_h, tiles, self.kept, self.warps)
        return Plan(*cut, tcgen05=self.family in TCGEN05)


def shared_rows(cell):
    """The name by which the table has a cell: plans do not depend on a plain RNN's activation."""
    return cell.partition("_")[0]


def plan_for(chip, cell, way, precision, H, B, D):
    """The plan for B sequences of H hidden units in D directions, or None if there is none.

    cell: a name in `cell.CELLS`; way: "forward" or "backward"; precision: "half" (bfloat16,
    float16), or of float32 "tf32", "tf32x3", "ieee".

    The least units that H fits in, and as few sequences a program as there are processors for.
    """
    by_units = _plans(chip, cell, way, precision)
    fitting = [units for units in by_units if units >= H]
    if not fitting:
        return None
    plans = by_units[min(fitting)]
    for plan in plans:
        if -(-B // plan.block_b) * D <= chip.sms:
            return plan
    return plans[-1]


def largest(chip, cell, way, precision):
    """The largest H that there is a plan for; 0 if there is none."""
    return max(_plans(chip, cell, way, precision), default=0)


def _plans(chip, cell, way, precision):
    if chip.shared < SHARED.get(chip.family, 0):
        return {}
    return _table().get((chip.family, shared_rows(cell), way, precision), {})


@cache
def _table():
    """{(family, cell, way, precision): {units: plans by rising block_b}}."""
    table = {}
    for row in sorted(read(TABLE), key=lambda row: row.block_b):
        plans = table.setdefault(row[:4], {})
        plans.setdefault(row.units, []).append(row.plan)
    return table


def read(path, kind=Row):
    """The rows of a table."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        assert next(lines) == list(kind._fields)
        return [kind(*line[:4], *map(int, line[4:])) for line in lines]
