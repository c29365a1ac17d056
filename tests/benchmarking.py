"""What the tests of the benchmark share: small shapes, records without a measurement."""

import io
import json
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.cases import Case
from benchmarks.results import Results
from benchmarks.row import NATIVE, OK, Row, describe

TINY = ["--case", "streaming-64", "--rounds", "1"]
SHAPES = {
    "stack": Case("stack", 3, 2, 4, 5, "", layers=2, bidirectional=True),
    "projected": Case("projected", 3, 2, 4, 5, "", proj_size=2),
    "packed": Case("packed", 5, 4, 3, 6, "", shortest=1, bidirectional=True),
    "last": Case("last", 4, 2, 3, 5, "", loss="last"),
    "streaming": Case("streaming", 1, 2, 3, 5, "", streaming=True),
}

# What a report asks about the machine.
ENVIRONMENT = {"device": "cpu", "gpu": None, "cpu": "Pretended", "cores": 2, "threads": 1}


def invented(
    row: Row, seconds: float = 2e-3, plan: str = "loop", ratio=(0.4, 0.5, 0.6), **more
) -> dict:
    """A record in which fastrnn takes `seconds`, and by its `ratio` (the 20th percentile, median
    and 80th percentile) torch.nn half of them."""
    side = {
        "error": 1e-7,
        "engine": "torch",
        "plan": plan,
        "seconds": {"median": seconds, "p20": seconds, "p80": seconds},
        "first_call_seconds": 0.5,
        "peak_bytes": None,
        "kernels": [{"name": "forward_kernel", "seconds": 6.5, "cached": False}],
    }
    if row.engine == NATIVE:
        return describe(row) | {"status": OK, "rounds": 7, "native": side} | more
    return (
        describe(row)
        | {
            "status": OK,
            "ratio": dict(zip(("p20", "median", "p80"), ratio, strict=True)),
            "rounds": 7,
            "native": side,
            "fastrnn": side,
        }
        | more
    )


def rows_in(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def heading(printed: str) -> str:
    """The titles of the table of rows: the units of all, and above these what they are of."""
    upper, lower = printed.partition("─")[0].splitlines()[-3:-1]
    return " ".join(upper.split()) + " | " + " ".join(lower.split())


def lines_at(width: int) -> Console:
    """A console that keeps what is printed, as `.file`."""
    return Console(width=width, file=io.StringIO(), highlight=False, markup=False)


def printed(thing, width: int = 80) -> str:
    out = lines_at(width)
    out.print(thing)
    return out.file.getvalue()


def shown(results: Results, width: int) -> str:
    """All that is printed about results."""
    out = lines_at(width)
    report.show(out, list(results.rows.values()), results)
    return out.file.getvalue()
