"""What a type checker sees of fastrnn."""

import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastrnn

PROGRAM = """
from typing import assert_type

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fastrnn

x = torch.zeros(5, 3, 4)
lengths = torch.tensor([1, 2, 5])
lstm = fastrnn.LSTM(4, 6, bidirectional=True)
gru = fastrnn.GRU(4, 6, device="cpu", dtype=torch.float32)
assert_type(lstm(x), tuple[Tensor, tuple[Tensor, Tensor]])
assert_type(lstm.step(x), tuple[Tensor, tuple[Tensor, Tensor]])
assert_type(gru(x, lengths=lengths), tuple[Tensor, Tensor])
assert_type(gru(pack_sequence([x])), tuple[PackedSequence, Tensor])
assert_type(fastrnn.RNN(4, 6, 1, "relu").forward(x, x), tuple[Tensor, Tensor])
assert_type(fastrnn.LSTMCell(4, 6)(x), tuple[Tensor, Tensor])
assert_type(fastrnn.GRUCell(4, 6)(x, x), Tensor)
assert_type(fastrnn.convert(nn.Sequential(lstm)), nn.Sequential)
assert_type(fastrnn.explain(gru, x), fastrnn.Explanation)
assert_type(fastrnn.diagnose(gru, x), fastrnn.Diagnosis)
with fastrnn.restored(nn.Sequential(lstm)) as model, fastrnn.use_engine("torch"):
    assert_type(model, nn.Sequential)

fastrnn.GRU(4, 6, bidirectionl=True)  # WRONG
fastrnn.LSTM(4, "6")  # WRONG
gru(x, return_cell_states=True)  # WRONG
lstm(x, x)  # WRONG
fastrnn.functional.gru(x, None, [x], layers=2)  # WRONG
fastrnn.functional.lstm(x, None, [x], dropout="much")  # WRONG
"""


from_3_11 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="assert_type and get_overloads are of Python 3.11"
)


@from_3_11
def test_a_program(tmp_path):
    """As mypy sees one, with the mistakes in it, and none besides."""
    pytest.importorskip("mypy", reason="needs mypy")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-pretty", path.name]
    root = str(Path(fastrnn.__file__).parent.parent)
    ran = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": root}, capture_output=True, text=True
    )
    assert ran.stderr == ""
    found = {int(line.split(":")[1]) for line in ran.stdout.splitlines() if ": error:" in line}
    wrong = {n for n, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# WRONG")}
    assert found == wrong, ran.stdout


def stub_of(cls):
    """The class of that name in the stub beside its module."""
    source = Path(inspect.getfile(cls)).with_suffix(".pyi").read_text()
    source = source.replace("nn.RNNBase", "Base").replace("nn.RNNCellBase", "Base")
    names = {"__name__": "stub", "Base": type("Base", (), {})}
    exec("from __future__ import annotations\n" + source, names)
    return names[cls.__name__]


def widest(cls, method):
    """A method of a stub; if it is overloaded, the last overload, which takes all arguments."""
    for base in cls.__mro__:
        name = SimpleNamespace(__module__="stub", __qualname__=f"{base.__name__}.{method}")
        if found := typing.get_overloads(name):
            return found[-1]
    return getattr(cls, method)


def arguments(function):
    """Names and defaults."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values()}


@from_3_11
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_stubs_have_the_arguments_of_the_code(name):
    cls = getattr(fastrnn, name)
    stub = stub_of(cls)
    assert list(arguments(stub.__init__).items()) == list(arguments(cls.__init__).items())
    for method in ("forward", "step") if not name.endswith("Cell") else ("forward",):
        expected = arguments(getattr(cls, method))
        if name != "LSTM":
            expected.pop("return_cell_states", None)  # refused at run time
        assert arguments(widest(stub, method)) == expected
