"""What these tests share: a small model with either library's RNN, and ways to compare.

They import it without `tests.`: some library installs a package of that name.
"""

import contextlib

import torch
from torch import nn

import fastrnn

X = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 0])


class Classifier(nn.Module):
    def __init__(self, ours=False, kind="GRU", rnn=None):
        super().__init__()
        self.first = nn.Linear(5, 6)
        made = getattr(fastrnn if ours else nn, kind)
        self.rnn = rnn or made(6, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(self.first(x))[0][:, -1])


def pair(kind="GRU"):
    """torch.nn's and fastrnn's, with the same weights."""
    native, ours = Classifier(kind=kind), Classifier(ours=True, kind=kind)
    ours.load_state_dict(native.state_dict())
    return native, ours


def rnns(model):
    """The classes of a model's RNNs and cells, by package."""
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)}
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in kinds}


def converted(model):
    """The model, and the lines of the report."""
    lines = []
    return fastrnn.convert(model, lines.append), lines


def way(name):
    """The surroundings in which a model is built: as it is, or under `patched`."""
    return fastrnn.patched() if name == "patch" else contextlib.nullcontext()


def assert_near(seen, expected):
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
