"""Geometric means of the speed-up, of rows in which the two libraries ran different operators."""

from collections.abc import Iterable
from math import exp, log, sqrt
from statistics import mean

from rich.table import Table
from rich.text import Text

from benchmarks.cases import ALL_CELLS
from benchmarks.standing import NEITHER, SAME, STYLES, beyond, compared, waited
from benchmarks.summary import LABELS, add_column, grid

SMALL = 128
NOTE = (
    "Mean: the geometric mean of the rows' speed-ups. ±: half of their spread. In brackets: how "
    f"many rows, without those of the {SAME}."
)


def means(records: Iterable[dict]) -> Table:
    """By kind of case, mode and dtype."""
    return _means((_kind(record), record) for record in compared(records))


def gpu_means(records: Iterable[dict]) -> Table:
    """The same of small layers, of packed batches, of single steps and of all together."""
    rows = compared(records)
    groups = {
        f"H ≤ {SMALL}": lambda record: record["H"] <= SMALL,
        "packed": lambda record: record["kind"] == "packed",
        "streaming": lambda record: record["kind"] == "streaming",
        "all": lambda record: True,
    }
    return _means((name, r) for name, belongs in groups.items() for r in rows if belongs(r))


def _kind(record: dict) -> str:
    """The star of the table of rows, in place of words for which lines have no room."""
    return record["kind"].replace(", denormals flushed", " *")


def _means(grouped: Iterable[tuple[str, dict]]) -> Table:
    groups: dict[tuple, dict[str, list[dict]]] = {}
    for group, record in grouped:
        cells = groups.setdefault((group, record["mode"], record["dtype"]), {})
        cells.setdefault(record["cell"], []).append(record)
    several = len({dtype for _, _, dtype in groups}) > 1
    out = grid("mean of", "mode", *(["dtype"] if several else []))
    for cell in ALL_CELLS:
        add_column(out, cell, justify="right")
    for (group, mode, dtype), cells in groups.items():
        heads = group, LABELS[mode], *([dtype] if several else [])
        out.add_row(*heads, *(_mean(cells.get(cell, [])) for cell in ALL_CELLS))
    return out


def _mean(records: list[dict]) -> Text:
    """Coloured as a row is: where all of the spread, and every row of it, is worth something."""
    if not records:
        return Text()
    median, low, high = (
        exp(mean(log(record["ratio"][name]) for record in records))
        for name in ("median", "p20", "p80")
    )
    stands = NEITHER if any(map(waited, records)) else beyond(low, high)
    half = sqrt(high / low) - 1
    return Text(f"×{median:.2f} ±{half:.0%} ({len(records)})", style=STYLES[stands])
