"""Spaces put back into a text: both libraries learn the same, looking ahead helps, bad input is one
clear line."""

import argparse
from functools import partial

import pytest
import torch

import fastrnn
from examples import tagging
from examples.common import LIBRARIES
from examples.tagging_data import packed, sentence, sentences_of, spaced
from examples.text import ALICE, Vocabulary, read_text
from examples.training import train
from tests import commands
from tests.losses import assert_same

error_of = partial(commands.error_of, tagging.main)


def options(steps):
    return argparse.Namespace(steps=steps, device=torch.device("cpu"))


def alice(count):
    """(vocabulary, the first short sentences)."""
    short = [words for words in sentences_of(read_text(ALICE)) if len(words) < 9][:count]
    vocabulary = Vocabulary.of(word for words in short for word in words)
    return vocabulary, [sentence(words, vocabulary) for words in short]


def test_a_sentence_is_its_letters_and_where_words_begin():
    (words,) = sentences_of("‘Don’t  be\nlate,’ said É-1")
    assert words == ["dont", "be", "late", "said", "é"]
    s = sentence(words, Vocabulary.of(words))
    assert s.letters == "dontbelatesaidé"
    assert s.begins.nonzero().flatten().tolist() == [0, 4, 6, 10, 14]
    assert spaced(s.letters, s.begins) == "dont be late said é"


def test_a_heading_is_a_sentence_and_a_line_break_a_space():
    text = "DOWN\n\nAlice was\nbeginning. Once; or twice?\n"
    assert [" ".join(words) for words in sentences_of(text)] == [
        "down",
        "alice was beginning",
        "once",
        "or twice",
    ]


def test_first_letters_come_first_in_a_packed_batch():
    _, data = alice(7)
    ids, begins = packed(data, torch.device("cpu"))
    assert len(ids.data) == len(begins) == sum(len(s.ids) for s in data)
    assert begins[: len(data)].all()
    assert sorted(ids.data[: len(data)].tolist()) == sorted(s.ids[0].item() for s in data)


def test_measures():
    guess = torch.tensor([True, True, False, False])
    truth = torch.tensor([True, False, True, False])
    assert tagging.measures(guess, truth) == pytest.approx((0.5, 0.5))
    assert tagging.measures(truth, truth) == (1, 1)
    assert tagging.measures(truth & False, truth) == (0.5, 0)


def test_the_rule_of_two_letters_knows_what_was_always_apart():
    texts = [["ab", "ca"], ["ab", "cab"], ["ca", "b"]]
    vocabulary = Vocabulary.of("abc")
    train_data = [sentence(words, vocabulary) for words in texts[:2]]
    # b|c always, a|b never: right in the first, and the space of the second is not found.
    share, f1 = tagging.by_pairs(train_data, train_data, len(vocabulary))
    assert (share, f1) == (1, 1)
    share, f1 = tagging.by_pairs(train_data, [sentence(texts[2], vocabulary)], len(vocabulary))
    assert (share, f1) == (0.5, 0)


def test_only_the_one_that_reads_backward_too_knows_what_comes():
    vocabulary, data = alice(1)
    ids = data[0].ids
    other = ids.clone()
    other[-1] = ids[-1] % (len(vocabulary) - 2) + 2
    device = torch.device("cpu")
    for directions, same in ((1, True), (2, False)):
        tagger = tagging.Tagger(fastrnn, len(vocabulary), directions, state=8)
        first, second = (tagging.chances(tagger, letters, device) for letters in (ids, other))
        assert torch.equal(first[:-1], second[:-1]) == same


@pytest.mark.parametrize("directions", [1, 2])
def test_both_libraries_have_the_same_losses(directions):
    vocabulary, data = alice(200)
    losses = {}
    for name, library in LIBRARIES.items():
        torch.manual_seed(0)
        tagger = tagging.Tagger(library, len(vocabulary), directions, state=16)
        losses[name] = train(tagger, tagging.loss_of, data, options(100), name, tagging.BATCH)
    assert_same(losses["fastrnn"], losses["torch.nn"])
    assert losses["fastrnn"][-1] < 0.9 * losses["fastrnn"][0]


@pytest.fixture
def short(tmp_path):
    """The beginning of the text, for a training that is over soon."""
    path = tmp_path / "short.txt"
    path.write_text(read_text(ALICE)[:30_000], "utf-8")
    return path


@pytest.mark.slow
def test_runs_and_is_better_than_its_baselines(short, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tagging, "BATCH", 12)
    out = tmp_path / "out"
    text = ["--text", "thewhiterabbit"]
    figures = tagging.main(["--file", str(short), "--out", str(out), "--steps", "180", *text])
    printed = capsys.readouterr().out
    assert "thewhiterabbit" in printed
    assert str(out / "tagging.png") in printed.replace("\n", "")
    assert (out / "tagging.png").stat().st_size > 10_000
    f1 = {name.split(", ")[1]: f1 for name, f1 in figures.items() if name.startswith("F1")}
    share = {name.split(", ")[1]: s for name, s in figures.items() if name.startswith("held-out")}
    for measure in (f1, share):
        rule, none = measure["rule of two letters"], measure["no spaces at all"]
        assert measure["reads both ways"] > measure["reads forward"] > none
        assert measure["reads both ways"] > rule


def test_what_is_to_be_segmented_has_letters(capsys):
    assert "--text '12 !'" in error_of(["--text", "rabbit", "--text", "12 !"], capsys)


def test_a_file_that_cannot_be_learnt_from(tmp_path, capsys):
    path = tmp_path / "some.txt"
    assert "no" in error_of(["--file", path], capsys).lower()
    path.write_bytes(b"")
    assert f"{path}: the file is empty" in error_of(["--file", path], capsys)
    path.write_bytes(b"caf\xe9")
    assert f"{path}, line 1: not UTF-8" in error_of(["--file", path], capsys)
    path.write_text("One. Two. Three words here.")
    assert f"{path}: only 3 sentences, expected 12" in error_of(["--file", path], capsys)
