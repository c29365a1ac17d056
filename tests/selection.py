"""The quick suite: of each test's cases enough that every pair of its parameters' values occurs.

`pytest --full` runs every case. A file or a test that is named on the command line by its node id
(`pytest tests/test_x.py::test_y`) runs whole too: who names a test wants all of it.
"""

import itertools
from collections import defaultdict


def quick(items):
    """The items of the quick suite, in their order."""
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    kept = {item.nodeid for cases in tests.values() for item in _covering(cases)}
    return [item for item in items if item.nodeid in kept]


def _covering(cases):
    """Few of a test's cases, such that each pair of values of two parameters occurs in one."""
    pairs = {case.nodeid: _pairs(case) for case in cases}
    wanted = set().union(*pairs.values())
    if not wanted:  # less than three parameters: every case is a pair of its own
        return cases
    kept = []
    while wanted:
        best = max(cases, key=lambda case: len(pairs[case.nodeid] & wanted))
        kept.append(best)
        wanted -= pairs[best.nodeid]
    return kept


def _pairs(case):
    """The pairs of values that a case shows; none if its test has less than three parameters."""
    values = []
    for mark in case.iter_markers("parametrize"):
        names = mark.args[0]
        names = names.split(",") if isinstance(names, str) else names
        values.append(tuple((n.strip(), _name(case.callspec.params[n.strip()])) for n in names))
    return set(itertools.combinations(sorted(values), 2)) if len(values) > 2 else set()


def _name(value):
    return value.__qualname__ if callable(value) and hasattr(value, "__qualname__") else repr(value)
