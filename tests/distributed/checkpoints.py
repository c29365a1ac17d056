"""Checkpoints that a run of two processes leaves in the folder, and reads back itself."""

import copy

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as of
from torch.nn.parallel import DistributedDataParallel

from tests.contract import MODULES, native_class
from tests.distributed.ddp import train
from tests.distributed.fsdp import sharded, whole
from tests.distributed.models import batch, engine_for, grads, half, model_of

DEVICE = "cpu"
FULL = of.StateDictOptions(full_state_dict=True, cpu_offload=True)
WRAPPERS = {"ddp": DistributedDataParallel, "fsdp": sharded}


def trained(kind, wrap, steps=2):
    """A model in two processes after some steps, and its optimizer."""
    model = wrap(model_of(kind, DEVICE))
    adam = torch.optim.Adam(model.parameters(), 0.01)
    for n in range(steps):
        adam.zero_grad()
        train(model, half(batch(DEVICE, seed=n)), engine_for(kind, DEVICE))
        adam.step()
    return model, adam


def only_the_first(call):
    if dist.get_rank() == 0:
        call()
    dist.barrier()


def saved(device, folder):
    """In shards, by torch.distributed.checkpoint; and as a plain state dict, by torch.save."""
    for kind in MODULES:
        for name, wrap in WRAPPERS.items():
            model, adam = trained(kind, wrap)
            weights, moments = of.get_state_dict(model, adam)
            path = folder / f"{kind}-{name}"
            dcp.save({"model": weights, "adam": moments}, checkpoint_id=path / "shards")
            # Copies, since those of DDP are the model's own tensors.
            weights = copy.deepcopy(of.get_model_state_dict(model, options=FULL))
            moments = copy.deepcopy(of.get_optimizer_state_dict(model, adam, options=FULL))
            # The step after, by which the reader may see that it holds the same.
            adam.zero_grad()
            train(model, half(batch(DEVICE, seed=9)), engine_for(kind, DEVICE))
            adam.step()
            after = of.get_model_state_dict(model, options=FULL)
            full = {"model": weights, "adam": moments, "after": after}
            only_the_first(lambda: torch.save(full, path / "full.pt"))  # noqa: B023


def read_in_shards(device, folder):
    """What DDP saved FSDP reads, and the other way round: the next step is the same."""
    for kind in MODULES:
        for name, wrap in zip(WRAPPERS, reversed(WRAPPERS.values()), strict=True):
            path = folder / f"{kind}-{name}"
            model, adam = trained(kind, wrap, steps=0)
            weights, moments = of.get_state_dict(model, adam)
            state = {"model": weights, "adam": moments}
            dcp.load(state, checkpoint_id=path / "shards")
            of.set_state_dict(
                model, adam, model_state_dict=state["model"], optim_state_dict=state["adam"]
            )
            adam.zero_grad()
            train(model, half(batch(DEVICE, seed=9)), engine_for(kind, DEVICE))
            adam.step()
            after = of.get_model_state_dict(model, options=FULL)
            if dist.get_rank() == 0:
                expected = torch.load(path / "full.pt")["after"]
                assert after.keys() == expected.keys()
                for key, theirs in expected.items():
                    torch.testing.assert_close(after[key], theirs, rtol=1e-9, atol=1e-11)


def a_plain_checkpoint_of_torch_nn_is_read(device, folder):
    """Of one process, handed out by the first; into parameters that had no memory before, too."""
    options = of.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    for kind in MODULES:
        native = model_of(kind, DEVICE, native_class(kind))
        for p in native.parameters():
            p.data.mul_(2)
        expected = native.state_dict()
        for start in (DEVICE, "meta"):
            model = sharded(model_of(kind, start, dtype=torch.float64))
            if start == "meta":
                model.to_empty(device=DEVICE)
            given = dict(expected) if dist.get_rank() == 0 else {}
            of.set_model_state_dict(model, given, options=options)
            got = whole(model.state_dict())
            assert got.keys() == expected.keys()
            assert all(torch.equal(got[name], expected[name]) for name in expected)
            engine = engine_for(kind, DEVICE)
            train(model, half(batch(DEVICE)), engine)
            assert all(g is not None for g in grads(model).values())


SCENARIOS = (saved, read_in_shards, a_plain_checkpoint_of_torch_nn_is_read)
