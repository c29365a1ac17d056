"""The engine `cooperative`: one launch whose programs wait for one another, or one for each step.

In Triton's interpreter programs run one after the other, so there it is one launch for each step,
and so it is on a GPU that refuses to run them all at the same time.
"""

from functools import cache

import torch

from .chips import INTERPRETED, refused
from .kernels import barrier, cooperative

# µs that a program waits for the others before it gives up: half a second. Before the first step,
# when a busy GPU may not have started all of them: a minute.
PATIENCE, PATIENCE_AT_FIRST = 500_000, 60_000_000
# What CUDA says if it can't run all programs of a launch at the same time.
REFUSALS = ("too many blocks in cooperative launch", "operation not supported")


def forward(cell, plan, precision, x, saved, w, b, initial, states, final, rows):
    """As `kernels/resident.py`'s, with a CooperativePlan."""
    h_0 = initial[0]
    if h_0 is not None and h_0.data_ptr() % 16:
        h_0 = h_0.clone()

    def launch(before, after, steps, waiting):
        cooperative.forward(
            cell, plan, precision, x, saved, w, b, h_0, before, states, after, rows,
            steps, waiting,
        )  # fmt: skip

    D, H = w.shape[0], w.shape[2]
    _run(launch, plan, initial, final, (D, rows.B, H), rows.T, w.device)


def backward(
    cell, plan, precision, saved, dgates, w, initial, states, dstates, dfinal, dinitial, rows
):
    """As `kernels/resident.py`'s, with a CooperativePlan."""
    D, H = w.shape[0], w.shape[2]
    gates = w.view(D, -1, H, H)
    # Gates with gradients of the recurrent side's own come last, and their slots first.
    transposed = gates.roll(cell.slots - len(cell.gates), 1).flatten(1, 2).mT.contiguous()

    def launch(dafter, dbefore, steps, waiting):
        cooperative.backward(
            cell, plan, precision, saved, dgates, transposed, initial, states, dstates, dafter,
            dbefore, rows, steps, waiting,
        )  # fmt: skip

    # The gradient of the initial h takes a product more.
    steps = rows.T + (dinitial[0] is not None)
    _run(launch, plan, dfinal, dinitial, (D, rows.B, H), steps, w.device)


def _run(launch, plan, first, last, shape, count, device):
    """So many steps, from the states `first` to `last`, of that shape; some may be None."""
    if not INTERPRETED:
        _check(device)
        try:
            launch(first, last, (0, count), _waiting(device, plan, shape[0], shape[2]))
        except RuntimeError as error:
            if not any(refusal in str(error) for refusal in REFUSALS):
                raise
            refused(device)
        else:
            return
    carry = [torch.empty(shape, dtype=torch.float32, device=device) for _ in first]
    for k in range(count):
        before, after = carry if k else first, carry if k < count - 1 else last
        launch(before, after, (k, k + 1), None)


def _waiting(device, plan, D, H):
    slots = barrier.slots(D * plan.groups * plan.tiles)
    if torch.cuda.is_current_stream_capturing():
        # A graph may run at the same time as others, on any stream.
        counters = torch.zeros(slots, dtype=torch.int64, device=device)
    else:
        stream = torch.cuda.current_stream(device).cuda_stream
        counters = _counters(device, stream, plan.slices(H), slots)
    return cooperative.Waiting(counters, _vain(device), PATIENCE_AT_FIRST, PATIENCE)


@cache
def _counters(device, stream, size, slots):
    """For launches that follow one another, of groups of so many programs."""
    with torch.inference_mode(False):
        return torch.zeros(slots, dtype=torch.int64, device=device)


@cache
def _vain(device):
    """Where programs leave word, in memory that both sides see, so that nobody has to wait."""
    with torch.inference_mode(False):
        return torch.zeros(1, dtype=torch.int32, pin_memory=True)


def _check(device):
    exchange = _vain(device).item() - 1
    if exchange < 0:
        return
    _vain(device).zero_()
    _counters.cache_clear()
    raise RuntimeError(
        f"in an earlier call of fastrnn's engine 'cooperative' on {device}, programs waited in "
        f"vain for others of the same layer at exchange {exchange}; the results of that call and "
        "of those after it are NaN. fastrnn.use_engine('step') does without waiting"
    )
