"""Scenarios for test_processes.py, each run in a process of its own that has other processes:

python -m tests.processes fork_safety
"""

import multiprocessing
import sys
import warnings

import torch
from torch.utils.data import DataLoader, Dataset

import fastrnn
from fastrnn.chips import has_triton

CLASSES = (fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN)
ENGINES = ("auto", "torch.bptt", *(["step"] if has_triton() else []))
PATIENCE = 60  # seconds
T, B, I, H = 3, 2, 3, 4


def modules():
    torch.manual_seed(0)
    return [cls(I, H, bidirectional=True) for cls in CLASSES]


def input_of(seed, *shape):
    return torch.randn(*shape, I, generator=torch.Generator().manual_seed(seed))


def step(module, x):
    """The results and gradients of a training step by each engine, as one list."""
    found = []
    for engine in ENGINES:
        module.zero_grad()
        with fastrnn.use_engine(engine):
            output, _ = module(x)
        output.square().sum().backward()
        found += [output.detach(), *(p.grad.clone() for p in module.parameters())]
    module.zero_grad()
    return found


def same(got, expected):
    return len(got) == len(expected) and all(map(torch.equal, got, expected))


class Features(Dataset):
    """Items that modules make, in the worker."""

    def __init__(self, modules):
        self.modules = modules

    def __len__(self):
        return len(self.modules)

    def __getitem__(self, n):
        with torch.no_grad(), fastrnn.use_engine("torch.bptt"):
            return self.modules[n](input_of(n, T))[0]


def load(method, workers):
    """What workers load is what is made here."""
    data = Features(modules())
    expected = torch.stack([data[n] for n in range(len(data))])
    loader = DataLoader(data, 2, num_workers=workers, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(loader)), expected)


def serve(connection):
    """In a child: a training step of each module that comes, and the module itself back."""
    torch.set_num_threads(1)
    while (sent := connection.recv()) is not None:
        module, x = sent
        connection.send((step(module, x), module))


def in_child(method, sent):
    """What a child of this process answers."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=serve, args=(theirs,))
    child.start()
    theirs.close()
    answers = []
    for message in sent:
        ours.send(message)
        assert ours.poll(PATIENCE), "the child does not answer"
        answers.append(ours.recv())
    ours.send(None)
    child.join(PATIENCE)
    assert child.exitcode == 0
    return answers


def assert_children_agree(method):
    x = input_of(1, T, B)
    sent = [(module, x) for module in modules()]
    for (module, _), (found, back) in zip(sent, in_child(method, sent), strict=True):
        assert same(found, step(module, x))
        assert type(back) is type(module)
        assert same([*back.parameters()], [*module.parameters()])


def spawn_safety():
    load("spawn", workers=1)
    assert_children_agree("spawn")


def step_of_inherited(module, x, expected):
    """In a forked child: with the memory of its parent, its threads gone."""
    torch.set_num_threads(1)
    assert same(step(module, x), expected)


def fork_safety():
    """After the modules were used, on several threads, from several threads."""
    load("fork", workers=2)
    assert_children_agree("fork")
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(2)
    large = fastrnn.GRU(96, 128)
    with fastrnn.use_engine("torch.bptt"):
        large(torch.randn(64, 64, 96))[0].sum().backward()
    torch.set_num_threads(1)
    x = input_of(1, T, B)
    for module in modules():
        expected = step(module, x)
        child = context.Process(target=step_of_inherited, args=(module, x, expected))
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == 0
        assert same(step(module, x), expected)


def cuda_is_left_alone():
    """Calls on a CPU do not start CUDA, so that a child may."""

    def refuse():
        raise AssertionError("CUDA is started")

    torch.cuda._lazy_init = refuse
    x = input_of(1, T, B)
    for module in modules():
        step(module, x)
        fastrnn.explain(module, x)
        fastrnn.convert(fastrnn.restore(module, report=None), report=None)
        module(x, lengths=torch.tensor([2, T]), resets=torch.zeros(T, B, dtype=torch.bool))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            module(x)
    assert not torch.cuda.is_initialized()


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    globals()[sys.argv[1]]()
