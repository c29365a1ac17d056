"""What the rows of a benchmark come to, in few lines."""

from benchmarks import run, summary
from benchmarks.cases import CASES, TRAINING
from benchmarks.row import ERROR, UNSERVED, Row, describe
from tests.benchmarking import SHAPES


def test_what_is_left_is_named():
    rows = run.rows([CASES["tiny"], CASES["small"]], ["LSTM"], ["float32", "bfloat16"], "cpu", True)
    left = [row for row in rows if row.dtype == "bfloat16"] + [rows[0]]
    assert summary.missing(rows, left) == ["  bfloat16: all 4 rows", "  float32: tiny 1/2"]
    assert summary.missing(rows, []) == []


def test_rows_that_fail_alike_are_told_in_one_line():
    row = Row(SHAPES["last"], "RNN", TRAINING, "float32", "cpu", False)
    records = [describe(row) | {"status": UNSERVED, "message": "no"} for _ in range(3)]
    records.append(describe(row) | {"status": ERROR, "message": "out of memory"})
    assert summary.remarks(records) == [
        f"ERROR last RNN {TRAINING} float32: out of memory",
        f"n/a last RNN {TRAINING} float32 and 2 more: no",
    ]
    assert summary.verdicts(records) == ["Rows: 3 n/a, 1 ERROR"]
