"""Text as data: decoded is what was encoded, loaded is what was saved, bad files are one line."""

import json
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

import fastrnn
from examples.common import UserError
from examples.text import ALICE, PADDING, UNKNOWN, Vocabulary, normal, read, read_text


def composed(text):
    return unicodedata.normalize("NFC", text)


@given(st.text())
def test_decode_gives_back_what_was_encoded(text):
    vocabulary = Vocabulary.of([text])
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64
    assert ids.shape == (len(composed(text)),)
    assert vocabulary.decode(ids) == composed(text)


@given(st.text(), st.text())
def test_what_is_unknown_is_marked_and_nothing_else_changes(known, text):
    vocabulary = Vocabulary.of([known])
    kept = set(composed(known))
    expected = "".join(c if c in kept else UNKNOWN for c in composed(text))
    assert vocabulary.decode(vocabulary.encode(text)) == expected


@given(text=st.text())
def test_what_is_saved_is_loaded(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("saved") / "vocabulary.json"
    vocabulary = Vocabulary.of([text], extra=["<end>"])
    vocabulary.save(path)
    assert Vocabulary.load(path).symbols == vocabulary.symbols


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_padding_is_nothing_when_it_is_decoded(texts):
    vocabulary = Vocabulary.of(texts)
    batch = pad_sequence([vocabulary.encode(text) for text in texts])
    for text, ids in zip(texts, batch.unbind(1), strict=True):
        assert vocabulary.decode(ids) == composed(text)


def test_saving_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "vocabulary.json"
    Vocabulary.of(["abc"]).save(path)
    assert Vocabulary.load(path).symbols == [PADDING, UNKNOWN, "a", "b", "c"]


def test_a_letter_in_two_writings_is_one_symbol():
    vocabulary = Vocabulary.of(["cafe\N{COMBINING ACUTE ACCENT}", "café"])
    assert vocabulary.symbols == [PADDING, UNKNOWN, "a", "c", "f", "é"]
    assert vocabulary.decode(vocabulary.encode("e\N{COMBINING ACUTE ACCENT}")) == "é"


def test_rare_characters_can_be_left_out_and_symbols_added():
    vocabulary = Vocabulary.of(["aab", "b" + UNKNOWN + "c"], extra=["<end>"], at_least=2)
    assert vocabulary.symbols == [PADDING, UNKNOWN, "<end>", "a", "b"]
    assert len(vocabulary) == 5
    assert vocabulary.encode("abc").tolist() == [3, 4, 1]


@pytest.mark.parametrize(
    "symbols",
    [
        [],
        ["a", "b"],
        [UNKNOWN, PADDING],
        [PADDING, UNKNOWN, "a", "a"],
        [PADDING, UNKNOWN, "e\N{COMBINING ACUTE ACCENT}"],
    ],
)
def test_symbols_that_make_no_vocabulary(symbols):
    with pytest.raises(ValueError, match="symbols must"):
        Vocabulary(symbols)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty, expected text"),
        (b" \n\t\n", "the file is empty, expected text"),
        (b"fine\n\xff\xfe", "line 2: not UTF-8 (invalid start byte); save it as UTF-8"),
        ("Grüße\n".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
@pytest.mark.parametrize("reader", [read_text, Vocabulary.load])
def test_files_that_are_no_text(tmp_path, reader, content, reason):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        reader(path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "Once upon a time",
        "5",
        "null",
        json.dumps("a text"),
        json.dumps({PADDING: 0, UNKNOWN: 1}),
        json.dumps(["a", "b"]),
        json.dumps([PADDING, UNKNOWN, 7]),
        json.dumps([PADDING, UNKNOWN, ["a"]]),
        json.dumps([PADDING, UNKNOWN, "a", "a"]),
        "[" * 100_000,
    ],
)
def test_files_that_are_no_vocabulary(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_text(content, "utf-8")
    with pytest.raises(UserError, match="not a vocabulary that was saved") as error:
        Vocabulary.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_text_is_brought_into_one_form(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes("\N{BYTE ORDER MARK}e\N{COMBINING ACUTE ACCENT}\r\nb\n".encode())
    assert read_text(path) == "é\nb\n"
    assert normal(read_text(ALICE)) == read_text(ALICE)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("packed", [False, True])
def test_both_libraries_read_letters_alike(cell, packed):
    ours = getattr(fastrnn, cell)(7, 5).double()
    theirs = getattr(torch.nn, cell)(7, 5).double()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(7, (6, 3))
    if packed:
        ids = pack_padded_sequence(ids, [6, 4, 1])
    outputs = [read(rnn, ids)[0] for rnn in (ours, theirs)]
    a, b = [output.data if packed else output for output in outputs]
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
