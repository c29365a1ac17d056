"""The quick suite: of each test's cases so many that every value of every parameter occurs, and
none that is marked slow.

Where cases are equally good the first is taken, so the choice is the same every time, and values
are paired as on a diagonal: (a0, b0), (a1, b1), ... `pytest --full` runs every case, and so does
who names a test (`pytest tests/test_x.py::test_y`).
"""

from collections import defaultdict


def quick(items):
    """(the items of the quick suite, the others), each in their order."""
    tests = defaultdict(list)
    for item in items:
        if not item.get_closest_marker("slow"):
            tests[item.nodeid.partition("[")[0]].append(item)
    kept = {item for cases in tests.values() for item in _covering(cases)}
    return [item for item in items if item in kept], [item for item in items if item not in kept]


def _covering(cases):
    """Few of a test's cases, such that each value of a parameter occurs in one."""
    values = {case: _values(case) for case in cases}
    missing = set().union(*values.values())
    if not missing:
        return cases
    kept = []
    while missing:
        best = max(cases, key=lambda case: len(values[case] & missing))
        kept.append(best)
        missing -= values[best]
    return kept


def _values(case):
    """What each `parametrize` gives a case; the values of one mark belong together.

    By their identity: a mark gives all cases the same objects, and two lambdas look alike.
    """
    return {
        tuple((name, id(case.callspec.params[name])) for name in _names(mark))
        for mark in case.iter_markers("parametrize")
    }


def _names(mark):
    names = mark.args[0]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names
