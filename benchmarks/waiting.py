"""How long threads that could have run waited for a core: what other programs do to a measurement.

A load average tells of the last minute and of the whole machine; this tells of one row.
"""

from pathlib import Path

TASKS = Path("/proc/self/task")


def scheduled() -> dict[str, tuple[int, int]]:
    """For each thread of this process, the nanoseconds that it ran and that it waited for a core.

    {} where the system does not tell; Linux does.
    """
    times = {}
    try:
        for task in TASKS.iterdir():
            ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
            times[task.name] = int(ran), int(waited)
    except (OSError, ValueError):
        return {}
    return times


def share_waited(before: dict, after: dict) -> float | None:
    """The time waited between two answers of `scheduled`, as a share of that and the time run."""
    both = before.keys() & after.keys()
    ran, waited = (sum(after[name][k] - before[name][k] for name in both) for k in (0, 1))
    return waited / (ran + waited) if ran else None
