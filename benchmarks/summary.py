"""What a run comes to, in the few lines that are read last, and always."""

from collections import Counter
from collections.abc import Iterable
from statistics import median

from rich import box
from rich.table import Table

from benchmarks.cases import CASES, FORWARD, HESSIAN, TRAINING
from benchmarks.row import OK, UNSERVED, Row
from benchmarks.standing import (
    FASTER,
    MARGIN,
    NEITHER,
    SAME,
    SLOWER,
    compared,
    duels,
    standing,
)

# What is promised: a packed batch's time over its padded twin's, seconds to compile a kernel.
MOST_FOR_PACKED, MOST_TO_COMPILE = 1.1, 5.0
# Of a kind: one can count them, and the results file has all.
MOST_LINES = 12
MODES = {FORWARD: "fwd", TRAINING: "fwd+bwd"}
LABELS = MODES | {HESSIAN: "Hv"}


def case_name(record: dict) -> str:
    """Of the case, with a star where denormals are flushed that others keep."""
    return record["case"] + (" *" if "flushed" in record["kind"] else "")


def title(record: dict) -> str:
    return f"{case_name(record)} {record['cell']} {record['mode']} {record['dtype']}"


def grid(*left: str) -> Table:
    """A table without lines but one, its first columns set to the left."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in left:
        add_column(out, name)
    return out


def add_column(table: Table, title: str, justify: str = "left") -> None:
    """Where a terminal is too narrow for what is in it, lines are folded and not cut."""
    table.add_column(title, justify=justify, overflow="fold")


def remarks(records: Iterable[dict]) -> list[str]:
    """What the table has no room for: a line per row, but one for all that failed alike."""
    lines, alike = [], {}
    for record in records:
        if record["status"] == UNSERVED:
            alike.setdefault(record["message"], []).append(title(record))
        elif record["status"] != OK:
            lines.append(f"{record['status']} {title(record)}: {record['message']}")
        elif "note" in record:
            lines.append(f"{title(record)}: {record['note']}")
    lines += [
        f"{UNSERVED} {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {message}"
        for message, names in alike.items()
    ]
    return lines


def overview(records: list[dict]) -> Table:
    """Every speed-up or, of torch.nn alone, every time of a step in µs, in few lines."""

    def number(record: dict) -> str:
        if record["status"] != OK:
            return record["status"]
        if "ratio" in record:
            return f"{record['ratio']['median']:.2f}"
        microseconds = 1e6 * record["native"]["seconds"]["median"] / record["T"]
        return f"{microseconds:.0f}" if microseconds >= 1000 else f"{microseconds:.3g}"

    heading = "speed-up" if duels(records) else "torch.nn, µs a step"
    return _by_dtype(heading, [(record, number(record)) for record in records])


def twins(records: Iterable[dict]) -> Table | None:
    """fastrnn's time for a packed batch over its time for the padded twin; None without any."""
    timed = {_identity(record): record for record in duels(records)}
    numbers = []
    for (name, *others), packed in timed.items():
        dense = timed.get((CASES[name].twin if name in CASES else None, *others))
        if dense:
            share = _seconds(packed, "median") / _seconds(dense, "median")
            least = _seconds(packed, "p20") / _seconds(dense, "p80")
            numbers.append((packed, f"{share:.2f}{'!' if least > MOST_FOR_PACKED else ''}"))
    heading = f"packed / padded time (!: above {MOST_FOR_PACKED:g})"
    return _by_dtype(heading, numbers) if numbers else None


def _by_dtype(heading: str, numbers: list[tuple[dict, str]]) -> Table:
    """A line per case and cell, in it for every dtype two numbers: forward/forward+backward."""
    dtypes = dict.fromkeys(record["dtype"] for record, _ in numbers)
    lines: dict[str, dict[str, dict[tuple[str, str], str]]] = {}
    for record, number in numbers:
        of_cell = lines.setdefault(record["case"], {}).setdefault(record["cell"], {})
        of_cell[record["dtype"], record["mode"]] = number
    out = grid(f"{heading}, {'/'.join(MODES.values())}", "cell", *dtypes)
    for name, cells in lines.items():
        for cell, line in cells.items():
            pairs = ("/".join(line.get((dtype, mode), "-") for mode in MODES) for dtype in dtypes)
            out.add_row(name, cell, *pairs)
    return out


def _identity(record: dict) -> tuple[str, ...]:
    return tuple(record[name] for name in ("case", "cell", "mode", "dtype"))


def _seconds(record: dict, which: str) -> float:
    return record["fastrnn"]["seconds"][which]


def verdicts(records: Iterable[dict]) -> list[str]:
    """How many rows there are of each sort, and the losses by name."""
    records = list(records)
    counts = Counter(record["status"] for record in records)
    lines = ["Rows: " + ", ".join(f"{count} {status}" for status, count in counts.items())]
    stands = Counter(map(standing, duels(records)))
    if stands:
        lines[0] += (
            f"; {stands[FASTER]} faster than torch.nn and {stands[SLOWER]} slower, by more than "
            f"{MARGIN:.0%} over their whole spread; {stands[NEITHER]} neither; {stands[SAME]} "
            f"run the {SAME}"
        )
    lost = [record for record in compared(records) if standing(record) == SLOWER]
    lost.sort(key=lambda record: record["ratio"]["median"])
    lines += [f"  {_loss(record)}" for record in lost[:MOST_LINES]]
    return lines + _and_more(lost)


def _loss(record: dict) -> str:
    median, low, high = (record["ratio"][name] for name in ("median", "p20", "p80"))
    ran = engine(record["fastrnn"])
    return f"×{median:.2f} ({low:.2f}-{high:.2f}) {title(record)} ({ran})"


def engine(side: dict) -> str:
    """What fastrnn ran, as `fastrnn.use_engine` takes it."""
    return side["plan"] if side["engine"] == "triton" else f"{side['engine']}.{side['plan']}"


def _and_more(things: list) -> list[str]:
    hidden = len(things) - MOST_LINES
    return [f"  and {hidden} more"] if hidden > 0 else []


def first_calls(records: Iterable[dict]) -> list[str]:
    """What first calls took to compile, in this run and in processes of their own."""
    built = [
        (kernel["seconds"], kernel["name"], title(record))
        for record in records
        for kernel in record.get("fastrnn", {}).get("kernels", [])
        if not kernel["cached"]
    ]
    lines = []
    if built:
        seconds, name, where = max(built)
        late = sum(b[0] > MOST_TO_COMPILE for b in built)
        lines.append(
            f"Compiled {len(built)} kernels, many at a time: {median(b[0] for b in built):.1f} s "
            f"each (median), at most {seconds:.1f} s ({name}, {where}), {late} above "
            f"{MOST_TO_COMPILE:g} s."
        )
    for record in records:
        cold = record.get("fastrnn", {}).get("cold_start")
        if cold:
            lines.append(f"First call in a new process, {title(record)}: {_cold(cold)}")
    return lines


def _cold(cold: dict) -> str:
    if "message" in cold:
        return cold["message"]
    empty, filled = cold["empty"], cold["filled"]
    compiled = [kernel["seconds"] for kernel in empty["kernels"] if not kernel["cached"]]
    again = sum(not kernel["cached"] for kernel in filled["kernels"])
    return (
        f"{empty['first_call_seconds']:.2f} s, {len(compiled)} kernels compiled, at most "
        f"{max(compiled, default=0):.2f} s each; in the next process "
        f"{filled['first_call_seconds']:.2f} s, {again} compiled; a second call "
        f"{1e3 * filled['second_call_seconds']:.2f} ms"
    )


def capabilities(constants: dict) -> list[str]:
    """What the floor is made of."""
    if not constants:
        return []
    numbers = constants["floor"]
    products = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in numbers["flops"].items())
    clock = f"{numbers['clock'] / 1e6:.0f} MHz" if numbers["clock"] else "unknown"
    working = constants.get("clocks_at_work", {}).get("multiprocessors")
    return [
        f"Measured here: matrix products {products} TFLOP/s; copies "
        f"{numbers['bandwidth'] / 1e12:.3g} TB/s; clock up to {clock}"
        + (f", {working:.0f} MHz at work." if working else ".")
    ]


def missing(rows: Iterable[Row], left: Iterable[Row]) -> list[str]:
    """Which rows are yet to be measured: for each dtype the cases, and how many of how many."""
    every = Counter((row.dtype, row.case.name) for row in rows)
    none = Counter((row.dtype, row.case.name) for row in left)
    lines = []
    for dtype in dict.fromkeys(dtype for dtype, _ in none):
        names = [(name, count) for (kind, name), count in none.items() if kind == dtype]
        if all(none[key] == count for key, count in every.items() if key[0] == dtype):
            lines.append(f"  {dtype}: all {sum(count for _, count in names)} rows")
        else:
            some = ", ".join(f"{name} {count}/{every[dtype, name]}" for name, count in names)
            lines.append(f"  {dtype}: {some}")
    return lines
