"""The examples: their data is sound, both libraries learn the same, bad input is one clear line."""

import unicodedata
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fastrnn
from examples import names_data, surname_checkpoint, surnames
from examples.common import CELLS
from examples.names_data import clean, pack, read_folder, split, vocabulary_of
from examples.surname_model import Classifier, evaluate, train
from examples.text import PADDING, UNKNOWN
from tests import commands

error_of = partial(commands.error_of, surnames.main)

NAMES = Path(__file__).parents[1] / "examples/data/names"
LANGUAGES = ["Greek", "Japanese", "Polish", "Vietnamese"]


@pytest.fixture
def folder(tmp_path):
    """Four languages of 40 names."""
    folder = tmp_path / "names"
    folder.mkdir()
    for language in LANGUAGES:
        lines = (NAMES / f"{language}.txt").read_text("utf-8").splitlines(keepends=True)
        (folder / f"{language}.txt").write_text("".join(lines[:40]), "utf-8")
    return folder


@pytest.fixture
def trained(folder, tmp_path, capsys):
    """(options, folder of what was saved) of a short training by the command line."""
    out = tmp_path / "out"
    options = ["--data", str(folder), "--out", str(out)]
    assert surnames.main([*options, "--hidden", "8", "--epochs", "2"]) == 0
    capsys.readouterr()
    return options, out


def test_data_files_are_clean():
    files = sorted(NAMES.glob("*.txt"))
    assert len(files) >= 18
    for file in files:
        text = file.read_bytes().decode("utf-8")
        names = text.splitlines()
        assert text == "\n".join(names) + "\n"
        assert len(names) >= 30, file
        assert names == sorted(set(names)), file
        for name in names:
            assert name == unicodedata.normalize("NFC", " ".join(name.split())), file
            assert all(letter.isalpha() or letter in "-' " for letter in name), name


def test_the_names_to_ask_are_in_no_data_file():
    known = {name for names in read_folder(NAMES).values() for name in names}
    assert not known & {names_data.clean(name) for name in surnames.UNSEEN}


def test_split_holds_out_the_same_share_of_each_language(folder):
    names = read_folder(folder)
    train_names, test_names = split(names, seed=1)
    assert (train_names, test_names) == split(names, seed=1)
    assert test_names != split(names, seed=2)[1]
    for language, known in names.items():
        assert sorted(train_names[language] + test_names[language]) == sorted(known)
        assert len(test_names[language]) == 6


def test_vocabulary_reads_one_name_in_one_way():
    vocabulary = vocabulary_of({"Irish": ["o'é", "o'é"], "Czech": ["ř"]})
    assert vocabulary.symbols == [PADDING, UNKNOWN, "'", "o", "é"]
    assert vocabulary.encode(clean(" O’E\N{COMBINING ACUTE ACCENT} ")).tolist() == [3, 2, 4]
    assert vocabulary.encode("ř").tolist() == [1]


@pytest.mark.parametrize("cell", CELLS)
def test_an_index_gives_the_numbers_of_the_one_hot_vector(cell):
    torch.manual_seed(0)
    native, fast = (Classifier(library, cell, 11, 16, 5).eval() for library in (nn, fastrnn))
    fast.load_state_dict(native.state_dict())
    ids = pack([torch.randint(11, (length,)) for length in (3, 1, 7, 7, 2)])
    torch.testing.assert_close(fast(ids), native(ids))


@pytest.mark.parametrize("cell", CELLS)
def test_both_libraries_learn_the_same(folder, cell):
    data = surnames.load_data(folder, seed=0)
    losses = []
    for library in (nn, fastrnn):
        torch.manual_seed(0)
        model = Classifier(library, cell, len(data.vocabulary), 32, len(data.languages))
        history = train(model, data.train, data.test, epochs=8, batch_size=16, seed=0)
        losses.append(torch.tensor([history.train_loss, history.test_loss]))
    native, fast = losses
    assert native[0, -1] < native[0, 0] - 0.2
    # The libraries sum in different orders, so a value of size 1 differs by float32 rounding, 6e-8.
    # 72 steps of Adam carry that to 2e-7 (measured, four seeds); Adam divides a gradient by its own
    # size, so that another machine's rounding may count for more.
    torch.testing.assert_close(fast, native, rtol=0, atol=1e-5)


def test_training_saves_pictures_and_a_checkpoint_that_predicts(trained, capsys):
    options, out = trained
    assert sorted(file.name for file in out.iterdir()) == [
        "confusion.png",
        "loss.png",
        "surnames.pt",
    ]
    assert surnames.main(["predict", "Satoshi", *options, "[/Nowak]"]) == 0
    satoshi, nowak = capsys.readouterr().out.splitlines()
    assert satoshi.startswith("Satoshi: ")
    assert nowak.startswith("[/Nowak]: ")
    assert satoshi.count("%") == 3


def test_the_checkpoint_loads_in_plain_torch(trained):
    _, out = trained
    path = out / surnames.CHECKPOINT
    names = ["Satoshi", "Nowak", "Nguyễn"]
    fast, native = (
        surname_checkpoint.predict(*surname_checkpoint.load(path, library), names, top=4)
        for library in (fastrnn, nn)
    )
    for guesses, expected in zip(fast, native, strict=True):
        assert dict(guesses) == pytest.approx(dict(expected), rel=1e-4)
        assert sum(dict(guesses).values()) == pytest.approx(1)
    saved = torch.load(path, weights_only=True)
    lstm = nn.LSTM(len(saved["symbols"]), saved["hidden"])
    weights = saved["state_dict"]
    lstm.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("rnn.")})


def test_evaluation_drops_nothing(folder):
    data = surnames.load_data(folder, seed=0)
    model = Classifier(fastrnn, "gru", len(data.vocabulary), 8, len(data.languages))
    first, second = (evaluate(model, data.test)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_file_that_is_not_utf8_is_named_with_its_line(folder, capsys):
    (folder / "Polish.txt").write_bytes("Nowak\nŻak\n".encode() + b"Wa\xb3\xeasa\nZaj\xb1c\n")
    message = error_of(["--data", folder], capsys)
    assert f"{folder / 'Polish.txt'}, line 3: not UTF-8" in message


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_named(folder, capsys, content):
    (folder / "Polish.txt").write_text(content)
    message = error_of(["--data", folder], capsys)
    assert f"{folder / 'Polish.txt'}: the file is empty" in message


def test_a_single_name_cannot_be_split(folder, capsys):
    (folder / "Polish.txt").write_text("Nowak\nNowak\n")
    assert "Polish.txt: only one name" in error_of(["--data", folder], capsys)


def test_a_folder_needs_two_languages(tmp_path, capsys):
    assert "no *.txt files" in error_of(["--data", tmp_path], capsys)
    (tmp_path / "Polish.txt").write_text("Nowak\nKowalski\n")
    assert "only Polish.txt" in error_of(["--data", tmp_path], capsys)


def test_an_empty_name_has_no_language(trained, capsys):
    options, _ = trained
    message = error_of(["predict", *options, "Satoshi", " "], capsys)
    assert "name 2 of 2 is empty" in message


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path, capsys):
    message = error_of(["predict", "Satoshi", "--out", tmp_path], capsys)
    assert f"{tmp_path / surnames.CHECKPOINT}: no such checkpoint" in message
    assert "python -m examples.surnames" in message


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\5\6" + bytes(18)])
def test_a_file_that_is_no_checkpoint(tmp_path, capsys, content):
    (tmp_path / surnames.CHECKPOINT).write_bytes(content)
    assert "not a checkpoint" in error_of(["predict", "Satoshi", "--out", tmp_path], capsys)


def test_a_checkpoint_of_something_else(tmp_path, capsys):
    torch.save({"weight": torch.zeros(3)}, tmp_path / surnames.CHECKPOINT)
    assert "of this example" in error_of(["predict", "Satoshi", "--out", tmp_path], capsys)


def test_a_checkpoint_of_another_shape_says_which_sizes_differ(trained, capsys):
    options, out = trained
    symbols = len(torch.load(out / surnames.CHECKPOINT, weights_only=True)["symbols"])
    message = error_of(["predict", "Satoshi", *options, "--hidden", "16"], capsys)
    assert f"rnn.weight_ih_l0 is 32×{symbols}, expected 64×{symbols}" in message
    message = error_of(["predict", "Satoshi", *options, "--cell", "gru"], capsys)
    assert "rnn.weight_hh_l0 is 32×8, expected 24×8" in message
    assert "out.weight" not in message


@pytest.mark.parametrize(
    "argv", [["predict"], ["train", "Satoshi"], ["--epochs", "0"], ["--cell", "mlp"]]
)
def test_wrong_options_end_with_code_2(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        surnames.main(argv)
    assert "error: " in capsys.readouterr().err
