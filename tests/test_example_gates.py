"""Gates and roles: the gates make the states, the scores are what they say, a role is found."""

import pytest
import torch
from matplotlib.figure import Figure

import fastrnn
from examples import gates, heat_maps, roles
from examples.text import ALICE


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A few pages."""
    path = tmp_path_factory.mktemp("book") / "pages.txt"
    path.write_text(ALICE.read_text("utf-8")[:24_000], "utf-8")
    return path


def figures_of(out, book, *options):
    small = ["--text", str(book), "--device", "cpu", "--hidden", "12", "--epochs", "1"]
    return gates.main(["--out", str(out), *small, *options])


def test_the_gates_of_an_lstm_make_the_states_of_torch_nn():
    ours = fastrnn.LSTM(7, 5, num_layers=2).double()
    theirs = torch.nn.LSTM(7, 5, num_layers=2).double()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(7, (11,))
    found = gates.activations(ours, ids)
    assert list(found) == ["i", "f", "g", "o", "tanh(c)"]
    output, (_, c_n) = theirs(torch.nn.functional.one_hot(ids, 7).double())
    c = torch.zeros(5, dtype=torch.float64)
    for t in range(11):
        i, f, g, o, shown = (found[name][t] for name in found)
        c = f * c + i * g
        torch.testing.assert_close(c.tanh(), shown)
        torch.testing.assert_close(o * c.tanh(), output[t])
    torch.testing.assert_close(c, c_n[-1])


def test_the_gates_of_a_gru_make_the_states_of_torch_nn():
    ours, theirs = fastrnn.GRU(7, 5).double(), torch.nn.GRU(7, 5).double()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(7, (11,))
    found = gates.activations(ours, ids)
    assert list(found) == ["r", "z", "n", "h"]
    output, _ = theirs(torch.nn.functional.one_hot(ids, 7).double())
    before = torch.cat([torch.zeros(1, 5), output[:-1]])
    torch.testing.assert_close((1 - found["z"]) * found["n"] + found["z"] * before, output)
    torch.testing.assert_close(found["h"], output)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("a ‘b’ c", "..===.."),
        ("‘it’s’ x", "======.."),
        ("‘’Tis so,’ he", "==========..."),
        ("don’t ‘go.’", "......====="),
        ("“a” b", "===.."),
        ("‘a\n\nb ‘c’", "===...==="),
    ],
)
def test_what_is_in_a_quotation(text, marks):
    assert "".join("=" if inside else "." for inside in roles.in_quotation(text)) == marks


def test_the_other_roles():
    assert roles.in_brackets("a (b) c(") == [k in (2, 3, 4, 7) for k in range(8)]
    assert roles.in_line("ab\nc") == [1, 2, 0, 1]
    assert roles.in_word("ab\nc d") == [1, 2, 0, 1, 0, 1]
    assert roles.upper_case("aBÉ.") == [False, True, True, False]


def test_ranking_is_the_share_of_pairs_in_order():
    values, truth = torch.randn(40, 3), torch.rand(40) < 0.3
    pairs = values[truth].unsqueeze(1) > values[~truth]
    area = roles.ranking(roles.ranks(values), truth)
    torch.testing.assert_close(area, pairs.double().mean((0, 1)))


def test_correlation_is_that_of_torch():
    values, truth = torch.randn(40, 3), torch.randn(40)
    expected = torch.corrcoef(torch.cat([truth.unsqueeze(0), values.t()]))[0, 1:]
    found = roles.correlation(values, truth)
    torch.testing.assert_close(found.float(), expected)
    assert roles.correlation(torch.ones(40, 1), truth).item() == 0


def test_a_unit_with_a_role_is_found_and_scored_on_other_text():
    text = "Abc (de) ‘f g’ hij, Klm.\n" * 20
    values = torch.randn(len(text), 6)
    inside = torch.tensor(roles.in_quotation(text)).float()
    values[:, 4] = -inside + 0.1 * values[:, 4]
    values[:, 2] = torch.tensor(roles.in_line(text))
    found = roles.find(values, text, 250)
    assert list(found) == list(roles.ROLES)
    assert found["in a quotation"][:3] == (4, -1, "AUC")
    assert found["in a quotation"].value == 1
    assert found["place in the line"][:3] == (2, 1, "correlation")
    assert found["place in the line"].value == pytest.approx(1)
    # What holds in the first part alone earns nothing in the other.
    values[250:, 4] = torch.randn(len(text) - 250)
    assert roles.find(values, text, 250)["in a quotation"].value < 0.7


def test_a_role_that_the_text_lacks_is_left_out():
    text = "no sign at all" * 4 + "\nno"
    found = roles.find(torch.randn(len(text), 2), text, 30)
    assert list(found) == ["place in the line", "letters since a space"]


def test_lines_that_tell_something_are_chosen():
    text = "aaa\nbbb\nC c\nddd\n"
    assert text[roles.telling("upper case", text, 1)] == "C c\n"
    assert text[roles.telling("upper case", text, 9)] == text


@pytest.mark.parametrize(("cell", "library"), [("lstm", "fastrnn"), ("gru", "torch.nn")])
def test_it_runs(tmp_path, book, cell, library, capsys):
    figures = figures_of(tmp_path, book, "--cell", cell, "--library", library)
    assert 0.3 < figures["in a quotation, AUC held out"] < 1
    assert 0.3 < figures["in a quotation, AUC untrained"] < 1
    for name in ("gates", "roles"):
        assert (tmp_path / f"{cell}_{name}.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out.replace("\n", "")
    assert str(tmp_path / f"{cell}.pt") in out
    again = figures_of(tmp_path, book, "--checkpoint", str(tmp_path / f"{cell}.pt"))
    assert again == figures


@pytest.mark.slow
def test_a_trained_unit_tells_quotations(tmp_path):
    """The stated result at a small size."""
    figures = figures_of(tmp_path, ALICE, "--cell", "gru", "--hidden", "48", "--epochs", "3")
    assert figures["in a quotation, AUC held out"] > figures["in a quotation, AUC untrained"] + 0.1


def test_coloured_text_breaks_long_lines_and_draws_signs_that_fonts_lack():
    axes = Figure().subplots()
    text = "ab\n" + 80 * "c" + " 猫\t"
    ground = heat_maps.coloured_text(axes, text, torch.linspace(-1, 1, len(text))).get_array()
    assert ground.shape == (3, 72)
    assert ground.mask.sum() == 70 + 0 + 72 - 11
    assert [shown.get_text() for shown in axes.texts][-2:] == ["□", "⇥"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--sentence", "a"], "--sentence has 1 letters, expected 2 to 100"),
        (["--checkpoint", "none.pt"], "none.pt: no such checkpoint, train one: "),
        (["--checkpoint", str(ALICE)], "alice.txt: not a checkpoint"),
        (["--text", "none.txt"], "none.txt: cannot be read"),
    ],
)
def test_bad_input_is_one_line(tmp_path, book, options, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        figures_of(tmp_path, book, *options)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty, expected text"),
        (b"fine\n\xff", "line 2: not UTF-8"),
        (b"Too short.", "10 characters are too few to learn from; take a text of"),
    ],
)
def test_bad_texts_are_one_line(tmp_path, content, reason, capsys):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        figures_of(tmp_path, path)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert reason in error
    assert error.count("\n") == 1
