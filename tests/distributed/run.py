"""One of two processes, started by torchrun: the scenarios of a module here, one after the other.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \
        -m tests.distributed.run ddp cpu folder

Each process leaves `errors-<rank>.json` in the folder, the tracebacks by the scenarios' names.
Warnings are errors, as they are under pytest. A scenario that fails in one process alone leaves the
other waiting until gloo gives up.
"""

import importlib
import json
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

PATIENCE = timedelta(seconds=30)
# Said of torch.nn's own modules too: with packed or batch_first input, and with proj_size.
OF_TORCH = (
    "FSDP2-wrapped module .* returned a view tensor",
    "LSTM with projections is not supported with oneDNN",
)


def main(name, device, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=PATIENCE)
    scenarios = importlib.import_module(f"tests.distributed.{name}").SCENARIOS
    errors = {}
    for scenario in scenarios:
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for text in OF_TORCH:
                    warnings.filterwarnings("ignore", text)
                scenario(device, Path(folder))
        except Exception:
            errors[scenario.__name__] = traceback.format_exc()
        path = Path(folder, f"errors-{dist.get_rank()}.json")
        path.write_text(json.dumps({"done": scenario.__name__, "errors": errors}))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
