"""Whether fastrnn was faster than torch.nn in a row, as far as the measurement can tell."""

from collections.abc import Iterable

from benchmarks.clock import FEWEST_ROUNDS
from benchmarks.row import OK

# Repeated runs differ by as much.
MARGIN = 0.03
# A row varies if its 80th percentile lies this far above its 20th.
WIDE = 0.2
# The share of their time for which a row's threads may wait for a core.
WAIT = 0.1
SAME, FASTER, SLOWER, NEITHER = "same operator", "faster", "slower", "neither"
STYLES = {SAME: "dim", FASTER: "bold green", SLOWER: "bold red", NEITHER: "bold"}


def same_operator(record: dict) -> bool:
    """Whether both sides ran torch.nn's operator, so that only the call around it can differ.

    Not on a GPU: there fastrnn tells cuDNN to train, whether or not a gradient will be asked for.
    """
    ours = record.get("fastrnn", {})
    runs = (record.get("device"), ours.get("engine"), ours.get("plan"))
    return runs == ("cpu", "torch", "aten")


def standing(record: dict) -> str:
    """One of SAME, FASTER, SLOWER and NEITHER, for a row in which both libraries were timed.

    A median alone decides nothing: on a busy machine it moves further than the two sides differ.
    Nor do rounds too few for a spread. And where threads wait for a core, the side with more
    parallel loops loses more, which the spread does not show.
    """
    if same_operator(record):
        return SAME
    if record["rounds"] < FEWEST_ROUNDS or waited(record):
        return NEITHER
    return beyond(record["ratio"]["p20"], record["ratio"]["p80"])


def beyond(low: float, high: float) -> str:
    """On which side of 1 all of a span of ratios lies."""
    if low > 1 + MARGIN:
        return FASTER
    return SLOWER if high < 1 - MARGIN else NEITHER


def waited(record: dict) -> bool:
    """Whether other programs kept the row's threads waiting for a core."""
    return (record.get("waited") or 0) > WAIT


def varies(record: dict) -> bool:
    """Whether the rounds differ by more than they do on an idle machine."""
    span = record["ratio"] if "ratio" in record else record["native"]["seconds"]
    return span["p80"] > (1 + WIDE) * span["p20"]


def timed(records: Iterable[dict]) -> list[dict]:
    return [record for record in records if record["status"] == OK]


def duels(records: Iterable[dict]) -> list[dict]:
    """Those in which both libraries were timed."""
    return [record for record in records if "ratio" in record]


def compared(records: Iterable[dict]) -> list[dict]:
    """Those in which the two ran different operators."""
    return [record for record in duels(records) if not same_operator(record)]
