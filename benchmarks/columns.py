"""The columns of the table of rows: each a function from a row's record to a cell.

A title has two lines, the unit in the second. What a title cannot say is in `NOTES`.
"""

from collections.abc import Callable

from rich.text import Text

from benchmarks.row import OK, UNSERVED
from benchmarks.standing import MARGIN, SAME, STYLES, standing
from benchmarks.summary import LABELS, case_name, engine


def verdict(record: dict) -> Text:
    """The ratio, with the same weight whoever wins; FAILED or ERROR where there is none."""
    if record["status"] != OK:
        style = "dim" if record["status"] == UNSERVED else "bold white on red"
        return Text(record["status"], style=style)
    if "ratio" not in record:
        return Text(f"{_steps(record['native'], record)} µs a step")
    return Text(f"×{record['ratio']['median']:.2f}", style=STYLES[standing(record)])


def spread(record: dict) -> Text:
    """Of the ratio; SAME where it says nothing about fastrnn."""
    if "ratio" not in record:
        return Text()
    if standing(record) == SAME:
        return Text(SAME, style=STYLES[SAME])
    return Text(_span(record["ratio"], "{:.2f}".format))


def _span(spread: dict, show: Callable[[float], str]) -> str:
    return f"{show(spread['p20'])}-{show(spread['p80'])}"


def _side(name: str, show: Callable[[dict, dict], str]) -> Callable[[dict], str]:
    """A column of the named side's numbers, empty where a row has none.

    `show` takes the side and the row.
    """

    def column(record: dict) -> str:
        return show(record[name], record) if record["status"] == OK and name in record else ""

    return column


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - _magnitude(value))}f}"


def _magnitude(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def _median(side: dict, _) -> str:
    return digits(1e3 * side["seconds"]["median"])


def _steps(side: dict, record: dict) -> str:
    return digits(1e6 * side["seconds"]["median"] / record["T"])


def _times(side: dict, _) -> str:
    return _span(side["seconds"], lambda seconds: digits(1e3 * seconds))


def _floors(side: dict, record: dict) -> str:
    return digits(side["seconds"]["median"] / record["floor"]["seconds"]) if _bound(record) else ""


def _bound(record: dict) -> str:
    return record["floor"]["bound"] if "floor" in record else ""


def _error(side: dict, _) -> str:
    return f"{side['error']:.0e}"


def _share(side: dict, _) -> str:
    share = side.get("error_share")
    return "" if share is None else f"{share:.0%}"


def _first(side: dict, _) -> str:
    return digits(1e3 * side["first_call_seconds"])


def _kernels(side: dict, _) -> str:
    built = side.get("kernels", [])
    fresh = [kernel["seconds"] for kernel in built if not kernel["cached"]]
    parts = [f"{len(fresh)} in {sum(fresh):.1f} s"] if fresh else []
    cached = len(built) - len(fresh)
    return ", ".join(parts + [f"{cached} cached"] if cached else parts)


def _megabytes(side: dict, _) -> str:
    return "?" if side["peak_bytes"] is None else digits(side["peak_bytes"] / 1e6)


def _pair(unit: str, show: Callable[[dict, dict], str]) -> dict[str, Callable[[dict], str]]:
    """A column for torch.nn and one for fastrnn."""
    return {
        f"torch.nn\n{unit}": _side("native", show),
        f"fastrnn\n{unit}": _side("fastrnn", show),
    }


COLUMNS = {
    "case": case_name,
    "cell": lambda row: row["cell"],
    "mode": lambda row: LABELS[row["mode"]],
    "dtype": lambda row: row["dtype"],
    **_pair("ms", _median),
    **_pair("µs/step", _steps),
    "speed-up": verdict,
    "spread": spread,
    "torch.nn\n20-80 % ms": _side("native", _times),
    **_pair("/ floor", _floors),
    "bound by": _bound,
    **_pair("MB", _megabytes),
    "engine": _side("fastrnn", lambda side, _: engine(side)),
    **_pair("error", _error),
    "error /\nallowed": _side("fastrnn", _share),
    "fastrnn's first\ncall, ms": _side("fastrnn", _first),
    "kernels": _side("fastrnn", _kernels),
}
_ROW = ("case", "cell", "mode", "dtype")
LEFT = (*_ROW, "bound by", "engine", "kernels")


def _both(unit: str) -> tuple[str, str]:
    return f"torch.nn\n{unit}", f"fastrnn\n{unit}"


# Groups that a terminal shows as a whole; from the right, it has room for fewer of them.
CPU = (
    (*_ROW, *_both("ms"), "speed-up"),
    *(("spread",), ("engine",), _both("MB"), (*_both("error"), "error /\nallowed")),
)
GPU = (
    (*_ROW, *_both("µs/step"), "speed-up"),
    *(("spread",), ("engine",), (*_both("/ floor"), "bound by"), _both("MB")),
    *(("fastrnn's first\ncall, ms", "kernels"), (*_both("error"), "error /\nallowed")),
)
# Of a run of torch.nn alone.
NATIVE_CPU = ((*_ROW, "torch.nn\nms"), ("torch.nn\n20-80 % ms",), ("torch.nn\nMB",))
NATIVE_GPU = (
    (*_ROW, "torch.nn\nµs/step"),
    *(("torch.nn\n20-80 % ms",), ("torch.nn\n/ floor", "bound by"), ("torch.nn\nMB",)),
)

NOTES = {
    "torch.nn\nms": "Times are medians.",
    "torch.nn\nµs/step": "Times are medians, of one time step.",
    "speed-up": "Speed-up: the median over all rounds of torch.nn's time / fastrnn's; coloured if "
    f"the whole spread is more than {MARGIN:.0%} away from 1 and threads did not wait for a core.",
    "spread": "Spread: the 20th to 80th percentile of the rounds.",
    "torch.nn\n20-80 % ms": "20-80 %: percentiles of the rounds.",
    "torch.nn\n/ floor": "Floor: the least time that this GPU could take, and what for "
    "(benchmarks/floor.py).",
    "torch.nn\nMB": "MB: torch's peak memory in a call.",
    "torch.nn\nerror": "Error: the largest to float64, over the largest element; then fastrnn's as "
    "a share of what the check before the timing allows.",
    "kernels": "Kernels: built for the first call, or found in the cache.",
}
SAME_NOTE = f"{SAME.capitalize()} (grey): torch.nn's on both sides, so the row decides nothing."
UNRECORDED_NOTE = "MB ?: the call is too long to record."
FLUSHED_NOTE = "* With torch.set_flush_denormal(True)."
