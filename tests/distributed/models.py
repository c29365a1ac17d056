"""What the scenarios train: a small model, its whole batch, and each process's half of that."""

import copy

import torch
import torch.distributed as dist
from torch import nn

import fastrnn
from tests.contract import normal, our_class, reseed, roundoff
from tests.problems import move

T, B, I, H = 9, 4, 3, 7


class Model(nn.Module):
    """A recurrent module, and a layer after it; the loss is a sum over the batch."""

    def __init__(self, rnn, dtype):
        super().__init__()
        self.rnn = rnn
        D = 2 if rnn.bidirectional else 1
        self.head = nn.Linear(D * (rnn.proj_size or rnn.hidden_size), 2, dtype=dtype)

    def forward(self, x, **options):
        output, _ = self.rnn(x, **options)
        output = output if torch.is_tensor(output) else output.data
        return self.head(output).square().sum()


def dtype_on(device):
    """Double precision where the loops have it; kernels have not."""
    return torch.float64 if device == "cpu" else torch.float32


def engine_for(kind, device):
    """fastrnn's own loop wherever it can serve: by default torch.nn's operators take the small."""
    return "torch.bptt" if device == "cpu" and not kind.options else "auto"


def model_of(kind, device, cls=None, dtype=None, make=Model, **options):
    """Of the same weights in each process."""
    dtype = dtype or dtype_on(device)
    options = {"num_layers": 2, "bidirectional": True, **kind.options, **options}
    reseed(0)
    return make((cls or our_class(kind))(I, H, dtype=dtype, **options), dtype).to(device)


def batch(device, dtype=None, seed=1):
    return move(normal(T, B, I, seed=seed, dtype=dtype or dtype_on(device)), device)


def half(x, dim=1):
    """This process's part of a batch."""
    return x.chunk(dist.get_world_size(), dim)[dist.get_rank()]


def grads(model):
    return {name: p.grad for name, p in model.named_parameters()}


def alone(model, *args, engine="auto", **kwargs):
    """The gradients that one process finds for the whole batch, over the number of processes: DDP
    and FSDP average over these, and the losses here are sums."""
    model = copy.deepcopy(model)
    with fastrnn.use_engine(engine), fastrnn.use_precision("ieee"):
        model(*args, **kwargs).div(dist.get_world_size()).backward()
    return grads(model)


def assert_equal(got, expected):
    """By name, to some roundings of the largest magnitude of all."""
    assert got.keys() == expected.keys()
    known = [t for t in expected.values() if t is not None]
    unit = roundoff(known[0].dtype) * max(t.abs().max().item() for t in known)
    for name, theirs in expected.items():
        mine = got[name]
        if mine is None or theirs is None:
            assert mine is None or not mine.any(), name
            assert theirs is None or not theirs.any(), name
            continue
        error = (mine - theirs).abs().max().item()
        assert error <= 64 * unit, f"{name}: error {error:.3g}, allowed {64 * unit:.3g}"
