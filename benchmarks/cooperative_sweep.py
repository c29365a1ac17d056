"""The plans of `cooperative.py`, found with the compiler alone.

A plan fits if its programs get by with a GPU's shared memory and spill nothing. How many hidden
units a program takes is arithmetic: as many as it can keep all weights of; half of those, which
suits a small batch; and twice as many, the rest of whose weights is read in each step, where a
layer would otherwise take more programs than a GPU runs. Of the ways to multiply, the first that
fits is taken. Which plan serves which batch is decided when it is asked for.
"""

from collections.abc import Iterator
from itertools import product

from benchmarks.compiling import Needs, cooperative_kernel, needs
from benchmarks.sweep import DTYPES, SHARING, WAYS, Line, registers
from fastrnn.kernels.cooperative_plans import BYTES, CooperativeRow, slab_of
from fastrnn.kernels.plans import SHARED

# What a family's rows are compiled for; the others run the same rows.
ARCHITECTURES = {"sm_80": (80,), "sm_86": (86, 120), "sm_90": (90,), "sm_100": (100,)}
# Programs that its large GPUs run at the same time.
PROGRAMS = {"sm_80": 108, "sm_86": 82, "sm_90": 132, "sm_100": 148}
PRECISIONS = ("half", "tf32")
UNITS = (256, 512, 768, 1024, 1536)
# Sequences of a group: as tiles of so many sequences, the first that fit.
BATCHES = {8: ((8, 1),), 16: ((16, 1), (8, 2)), 32: ((32, 1), (16, 2)), 64: ((32, 2),)}
SMALL_BATCHES = (8, 16)
BLOCK_H = (64, 32, 16, 8)
# Bytes of shared memory that what is multiplied passes through, at the least.
PASSING = 16 * 1024
BLOCK_K = (1024, 512, 256, 128)
# (parts, warps) by the rows of a product. Enough rows keep all warps busy; if they do not, each
# warp takes a part of the columns.
SPLITS = {128: ((1, 8),), 64: ((1, 4), (8, 8), (1, 8)), 0: ((8, 8), (4, 4), (16, 16))}
# Numbers a thread: of sums, of a tile of W_hh on its way to shared memory, of the exchanged rows.
MOST_SUMS, MOST_WEIGHTS, MOST_EXCHANGED = 64, 128, 128
# Where no more registers are left, other rows and the other dtype are looked at, too.
SPARE = 8
MOST_DEMANDING = "padded"


def groups() -> Iterator[tuple[str, str, str, str]]:
    """What `sweep` can be asked for."""
    yield from product(ARCHITECTURES, SHARING, WAYS, PRECISIONS)


def sweep(family: str, cell: str, way: str, precision: str) -> list[Line]:
    """All plans, by units."""
    lines = []
    for units in UNITS:
        found = set()
        for block_h in slices(family, cell, way, precision, units):
            for batch in BATCHES:
                # Fewer units a program are for small batches, unless there is nothing else.
                if batch in found and batch not in SMALL_BATCHES:
                    continue
                who = (family, cell, way, precision, units)
                line = best(CooperativeRow(*who, batch, 1, block_h, 0, 0, 0, 0))
                if line is None:
                    break  # then there is none for more sequences
                found.add(batch)
                lines.append(line)
    return lines


def slices(family: str, cell: str, way: str, precision: str, units: int) -> Iterator[int]:
    """Numbers of hidden units a program."""
    slab = slab_of(SHARING[cell], way, units)
    row = slab.gates * slab.k * BYTES[precision]
    room = SHARED[family] - PASSING
    most = PROGRAMS[family]
    kept = [h for h in BLOCK_H if h * row <= room][:2]
    yield from (h for h in kept if units <= most * h)
    twice = 2 * kept[0] if kept else BLOCK_H[-1]
    both_directions = kept and 2 * units <= most * kept[0]
    if not both_directions and twice * row <= 2 * room and units <= most * twice:
        yield twice


def best(row: CooperativeRow) -> Line | None:
    """The first plan that fits, for row.block_b * row.tiles sequences and row.block_h units."""
    for candidate in candidates(row):
        line = measured(candidate)
        if line is not None:
            return line
    return None


def candidates(row: CooperativeRow) -> Iterator[CooperativeRow]:
    """Plans for what `row` is for, the best first."""
    slab = slab_of(SHARING[row.cell], row.way, row.units)
    size = BYTES[row.precision]
    rows = slab.joined * row.block_h
    splits = next(splits for least, splits in SPLITS.items() if rows >= least)
    for (block_b, tiles), (parts, warps), block_k in product(
        BATCHES[row.block_b * row.tiles], splits, BLOCK_K
    ):
        columns, rest = divmod(slab.k, block_k)
        if rest or block_k // parts < 16:
            continue
        thread = 4 // size * 32 * warps
        if (
            parts * rows * block_b > MOST_SUMS * 32 * warps
            or rows * block_k > MOST_WEIGHTS * thread
            or slab.k * block_b > MOST_EXCHANGED * thread
        ):
            continue
        tile = rows * block_k * size
        everything = columns * (slab.gates // slab.joined)
        # On their way to the matrix units: all exchanged rows, or in parts a tile; then the sums.
        exchanged = slab.k if parts == 1 else block_k
        passing = max(size * exchanged * block_b, 4 * parts * rows * block_b if parts > 1 else 0)
        room = SHARED[row.family] - passing
        kept = min(everything, room // tile)
        if 2 * kept < everything:
            continue
        if kept < everything:
            kept -= 1  # what is not kept passes through shared memory
        yield row._replace(
            block_b=block_b, tiles=tiles, block_k=block_k, parts=parts, kept=kept, warps=warps
        )


def measured(row: CooperativeRow) -> Line | None:
    """What a plan needs, or None if it does not fit."""
    used = measure(row)
    if not fits(row, used):
        return None
    others = [{"arch": arch} for arch in ARCHITECTURES[row.family][1:]]
    if used.registers > registers(row) - SPARE:
        others += [{"rows": "dense"}]
        others += [{"dtype": dtype} for dtype in DTYPES[row.precision][1:]]
    return Line(row, used) if all(fits(row, measure(row, **other)) for other in others) else None


def measure(
    row: CooperativeRow,
    H: int | None = None,
    rows: str = MOST_DEMANDING,
    dtype: str | None = None,
    arch: int | None = None,
) -> Needs:
    """What a plan needs; unless told of other circumstances, as it is reported."""
    H = row.units if H is None else H
    dtype = dtype or DTYPES[row.precision][0]
    arch = arch or ARCHITECTURES[row.family][0]
    return needs(cooperative_kernel(row, H, rows, dtype, arch))


def fits(row: CooperativeRow, used: Needs) -> bool:
    return used.spills == 0 and used.shared <= SHARED[row.family]
