"""What a run shows: a bar with the time left, then a line per row, and the means last."""

from collections.abc import Callable, Iterable
from math import exp, log
from statistics import mean

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from benchmarks.cases import ALL_CELLS, FORWARD, TRAINING
from benchmarks.measure import OK, Row

# Repeated runs differ by as much.
NOISE = 0.03
LEGEND = """\
Times are medians, the speed-up is torch.nn's time over fastrnn's. a → b: torch.nn's, then \
fastrnn's: 20th to 80th percentile of the times; torch's peak memory in a call (?: too long \
to record); largest error to float64, over the largest element; first call. * Denormals flushed."""
MODES = {FORWARD: "fwd", TRAINING: "fwd+bwd"}


def console() -> Console:
    """A pipe or a file has no width of its own: there nothing is cut."""
    out = Console(highlight=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=220)


class Live:
    """A progress bar; where none can be drawn, a plain line per finished row."""

    def __init__(self, out: Console, selected: list[Row]):
        self.out = out
        self.count = len(selected)
        self.done = 0
        self.bar = Progress(
            TextColumn("{task.fields[rows]}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=out,
            transient=True,
            # Rows take seconds, and the estimate has to look back over several.
            speed_estimate_period=600,
        )
        self.task = self.bar.add_task("", total=sum(map(_weight, selected)), rows="")

    def __enter__(self) -> "Live":
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def started(self, row: Row) -> None:
        name = row.key.replace("/", " ")
        self.bar.update(self.task, description=name, rows=f"{self.done + 1} of {self.count}")

    def finished(self, row: Row, record: dict) -> None:
        self.done += 1
        self.bar.advance(self.task, _weight(row))
        if not self.out.is_terminal:
            self.out.print(f"{self.done:>4} of {self.count}  {row.key:<50} {_verdict(record)}")


def _weight(row: Row) -> float:
    """About the seconds that a row takes on a laptop: what is timed, and the referee's share."""
    case = row.case
    ways = 2 if case.bidirectional else 1
    flops = 2 * case.T * case.B * ways * case.layers * 4 * case.H * (case.I + case.H)
    call = flops / 3e10 + 2e-5 * case.T * ways * case.layers
    return 2 + 20 * call * (3 if row.mode == TRAINING else 1)


def show(out: Console, records: list[dict]) -> None:
    """Everything about finished rows: losses like wins, failures too, the means last."""
    columns = list(COLUMNS)
    if len({record["dtype"] for record in records}) == 1:
        columns.remove("dtype")
    # A narrow terminal gets fewer columns, from the right, instead of broken lines.
    while columns[-1] != NARROWEST and _width(out, table(records, columns)) > out.width:
        columns.pop()
    out.print(table(records, columns))
    out.print(LEGEND, style="dim")
    for remark in remarks(records):
        out.print(remark, style="bold")
    out.print(means(records))


def _width(out: Console, grid: Table) -> int:
    return Measurement.get(out, out.options.update(max_width=10_000), grid).maximum


def table(records: Iterable[dict], columns: list[str]) -> Table:
    """A line per row of results."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in columns:
        left = title in ("case", "cell", "mode", "dtype", "path")
        out.add_column(title, justify="left" if left else "right", no_wrap=True)
    previous = None
    for record in records:
        kind = record["kind"].split(",")[0]
        if previous not in (None, kind):
            out.add_section()
        previous = kind
        out.add_row(*(COLUMNS[title](record) for title in columns))
    return out


def _name(record: dict) -> str:
    return record["case"] + (" *" if "flushed" in record["kind"] else "")


def _verdict(record: dict) -> Text:
    """The ratio, with the same weight whoever wins; FAILED or ERROR where there is none."""
    if record["status"] != OK:
        return Text(record["status"], style="bold white on red")
    ratio = record["ratio"]["median"]
    style = "green" if ratio > 1 + NOISE else "red" if ratio < 1 - NOISE else "default"
    return Text(f"×{ratio:.2f}", style=f"bold {style}")


def _if_ok(show: Callable[[dict, dict], str]) -> Callable[[dict], str]:
    """A column from torch.nn's and fastrnn's numbers, empty where a row has none."""
    return lambda row: show(row["native"], row["fastrnn"]) if row["status"] == OK else ""


COLUMNS = {
    "case": _name,
    "cell": lambda row: row["cell"],
    "mode": lambda row: MODES[row["mode"]],
    "dtype": lambda row: row["dtype"],
    "torch.nn ms": _if_ok(lambda native, _: _median(native)),
    "fastrnn ms": _if_ok(lambda _, ours: _median(ours)),
    "speed-up": _verdict,
    "memory MB": _if_ok(lambda *sides: " → ".join(map(_megabytes, sides))),
    "path": _if_ok(lambda _, ours: f"{ours['engine']}: {ours['plan']}"),
    "20-80 % ms": _if_ok(lambda *sides: " → ".join(map(_percentiles, sides))),
    "error": _if_ok(lambda *sides: " → ".join(f"{side['error']:.0e}" for side in sides)),
    "first ms": _if_ok(lambda *sides: " → ".join(map(_first, sides))),
}
NARROWEST = "speed-up"


def remarks(records: Iterable[dict]) -> list[str]:
    """What the table has no room for."""
    lines = []
    for record in records:
        name = f"{record['case']} {record['cell']} {record['mode']} {record['dtype']}"
        if record["status"] != OK:
            lines.append(f"{record['status']} {name}: {record['message']}")
        elif "note" in record:
            lines.append(f"{name}: {record['note']}")
    return lines


def means(records: Iterable[dict]) -> Table:
    """Geometric means of the speed-up, by kind of case, mode and dtype."""
    groups: dict[tuple, dict[str, list[float]]] = {}
    for record in records:
        if record["status"] == OK:
            group = record["kind"], record["mode"], record["dtype"]
            cells = groups.setdefault(group, {cell: [] for cell in ALL_CELLS})
            cells[record["cell"]].append(record["ratio"]["median"])
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("geometric mean of", "mode", "dtype"):
        out.add_column(title, no_wrap=True)
    for cell in ALL_CELLS:
        out.add_column(cell, justify="right", no_wrap=True)
    for (kind, mode, dtype), cells in groups.items():
        out.add_row(kind, MODES[mode], dtype, *(_mean(ratios) for ratios in cells.values()))
    return out


def _mean(ratios: list[float]) -> str:
    if not ratios:
        return ""
    return f"×{exp(mean(map(log, ratios))):.2f} ({len(ratios)})"


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - _magnitude(value))}f}"


def _magnitude(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def _median(side: dict) -> str:
    return digits(1e3 * side["seconds"]["median"])


def _percentiles(side: dict) -> str:
    return "-".join(digits(1e3 * side["seconds"][name]) for name in ("p20", "p80"))


def _first(side: dict) -> str:
    return digits(1e3 * side["first_call_seconds"])


def _megabytes(side: dict) -> str:
    return "?" if side["peak_bytes"] is None else digits(side["peak_bytes"] / 1e6)
