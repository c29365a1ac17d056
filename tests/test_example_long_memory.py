"""The adding problem: its data, that LSTM and GRU learn it and an RNN does not, bad input."""

import pytest
import torch
from torch import nn

import fastrnn
from examples import long_memory
from tests.losses import assert_same

CPU = torch.device("cpu")


def test_two_steps_are_marked_one_in_each_half():
    x, y = long_memory.sequences(11, 500, torch.Generator().manual_seed(0))
    numbers, marks = x.unbind(2)
    assert x.shape == (11, 500, 2)
    assert torch.equal(marks[:5].sum(0), torch.ones(500))
    assert torch.equal(marks[5:].sum(0), torch.ones(500))
    assert marks.sum(1).min() > 0
    torch.testing.assert_close((numbers * marks).sum(0), y)
    assert (y - 1).square().mean().item() == pytest.approx(1 / 6, rel=0.15)


def test_it_is_examined_on_other_sequences_than_it_was_trained_on():
    """For the error of 1, always answered, does not depend on the model."""
    model = long_memory.Adder(fastrnn, "GRU", 20)
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.fill_(1)
    error, baseline = long_memory.examine(model, 20, 0, CPU)
    assert error == baseline == pytest.approx(1 / 6, rel=0.1)


@pytest.mark.parametrize("cell", long_memory.COLORS)
def test_both_libraries_have_the_same_losses(cell, float64):
    """In float64, since an RNN whose gradient explodes enlarges rounding a millionfold and more:
    in float32 that would show, from some seeds, in the digits that one prints."""
    assert_same(*(long_memory.train(lib, cell, 30, 100, 0, CPU)[1] for lib in (fastrnn, nn)))


@pytest.mark.slow
def test_gates_remember_where_an_rnn_does_not(device, tmp_path, capsys):
    options = ["--lengths", "100", "--steps", "450", "--out", str(tmp_path / "new")]
    figures = long_memory.main([*options, "--device", device])
    baseline = figures["error, T = 100, always answering 1"]
    assert baseline == pytest.approx(1 / 6, rel=0.1)
    assert figures["error, T = 100, RNN"] > 0.8 * baseline
    assert figures["error, T = 100, LSTM"] < 0.1 * baseline
    assert figures["error, T = 100, GRU"] < 0.1 * baseline
    out = capsys.readouterr().out
    assert "450/450" in out
    assert str(tmp_path / "new/loss.png") in out
    assert (tmp_path / "new/loss.png").stat().st_size > 10_000


def test_torch_nn_runs_it_too_for_several_lengths(tmp_path):
    """Fewer steps than the picture averages."""
    options = ["--lengths", "5", "4", "--steps", "2", "--library", "torch.nn"]
    figures = long_memory.main([*options, "--out", str(tmp_path)])
    assert len(figures) == 8
    assert (tmp_path / "loss.png").is_file()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--lengths", "100", "3"], "3 is too short, two marks need 4 steps or more"),
        (["--lengths", "long"], "invalid length value: 'long'"),
        (["--lengths"], "expected at least one argument"),
        (["--steps", "0"], "invalid positive value"),
        (["--library", "keras"], "invalid choice"),
        (["--device", "toaster"], "'toaster' cannot be used: "),
    ],
)
def test_wrong_options_end_with_code_2(options, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        long_memory.main(options)
    assert reason in capsys.readouterr().err
