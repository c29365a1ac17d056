"""torch.compile(fullgraph=True) and torch.export: one graph for all T and B, with eager numbers."""

import io

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import functional
from tests.contract import (
    DOUBLE,
    GRU,
    LSTM,
    MODULES,
    UNPROJECTED,
    cotangents,
    each_class,
    every_module,
    normal,
    state_for,
    tensors,
    twins,
)
from tests.problems import HERE, assert_near, dtype_of

pytestmark = [
    pytest.mark.usefixtures("quick", "ieee", "fresh"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*oneDNN:UserWarning"),
]
I, H = 5, 7
DEEP = {"num_layers": 2, "bidirectional": True}
# Those that a graph can ask for: torch.nn's own operators unroll a sequence, as ever.
ENGINES = [e for e in HERE if e not in ("torch.aten", "torch.cell")]
every_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function, **options):
    """The compiled function, and a list of its graphs."""
    graphs = []
    inner = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph, inputs):
        graphs.append(graph)
        return inner(graph, inputs)

    options = {"fullgraph": True, "dynamic": True, **options}
    return torch.compile(function, backend=backend, **options), graphs


def forms(T, B, device, dtype):
    """What a call may ask for beside the input."""
    lengths = torch.arange(B, device=device) * T // (B - 1)  # from none to all
    resets = (torch.arange(T * B, device=device) % 7 == 3).view(T, B)
    return {
        "plain": {},
        "lengths": {"lengths": lengths},
        "resets": {"resets": resets},
        "both": {"lengths": lengths, "resets": resets},
    }


def step(module, call, x, **asked):
    """Results and gradients of one training step, in a list."""
    x = x.detach().requires_grad_() if x.is_floating_point() else x
    hx = state_for(module, x.shape[1 - module.batch_first * 1])
    hx = tuple(s.requires_grad_() for s in hx) if isinstance(hx, tuple) else hx.requires_grad_()
    results = flat(call(x, hx, **asked))
    inputs = [t for t in (x, *tensors(hx), *module.parameters()) if t.is_floating_point()]
    return [*results, *torch.autograd.grad(results, inputs, cotangents(results))]


def flat(results):
    """The tensors of what a module returns."""
    if isinstance(results, dict):
        results = tuple(results.values())
    if isinstance(results, tuple):
        return [t for part in results for t in flat(part)]
    return [results]


def reference(module, x, **asked):
    """The same in eager code, by the formulas, in float64."""
    module = type(module)(**constructor(module)).double()
    with fastrnn.use_engine("torch.reference"):
        return module, x.double() if x.is_floating_point() else x
