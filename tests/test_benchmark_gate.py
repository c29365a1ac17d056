"""The benchmark times nobody who is less exact than torch.nn."""

import pytest
import torch

import fastrnn
from benchmarks.__main__ import main
from benchmarks.cases import FORWARD, TRAINING
from benchmarks.gate import Verdict, disagreement, judge, poisoned
from benchmarks.measure import measure
from benchmarks.row import ERROR, FAILED, OK, Row
from tests.benchmarking import SHAPES, rows_in

pytestmark = pytest.mark.usefixtures("short_blocks")


class WrongGradient(fastrnn.RNN):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return output + 0.1 * (output - output.detach()), state


class Broken(fastrnn.RNN):
    def forward(self, input, hx=None):
        raise RuntimeError("out of\nluck")


@pytest.mark.parametrize(
    ("broken", "status", "message"),
    [
        (WrongGradient, FAILED, "gradient of input: error"),
        (Broken, ERROR, "RuntimeError: out of luck"),
    ],
)
def test_who_fails_the_gate_gets_no_time(monkeypatch, tmp_path, capsys, broken, status, message):
    monkeypatch.setattr(fastrnn, "RNN", broken)
    output = tmp_path / "results.json"
    argv = ["--case", "tiny", "streaming-64", "--cell", "RNN", "GRU", "--rounds", "1"]
    assert main([*argv, "--output", str(output)]) == 1
    rows = rows_in(output)
    row = rows[f"tiny/RNN/{TRAINING}/float32"]
    assert row["status"] == status
    assert message in row["message"]
    assert "ratio" not in row
    assert "seconds" not in row.get("fastrnn", {})
    assert rows["streaming-64/GRU/forward/float32"]["status"] == OK
    assert f"{status} tiny RNN {TRAINING} float32: " in capsys.readouterr().out


def test_the_gate_lets_neither_nan_nor_another_shape_pass():
    exact = torch.ones(2, 3, dtype=torch.float64)
    good = exact.float()
    assert judge(["output"], (good,), (good,), (exact,)).complaint == ""
    assert "nan" in judge(["output"], (good,), (good * float("nan"),), (exact,)).complaint
    assert "(3, 2)" in judge(["output"], (good,), (good.T,), (exact,)).complaint
    assert "0 tensors" in judge(["output"], (good,), (), (exact,)).complaint


def test_memory_is_poisoned_for_the_gate_alone():
    with poisoned():
        assert torch.empty(3).isnan().all()
        assert torch.ones(3).new_empty(2, 2).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


class Unwritten(fastrnn.GRU):
    """Its output is right unless the memory for it was filled with NaN."""

    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        found = torch.empty_like(output)
        return torch.where(found.isnan(), found, output), state


def test_an_unwritten_element_fails_the_gate(monkeypatch):
    monkeypatch.setattr(fastrnn, "GRU", Unwritten)
    row = Row(SHAPES["streaming"], "GRU", FORWARD, "float32", "cpu", False, "torch.bptt")
    record = measure(row, 1)
    assert (record["status"], record["fastrnn"]["error"]) == (FAILED, None)
    assert record["message"].startswith("output: error nan")


def test_the_gate_tells_how_much_of_what_is_allowed_was_used():
    exact = torch.ones(4, dtype=torch.float64)
    theirs, ours = (exact * (1 + error) for error in (1e-3, 1e-3))
    verdict = judge(["output"], (theirs,), (ours,), (exact,))
    assert verdict.share == pytest.approx(0.5, rel=1e-3)
    far = Verdict(1e-3, 1e-3, "", 0.5)
    assert disagreement(["output"], (theirs,), (ours * 1.01,), far) == ""
    assert "output: 1.0e-01" in disagreement(["output"], (theirs,), (ours * 1.1,), far)
    assert disagreement(["output"], (theirs,), (ours * float("nan"),), far)
