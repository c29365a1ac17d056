"""`use_memory("recompute")`: the backward pass works the gates out anew, with the same numbers."""

import pytest
import torch

from tests.contract import GRU, LSTM, UNPROJECTED, normal, state_for, twins
from tests.problems import ENGINES, assert_right, by_engine, graph, move, some_input

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("kernels")
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_form = pytest.mark.parametrize("form", ["dense", "packed", "padded"])


@every_engine
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
@every_form
def test_recomputed_gates(kind, engine, form, device):
    pair = twins(kind, 3, 6, bidirectional=True)
    x, lengths = some_input(form, device)
    call = by_engine(engine, lengths, "recompute")
    lengths = None if lengths is None else lengths.cpu()
    assert_right(pair, call, move(x, "cpu"), state_for(pair[0], 4), device, lengths)


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_recomputed_gates_in_half_precision(kind, engine, dtype, device):
    pair = twins(kind, 3, 6, num_layers=2, dtype=dtype)
    x = normal(3, 4, 3, dtype=dtype)
    assert_right(pair, by_engine(engine, memory="recompute"), x, state_for(pair[0], 4), device)


@every_engine
def test_recomputed_gates_of_weights_with_strides(engine, device):
    native, ours = twins(GRU, 3, 6)
    for parameter in ours.parameters():
        parameter.data = torch.stack([parameter.detach()] * 2, -1)[..., 0]
    x = normal(3, 4, 3, dtype=torch.float32)
    assert_right((native, ours), by_engine(engine, memory="recompute"), x, None, device)


@every_engine
def test_recompute_keeps_no_gates(engine, device):
    """Saved are x, the parameters and the states; of all gates nothing."""
    kept = {}
    for memory in ("save", "recompute"):
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(_noting(seen), lambda t: t):
            graph(LSTM, engine, memory, "dense", device)
        kept[memory] = {tuple(t.shape) for t in seen}
    gates = (1, 12, 4, 6)
    assert gates in kept["save"]
    assert gates not in kept["recompute"]
    assert kept["recompute"] < kept["save"]


def _noting(seen):
    def pack(tensor):
        seen.append(tensor)
        return tensor

    return pack
