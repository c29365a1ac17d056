"""What a run shows: a bar with the time left, then a line per row, and its summary last."""

from collections.abc import Iterable

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import busy, summary
from benchmarks.cases import TRAINING
from benchmarks.columns import (
    COLUMNS,
    CPU,
    FLUSHED_NOTE,
    GPU,
    LEFT,
    NATIVE_CPU,
    NATIVE_GPU,
    NOTES,
    SAME_NOTE,
    UNRECORDED_NOTE,
    verdict,
)
from benchmarks.means import NOTE as MEANS_NOTE
from benchmarks.means import gpu_means, means
from benchmarks.results import Results
from benchmarks.row import NATIVE, Row
from benchmarks.standing import SAME, compared, same_operator, timed
from benchmarks.summary import add_column, grid


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
            text = f"{self.done:>4} of {self.count}  {row.key:<50} {verdict(record)}"
            self.out.print(f"{text}  {SAME}" if same_operator(record) else text)


def _weight(row: Row) -> float:
    """About the seconds that a row takes on a laptop: what is timed, and the referee's share."""
    case = row.case
    ways = 2 if case.bidirectional else 1
    flops = 2 * case.T * case.B * ways * case.layers * 4 * case.H * (case.I + case.H)
    call = flops / 3e10 + 2e-5 * case.T * ways * case.layers
    return 2 + 20 * call * (3 if row.mode == TRAINING else 1)


def show(out: Console, records: list[dict], results: Results) -> None:
    """Everything about finished rows: losses like wins, failures too, the summary last."""
    gpu = results.environment["device"] == "cuda"
    titles = _titles(out, records, gpu, results.environment.get("engine") == NATIVE)
    out.print(table(records, titles))
    out.print(_legend(titles, records), style="dim")
    for remark in summary.remarks(records):
        out.print(remark, style="bold")
    if gpu:
        out.print(summary.overview(records))
    if compared(records):
        out.print(gpu_means(records) if gpu else means(records))
        out.print(MEANS_NOTE, style="dim")
    packed = summary.twins(records)
    if packed:
        out.print(packed)
    for line in (
        *summary.capabilities(results.constants),
        *summary.first_calls(records),
        *summary.verdicts(records),
    ):
        out.print(line)
    if timed(records):
        text, suffered = busy.report(records, results.environment, results.runs)
        out.print(text, style="bold yellow" if suffered else "dim")


def _titles(out: Console, records: list[dict], gpu: bool, native: bool) -> list[str]:
    """The columns that there is room for."""
    groups = list((NATIVE_GPU if gpu else NATIVE_CPU) if native else (GPU if gpu else CPU))
    one = len({record["dtype"] for record in records}) == 1
    while True:
        titles = [name for group in groups for name in group if not (one and name == "dtype")]
        if len(groups) == 1 or _width(out, table(records, titles)) <= out.width:
            return titles
        groups.pop()


def _legend(titles: list[str], records: list[dict]) -> str:
    """What the titles on show leave open."""
    notes = [NOTES[title] for title in titles if title in NOTES]
    if "speed-up" in titles and any(map(same_operator, records)):
        notes.append(SAME_NOTE)
    sides = [record.get(side, {}) for record in records for side in ("native", "fastrnn")]
    if "torch.nn\nMB" in titles and any(side.get("peak_bytes", 0) is None for side in sides):
        notes.append(UNRECORDED_NOTE)
    if any("flushed" in record["kind"] for record in records):
        notes.append(FLUSHED_NOTE)
    return " ".join(notes)


def _width(out: Console, grid: Table) -> int:
    return Measurement.get(out, out.options.update(max_width=10_000), grid).maximum


def table(records: Iterable[dict], titles: list[str]) -> Table:
    """A line per row of results."""
    out = grid()
    for title in titles:
        add_column(out, title, justify="left" if title in LEFT else "right")
    previous = None
    for record in records:
        kind = record["kind"].split(",")[0]
        if previous not in (None, kind):
            out.add_section()
        previous = kind
        out.add_row(*(COLUMNS[title](record) for title in titles))
    return out
