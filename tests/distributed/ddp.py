"""DistributedDataParallel: the gradients of one process that sees the whole batch."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import fastrnn
from tests.contract import GRU, LSTM, MODULES, TANH, native_class, normal
from tests.distributed.models import (
    H,
    Model,
    alone,
    assert_equal,
    batch,
    dtype_on,
    engine_for,
    grads,
    half,
    model_of,
)
from tests.problems import move

WAYS = (
    {},
    {"find_unused_parameters": True},
    {"static_graph": True},
    {"gradient_as_bucket_view": True},
    # Several buckets, so that some are on their way while the backward pass still runs.
    {"bucket_cap_mb": 0.001, "gradient_as_bucket_view": True},
)


def train(model, x, engine="auto", **options):
    with fastrnn.use_engine(engine), fastrnn.use_precision("ieee"):
        model(x, **options).backward()


def twice(wrapped, x, engine, **options):
    """The gradients of a second step, by which DDP may have arranged its buckets anew."""
    for _ in range(2):
        wrapped.zero_grad()
        train(wrapped, x, engine, **options)
    return grads(wrapped.module)


def every_way(device, folder):
    for kind in MODULES:
        engine = engine_for(kind, device)
        model, x = model_of(kind, device), batch(device)
        expected = alone(model, x, engine=engine)
        for way in WAYS:
            wrapped = DistributedDataParallel(model_of(kind, device), **way)
            assert_equal(twice(wrapped, half(x), engine), expected)


class LastState(Model):
    def forward(self, x):
        state = self.rnn(x)[1]
        state = state if torch.is_tensor(state) else state[-1]
        return state.square().sum() + 0 * self.head.weight.sum() + 0 * self.head.bias.sum()


def a_loss_on_the_final_state_reaches_every_parameter(device, folder):
    """Else DDP would wait for their gradients, and say so at the second step."""
    for kind in MODULES:
        engine = engine_for(kind, device)
        model, x = model_of(kind, device, make=LastState), batch(device)
        wrapped = DistributedDataParallel(model)
        expected = alone(model, x, engine=engine)
        assert_equal(twice(wrapped, half(x), engine), expected)


class Branches(Model):
    """Each process uses one of two recurrent modules, and one stays unused altogether."""

    def __init__(self, rnn, dtype):
        super().__init__(rnn, dtype)
        self.other, self.spare = (type(rnn)(3, H, dtype=dtype) for _ in range(2))

    def forward(self, x):
        if dist.get_rank() == 0:
            return super().forward(x)
        return self.other(x)[0].square().sum()


def unused_modules(device, folder):
    for kind in (LSTM, GRU, TANH):
        engine = engine_for(kind, device)
        model, x = model_of(kind, device, make=Branches), batch(device)
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        seen = twice(wrapped, half(x), engine)
        mine = alone(model, half(x), engine=engine)
        used = ("rnn.", "head.") if dist.get_rank() == 0 else ("other.",)
        part = {name: seen[name] for name in seen if name.startswith(used)}
        assert_equal(part, {name: mine[name] for name in part})
        assert all(seen[name] is None for name in seen if name.startswith("spare."))
        assert all(seen[name] is not None for name in seen if not name.startswith("spare."))


def frozen_parameters(device, folder):
    for kind in (LSTM, GRU, TANH):
        engine = engine_for(kind, device)
        model, x = model_of(kind, device), batch(device)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("weight_ih" in name or "bias_hh" in name)
        expected = alone(model, x, engine=engine)
        assert_equal(twice(DistributedDataParallel(model), half(x), engine), expected)


def accumulation_without_sync(device, folder):
    for kind in MODULES:
        engine = engine_for(kind, device)
        first, second = batch(device), batch(device, seed=2)
        parts = [alone(model_of(kind, device), x, engine=engine) for x in (first, second)]
        expected = {name: parts[0][name] + parts[1][name] for name in parts[0]}
        for way in ({}, {"gradient_as_bucket_view": True}, {"static_graph": True}):
            wrapped = DistributedDataParallel(model_of(kind, device), **way)
            if "static_graph" in way:  # the first step of a static graph is one with sync
                train(wrapped, half(first), engine)
                wrapped.zero_grad()
            with wrapped.no_sync():
                train(wrapped, half(first), engine)
            train(wrapped, half(second), engine)
            assert_equal(grads(wrapped.module), expected)


def sequences_of_different_lengths(device, folder):
    """Packed, and padded with `lengths`; the longest of one process is not the other's."""
    dtype, lengths = dtype_on(device), [9, 2, 5, 4]
    sequences = [move(normal(n, 3, seed=n, dtype=dtype), device) for n in lengths]
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    for kind in MODULES:
        engine = engine_for(kind, device)
        whole = pack_sequence(sequences, enforce_sorted=False)
        expected = alone(model_of(kind, device), whole, engine=engine)
        part = pack_sequence(sequences[mine], enforce_sorted=False)
        wrapped = DistributedDataParallel(model_of(kind, device))
        assert_equal(twice(wrapped, part, engine), expected)
        padded = torch.nn.utils.rnn.pad_sequence(sequences)
        given = torch.tensor(lengths, device=device)
        expected = alone(model_of(kind, device), padded, engine=engine, lengths=given)
        wrapped = DistributedDataParallel(model_of(kind, device))
        part = {"lengths": given[mine]}
        assert_equal(twice(wrapped, padded[:, mine], engine, **part), expected)


class Checkpointed(Model):
    reentrant = False

    def forward(self, x):
        output = checkpoint(lambda x: self.rnn(x)[0], x, use_reentrant=self.reentrant)
        return self.head(output).square().sum()


def activation_checkpointing(device, folder):
    for kind in (LSTM, GRU, TANH):
        engine = engine_for(kind, device)
        x = batch(device).requires_grad_()
        expected = alone(model_of(kind, device), x.detach(), engine=engine)
        for reentrant, way in ((False, {}), (False, WAYS[1]), (True, WAYS[2])):
            model = model_of(kind, device, make=Checkpointed)
            model.reentrant = reentrant
            wrapped = DistributedDataParallel(model, **way)
            with fastrnn.use_engine(engine), fastrnn.use_precision("ieee"):
                assert_equal(twice(wrapped, half(x), engine), expected)


def converted_models(device, folder):
    """Before it is wrapped, and after."""
    for kind in MODULES:
        engine = engine_for(kind, device)
        x = batch(device)
        expected = alone(model_of(kind, device), x, engine=engine)
        for before in (True, False):
            model = model_of(kind, device, native_class(kind))
            if before:
                fastrnn.convert(model, report=None)
            wrapped = DistributedDataParallel(model)
            if not before:
                fastrnn.convert(wrapped, report=None)
            assert type(model.rnn) is getattr(fastrnn, kind.name)
            assert_equal(twice(wrapped, half(x), engine), expected)


def training_keeps_the_processes_alike(device, folder):
    for kind in MODULES:
        engine = engine_for(kind, device)
        model, other = model_of(kind, device), model_of(kind, device)
        wrapped = DistributedDataParallel(model)
        steps = [torch.optim.SGD(m.parameters(), 0.01, momentum=0.9) for m in (wrapped, other)]
        for n in range(3):
            x = batch(device, seed=n)
            wrapped.zero_grad()
            train(wrapped, half(x), engine)
            for p, grad in zip(
                other.parameters(), alone(other, x, engine=engine).values(), strict=True
            ):
                p.grad = grad
            for step in steps:
                step.step()
        assert_equal(model.state_dict(), other.state_dict())
        for p in model.state_dict().values():
            theirs = p.clone()
            dist.broadcast(theirs, 0)
            assert torch.equal(p, theirs)


def kernels_engines(device, folder):
    """In Triton's interpreter where there is no GPU."""
    if not fastrnn.chips.has_triton():
        return
    x = batch(device, torch.float32)[:2]
    for kind in (LSTM, GRU):
        for engine in ("resident", "step"):
            model = model_of(kind, device, dtype=torch.float32, num_layers=1)
            expected = alone(model, x, engine="torch.aten")
            wrapped = DistributedDataParallel(model)
            train(wrapped, half(x), engine)
            assert_equal(grads(model), expected)


SCENARIOS = (
    every_way,
    a_loss_on_the_final_state_reaches_every_parameter,
    unused_modules,
    frozen_parameters,
    accumulation_without_sync,
    sequences_of_different_lengths,
    activation_checkpointing,
    converted_models,
    training_keeps_the_processes_alike,
    kernels_engines,
)
