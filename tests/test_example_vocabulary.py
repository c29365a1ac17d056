"""The vocabulary example: numbers and vectors are one and the same, any text can be read."""

import pytest
import torch

from examples import vocabulary
from examples.text import Vocabulary


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(vocabulary, "LARGE", 300)


def figures_of(out, *options):
    return vocabulary.main(["--out", str(out), "--device", "cpu", "--rounds", "2", *options])


def test_it_runs(tmp_path, capsys):
    out = tmp_path / "new"
    figures = figures_of(out)
    assert figures["characters that were not given back"] == 0
    for name in ("fastrnn", "torch.nn"):
        assert figures[f"numbers in fastrnn, vectors in {name}: apart"] < 1e-5
    assert figures["symbols"] == len(Vocabulary.load(out / "vocabulary.json"))
    assert (out / "one_hot.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "0065 0301" in printed
    assert "cat �" in printed
    assert str(out / "one_hot.png") in printed


@pytest.mark.parametrize(
    "text",
    ["a", "a\nb", "été\n", "ΑΒΓ " * 9, "猫も杓子も、" * 400, "no_space_in_any_of_these_words" * 9],
)
def test_any_text_can_be_read(tmp_path, text):
    file = tmp_path / "text.txt"
    file.write_text(text, "utf-8")
    figures = figures_of(tmp_path, str(file))
    assert figures["characters"] == len(text)
    assert figures["characters that were not given back"] == 0
    assert figures["symbols"] == len(set(text)) + 2


def test_the_picture_has_the_columns_that_were_picked():
    known = Vocabulary.of(["hello world"])
    symbols, x, w, product = vocabulary.picked("hello", known)
    assert symbols == "ehlo"
    assert x.sum(0).tolist() == [1] * 5
    for t, letter in enumerate("hello"):
        assert torch.equal(product[:, t], w[:, symbols.index(letter)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty, expected text"),
        (b"fine\n\xff", "line 2: not UTF-8"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_bad_files_are_one_line(tmp_path, content, reason, capsys):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        figures_of(tmp_path, str(file))
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}")
    assert reason in error
    assert error.count("\n") == 1


def test_nothing_is_trained_so_there_are_no_steps(capsys):
    with pytest.raises(SystemExit, match="2"):
        vocabulary.main(["--steps", "5"])
    assert "--steps" in capsys.readouterr().err
