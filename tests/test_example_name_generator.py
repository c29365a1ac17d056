"""Names written letter by letter: both libraries learn the same, to be told the language helps, a
judge names it, bad input is one clear line."""

import argparse
import math
from functools import partial

import pytest
import torch
from torch.nn.utils.rnn import pad_packed_sequence

import fastrnn
from examples import name_generator
from examples.common import LIBRARIES
from examples.name_generator import BATCH, NAMES, untold
from examples.name_writer import (
    BEGIN,
    END,
    LONGEST,
    Writer,
    bits_per_letter,
    framed,
    loss_of,
    write,
)
from examples.names_data import examples, pack, read_folder, split
from examples.surname_model import Classifier
from examples.text import PADDING, UNKNOWN, Vocabulary
from examples.training import train
from tests import commands
from tests.losses import assert_same

error_of = partial(commands.error_of, name_generator.main)

CPU = torch.device("cpu")
LANGUAGES = ["Armenian", "Japanese", "Polish", "Vietnamese"]


@pytest.fixture
def folder(tmp_path):
    """Four languages."""
    folder = tmp_path / "names"
    folder.mkdir()
    for language in LANGUAGES:
        (folder / f"{language}.txt").write_bytes((NAMES / f"{language}.txt").read_bytes())
    return folder


@pytest.fixture
def data(folder):
    """(vocabulary, names to learn from)."""
    names, _ = split(read_folder(folder), seed=0)
    texts = (name for known in names.values() for name in known)
    vocabulary = Vocabulary.of(texts, extra=(BEGIN, END), at_least=2)
    return vocabulary, examples(names, vocabulary)


def options(steps):
    return argparse.Namespace(steps=steps, device=CPU)


def only(figures, *words):
    """The figure whose name has these words."""
    (found,) = (value for name, value in figures.items() if all(word in name for word in words))
    return found


def test_each_letter_is_to_be_guessed_from_those_before_it(data):
    vocabulary, names = data
    batch = framed(names, vocabulary)[::50]
    model = Writer(fastrnn, len(vocabulary), len(LANGUAGES), hidden=8).eval()
    one_by_one, letters = 0.0, 0
    for e in batch:
        assert vocabulary.decode(e.ids).startswith(BEGIN)
        assert vocabulary.decode(e.ids).endswith(END)
        state = model.begin(torch.tensor([e.language]))
        for letter, following in zip(e.ids[:-1], e.ids[1:], strict=True):
            scores, state = model(letter.view(1, 1), state)
            one_by_one -= scores.flatten().log_softmax(0)[following].item()
            letters += 1
    assert loss_of(model, batch, CPU).item() == pytest.approx(one_by_one / letters, rel=1e-5)
    bits = one_by_one / letters / math.log(2)
    assert bits_per_letter(model, batch, CPU) == pytest.approx(bits, rel=1e-5)


def test_packed_letters_keep_their_names_and_languages(data):
    _, names = data
    padded, lengths = pad_packed_sequence(pack([e.ids for e in names]))
    for column, e in enumerate(names[:50]):
        assert torch.equal(padded[: lengths[column], column], e.ids)
    assert {e.language for e in untold(names)} == {0}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_written_name_has_letters_only(data, library):
    vocabulary, _ = data
    torch.manual_seed(0)
    model = Writer(LIBRARIES[library], len(vocabulary), len(LANGUAGES), hidden=8)
    asked = torch.arange(len(LANGUAGES)).repeat_interleave(30)
    names, chances = write(model, vocabulary, asked, temperature=1.5)
    assert len(names) == len(asked)
    assert chances.shape == (LONGEST, len(asked), len(vocabulary))
    for name in names:
        assert 1 <= len(name) <= LONGEST
        assert not any(symbol in name for symbol in (BEGIN, END, UNKNOWN))
    never = [vocabulary.index[symbol] for symbol in (PADDING, UNKNOWN, BEGIN)]
    assert chances[..., never].count_nonzero() == 0
    torch.testing.assert_close(chances.sum(-1), torch.ones(LONGEST, len(asked)))


def test_a_low_temperature_takes_the_likeliest_letter(data):
    vocabulary, _ = data
    torch.manual_seed(0)
    model = Writer(fastrnn, len(vocabulary), len(LANGUAGES), hidden=8)
    asked = torch.zeros(5, dtype=torch.int64)
    names, chances = write(model, vocabulary, asked, temperature=1e-5)
    assert len(set(names)) == 1
    assert chances.max(-1).values.min() > 0.9


def test_both_libraries_have_the_same_losses(data):
    vocabulary, names = data
    losses = {"writer": {}, "judge": {}}
    for name, library in LIBRARIES.items():
        torch.manual_seed(0)
        writer = Writer(library, len(vocabulary), len(LANGUAGES), hidden=16)
        judge = Classifier(library, "lstm", len(vocabulary), 16, len(LANGUAGES))
        written = framed(names, vocabulary)
        losses["writer"][name] = train(writer, loss_of, written, options(100), name, BATCH)
        judged = train(judge, name_generator.judge_loss, names, options(100), name, BATCH)
        losses["judge"][name] = judged
    for of in losses.values():
        assert_same(of["fastrnn"], of["torch.nn"])
        assert of["fastrnn"][-1] < 0.9 * of["fastrnn"][0]


def test_frequencies_are_counted_in_what_is_learnt_from(data):
    vocabulary, names = data
    framed_names = framed(names, vocabulary)
    counts = torch.bincount(torch.cat([e.ids[1:] for e in framed_names])).double()
    p = counts[counts > 0] / counts.sum()
    entropy = -(p * p.log2()).sum().item()
    bits = name_generator.frequency_bits(framed_names, framed_names, len(vocabulary))
    assert entropy < bits < 1.01 * entropy


def test_runs_and_is_better_than_its_baselines(folder, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["--languages", "Polish", "Japanese", "Armenian"]
    figures = name_generator.main(
        ["--data", str(folder), "--out", str(out), "--steps", "150", *asked]
    )
    printed = capsys.readouterr().out
    assert printed.index("│ Polish") < printed.index("│ Japanese") < printed.index("│ Armenian")
    assert "│ Vietnamese" not in printed
    for name in ("names.png", "writing.png"):
        assert name in printed
        assert (out / name).stat().st_size > 10_000
    told, not_told = only(figures, "bits per"), only(figures, "not told")
    assert told + 0.2 < not_told < only(figures, "frequency") - 0.3
    assert only(figures, "judge gives") > 0.5
    assert only(figures, "real held-out") > 0.7
    assert only(figures, "by chance") == 0.25
    assert only(figures, "that are new") > 0.5


def test_a_language_that_is_not_known(folder, capsys):
    err = error_of(["--data", folder, "--languages", "Polish", "Klingon"], capsys)
    assert "'Klingon'" in err
    assert ", ".join(LANGUAGES) in err


@pytest.mark.parametrize("temperature", ["0", "-1", "nan", "inf"])
def test_a_temperature_is_above_zero(temperature, capsys):
    assert f"--temperature {temperature}" in error_of([f"--temperature={temperature}"], capsys)


def test_a_folder_without_names(tmp_path, capsys):
    assert f"{tmp_path}: no *.txt files" in error_of(["--data", tmp_path], capsys)
