"""What the benchmark prints: whole at every width, and explained where it stands."""

import re
from pathlib import Path

import pytest

import benchmarks
from benchmarks import report, run
from benchmarks.cases import CASES, suite
from benchmarks.results import Results
from benchmarks.row import NATIVE, UNSERVED, Row, describe
from tests.benchmarking import ENVIRONMENT, heading, invented, lines_at, shown

KEPT = sorted((Path(benchmarks.__file__).parent / "results").glob("*.json"))
ROWS = run.rows(
    [CASES[name] for name in ("tiny", "streaming-512-by-4", "last-step-200")],
    ["LSTM", "GRU"],
    ["float32"],
    "cpu",
    False,
)
EXPECTED = """\
                                    torch.nn  fastrnn
 case                cell  mode           ms       ms  speed-up         spread
 ─────────────────────────────────────────────────────────────────────────────
 tiny                LSTM  fwd          2.00     2.00     ×1.01  same operator
 tiny                LSTM  fwd+bwd      2.00     2.00     ×0.50      0.40-0.60
 tiny                GRU   fwd          2.00     2.00    ×27.71    27.32-28.20
 tiny                GRU   fwd+bwd                          n/a

 streaming-512-by-4  LSTM  fwd          2.00     2.00     ×0.50      0.40-0.60
 streaming-512-by-4  GRU   fwd          2.00     2.00     ×0.50      0.40-0.60

 last-step-200       LSTM  fwd+bwd      2.00     2.00     ×0.50      0.40-0.60
 last-step-200 *     LSTM  fwd+bwd      2.00     2.00     ×0.50      0.40-0.60
 last-step-200       GRU   fwd+bwd      2.00     2.00     ×0.50      0.40-0.60
 last-step-200 *     GRU   fwd+bwd      2.00     2.00     ×0.50      0.40-0.60

Times are medians. Speed-up: the median over all rounds of torch.nn's time /
fastrnn's; coloured if the whole spread is more than 3% away from 1 and threads
did not wait for a core. Spread: the 20th to 80th percentile of the rounds. Same
operator (grey): torch.nn's on both sides, so the row decides nothing. * With
torch.set_flush_denormal(True).
n/a tiny GRU forward+backward float32: no

 mean of      mode               LSTM             GRU  RNN
 ─────────────────────────────────────────────────────────
 dense        fwd+bwd  ×0.50 ±22% (1)
 dense        fwd                      ×27.71 ±2% (1)
 streaming    fwd      ×0.50 ±22% (1)  ×0.50 ±22% (1)
 last step    fwd+bwd  ×0.50 ±22% (1)  ×0.50 ±22% (1)
 last step *  fwd+bwd  ×0.50 ±22% (1)  ×0.50 ±22% (1)

Mean: the geometric mean of the rows' speed-ups. ±: half of their spread. In
brackets: how many rows, without those of the same operator.
"""


def of(records: dict[str, dict], **environment) -> Results:
    results = Results(Path("results.json"), ENVIRONMENT | environment)
    results.rows = records
    return results


def test_at_80_columns():
    records = {row.key: invented(row) for row in ROWS}
    keys = list(records)
    records[keys[0]] = invented(ROWS[0], plan="aten", ratio=(0.9, 1.01, 1.1))
    records[keys[2]] = invented(ROWS[2], ratio=(27.32, 27.71, 28.20))
    records[keys[3]] = describe(ROWS[3]) | {"status": UNSERVED, "message": "no"}
    lines = "".join(f"{line.rstrip()}\n" for line in shown(of(records), 80).splitlines())
    assert lines.partition("Compiled")[0].strip("\n") == EXPECTED.strip("\n")


@pytest.mark.parametrize("width", [80, 100, 120, 220])
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_nothing_is_cut(path, width):
    results = Results.load(path)
    text = shown(results, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    rows = text.partition("─ \n")[2].splitlines()
    for record in results.rows.values():
        name = record["case"] + (" *" if "flushed" in record["kind"] else "")
        start = f" {re.escape(name)} +{record['cell']} "
        ratio = f" ×{record['ratio']['median']:.2f} "
        assert any(re.match(start, row) and ratio in row for row in rows), (name, record["cell"])


HEADINGS = {
    80: "torch.nn fastrnn | case cell mode ms ms speed-up spread",
    100: "torch.nn fastrnn | case cell mode ms ms speed-up spread engine",
    120: "torch.nn fastrnn torch.nn fastrnn | case cell mode ms ms speed-up spread engine MB MB",
    220: "torch.nn fastrnn torch.nn fastrnn torch.nn fastrnn error / "
    "| case cell mode ms ms speed-up spread engine MB MB error error allowed",
}


@pytest.mark.parametrize("width", HEADINGS)
def test_a_wider_terminal_shows_more(width):
    assert heading(shown(Results.load(KEPT[0]), width)) == HEADINGS[width]


@pytest.mark.parametrize("engine", [None, NATIVE])
@pytest.mark.parametrize("width", [80, 120, 220])
def test_nothing_is_cut_of_a_gpus(width, engine):
    dtypes = ["tf32", "bfloat16", "float32", "float16"]
    rows = run.rows(suite("gpu", "cuda"), None, dtypes, "cuda", False, engine or "auto")
    floor = {"floor": {"seconds": 1e-3, "bound": "latency"}}
    records = {row.key: invented(row, ratio=(10.4, 12.5, 13.6), **floor) for row in rows}
    text = shown(of(records, device="cuda", engine=engine), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("\n forecasting-projected ") >= len(dtypes) * 2


def test_a_terminal_too_narrow_folds_lines():
    records = {row.key: invented(row) for row in ROWS}
    text = shown(of(records), 44)
    assert "…" not in text
    letters = "".join(text.split())
    for name in ("streaming", "512", "by-4", "fwd+b"):
        assert name in letters


def test_titles_on_show_are_explained():
    """And no others."""
    records = {row.key: invented(row, plan="loop") for row in ROWS[:2]}
    records = {key: record | {"kind": "dense"} for key, record in records.items()}
    narrow, wide = (" ".join(shown(of(records), width).split()) for width in (80, 220))
    for words in ("MB: torch's peak", "MB ?:", "Error: the largest"):
        assert words in wide
        assert words not in narrow
    for words in ("Same operator", "* With"):
        assert words not in wide
    for riddle in ("→", "first ms", "(24%)"):
        assert riddle not in wide


def test_what_is_measured_in_a_pipe_is_told_row_by_row():
    row = Row(CASES["tiny"], "LSTM", "forward", "float32", "cpu", False)
    lines = lines_at(220)
    with report.Live(lines, [row, row]) as live:
        live.finished(row, invented(row, plan="aten", ratio=(0.3, 0.39, 0.8)))
        live.finished(row, invented(row, ratio=(0.3, 0.39, 0.8)))
    first, second = (line for line in lines.file.getvalue().splitlines() if " of 2 " in line)
    assert first.endswith("tiny/LSTM/forward/float32  ".ljust(51) + "×0.39  same operator")
    assert second.endswith("×0.39")
