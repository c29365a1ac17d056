"""Programs that put other modules or weights in the place of those they find."""

import copy

import pytest
import torch
from small_models import X, Y, assert_near, pair
from torch import nn

import fastrnn


def test_torch_pruning(library):
    """Of a class that it doesn't know it cuts weights to shapes that do not fit."""
    pruning = library("torch_pruning")
    native, ours = pair("LSTM")
    for model in (native, ours):
        with fastrnn.restored(model):
            pruning.pruner.MagnitudePruner(
                model,
                X,
                importance=pruning.importance.MagnitudeImportance(),
                pruning_ratio=0.5,
                ignored_layers=[model.head, model.rnn],
            ).step()
    assert type(ours.rnn) is fastrnn.LSTM
    assert ours.rnn.input_size == native.rnn.input_size == 3
    assert_near(ours(X), native(X))
    ours(X).sum().backward()
    with fastrnn.restored(ours):
        count = pruning.utils.count_ops_and_params
        assert count(ours, X) == count(native, X)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_opacus(kind, library):
    """It replaces torch.nn's LSTM and GRU by its own. In ours it finds no fault."""
    library("opacus")
    from opacus import PrivacyEngine
    from opacus.validators import ModuleValidator

    ours = pair(kind)[1]
    assert not ModuleValidator.validate(ours)
    with fastrnn.restored(ours):
        assert len(ModuleValidator.validate(ours)) == 1
        private = ModuleValidator.fix(ours)
    assert type(private.rnn).__name__ == f"DP{kind}"
    assert type(ours.rnn) is getattr(fastrnn, kind)
    assert_near(private(X), ours(X))

    data = torch.utils.data.TensorDataset(X, Y)
    model, optimizer, loader = PrivacyEngine().make_private(
        module=private,
        optimizer=torch.optim.SGD(private.parameters(), 0.1),
        data_loader=torch.utils.data.DataLoader(data, batch_size=3),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def test_backpack(library):
    backpack = library("backpack")
    from backpack.custom_module.reduce_tuple import ReduceTuple
    from backpack.extensions import BatchGrad

    x, found = X, []
    for ours in (False, True):
        torch.manual_seed(0)
        rnn = (fastrnn if ours else nn).LSTM(5, 8, batch_first=True)
        model = nn.Sequential(rnn, ReduceTuple(0), nn.Flatten(), nn.Linear(8 * 20, 2))
        with fastrnn.restored(model):
            model, loss = backpack.extend(model), backpack.extend(nn.CrossEntropyLoss())
            with backpack.backpack(BatchGrad()):
                loss(model(x), Y).backward()
        assert type(model[0]) is type(rnn)
        found.append([p.grad_batch for p in model.parameters()])
    assert_near(found[1], found[0])


def test_torchs_dynamic_quantization():
    quantization = pytest.importorskip("torch.ao.quantization", reason="this torch has none")
    native, ours = pair("LSTM")
    kinds = {nn.LSTM, nn.Linear}
    expected = quantization.quantize_dynamic(native, kinds)
    assert type(quantization.quantize_dynamic(ours, kinds).rnn) is fastrnn.LSTM
    with fastrnn.restored(ours):
        quantized = quantization.quantize_dynamic(ours, kinds)
    assert type(quantized.rnn) is type(expected.rnn)
    assert torch.equal(quantized(X), expected(X))


def test_torchao(library):
    """It quantizes linear layers, and leaves RNNs alone, torch.nn's too."""
    quantization = library("torchao.quantization")
    for model in pair():
        before = copy.deepcopy(model)
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        assert type(model.head.weight) is not type(before.head.weight)
        torch.testing.assert_close(model(X), before(X), atol=2e-2, rtol=2e-2)


def test_bitsandbytes(library):
    optim = library("bitsandbytes.optim")
    stepped = []
    for model in pair():
        optimizer = optim.Adam8bit(model.parameters(), 0.01)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
        stepped.append(model(X))
    assert_near(stepped[1], stepped[0])
