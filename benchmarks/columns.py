"""The columns of the table of rows: each a function from a row's record to a cell."""

from collections.abc import Callable

from rich.text import Text

from benchmarks.row import OK, UNSERVED
from benchmarks.summary import LABELS, NOISE


def _name(record: dict) -> str:
    return record["case"] + (" *" if "flushed" in record["kind"] else "")


def verdict(record: dict) -> Text:
    """The ratio, with the same weight whoever wins; FAILED or ERROR where there is none."""
    if record["status"] != OK:
        style = "dim" if record["status"] == UNSERVED else "bold white on red"
        return Text(record["status"], style=style)
    if "ratio" not in record:
        return Text(f"{_steps(record['native'], record)} µs a step")
    ratio = record["ratio"]["median"]
    style = "green" if ratio > 1 + NOISE else "red" if ratio < 1 - NOISE else "default"
    return Text(f"×{ratio:.2f}", style=f"bold {style}")


def _sides(show: Callable[..., str], *names: str) -> Callable[[dict], str]:
    """A column from the named sides' numbers, or from both's, empty where a row has none.

    `show` takes a side and the row.
    """

    def column(record: dict) -> str:
        if record["status"] != OK:
            return ""
        sides = [name for name in names or ("native", "fastrnn") if name in record]
        return " → ".join(show(record[name], record) for name in sides)

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


def _percentiles(side: dict, _) -> str:
    return "-".join(digits(1e3 * side["seconds"][name]) for name in ("p20", "p80"))


def _ratios(_, record: dict) -> str:
    return "-".join(f"{record['ratio'][name]:.2f}" for name in ("p20", "p80"))


def _floors(side: dict, record: dict) -> str:
    return digits(side["seconds"]["median"] / record["floor"]["seconds"])


def _bound(record: dict) -> str:
    return record["floor"]["bound"] if "floor" in record else ""


def _error(side: dict, _) -> str:
    share = side.get("error_share")
    return f"{side['error']:.0e}" + (f" ({share:.0%})" if share is not None else "")


def _first(side: dict, _) -> str:
    return digits(1e3 * side["first_call_seconds"])


def _kernels(side: dict, _) -> str:
    built = side.get("kernels", [])
    fresh = [kernel["seconds"] for kernel in built if not kernel["cached"]]
    parts = [f"{len(fresh)} in {sum(fresh):.1f} s"] if fresh else []
    cached = len(built) - len(fresh)
    return ", ".join(parts + [f"{cached} c"] if cached else parts)


def _megabytes(side: dict, _) -> str:
    return "?" if side["peak_bytes"] is None else digits(side["peak_bytes"] / 1e6)


COLUMNS = {
    "case": _name,
    "cell": lambda row: row["cell"],
    "mode": lambda row: LABELS[row["mode"]],
    "dtype": lambda row: row["dtype"],
    "torch.nn ms": _sides(_median, "native"),
    "fastrnn ms": _sides(_median, "fastrnn"),
    "torch.nn µs/step": _sides(_steps, "native"),
    "fastrnn µs/step": _sides(_steps, "fastrnn"),
    "speed-up": verdict,
    "20-80 %": _sides(_ratios, "fastrnn"),
    "/ floor": lambda row: _sides(_floors)(row) if "floor" in row else "",
    "bound by": _bound,
    "memory MB": _sides(_megabytes),
    "path": _sides(lambda side, _: f"{side['engine']}: {side['plan']}", "fastrnn"),
    "20-80 % ms": _sides(_percentiles),
    "error": _sides(_error),
    "first ms": _sides(_first),
    "kernels": _sides(_kernels, "fastrnn"),
}
_ROW = ("case", "cell", "mode", "dtype")
CPU = (
    *(*_ROW, "torch.nn ms", "fastrnn ms", "speed-up"),
    *("memory MB", "path", "20-80 % ms", "error", "first ms"),
)
GPU = (
    *(*_ROW, "torch.nn µs/step", "fastrnn µs/step", "speed-up", "20-80 %"),
    *("/ floor", "bound by", "memory MB", "path", "first ms", "kernels", "error"),
)
# What there is none of in a run of torch.nn alone.
OF_FASTRNN = ("fastrnn ms", "fastrnn µs/step", "speed-up", "20-80 %", "path", "kernels", "error")
LEFT = (*_ROW, "bound by", "path", "kernels")
# No terminal is too narrow for these.
NARROWEST = ("speed-up", "torch.nn ms", "torch.nn µs/step")
