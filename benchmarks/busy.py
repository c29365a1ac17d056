"""Whether the machine had other things to do while it was measured, and what says so."""

from collections.abc import Iterable

from benchmarks.standing import WIDE, timed, varies, waited

# On an idle machine one row in thirty varies. Where two do, and more than one in SHARE, figures
# suffered.
SHARE = 10
# The load as a share of the cores above which programs wait for one another.
FULL = 1.25
ADVICE = (
    "Close other programs and measure again; more --rounds or fewer --threads help too. Ctrl-C "
    "stops a run, and --resume goes on with it later."
)


def report(records: Iterable[dict], environment: dict, runs: Iterable[dict]) -> tuple[str, bool]:
    """What there is to say, and whether the figures suffered.

    runs: `Results.runs`, of which the one with the highest load counts.
    """
    rows = timed(records)
    disturbed = sum(varies(row) or waited(row) for row in rows)
    own = 1 if environment["device"] == "cuda" else environment["threads"]
    loads = [run["load"] for run in runs if None not in run["load"].values()]
    load = max(loads, key=lambda load: _demand(load, own), default=None)
    facts = [
        f"in {disturbed} of {len(rows)} rows times vary by more than {WIDE:.0%} or threads "
        "waited for a core"
    ]
    if load:
        facts.insert(
            0,
            f"load average {load['start']:.1f} at the start and {load['end']:.1f} at the end, "
            f"this benchmark included, on {environment['cores']} cores",
        )
    text = "; ".join(facts)
    if load and _demand(load, own) > FULL * environment["cores"]:
        return f"This machine was busy: {text}. {ADVICE}", True
    if disturbed > max(1, len(rows) / SHARE):
        return f"These times are not steady: {text}. {ADVICE}", True
    return f"{text[0].upper()}{text[1:]}.", False


def _demand(load: dict, own: float) -> float:
    """The cores that were asked for; at the start this benchmark was yet to come."""
    return max(load["start"] + own, load["end"])
