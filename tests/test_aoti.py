"""The operators as executors other than Python's call them: AOTInductor, and torch's own checks."""

import logging
import shutil

import pytest
import torch

from fastrnn.operators import layer, layer_backward
from tests.contract import GRU, LSTM, TANH, normal, state_for, tensors, twins

I, H = 5, 7
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)


class Model(torch.nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x, hx=None, lengths=None):
        return self.rnn(x, hx, lengths=lengths)


@pytest.mark.skipif(not shutil.which("g++"), reason="AOTInductor needs g++")
@pytest.mark.parametrize("full", [False, True], ids=["bare", "full"])
def test_a_package_of_aotinductor(full, tmp_path, caplog):
    """Exported, saved, loaded, compiled and loaded again; without a state, biases and lengths, and
    with all of them."""
    caplog.set_level(logging.CRITICAL)
    kind, options = (LSTM, {"num_layers": 2, "bidirectional": True}) if full else (GRU, {})
    model = Model(twins(kind, I, H, bias=full, **options)[1]).eval()
    x = normal(6, 3, I, dtype=torch.float32)
    args = (x, state_for(model.rnn, 3), torch.tensor([6, 0, 2])) if full else (x,)
    with torch.no_grad():
        torch.export.save(torch.export.export(model, args), tmp_path / "program.pt2")
        program = torch.export.load(tmp_path / "program.pt2")
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "package.pt2")
        )
        found = torch._inductor.aoti_load_package(package)(*args)
        torch.testing.assert_close(tensors(tuple(found)), tensors(model(*args)))


def test_no_list_of_the_operators_can_be_empty_or_hold_none():
    """An executor may take such a list for None. There always are weights, kept states, needs."""
    for operator in (layer, layer_backward):
        lists = [
            (a.name, str(a.type))
            for a in operator._opoverload._schema.arguments
            if "List" in str(a.type)
        ]
        allowed = [("weights", "List[Tensor]"), ("kept", "List[Tensor]"), ("needs", "List[bool]")]
        assert [entry for entry in allowed if entry in lists] == lists


@pytest.mark.parametrize("kind", [LSTM, GRU, TANH], ids=str)
@pytest.mark.parametrize("keep", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("full", [False, True], ids=["bare", "full"])
def test_the_operators_pass_torchs_checks(kind, keep, full):
    module = twins(kind, I, H, bias=full, bidirectional=full)[1]
    x = normal(4, 3, I, dtype=torch.float32).requires_grad_(keep)
    weights = list(module.requires_grad_(keep).parameters())
    h_0, c_0 = (*tensors(state_for(module, 3) if full else None), None, None)[:2]
    lengths = torch.tensor([4, 0, 2]) if full else None
    resets = torch.arange(12).view(4, 3) % 5 == 2 if full else None
    settings = (module.mode, "auto", "ieee", "save", 2 if full else 1)
    checks = torch.library.opcheck(
        layer, (*settings, x, h_0, c_0, weights, lengths, resets, keep, False)
    )
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (0, 1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_only_some_gradients_of_a_graph(kind, needed):
    """Of x, h_0, c_0 and some weights: those that are not needed have no place in the results."""
    module = twins(kind, I, H, dtype=torch.float64)[1]
    inputs = [normal(4, 3, I), *tensors(state_for(module, 3))]
    if kind is GRU:
        needed = tuple(n - (n > 1) for n in needed if n != 2) or (0,)
    chosen = [*inputs, *module.parameters()]
    module.requires_grad_(False)
    chosen = [chosen[n].requires_grad_() for n in needed]

    def call(x, *states):
        return module(x, states if len(states) > 1 else states[0])[0].square().sum()

    graph = torch.compile(call, backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(f(*inputs), chosen) for f in (graph, call)]
    torch.testing.assert_close(*found)
    torch.compiler.reset()
