"""FSDP2: parameters are DTensors in shards, and plain tensors for as long as forward sees them.

On the CPU alone: gloo has not all of the collectives for tensors on a GPU.
"""

import copy
import warnings

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import fastrnn
from fastrnn.flat_weights import current
from tests.contract import (
    GRU,
    LSTM,
    MODULES,
    TANH,
    cotangents,
    native_class,
    normal,
    outcome,
)
from tests.distributed.ddp import train
from tests.distributed.models import (
    Model,
    alone,
    assert_equal,
    batch,
    engine_for,
    grads,
    half,
    model_of,
)

DEVICE = "cpu"


def sharded(model, **options):
    """The recurrent module in a group of its own, the rest in another."""
    fully_shard(model.rnn, **options)
    return fully_shard(model, **options)


def whole(values):
    return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in values.items()}


def parameters(model):
    return whole({name: p.detach() for name, p in model.named_parameters()})


def train_by(model, optimizer, losses):
    for loss in losses:
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


def training_as_in_one_process(device, folder):
    """Weights of which the rows can't be shared out evenly, too: H is 7."""
    whole_batches = [batch(DEVICE, seed=n) for n in range(3)]
    for kind in MODULES:
        with fastrnn.use_engine(engine_for(kind, DEVICE)):
            other = model_of(kind, DEVICE)
            adam = torch.optim.Adam(other.parameters(), 0.01)
            train_by(other, adam, [lambda m, x=x: m(x) / 2 for x in whole_batches])
            for reshard in (True, False):
                for shard in (sharded, fully_shard):
                    model = shard(model_of(kind, DEVICE), reshard_after_forward=reshard)
                    adam = torch.optim.Adam(model.parameters(), 0.01)
                    train_by(model, adam, [lambda m, x=x: m(half(x)) for x in whole_batches])
                    assert_equal(parameters(model), parameters(other))


def gradients(device, folder):
    for kind in MODULES:
        engine, x = engine_for(kind, DEVICE), batch(DEVICE)
        model = sharded(model_of(kind, DEVICE))
        train(model, half(x), engine)
        assert all(isinstance(g, DTensor) for g in grads(model).values())
        assert_equal(whole(grads(model)), alone(model_of(kind, DEVICE), x, engine=engine))


def accumulation_without_sync(device, folder):
    for kind in (LSTM, GRU, TANH):
        engine, x, y = engine_for(kind, DEVICE), batch(DEVICE), batch(DEVICE, seed=2)
        parts = [alone(model_of(kind, DEVICE), z, engine=engine) for z in (x, y)]
        model = sharded(model_of(kind, DEVICE))
        model.set_requires_gradient_sync(False)
        train(model, half(x), engine)
        model.set_requires_gradient_sync(True)
        train(model, half(y), engine)
        expected = {name: parts[0][name] + parts[1][name] for name in parts[0]}
        assert_equal(whole(grads(model)), expected)


def frozen_parameters(device, folder):
    for kind in (LSTM, GRU, TANH):
        engine, x = engine_for(kind, DEVICE), batch(DEVICE)
        model = model_of(kind, DEVICE)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("weight_ih" in name or "bias_hh" in name)
        expected = alone(model, x, engine=engine)
        sharded(model)
        train(model, half(x), engine)
        assert_equal(whole(grads(model)), expected)


def sharded_and_plain_parameters_in_one_module(device, folder):
    for kind in (LSTM, GRU, TANH):
        engine, x = engine_for(kind, DEVICE), batch(DEVICE)
        model = model_of(kind, DEVICE)
        plain = {p for name, p in model.named_parameters() if "weight_hh" in name}
        sharded(model, ignored_params=plain)
        train(model, half(x), engine)
        expected = alone(model_of(kind, DEVICE), x, engine=engine)
        for parameter in model.parameters():
            if parameter in plain:
                assert type(parameter) is torch.nn.Parameter
                dist.all_reduce(parameter.grad)
                parameter.grad /= 2
        assert_equal(whole(grads(model)), expected)


def what_forward_sees(device, folder):
    """Plain tensors, so that fastrnn's engines serve; shards before, and after if so asked."""
    for reshard in (True, False):
        model = sharded(model_of(GRU, DEVICE), reshard_after_forward=reshard)

        def kinds(rnn=model.rnn):
            return {type(p) for p in current(rnn)}

        seen = []
        model.rnn.register_forward_pre_hook(lambda rnn, args: seen.append(kinds()))  # noqa: B023
        assert kinds() == {DTensor}
        with fastrnn.use_engine("torch.bptt"):
            loss = model(half(batch(DEVICE)))
        assert seen == [{torch.nn.Parameter}]
        assert kinds() == {DTensor if reshard else torch.nn.Parameter}
        loss.backward()
        assert kinds() == {DTensor}


def shards_themselves_are_refused_as_by_torch(device, folder):
    """`forward` called past the hooks that bring the parameters together."""
    x = batch(DEVICE)
    for kind in MODULES:
        errors = []
        for cls in (native_class(kind), getattr(fastrnn, kind.name)):
            model = fully_shard(model_of(kind, DEVICE, cls))
            errors.append(outcome(lambda: model.rnn.forward(x)).error)  # noqa: B023
        assert errors[0] == errors[1] is not None
    weights = list(model.rnn.parameters())
    error = outcome(lambda: fastrnn.functional.rnn(x, None, weights, num_layers=2)).error
    assert error[0] is ValueError
    assert "must be plain matrices, got a DTensor" in error[1]


def inference(device, folder):
    x = batch(DEVICE)
    for kind in MODULES:
        with fastrnn.use_engine(engine_for(kind, DEVICE)):
            other, model = model_of(kind, DEVICE), sharded(model_of(kind, DEVICE))
            model.eval()
            with torch.no_grad():
                torch.testing.assert_close(model(half(x)), other(half(x)), rtol=0, atol=0)


def steps_of_a_stream(device, folder):
    x = batch(DEVICE)
    for kind in MODULES:
        rnn = model_of(kind, DEVICE, bidirectional=False).rnn
        expected, _ = rnn(x)
        fully_shard(rnn)
        state, outputs = None, []
        with torch.no_grad():
            for x_t in x:
                output, state = rnn.step(x_t, state)
                outputs.append(output)
        torch.testing.assert_close(torch.stack(outputs), expected.detach())


def sequences_of_different_lengths(device, folder):
    lengths = [9, 2, 5, 4]
    sequences = [normal(n, 3, seed=n) for n in lengths]
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    for kind in MODULES:
        engine = engine_for(kind, DEVICE)
        together = pack_sequence(sequences, enforce_sorted=False)
        expected = alone(model_of(kind, DEVICE), together, engine=engine)
        model = sharded(model_of(kind, DEVICE))
        train(model, pack_sequence(sequences[mine], enforce_sorted=False), engine)
        assert_equal(whole(grads(model)), expected)
        padded, given = torch.nn.utils.rnn.pad_sequence(sequences), torch.tensor(lengths)
        expected = alone(model_of(kind, DEVICE), padded, engine=engine, lengths=given)
        model = sharded(model_of(kind, DEVICE))
        train(model, padded[:, mine], engine, lengths=given[mine])
        assert_equal(whole(grads(model)), expected)


class Checkpointed(Model):
    def forward(self, x):
        output = checkpoint(lambda x: self.rnn(x)[0], x, use_reentrant=False)
        return self.head(output).square().sum()


def activation_checkpointing(device, folder):
    for kind in (LSTM, GRU, TANH):
        engine, x = engine_for(kind, DEVICE), batch(DEVICE)
        expected = alone(model_of(kind, DEVICE), x, engine=engine)
        model = sharded(model_of(kind, DEVICE, make=Checkpointed))
        with fastrnn.use_engine(engine):
            train(model, half(x), engine)
        assert_equal(whole(grads(model)), expected)


def mixed_precision(device, folder):
    """Computed in bfloat16, summed in float32: as near to one process in float32 as torch.nn is."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    x = batch(DEVICE, torch.float32)
    for kind in MODULES:
        exact = alone(model_of(kind, DEVICE, dtype=torch.float32), x)
        errors = []
        for cls in (native_class(kind), getattr(fastrnn, kind.name)):
            model = sharded(model_of(kind, DEVICE, cls, torch.float32), mp_policy=policy)
            train(model, half(x))
            seen = whole(grads(model))
            assert all(g.dtype is torch.float32 for g in seen.values())
            distances = ((seen[name] - exact[name]).abs().max() for name in exact)
            errors.append(max(distances) / max(g.abs().max() for g in exact.values()))
        assert errors[1] <= 2 * errors[0] + torch.finfo(torch.bfloat16).eps


def converted_models(device, folder):
    """Before they are sharded, and after."""
    x = batch(DEVICE)
    for kind in MODULES:
        engine = engine_for(kind, DEVICE)
        expected = alone(model_of(kind, DEVICE), x, engine=engine)
        for before in (True, False):
            model = model_of(kind, DEVICE, native_class(kind))
            if before:
                fastrnn.convert(model, report=None)
            sharded(model)
            if not before:
                fastrnn.convert(model, report=None)
            assert isinstance(model.rnn, getattr(fastrnn, kind.name))
            train(model, half(x), engine)
            assert_equal(whole(grads(model)), expected)
            assert isinstance(fastrnn.restore(model, report=None).rnn, native_class(kind))
            model.zero_grad()
            train(model, half(x))
            assert_equal(whole(grads(model)), expected)


def the_output_may_be_changed_in_place(device, folder):
    """FSDP2 hooks its backward pass into the output. It warns that the hook is lost where a view
    is changed in place, and torch.nn's outputs are none."""
    x = batch(DEVICE)
    for kind in MODULES:
        engine = engine_for(kind, DEVICE)
        rnn = model_of(kind, DEVICE).rnn
        expected = copy.deepcopy(rnn)
        with fastrnn.use_engine(engine):
            output, _ = expected(x)
            (d,) = cotangents([output])
            output.relu_().backward(d / 2)
            fully_shard(rnn)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                output, _ = rnn(half(x))
            output.relu_().backward(half(d))
        assert_equal(whole(grads(rnn)), grads(expected))


def kernels_engines(device, folder):
    """In Triton's interpreter."""
    if not fastrnn.chips.has_triton() or torch.cuda.is_available():
        return
    x = batch(DEVICE, torch.float32)[:2]
    for kind in (LSTM, GRU):
        for engine in ("resident", "step"):
            model = model_of(kind, DEVICE, dtype=torch.float32, num_layers=1)
            expected = alone(model, x, engine="torch.aten")
            sharded(model)
            train(model, half(x), engine)
            assert_equal(whole(grads(model)), expected)


SCENARIOS = (
    training_as_in_one_process,
    gradients,
    accumulation_without_sync,
    frozen_parameters,
    sharded_and_plain_parameters_in_one_module,
    what_forward_sees,
    shards_themselves_are_refused_as_by_torch,
    inference,
    steps_of_a_stream,
    sequences_of_different_lengths,
    activation_checkpointing,
    mixed_precision,
    converted_models,
    the_output_may_be_changed_in_place,
    kernels_engines,
)
