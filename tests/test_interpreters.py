"""The kernels in an interpreter that is as strict as any of Triton's.

From Triton 3.9 on a mask has to be of bools. Up to Triton 3.6 `range` calls int() on an array of
shape (1,), which numpy refuses from 2.4 on.
"""

import numpy
import pytest
import torch

from tests.contract import GRU, LSTM, TANH, exercise, normal, packed, state_for, twins, widened
from tests.problems import assert_near, by_engine

pytest.importorskip("triton", reason="needs Triton")
interpreter = pytest.importorskip("triton.runtime.interpreter")
pytestmark = [
    pytest.mark.usefixtures("kernels", "strict"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU does without an interpreter"),
]
LENGTHS = [2, 3, 0, 1]
FRESH = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
FORMS = {
    "dense": {},
    "lengths": {"lengths": torch.tensor(LENGTHS)},
    "resets": {"resets": FRESH},
    "lengths and resets": {"lengths": torch.tensor(LENGTHS), "resets": FRESH},
    "packed": {},
}


@pytest.fixture
def strict(monkeypatch):
    def takes_bools(name, position):
        plain = getattr(interpreter.InterpreterBuilder, name)

        def checked(self, *args, **kwargs):
            assert args[position].data.dtype == numpy.bool_, f"{name} with a mask of integers"
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(interpreter.InterpreterBuilder, name, checked)

    takes_bools("create_masked_load", 1)
    takes_bools("create_masked_store", 2)

    def refuse(number):
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    plain = interpreter._patch_lang_tensor

    def patch(tensor, *scope):
        plain(tensor, *scope)
        tensor.__index__ = refuse

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("engine", "kind"),
    [("resident", GRU), ("step", GRU), *(("cooperative", kind) for kind in (LSTM, GRU, TANH))],
    ids=str,
)
def test_every_form_forward_and_back(engine, kind, form):
    module = twins(kind, 3, 5, bidirectional=True)[1]
    dense = normal(3, 4, 3, dtype=torch.float32)
    x = packed([2, 3, 1, 1], 3, dtype=torch.float32) if form == "packed" else dense
    hx = state_for(module, 4)
    seen = exercise(module, x, hx, by_engine(engine, **FORMS[form]))
    referee = widened(module, x, hx)
    exact = exercise(*referee, by_engine("torch.reference", **FORMS[form]))
    assert seen.keys() == exact.keys()
    assert_near(seen.values(), exact.values())
