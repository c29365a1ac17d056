"""The character RNN: it learns, it is torch.nn's twin, and no interruption loses anything."""

import math
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fastrnn
from examples.char_rnn import checkpoint, data
from examples.char_rnn.__main__ import main
from examples.char_rnn.baselines import baselines
from examples.char_rnn.compare import compare
from examples.char_rnn.model import CharRNN
from examples.char_rnn.sampling import sample
from examples.char_rnn.training import Options, Training, bits
from examples.common import CELLS
from examples.text import ALICE, UNKNOWN, Vocabulary
from tests import commands
from tests.losses import assert_same

error_of = partial(commands.error_of, main)

SMALL = ["--hidden", "12", "--window", "16", "--batch-size", "8"]  # 13 windows in WORDS
WORDS = "the cat sat on the mat; the dog, who saw it, sat on the cat.\n" * 30


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(WORDS, "utf-8")
    return path


@pytest.fixture
def train(text, tmp_path):
    """Train by the command line; the file it leaves."""

    def train(*argv, text=text, out="out", code=0):
        assert main(["train", str(text), *SMALL, "--out", str(tmp_path / out), *argv]) == code
        return tmp_path / out / "char_rnn.pt"

    return train


def saved(path):
    return torch.load(path, weights_only=True)


def equal(a, b):
    """The same values, tensors to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def interrupt(monkeypatch, *, after):
    """Ctrl-C comes in the middle of the window after so many."""
    original = nn.utils.clip_grad_norm_
    calls = []

    def clip(*args, **kwargs):
        calls.append(None)
        if len(calls) == after + 1:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip)


def test_windows_read_each_stream_on_where_it_stopped():
    ids = torch.arange(100)
    parts = data.windows(ids, 7, 4)
    assert [len(now) for now, _ in parts] == [6, 6, 6, 6]
    streams = torch.cat([now for now, _ in parts])
    assert torch.equal(streams, torch.arange(96).view(4, 24).t())
    assert torch.equal(torch.cat([after for _, after in parts]), streams + 1)


def test_baselines_are_the_entropies_they_should_be():
    ids = torch.tensor([2, 3] * 5000)
    found = baselines(ids, ids[:100], 2)
    assert found["nothing"] == 1
    assert found["letter frequencies"] == pytest.approx(1, abs=1e-3)
    assert found["the letter before"] == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("cell", CELLS)
def test_bits_carry_the_state_through_the_text(cell, monkeypatch):
    monkeypatch.setattr("examples.char_rnn.training.READERS", 1)
    model = CharRNN(fastrnn, cell, 9, 8, 2).eval()
    ids = torch.randint(9, (2500,))
    scores, _ = model(ids[:-1, None])
    whole = nn.functional.cross_entropy(scores[:, 0], ids[1:]) / math.log(2)
    assert bits(model, ids) == pytest.approx(whole.item(), rel=1e-5)


def test_it_learns_to_write(train, capsys):
    path = train("--epochs", "30", "--hidden", "32")
    words = saved(path)
    assert words["history"]["held_out"][-1] < 1
    guessing = baselines(*_halves(words), len(words["symbols"]) - 2)
    assert words["history"]["held_out"][-1] < 0.6 * guessing["the letter before"]
    out = capsys.readouterr().out
    assert "390/390" in out
    assert "guessing from the letter before" in out
    assert path.with_name("bits.png").stat().st_size > 10_000
    assert main(["sample", "--checkpoint", str(path), "--prime", "the cat", "--length", "60"]) == 0
    written = capsys.readouterr().out
    assert len(written) == len("the cat") + 60 + 1
    assert written.startswith("the cat")
    assert set(written.split()) & {"sat", "mat;", "dog,"}


def _halves(values):
    corpus = data.load(Path(values["text"]), values["window"], values["batch_size"])
    return corpus.train, corpus.held_out


@pytest.mark.parametrize("cell", CELLS)
def test_both_libraries_lose_the_same(cell):
    corpus = data.load(ALICE, 16, 8)
    options = Options(cell=cell, hidden=24, layers=2, window=16, batch_size=8)
    found = compare(options, corpus, 100, torch.device("cpu"))
    ours = found.losses["fastrnn"]
    assert_same(ours, found.losses["torch.nn"])
    assert ours[-1] < ours[0] - 0.2


def test_a_training_is_the_same_with_both_libraries(train):
    files = {
        name: train("--epochs", "9", "--library", name, out=name)
        for name in ("fastrnn", "torch.nn")
    }
    assert_same(*(saved(path)["history"]["loss"][:100] for path in files.values()))


def test_compare_prints_speeds_and_losses(text, capsys):
    assert main(["compare", str(text), *SMALL, "--steps", "7"]) == 0
    out = capsys.readouterr().out
    assert "the first 7 windows of 16 × 8" in out
    assert all(word in out for word in ("letters/s", "ratio", "RNN", "GRU", "LSTM"))


@pytest.mark.parametrize(
    ("cell", "windows"),  # in an epoch, at its end, in the next
    [("rnn", 5), ("gru", 12), ("lstm", 12), ("lstm", 19)],
)
def test_nothing_is_lost_by_an_interruption(train, monkeypatch, capsys, cell, windows):
    options = "--cell", cell, "--epochs", "3", "--layers", "2"
    whole = train(*options, out="whole")
    with monkeypatch.context() as patch:
        interrupt(patch, after=windows)
        path = train(*options, code=130)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"interrupted after window {windows + 1} of 39")
    assert f"train --resume --out {path.parent}" in err
    assert saved(path)["steps"] == windows + 1
    torch.rand(7)  # the resumed process has another state of the generator
    assert main(["train", "--resume", "--out", str(path.parent)]) == 0
    assert equal(saved(path), saved(whole))


def test_nothing_is_lost_but_what_came_after_the_last_checkpoint(train, monkeypatch):
    """A crash cannot save: the training goes on from the last checkpoint, to the same end."""
    whole = train("--epochs", "2", out="whole")
    step = Training.step

    def crash(training):
        if training.steps == 17:
            raise RuntimeError("out of memory")
        return step(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", crash)
        with pytest.raises(RuntimeError, match="out of memory"):
            train("--epochs", "2", "--save-every", "5")
    path = whole.parents[1] / "out/char_rnn.pt"
    assert saved(path)["steps"] == 15
    assert train("--resume", "--epochs", "2") == path
    assert equal(saved(path), saved(whole))


def test_ctrl_c_is_as_before_after_a_training(train):
    before = signal.getsignal(signal.SIGINT)
    train("--epochs", "1")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("cell", CELLS)
def test_the_weights_load_into_plain_torch(train, cell):
    path = train("--epochs", "1", "--cell", cell, "--layers", "2")
    values = saved(path)
    symbols, weights = len(values["symbols"]), values["state_dict"]
    rnn = getattr(nn, CELLS[cell])(symbols, values["hidden"], values["layers"])
    out = nn.Linear(values["hidden"], symbols)
    rnn.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("rnn.")})
    out.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("out.")})
    model, vocabulary = checkpoint.load(path)
    ids = vocabulary.encode("the dog").unsqueeze(1)
    x = nn.functional.one_hot(ids, symbols).float()
    torch.testing.assert_close(model(ids)[0], out(rnn(x)[0]))
    native, _ = checkpoint.load(path, torch.nn)
    assert isinstance(native.rnn, (nn.LSTM, nn.GRU, nn.RNN))
    torch.testing.assert_close(native(ids)[0], model(ids)[0])


def test_sampling_reads_on_from_its_state():
    vocabulary = Vocabulary.of([WORDS])
    model = CharRNN(fastrnn, "lstm", len(vocabulary), 16, 1).eval()
    greedy = "".join(sample(model, vocabulary, "the", length=20, temperature=0, seed=0))
    ids = vocabulary.encode(greedy)
    scores, _ = model(ids[:-1, None])
    scores[:, 0, :2] = -torch.inf
    assert torch.equal(scores[2:, 0].argmax(1), ids[3:])


def test_sampling_follows_the_temperature_and_the_seed():
    vocabulary = Vocabulary.of([WORDS])
    model = CharRNN(fastrnn, "gru", len(vocabulary), 16, 1)

    def write(temperature, seed=0):
        how = {"temperature": temperature, "seed": seed, "length": 200}
        return "".join(sample(model, vocabulary, "the", **how))

    assert write(0) == write(0, seed=1) == write(1e-30)
    assert write(1) == write(1) != write(1, seed=1)
    assert len(set(write(0))) < len(set(write(1)))
    assert UNKNOWN not in write(1e9)


def test_an_unknown_letter_in_the_prime_is_told(train, capsys):
    path = train("--epochs", "1")
    capsys.readouterr()
    assert main(["sample", "--checkpoint", str(path), "--prime", "thé çé", "--length", "5"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("thé çé")
    assert err == "note: 'é', 'ç': not in the text that was learned from, and read as unknown\n"


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"caf\xe9 " * 500, "line 1: not UTF-8"),
        (b"too short", "9 characters, 8 of them to learn from, are too few for one window of 16"),
    ],
)
def test_a_file_that_will_not_do_is_named(command, content, reason, tmp_path, capsys):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    error = error_of([command, path, *SMALL], capsys)
    assert f"{path}" in error
    assert reason in error


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert "no.txt: cannot be read" in error_of(["train", tmp_path / "no.txt"], capsys)


def test_without_a_checkpoint_the_command_that_makes_one_is_told(tmp_path, capsys):
    for argv in (
        ["sample", "--checkpoint", tmp_path / "x.pt"],
        ["train", "--resume", "--out", tmp_path],
    ):
        assert "train one: python -m examples.char_rnn train" in error_of(argv, capsys)


def test_another_shape_or_text_is_not_resumed(train, tmp_path, capsys):
    path = train("--epochs", "1")
    capsys.readouterr()
    again = ["train", "--resume", "--out", path.parent]
    error = error_of([*again, "--hidden", "13", "--cell", "gru"], capsys)
    assert "hidden is 12, asked for 13" in error
    assert "cell is lstm, asked for gru" in error
    other = tmp_path / "other.txt"
    other.write_text(WORDS.replace("cat", "cow"), "utf-8")
    assert "was trained on another text" in error_of([*again[:1], other, *again[1:]], capsys)
    values = saved(path)
    values["state_dict"]["out.bias"] = torch.zeros(3)
    torch.save(values, path)
    error = error_of(["sample", "--checkpoint", path], capsys)
    assert f"out.bias is 3, expected {len(values['symbols'])}" in error


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "warm"])
def test_a_wrong_temperature_ends_with_code_2(value, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["sample", "--temperature", value])
    assert "--temperature" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_a_wrong_rate_ends_with_code_2(value, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--rate", value])
    assert "--rate" in capsys.readouterr().err
