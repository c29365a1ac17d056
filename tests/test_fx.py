"""torch.fx takes fastrnn's modules as it takes torch.nn's: each call is one node of the graph."""

import copy
import operator
import pickle

import pytest
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import parametrizations

import fastrnn
from tests.contract import GRU, LSTM, every_kind, normal, our_class, state_for, tensors, twins

NAMES = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"]


class Model(nn.Module):
    """A module between other operators."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, hx=None):
        results = self.inner(2 * x, hx)
        return results[0] + 1, results


def models(kind, **options):
    return tuple(Model(module) for module in twins(kind, 5, 6, dtype=torch.float64, **options))


def example(kind):
    return normal(3, 5) if "Cell" in kind.name else normal(9, 3, 5)


def nodes(graph):
    return [(n.op, n.target, list(n.kwargs)) for n in graph.graph.nodes]


def same(got, expected):
    assert all(torch.equal(*pair) for pair in zip(tensors(got), tensors(expected), strict=True))


@every_kind
def test_the_graph_is_that_of_torch_nn(kind):
    native, ours = models(kind)
    traced = fx.symbolic_trace(ours)
    assert nodes(traced) == nodes(fx.symbolic_trace(native))
    assert ("call_module", "inner", []) in nodes(traced)
    x, hx = example(kind), state_for(ours.inner, 3)
    same(traced(x, hx), ours(x, hx))
    traced(x, hx)[0].sum().backward()
    expected = [p.grad.clone() for p in ours.parameters()]
    ours.zero_grad()
    ours(x, hx)[0].sum().backward()
    same([p.grad for p in ours.parameters()], expected)


@every_kind
def test_what_becomes_of_a_graph(kind):
    model, x = models(kind)[1], example(kind)
    traced = fx.symbolic_trace(model)
    expected = model(x, None)
    for graph in (
        copy.deepcopy(traced),
        pickle.loads(pickle.dumps(traced)),
        fx.symbolic_trace(traced),
        fx.Transformer(traced).transform(),
    ):
        assert nodes(graph) == nodes(traced)
        same(graph(x, None), expected)
        assert type(graph.inner) is our_class(kind)
    same(fx.Interpreter(traced).run(x, None), expected)


@every_kind
def test_conversion_before_and_after_tracing(kind):
    native, _ = models(kind)
    x, before = example(kind), fx.symbolic_trace(native)
    expected = nodes(before)
    fastrnn.convert(native, None)
    assert nodes(fx.symbolic_trace(native)) == expected
    assert type(before.inner) is our_class(kind)
    torch.testing.assert_close(tensors(before(x, None)), tensors(native(x, None)))
    fastrnn.restore(native, None)
    assert nodes(fx.symbolic_trace(native)) == expected


def test_shapes_are_found():
    traced = fx.symbolic_trace(Model(fastrnn.LSTM(5, 6, 2)))
    ShapeProp(traced).propagate(torch.randn(9, 3, 5))
    (node,) = (n for n in traced.graph.nodes if n.op == "call_module")
    output, (h_n, c_n) = node.meta["tensor_meta"]
    assert [t.shape for t in (output, h_n, c_n)] == [(9, 3, 6), (2, 3, 6), (2, 3, 6)]


def test_arguments_that_torch_nn_lacks_are_arguments_of_the_node():
    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = fastrnn.LSTM(5, 6)

        def forward(self, ids, lengths, resets):
            output, _, cells = self.inner(
                ids, lengths=lengths, resets=resets, one_hot=True, return_cell_states=True
            )
            return output, cells

    model = Ragged()
    traced = fx.symbolic_trace(model)
    ids, lengths = torch.arange(12).view(4, 3) % 5, torch.tensor([4, 0, 2])
    resets = torch.arange(12).view(4, 3) % 4 == 1
    same(traced(ids, lengths, resets), model(ids, lengths, resets))


def test_hooks_belong_to_the_calls_and_not_to_the_graph():
    def halved(module, args):
        return (args[0] / 2, *args[1:])

    for model in models(LSTM):
        model.inner.register_forward_pre_hook(halved)
        traced = fx.symbolic_trace(model)
        assert operator.truediv not in [n.target for n in traced.graph.nodes]
        same(traced(example(LSTM)), model(example(LSTM)))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_normed_weights(norm):
    native, ours = models(GRU)
    for model in (native, ours):
        norm(model.inner, "weight_hh_l0")
    traced = fx.symbolic_trace(ours)
    assert nodes(traced) == nodes(fx.symbolic_trace(native))
    same(traced(example(GRU)), ours(example(GRU)))


def test_subclasses_are_traced_into_as_those_of_torch_nn_are():
    for base in (nn.GRU, fastrnn.GRU):

        class Doubled(base):
            def forward(self, input, hx=None):
                return super().forward(2 * input, hx)

        class Kept(fx.Tracer):
            def is_leaf_module(self, module, name):
                return isinstance(module, Doubled) or super().is_leaf_module(module, name)

        with pytest.raises(fx.proxy.TraceError, match="control flow"):
            fx.symbolic_trace(Model(Doubled(5, 6)))
        with pytest.raises(fx.proxy.TraceError, match="control flow"):
            fx.symbolic_trace(base(5, 6))
        graph = Kept().trace(Model(Doubled(5, 6)))
        assert [n.target for n in graph.nodes if n.op == "call_module"] == ["inner"]


@pytest.mark.parametrize("name", NAMES)
def test_the_classes_still_say_where_they_are(name):
    kind = getattr(fastrnn, name)
    assert kind.__module__ in ("fastrnn.modules", "fastrnn.cell_modules")
    assert repr(kind) == f"<class '{kind.__module__}.{name}'>"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for dumps in (pickle.dumps, pickle._dumps):
            assert pickle.loads(dumps(kind, protocol)) is kind
            assert type(pickle.loads(dumps(kind(2, 3), protocol))) is kind


def test_safe_loading_knows_the_classes(tmp_path):
    module = fastrnn.GRU(2, 3)
    torch.save(module, tmp_path / "module.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"fastrnn\.modules\.GRU"):
        torch.load(tmp_path / "module.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantization_finds_leaves():
    """It knows the classes that it has a quantized form for: fastrnn's stay as they are."""
    quantization = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from torch.ao.quantization import get_default_qconfig_mapping

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = fastrnn.GRU(5, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    model, x = Tagger().eval(), torch.randn(9, 3, 5)
    prepared = quantization.prepare_fx(model, get_default_qconfig_mapping(), (x,))
    assert "rnn" in [n.target for n in prepared.graph.nodes if n.op == "call_module"]
    torch.testing.assert_close(prepared(x), model(x))
