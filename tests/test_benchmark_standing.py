"""Who was faster in a row of the benchmark: nobody, unless all that was measured says so."""

import pytest

from benchmarks import run, summary
from benchmarks.cases import CASES, FORWARD, TRAINING
from benchmarks.columns import spread, verdict
from benchmarks.means import gpu_means, means
from benchmarks.row import Row
from benchmarks.standing import FASTER, NEITHER, SAME, SLOWER, STYLES, standing
from tests.benchmarking import invented, printed


def row(cell="GRU", mode=TRAINING, device="cpu", case="tiny"):
    return Row(CASES[case], cell, mode, "float32", device, False)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (invented(row(), ratio=(0.90, 0.95, 0.96)), SLOWER),
        (invented(row(), ratio=(0.90, 0.95, 0.98)), NEITHER),
        (invented(row(), ratio=(0.03, 0.39, 0.99)), NEITHER),
        (invented(row(), ratio=(1.02, 1.50, 1.90)), NEITHER),
        (invented(row(), ratio=(1.04, 1.50, 1.90)), FASTER),
        # On a busy machine, one whose rounds all agree was off by a factor of two.
        (invented(row(), ratio=(0.57, 0.59, 0.63), waited=0.5), NEITHER),
        (invented(row(), ratio=(1.57, 1.59, 1.63), waited=0.5), NEITHER),
        (invented(row(), ratio=(0.57, 0.59, 0.63), waited=0.05), SLOWER),
        (invented(row(), ratio=(0.57, 0.59, 0.63), waited=None), SLOWER),
        # One measurement has no spread, and two have hardly any.
        (invented(row(), ratio=(0.5, 0.5, 0.5), rounds=1), NEITHER),
        (invented(row(), ratio=(1.5, 1.5, 1.5), rounds=2), NEITHER),
        (invented(row(), ratio=(1.5, 1.5, 1.5), rounds=3), FASTER),
        # As measured beside two busy processes.
        (invented(row("LSTM", FORWARD), plan="aten", ratio=(0.03, 0.39, 0.86)), SAME),
        (invented(row("LSTM"), plan="aten", ratio=(0.86, 1.72, 15.2)), SAME),
        (invented(row(device="cuda"), plan="aten", ratio=(0.4, 0.5, 0.6)), SLOWER),
    ],
)
def test_standing(record, expected):
    assert standing(record) == expected
    assert verdict(record).style == STYLES[expected]
    assert (str(spread(record)) == SAME) == (expected == SAME)


def test_of_the_same_operator_nothing_is_concluded():
    """Neither as a loss nor in a mean, however far the median is from 1."""
    alike = invented(row("LSTM"), plan="aten", ratio=(0.3, 0.4, 0.5))
    lost, wide, won = (
        invented(row("GRU"), ratio=ratio)
        for ratio in ((0.90, 0.91, 0.92), (0.50, 0.60, 1.10), (1.95, 2.0, 2.05))
    )
    assert summary.verdicts([alike, lost, wide, won]) == [
        "Rows: 4 ok; 1 faster than torch.nn and 1 slower, by more than 3% over their whole spread; "
        "1 neither; 1 run the same operator",
        "  ×0.91 (0.90-0.92) tiny GRU forward+backward float32 (torch.loop)",
    ]
    assert summary.verdicts([alike]) == [
        "Rows: 1 ok; 0 faster than torch.nn and 0 slower, by more than 3% over their whole spread; "
        "0 neither; 1 run the same operator"
    ]
    title, _, line = printed(means([alike, won, won])).strip().splitlines()
    assert title.split() == ["mean", "of", "mode", "LSTM", "GRU", "RNN"]
    assert line.split() == ["dense", "fwd+bwd", "×2.00", "±3%", "(2)"]


@pytest.mark.parametrize(
    ("ratios", "waited", "expected"),
    [
        # (0.98 · 1.5)^½ = 1.21 at the low end.
        ([(0.98, 1.0, 1.02), (1.5, 1.6, 1.7)], 0.0, ("×1.26 ±4% (2)", FASTER)),
        ([(0.98, 1.0, 1.02), (1.5, 1.6, 1.7)], 0.3, ("×1.26 ±4% (2)", NEITHER)),
        ([(0.5, 1.3, 1.4), (1.0, 1.3, 1.4)], 0.0, ("×1.30 ±41% (2)", NEITHER)),
        ([(0.5, 0.6, 0.7)], 0.0, ("×0.60 ±18% (1)", SLOWER)),
    ],
)
def test_a_mean_has_its_rows_spread(ratios, waited, expected):
    records = [invented(row(), ratio=ratio, waited=waited) for ratio in ratios]
    for table in (means(records), gpu_means(records)):
        (cell, *_) = table.columns[3 if table.columns[2].header == "LSTM" else 4].cells
        assert (str(cell), cell.style) == (expected[0], STYLES[expected[1]])


def test_packed_is_slow_if_its_quickest_rounds_are():
    rows = run.rows(
        [CASES["hydrology-64"], CASES["hydrology-64-packed"]], ["GRU"], ["float32"], "cpu", True
    )
    for p20, share in ((2.1e-3, "1.30"), (2.3e-3, "1.30!")):
        records = [invented(row) for row in rows]
        for record in records[2:]:
            seconds = {"median": 2.6e-3, "p20": p20, "p80": 3e-3}
            record["fastrnn"] = record["fastrnn"] | {"seconds": seconds}
        assert f" {share}/{share} " in printed(summary.twins(records))
