"""How the kernels of `cooperative.py` are cut: how much of W_hh a program holds, for what batch.

The cuts are data, in `cooperative.csv`, found by `python -m benchmarks plans` with the compiler
alone. Which of those that a GPU has room for serves a batch best is worked out here.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from .plans import SHARED, TCGEN05, read, shared_rows

TABLE = Path(__file__).with_name("cooperative.csv")
BYTES = {"half": 2, "tf32": 4, "tf32x3": 4, "ieee": 4}
# Of a multiprocessor, bytes a cycle: from its shared memory, and (a round number) from the
# second-level cache.
SHARED_RATE, CACHE_RATE = 128, 64
# Cycles, guessed and not measured: until what a program has stored is seen by all others, and what
# each step costs besides.
EXCHANGE, STEP = 2000, 800


class Slab(NamedTuple):
    """What a program holds of W_hh, or back of its transpose: rows of gates by k columns."""

    gates: int
    joined: int  # gates that are rows of one product
    k: int


def slab_of(cell, way, H):
    """The Slab of a layer of H hidden units."""
    G = len(cell.gates)
    if way == "backward":
        return Slab(1, 1, G * H)
    # A power of two of gates can be rows of one product.
    return Slab(G, G if G == 4 else 1, H)


class CooperativePlan(NamedTuple):
    """TILES tiles of BLOCK_B sequences a group at a time, BLOCK_H hidden units a program.

    The columns of W_hh are in tiles of BLOCK_K, the first KEPT of which stay on chip; each is
    multiplied in PARTS. warps: of 32 threads each. groups: how many the GPU runs at the same time.
    tcgen05: whether the GPU has these instructions.
    """

    block_b: int
    tiles: int
    block_h: int
    block_k: int
    parts: int
    kept: int
    warps: int
    groups: int = 1
    tcgen05: bool = False

    def slices(self, H):
        """The programs of a group."""
        return -(-H // self.block_h)

    def chunks(self, B):
        """How often a group has to begin with other sequences, all groups together."""
        return -(-B // (self.tiles * self.block_b))

    def constants(self, slab):
        """As `cooperative.py` names them."""
        columns = -(-slab.k // self.block_k)
        return {
            "BLOCK_B": self.block_b,
            "TILES": self.tiles,
            "BLOCK_H": self.block_h,
            "BLOCK_K": self.block_k,
            "COLUMNS": columns,
            "PARTS": self.parts,
            "JOINED": slab.joined,
            "KEPT": min(self.kept, columns * (slab.gates // slab.joined)),
        }


class CooperativeRow(NamedTuple):
    """A line of `cooperative.csv`: whom a plan is for, up to `units` hidden units, and the plan."""

    family: str
    cell: str
    way: str
    precision: str
    units: int
    block_b: int
    tiles: int
    block_h: int
    block_k: int
    parts: int
    kept: int
    warps: int

    @property
    def plan(self):
        return CooperativePlan(*self[5:], tcgen05=self.family in TCGEN05)


def cooperative_plan(chip, cell, way, precision, H, B, D):
    """The plan for B sequences of H hidden units in D directions, or None if there is none.

    Arguments as in `plans.plan_for`, but that `cell` is a `cell.Cell`. Of the plans for the least
    number of units that H fits in and whose programs the GPU can run at the same time, the one with
    the lowest estimate of cycles a step.
    """
    if not chip.cooperative:
        return None
    slab = slab_of(cell, way, H)
    for units, plans in sorted(_plans(chip, cell, way, precision).items()):
        if units >= H:
            possible = [
                plan._replace(groups=min(groups, plan.chunks(B)))
                for plan in plans
                if (groups := chip.sms // (plan.slices(H) * D))
            ]
            if possible:
                return min(possible, key=lambda plan: cycles(plan, slab, precision, B))
    return None


class Traffic(NamedTuple):
    """Bytes a program reads for a step of a tile: W_hh on chip, the rest of it, the exchange."""

    kept: int
    streamed: int
    exchanged: int

    @property
    def cycles(self):
        """What reading them takes, one after the other."""
        return self.kept / SHARED_RATE + (self.streamed + self.exchanged) / CACHE_RATE


def traffic(plan, slab, precision):
    """The Traffic of a plan for a slab."""
    made, size = plan.constants(slab), BYTES[precision]
    weights = slab.gates * plan.block_h * slab.k * size
    tiles = made["COLUMNS"] * (slab.gates // slab.joined)
    kept = weights * made["KEPT"] // tiles
    return Traffic(kept, weights - kept, plan.block_b * slab.k * size)


def cycles(plan, slab, precision, B):
    """An estimate for a step of all B sequences.

    Of a tile: what is read, partial sums to shared memory and back, and what each step costs. Of a
    step: all tiles, or one and the exchange if that takes longer.
    """
    sums = 8 * plan.parts * slab.gates * plan.block_h * plan.block_b
    tile = STEP + traffic(plan, slab, precision).cycles + sums / SHARED_RATE
    walks = -(-plan.chunks(B) // plan.groups)
    return walks * max(plan.tiles * tile, tile + EXCHANGE)


def most_units(chip, cell, way, precision, D):
    """The largest H that there is a plan for in D directions; 0 if there is none."""
    most = 0
    for units, plans in _plans(chip, cell, way, precision).items():
        for plan in plans:
            most = max(most, min(units, chip.sms // D * plan.block_h))
    return most if chip.cooperative else 0


def _plans(chip, cell, way, precision):
    if chip.shared < SHARED.get(chip.family, 0):
        return {}
    return _table().get((chip.family, shared_rows(cell.name), way, precision), {})


@cache
def _table():
    """{(family, cell, way, precision): {units: plans}}."""
    table = {}
    for row in read(TABLE, CooperativeRow):
        table.setdefault(row[:4], {}).setdefault(row.units, []).append(row.plan)
    return table
