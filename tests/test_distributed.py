"""Two processes that train together, started by torchrun: see `tests/distributed/`."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

import fastrnn
from tests.contract import MODULES, native_class, our_class
from tests.distributed.models import assert_equal, batch, engine_for, model_of

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"
)


def launched(group, device, folder):
    """All scenarios of a group in two processes; the errors of both by name."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "tests.distributed.run", group, device, str(folder)),
    ]
    root = Path(__file__).parent.parent
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=180)
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("errors-*.json"))]
    errors = [f"{name}\n{text}" for report in reports for name, text in report["errors"].items()]
    assert not errors, "\n".join(errors)
    assert ran.returncode == 0, (reports, ran.stderr)
    assert len(reports) == 2


def test_distributed_data_parallel(device, tmp_path):
    launched("ddp", device, tmp_path)


@pytest.mark.slow
def test_fully_sharded_data_parallel(device, tmp_path):
    launched("fsdp", device, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled.*single process:UserWarning")
def test_checkpoints(tmp_path):
    """Of two processes, in shards and as a whole, for one process: in fastrnn and in torch.nn."""
    launched("checkpoints", "cpu", tmp_path)
    for kind in MODULES:
        for wrapper in ("ddp", "fsdp"):
            path = tmp_path / f"{kind}-{wrapper}"
            full = torch.load(path / "full.pt")
            for cls in (our_class(kind), native_class(kind)):
                plain, shards = (model_of(kind, "cpu", cls) for _ in range(2))
                plain.load_state_dict(full["model"])
                state = {"model": shards.state_dict()}
                dcp.load(state, checkpoint_id=path / "shards", no_dist=True)
                shards.load_state_dict(state["model"])
                for name, tensor in full["model"].items():
                    assert torch.equal(plain.state_dict()[name], tensor)
                    assert torch.equal(shards.state_dict()[name], tensor)
                goes_on(plain, full, engine_for(kind, "cpu"))


def goes_on(model, full, engine):
    """With the optimizer's state, too: the next step is that of the two processes."""
    names = [name for name, _ in model.named_parameters()]
    adam = torch.optim.Adam(model.parameters(), 0.01)
    moments = copy.deepcopy(full["adam"]["state"])
    state = {n: moments[name] for n, name in enumerate(names)}
    adam.load_state_dict({**adam.state_dict(), "state": state})
    with fastrnn.use_engine(engine):
        model(batch("cpu", seed=9)).div(2).backward()
    adam.step()
    assert_equal(model.state_dict(), full["after"])
