"""`python -m fastrnn` and `python -m examples`: what there is, and how to go on."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import examples.__main__ as examples
import fastrnn
import fastrnn.__main__ as package
from tests.commands import error_of

ROOT = Path(__file__).parents[1]


def output_of(*command):
    """What `python -m` prints, from the root of the checkout."""
    command = [sys.executable, "-W", "ignore", "-m", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_package_names_versions_and_the_next_commands():
    text = output_of("fastrnn")
    assert text.startswith(f"fastrnn {fastrnn.__version__}, Python 3.")
    assert f"torch {torch.__version__}, {package.triton_version()}, {package.gpu()}\n" in text
    for name in ("explain", "diagnose"):
        assert f"fastrnn.{name}(module, x)" in text
        assert hasattr(fastrnn, name)
    assert all(len(line) <= 80 for line in text.splitlines())


def test_what_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(package, "has_triton", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert package.triton_version() == "no Triton"
    assert package.gpu() == "no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert package.gpu() == "GPU NVIDIA H200"


def test_every_example_is_listed_once():
    programs = {
        file.parent.name if file.stem == "__main__" else file.stem
        for file in (ROOT / "examples").rglob("*.py")
        if 'if __name__ == "__main__":' in file.read_text("utf-8")
    } - {"examples"}
    assert sorted(examples.NAMES) == sorted(programs)
    lines = output_of("examples").splitlines()
    for name in examples.NAMES:
        (line,) = (line for line in lines if line.split()[:1] == [name])
        summary = line.split(maxsplit=1)[1]
        assert summary[0].isupper()
        assert summary.endswith(".")


@pytest.mark.parametrize(("word", "command"), [("gates", "gates"), ("nothing", "data_flow")])
def test_a_word_too_many(word, command, capsys):
    error = error_of(examples.main, [word], capsys)
    assert error == f"error: to run an example, write python -m examples.{command}\n"
