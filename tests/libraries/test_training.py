"""Programs that train, differentiate and explain models."""

import pickle

import pytest
import torch
from small_models import Classifier, X, Y, assert_near, pair
from torch import nn

import fastrnn


def test_accelerate(library):
    Accelerator = library("accelerate").Accelerator
    losses = []
    for model in pair():
        accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        model, optimizer = accelerator.prepare(model, optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            accelerator.backward(loss)
            optimizer.step()
        losses.append(loss)
    assert_near(losses[1], losses[0])


def test_accelerate_builds_without_memory(library):
    with library("accelerate").init_empty_weights():
        assert fastrnn.LSTM(3, 4).weight_ih_l0.is_meta


def test_lightning(library):
    lightning = library("lightning")

    class Training(lightning.LightningModule):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    data = torch.utils.data.TensorDataset(X, Y)
    trained = []
    for model in pair():
        lightning.Trainer(
            max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False,
        ).fit(Training(model), torch.utils.data.DataLoader(data, batch_size=3))  # fmt: skip
        trained.append(model(X))
    assert_near(trained[1], trained[0])


def test_skorch(library):
    skorch = library("skorch")
    found = []
    for ours in (False, True):
        torch.manual_seed(0)
        net = skorch.NeuralNetClassifier(
            Classifier, module__ours=ours, criterion=nn.CrossEntropyLoss, max_epochs=2, verbose=0,
            train_split=None,
        )  # fmt: skip
        net.fit(X.numpy(), Y.numpy())
        again = pickle.loads(pickle.dumps(net))
        found.append(torch.from_numpy(again.predict_proba(X.numpy())))
    assert_near(found[1], found[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_higher(kind, library):
    higher = library("higher")
    found = []
    for model in pair(kind):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, steps):
            for _ in range(2):
                steps.step(nn.functional.cross_entropy(fast(X), Y))
            outer = nn.functional.cross_entropy(fast(X), Y)
            found.append(torch.autograd.grad(outer, list(model.parameters())))
    assert_near(found[1], found[0])


def test_torchopt(library):
    torchopt = library("torchopt")
    losses = []
    for model in pair():
        torchopt.MetaSGD(model, lr=0.1).step(nn.functional.cross_entropy(model(X), Y))
        losses.append(nn.functional.cross_entropy(model(X), Y))
    assert_near(losses[1], losses[0])


@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "DeepLift"])
def test_captum(name, library):
    attribution = getattr(library("captum.attr"), name)
    found = [attribution(model).attribute(X, target=1) for model in pair("LSTM")]
    assert_near(found[1], found[0])
