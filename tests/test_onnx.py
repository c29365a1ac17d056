"""torch.onnx.export gives ONNX's own LSTM, GRU and RNN, with the numbers of the module.

One export takes seconds, so a model holds many modules and calls, and is run with other sizes of
T and B than it was exported with.
"""

import io
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import onnx_export
from tests.contract import CELLS, LSTM, MODULES, PROJECTED, RELU, UNPROJECTED, tensors, twins

WHY = "the exporter needs onnx and onnxscript, its check onnxruntime"
onnx = pytest.importorskip("onnx", reason=WHY)
pytest.importorskip("onnxscript", reason=WHY)
onnxruntime = pytest.importorskip("onnxruntime", reason=WHY)

# torch's own, about what it does itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
older = pytest.mark.filterwarnings(
    "ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning",
    "ignore:The feature will be removed:DeprecationWarning",
    "ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning",
    "ignore:Exporting a model to ONNX with a batch_size other than 1:UserWarning",
)

I, H = 3, 4
ANY = torch.export.Dim.DYNAMIC
SHALLOW = {"bias": False}
DEEP = {"num_layers": 2, "bidirectional": True, "batch_first": True}


class Calls(nn.Module):
    """Every module, with and without a state and lengths. x (T, B, I), state (4, B, H)."""

    def __init__(self, modules, forms=((False, False), (True, False), (False, True), (True, True))):
        super().__init__()
        self.several = nn.ModuleList(modules)
        self.forms = forms

    def forward(self, x, state, lengths):
        results = []
        for module in self.several:
            given = x.transpose(0, 1) if module.batch_first else x
            states = state[: module.num_layers * (2 if module.bidirectional else 1)]
            hx = states[..., : module.proj_size or H]
            hx = (hx, -states) if module.mode == "LSTM" else hx
            for with_state, with_lengths in self.forms:
                options = {"lengths": lengths} if with_lengths else {}
                results += tensors(module(given, hx if with_state else None, **options))
        return results


def problem(T, lengths):
    return torch.randn(T, len(lengths), I), torch.randn(4, len(lengths), H), torch.tensor(lengths)


def export(model, *args, shapes=None):
    return torch.onnx.export(
        model.eval(), args, dynamo=True, dynamic_shapes=shapes, verbose=False
    ).model_proto


def operators(proto):
    return Counter(node.op_type for node in proto.graph.node)


def assert_runs_alike(model, proto, *args, rtol=1e-5, atol=1e-5):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    got = session.run(None, {n: t.numpy() for n, t in zip(names, args, strict=True)})
    with torch.no_grad():
        expected = tensors(model(*args))
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", MODULES, ids=str)
def test_every_call_in_onnx_operators(kind):
    model = Calls([twins(kind, I, H, **options)[1] for options in (SHALLOW, DEEP)])
    proto = export(model, *problem(5, [5, 2]), shapes=({0: ANY, 1: ANY}, {1: ANY}, {0: ANY}))
    seen = operators(proto)
    assert seen[kind.name] == 4 * (1 + 2), "a node for each layer of each call"
    assert not seen.keys() & {"Loop", "Scan", "If", "Sigmoid", "Tanh", "Relu"}
    assert_runs_alike(model, proto, *problem(7, [3, 0, 7, 1]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PROJECTED, UNPROJECTED[1]], ids=str)
def test_an_example_of_one_step_of_one_sequence(kind):
    """torch is inclined to take a size of 1 for one that never changes."""
    model = Calls([twins(kind, I, H, num_layers=2, bidirectional=True)[1]])
    proto = export(model, *problem(1, [1]), shapes=({0: ANY, 1: ANY}, {1: ANY}, {0: ANY}))
    assert_runs_alike(model, proto, *problem(6, [2, 6, 0]))


def test_a_layer_is_a_node():
    """With T and B as in the example, and weights that are small enough for torch to reorder."""
    model, x = twins(LSTM, I, H)[1], torch.randn(4, 2, I)
    proto = export(model, x)
    assert operators(proto) == {"LSTM": 1, "Squeeze": 1}
    assert_runs_alike(model, proto, x)


def test_large_weights_are_reordered_once(tmp_path):
    """torch leaves that to the graph; onnxruntime does it when it loads the model."""
    model, x = twins(LSTM, 64, 128)[1], torch.randn(4, 2, 64)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path := tmp_path / "model.onnx")
    onnxruntime.InferenceSession(export(model, x).SerializeToString(), options)
    assert operators(onnx.load(path)) == {"LSTM": 1, "Squeeze": 1}


def test_padding_is_not_read():
    model = Calls([twins(RELU, I, H, **DEEP)[1]], forms=[(True, True)])
    proto = export(model, *problem(5, [5, 2]), shapes=({0: ANY, 1: ANY}, {1: ANY}, {0: ANY}))
    x, state, lengths = problem(6, [2, 0, 6])
    x[torch.arange(6)[:, None] >= lengths] = torch.nan
    assert_runs_alike(model, proto, x, state, lengths)


class Forms(nn.Module):
    """Indices (T, B) for three kinds, and a single sequence x (T, I), with a state and without."""

    def __init__(self):
        super().__init__()
        self.several = nn.ModuleList(twins(kind, I, H, **DEEP)[1] for kind in UNPROJECTED)

    def forward(self, indices, x, state):
        results = []
        for module in self.several:
            hx = (state, -state) if module.mode == "LSTM" else state
            results += tensors(module(indices.t(), one_hot=True))
            results += tensors(module(x)) + tensors(module(x, hx))
        return results


@pytest.mark.slow
def test_indices_and_single_sequences():
    def example(T, B):
        return torch.randint(I, (T, B)), torch.randn(T, I), torch.randn(4, H)

    model = Forms()
    proto = export(model, *example(4, 2), shapes=({0: ANY, 1: ANY}, {0: ANY}, None))
    seen = operators(proto)
    assert [seen[name] for name in ("LSTM", "GRU", "RNN")] == [6, 6, 12]
    assert_runs_alike(model, proto, *example(7, 3))


class Steps(nn.Module):
    """Cells, of a batch (B, I) and of a single vector, with a state (B, H) and without."""

    def __init__(self):
        super().__init__()
        self.several = nn.ModuleList(twins(kind, I, H)[1] for kind in CELLS)
        self.several.append(fastrnn.GRUCell(I, H, bias=False))

    def forward(self, x, state):
        results = []
        for cell in self.several:
            for given, hx in ((x, state), (x[0], state[0])):
                hx = (hx, -hx) if isinstance(cell, fastrnn.LSTMCell) else hx
                results += tensors(cell(given)) + tensors(cell(given, hx))
        return results


@pytest.mark.parametrize("batch", [1, 2])
def test_cells(batch):
    model = Steps()
    args = torch.randn(batch, I), torch.randn(batch, H)
    proto = export(model, *args, shapes=({0: ANY}, {0: ANY}))
    seen = operators(proto)
    assert [seen[name] for name in ("LSTM", "GRU", "RNN")] == [4, 8, 8]
    assert not seen.keys() & {"Sigmoid", "Tanh", "Relu", "Gemm", "MatMul"}
    assert_runs_alike(model, proto, torch.randn(5, I), torch.randn(5, H))


def test_bfloat16_goes_by_float32():
    """ONNX's operators don't take it in the version that torch asks for."""

    class Float(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = fastrnn.GRU(I, H, dtype=torch.bfloat16)

        def forward(self, x, h):
            return [t.float() for t in self.rnn(x.bfloat16(), h.bfloat16())]

    model, args = Float(), (torch.randn(4, 2, I), torch.randn(1, 2, H))
    assert_runs_alike(model, export(model, *args), *args, rtol=2**-7, atol=2**-7)


@pytest.mark.filterwarnings("ignore:Exporting a model while it is in training mode:UserWarning")
def test_dropout_of_a_model_in_training_stays():
    rnn = fastrnn.GRU(I, H, num_layers=3, dropout=0.5)
    proto = torch.onnx.export(rnn, (torch.randn(4, 2, I),), dynamo=True, verbose=False).model_proto
    assert operators(proto)["Dropout"] == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: m(x[..., :2]), RuntimeError, "must be equal to input_size"),
        (lambda m, x: m(x, x.new_zeros(1, 3, H)), RuntimeError, "Expected hidden size"),
        (lambda m, x: m(x[0, 0]), ValueError, "Expected input to be 2D or 3D, got 1D instead"),
        (lambda m, x: m(x.double()), ValueError, "torch.float64"),
        (lambda m, x: m(x, one_hot=True), TypeError, "takes a tensor of integer indices"),
        (lambda m, x: m(x, lengths=x[0, :, 0]), TypeError, "must be a tensor of integers"),
        (lambda m, x: m(x, lengths=torch.tensor([1])), ValueError, "must have the shape"),
    ],
)
def test_torch_nns_errors(call, error, message):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = fastrnn.GRU(I, H)

        def forward(self, x):
            return call(self.rnn, x)[0]

    with pytest.raises(torch.onnx.OnnxExporterError, match=message) as caught:
        export(Model(), torch.randn(4, 2, I))
    assert isinstance(caught.value.__cause__, error)


def test_a_packed_sequence_is_refused():
    packed = pack_padded_sequence(torch.randn(4, 2, I), torch.tensor([4, 3]))
    with pytest.raises(torch.onnx.OnnxExporterError, match="a padded tensor and `lengths=`"):
        export(fastrnn.GRU(I, H), packed)


def test_what_onnx_lacks_is_refused():
    rnn, x = fastrnn.LSTM(I, H), torch.randn(4, 2, I)
    resets = torch.zeros(4, 2, dtype=torch.bool)
    with pytest.raises(NotImplementedError, match=r"no resets.*LSTMCell"):
        onnx_export.sequences(rnn, x, None, rnn._options(False), None, resets)


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
@older
def test_by_torchscript_too(kind):
    model, x = Wrapped(twins(kind, I, H, **DEEP)[1]).eval(), torch.randn(2, 4, I)
    file = io.BytesIO()
    axes = {"x": {0: "B", 1: "T"}}
    torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    proto = onnx.load_from_string(file.getvalue())
    assert operators(proto)[kind.name] == 2
    assert_runs_alike(model, proto, torch.randn(3, 6, I))
