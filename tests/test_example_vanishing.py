"""Vanishing gradients: which layers have them, what clipping does, bad input."""

import math

import pytest
import torch
from torch import nn

import fastrnn
from examples import initial, vanishing
from tests.losses import assert_same

T = 60


@pytest.fixture(scope="module")
def left():
    """What is left at the first step, by the name of the layer."""
    torch.manual_seed(0)
    found = vanishing.curves(T, torch.device("cpu"))
    return {name: vanishing.memory(diagnosis) for name, diagnosis in found.items()}


@pytest.mark.parametrize(
    ("verdict", "names"),
    [
        ("vanishes", ["RNN", "RNN, relu", "GRU", "LSTM", "LSTM, forget bias 1"]),
        ("explodes", ["RNN, W_hh 4 times as large"]),
        ("reaches back", ["RNN, relu, W_hh = 1", "GRU, chrono", "LSTM, chrono"]),
    ],
)
def test_what_becomes_of_the_gradient(left, verdict, names):
    assert {name: left[name].verdict for name in names} == dict.fromkeys(names, verdict)


def test_what_helps(left):
    assert left["RNN, W_hh orthogonal"].ratio > 1e6 * left["RNN"].ratio
    assert left["LSTM, forget bias 1"].ratio > 1e3 * left["LSTM"].ratio
    assert left["LSTM, chrono"].ratio > 0.05
    assert [left[name].state for name in ("LSTM", "GRU", "RNN")] == ["c", "h", "h"]


@pytest.mark.parametrize("library", [nn, fastrnn])
def test_where_layers_begin(library):
    lstm = initial.chrono(library.LSTM(2, 50), 100)
    i, f, g, o = (lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
    assert torch.equal(i, -f)
    assert f.exp().min() >= 1
    assert 50 < f.exp().max() <= 99
    assert not g.any()
    assert not o.any()
    r, z, n = initial.chrono(library.GRU(2, 50), 100).bias_ih_l0.chunk(3)
    assert not r.any()
    assert not n.any()
    assert 50 < z.exp().max() <= 99
    lstm = initial.forget_bias(library.LSTM(2, 5), 1.0)
    assert torch.equal((lstm.bias_ih_l0 + lstm.bias_hh_l0)[5:10], torch.ones(5))
    rnn = initial.orthogonal(library.RNN(2, 5), 2.0)
    torch.testing.assert_close(rnn.weight_hh_l0 @ rnn.weight_hh_l0.t(), 4 * torch.eye(5))
    assert not rnn.bias_hh_l0.any()


def trained(library, steps, clip):
    torch.manual_seed(0)
    return vanishing.train(vanishing.Summer(library), steps, 0, clip=clip)


def test_both_libraries_have_the_same_losses(float64):
    """In float64, since an RNN whose gradient explodes enlarges rounding a millionfold and more:
    in float32 that would show, from some seeds, in the digits that one prints."""
    assert_same(*(trained(library, 100, vanishing.CLIP)[0] for library in (fastrnn, nn)))


def test_without_clipping_training_ends_at_the_first_loss_that_is_no_number():
    losses, norms = trained(fastrnn, 400, None)
    assert len(losses) == len(norms) + 1 < 400
    assert not math.isfinite(losses[-1])
    assert all(map(math.isfinite, losses[:-1]))


def test_the_whole_example(device, tmp_path, capsys):
    out = tmp_path / "new"
    options = ["--steps", "400", "--length", str(T), "--out", str(out)]
    figures = vanishing.main([*options, "--device", device])
    baseline = figures["error of always answering 0"]
    assert baseline == pytest.approx(1, rel=0.1)
    assert figures["error on held-out sums, clipped"] < 0.6 * baseline
    assert not figures["error on held-out sums, without clipping"] < baseline
    assert figures["left at the first step: RNN"] < 1e-10
    printed = capsys.readouterr().out
    assert "explodes" in printed
    for name in ("gradients.png", "clipping.png"):
        assert str(out / name) in printed
        assert (out / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--length", "1"], "1 is too short: a way back in time needs 2 steps"),
        (["--length", "long"], "invalid length value: 'long'"),
        (["--steps", "0"], "invalid positive value"),
        (["--library", "keras"], "invalid choice"),
        (["--device", "toaster"], "'toaster' cannot be used: "),
    ],
)
def test_wrong_options_end_with_code_2(options, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        vanishing.main(options)
    assert reason in capsys.readouterr().err
