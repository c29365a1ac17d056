"""What a run shows: a bar with the time left, then a line per row, and its summary last."""

from collections.abc import Iterable

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import summary
from benchmarks.cases import TRAINING
from benchmarks.columns import COLUMNS, CPU, GPU, LEFT, NARROWEST, OF_FASTRNN, verdict
from benchmarks.row import NATIVE, Row
from benchmarks.summary import grid

LEGEND = """\
Times are medians, the speed-up is torch.nn's time over fastrnn's. a → b: torch.nn's, then \
fastrnn's: 20th to 80th percentile of the times; torch's peak memory in a call (?: too long \
to record); largest error to float64, over the largest element; first call. * Denormals flushed."""
GPU_LEGEND = """\
Times are medians, per time step; the speed-up is torch.nn's over fastrnn's. a → b: torch.nn's, \
then fastrnn's. 20-80 %: percentiles of the speed-up. / floor: times the least that this GPU could \
take, and what for (benchmarks/floor.py). Memory: torch's peak in a call. Kernels: built for the \
first call, c: found in the cache. Error: the largest to float64, over the largest element; in \
brackets fastrnn's, as a share of what the gate allows."""


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
            self.out.print(f"{self.done:>4} of {self.count}  {row.key:<50} {verdict(record)}")


def _weight(row: Row) -> float:
    """About the seconds that a row takes on a laptop: what is timed, and the referee's share."""
    case = row.case
    ways = 2 if case.bidirectional else 1
    flops = 2 * case.T * case.B * ways * case.layers * 4 * case.H * (case.I + case.H)
    call = flops / 3e10 + 2e-5 * case.T * ways * case.layers
    return 2 + 20 * call * (3 if row.mode == TRAINING else 1)


def show(out: Console, records: list[dict], environment: dict, constants: dict) -> None:
    """Everything about finished rows: losses like wins, failures too, the summary last."""
    gpu = environment["device"] == "cuda"
    columns = list(GPU if gpu else CPU)
    if environment.get("engine") == NATIVE:
        columns = [name for name in columns if name not in OF_FASTRNN]
    if len({record["dtype"] for record in records}) == 1:
        columns.remove("dtype")
    # A narrow terminal gets fewer columns, from the right, instead of broken lines.
    while columns[-1] not in NARROWEST and _width(out, table(records, columns)) > out.width:
        columns.pop()
    out.print(table(records, columns))
    out.print(GPU_LEGEND if gpu else LEGEND, style="dim")
    for remark in summary.remarks(records):
        out.print(remark, style="bold")
    if gpu:
        out.print(summary.overview(records))
    if summary.duels(records):
        out.print(summary.gpu_means(records) if gpu else summary.means(records))
    packed = summary.twins(records)
    if packed:
        out.print(packed)
    for line in (
        *summary.capabilities(constants),
        *summary.first_calls(records),
        *summary.verdicts(records),
    ):
        out.print(line)


def _width(out: Console, grid: Table) -> int:
    return Measurement.get(out, out.options.update(max_width=10_000), grid).maximum


def table(records: Iterable[dict], columns: list[str]) -> Table:
    """A line per row of results."""
    out = grid()
    for title in columns:
        out.add_column(title, justify="left" if title in LEFT else "right", no_wrap=True)
    previous = None
    for record in records:
        kind = record["kind"].split(",")[0]
        if previous not in (None, kind):
            out.add_section()
        previous = kind
        out.add_row(*(COLUMNS[title](record) for title in columns))
    return out
