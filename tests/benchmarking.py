"""What the tests of the benchmark share: small shapes, records without a measurement."""

import json
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.row import NATIVE, OK, Row, describe

TINY = ["--case", "streaming-64", "--rounds", "1"]
SHAPES = {
    "stack": Case("stack", 3, 2, 4, 5, "", layers=2, bidirectional=True),
    "projected": Case("projected", 3, 2, 4, 5, "", proj_size=2),
    "packed": Case("packed", 5, 4, 3, 6, "", shortest=1, bidirectional=True),
    "last": Case("last", 4, 2, 3, 5, "", loss="last"),
    "streaming": Case("streaming", 1, 2, 3, 5, "", streaming=True),
}


def invented(row: Row, seconds: float = 2e-3) -> dict:
    """A record in which fastrnn takes `seconds`, and torch.nn half of them."""
    side = {
        "error": 1e-7,
        "engine": "torch",
        "plan": "loop",
        "seconds": {"median": seconds, "p20": seconds, "p80": seconds},
        "first_call_seconds": 0.5,
        "peak_bytes": None,
        "kernels": [{"name": "forward_kernel", "seconds": 6.5, "cached": False}],
    }
    if row.engine == NATIVE:
        return describe(row) | {"status": OK, "rounds": 1, "native": side}
    ratio = {"median": 0.5, "p20": 0.4, "p80": 0.6}
    return describe(row) | {
        "status": OK, "ratio": ratio, "rounds": 1, "native": side, "fastrnn": side,
    }  # fmt: skip


def rows_in(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))["rows"]
