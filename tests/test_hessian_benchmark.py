"""The benchmark of second derivatives: measured rows, and none for a wrong product."""

import json

import torch

from benchmarks import hessian
from benchmarks.cases import Case
from benchmarks.row import FAILED, OK

TINY = Case("hessian-tiny", 3, 2, 3, 4, "")


def test_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(hessian, "CASES", (TINY,))
    path, lines = tmp_path / "results.json", []
    assert hessian.main(["--rounds", "1", "--output", str(path)], lines.append) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["cell"] for row in rows.values()] == ["LSTM", "GRU"]
    for row in rows.values():
        assert row["status"] == OK
        assert row["ratio"]["median"] > 0
        assert row["native"]["peak_bytes"] > 0
    assert "ratio" in lines[-1]


def test_a_wrong_product_is_not_timed(tmp_path, monkeypatch):
    plain = hessian.product

    def wrong(module, work):
        found = plain(module, work)
        return (
            found if type(module).__module__.startswith("torch") else tuple(map(torch.neg, found))
        )

    monkeypatch.setattr(hessian, "CASES", (TINY,))
    monkeypatch.setattr(hessian, "product", wrong)
    path, lines = tmp_path / "results.json", []
    assert hessian.main(["--output", str(path)], lines.append) == 1
    rows = json.loads(path.read_text())["rows"]
    assert all(row["status"] == FAILED and "ratio" not in row for row in rows.values())
    assert "FAILED: error 2" in lines[-1]
