"""Data flow in a cell: by hand as by the module, in both libraries; what is learned comes out."""

import pytest
import torch

import fastrnn
from examples import common, data_flow
from examples.text import ALICE, UNKNOWN, Vocabulary, read_text
from tests.losses import assert_same


def is_letter(vocabulary):
    return torch.tensor([s.isalpha() for s in vocabulary.symbols])


def figures_of(out, *options):
    return data_flow.main(["--out", str(out), "--device", "cpu", *options])


def test_a_word_begins_with_its_first_letter():
    text = "Oh, it’s an  apple!"
    vocabulary = Vocabulary.of([text])
    ids = vocabulary.encode(text).unsqueeze(1).repeat(1, 2)
    first = data_flow.first_letters(ids, is_letter(vocabulary))
    assert vocabulary.decode(first[:, 1]) == "OO, ii’s aa  aaaaa!"


@pytest.mark.parametrize("library", [fastrnn, torch.nn])
@pytest.mark.parametrize("name", data_flow.CELLS)
def test_stepped_by_hand_it_is_the_module(library, name):
    rnn = getattr(library, name)(7, 5).double()
    x = torch.randn(11, 3, 7, dtype=torch.float64)
    stepped = data_flow.by_hand(data_flow.cell_of(library, rnn), x)
    torch.testing.assert_close(stepped, rnn(x)[0], rtol=1e-12, atol=1e-14)
    assert torch.equal(data_flow.by_module(library, rnn, x), rnn(x)[0])


@pytest.mark.parametrize(("name", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_the_stations_of_a_step_are_those_of_the_cell(name, gates):
    cell = data_flow.cell_of(torch.nn, getattr(torch.nn, name)(7, 5))
    stations = data_flow.stations(cell, torch.randn(4, 3, 7))
    shapes = [t is not None and tuple(t.shape) for t in stations.values()]
    wide, state = (3, gates * 5), (3, 5)
    from_letter, from_past = [(3, 7), (gates * 5, 7), wide], [state, (gates * 5, 5), wide]
    given = [gates > 1 and state, gates == 4 and state, state, (4, 3, 5)]
    assert shapes == [*from_letter, *from_past, *given]


def test_the_same_losses_as_torch_nn():
    vocabulary = Vocabulary.of([read_text(ALICE)])
    ids = vocabulary.encode(read_text(ALICE))
    for name in data_flow.CELLS:
        losses = []
        for library in (fastrnn, torch.nn):
            torch.manual_seed(0)
            model = data_flow.Keeper(library, name, len(vocabulary), 8)
            steps = common.Steps(100, name)
            losses.append(data_flow.train(model, ids, is_letter(vocabulary), steps))
        assert_same(*losses)


def test_it_runs(tmp_path, capsys):
    figures = figures_of(tmp_path / "new", "--steps", "100")
    for name in data_flow.CELLS:
        assert figures[f"{name}, by hand and by module, fastrnn"] < 1e-5
        assert figures[f"{name}, by hand and by module, torch.nn"] < 1e-5
        right = figures[f"{name}, right answers held out"]
        assert right > 2 * figures["the most frequent answer"]
    picture = tmp_path / "new" / "states.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert str(picture) in out.replace("\n", "")
    assert "LSTMCell" in out
    assert "96×72" in out


def test_letters_that_no_text_has_can_be_read(tmp_path):
    sentence = f"猫 e\N{COMBINING ACUTE ACCENT}\n{UNKNOWN}"
    figures_of(tmp_path, "--steps", "1", "--sentence", sentence, "--library", "torch.nn")
    assert (tmp_path / "states.png").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--sentence", "a"], "--sentence has 1 letters, expected 2 to 100"),
        (["--sentence", 101 * "a"], "--sentence has 101 letters, expected 2 to 100"),
        (["--hidden", "0"], "invalid positive value"),
        (["--library", "other"], "invalid choice"),
    ],
)
def test_wrong_options_end_with_code_2(options, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        data_flow.main(options)
    assert reason in capsys.readouterr().err
