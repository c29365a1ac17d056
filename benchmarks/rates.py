"""What the machine can do, measured: the constants that `floor.py` counts with."""

from collections.abc import Iterable

import torch

from benchmarks import clock, machine
from benchmarks.floor import Constants
from benchmarks.problem import DTYPES
from fastrnn.chips import chip_of

# Of a square matrix, and of what is copied: enough to fill the largest GPU, many times its cache.
WIDTH, COPIED_BYTES = 8192, 1 << 31
TRIALS = 5


def constants(device: str, dtypes: Iterable[str], known: dict) -> dict:
    """A results file's constants: `known`, if it has them for all `dtypes`, else measured."""
    dtypes = dict.fromkeys(dtypes)
    if known and dtypes.keys() <= known["floor"]["flops"].keys():
        return known
    measured = measure(device, dtypes)._asdict()
    clocks = clocks_at_work() if device == "cuda" else {}
    if device == "cuda":
        torch.cuda.empty_cache()
    return {"floor": measured, "clocks_at_work": clocks}


def measure(
    device: str, dtypes: Iterable[str], width: int = WIDTH, copied: int = COPIED_BYTES
) -> Constants:
    """The best of a few trials, on random numbers: zeros are faster, and nobody's data."""
    flops = {dtype: _product_rate(device, dtype, width) for dtype in dtypes}
    bandwidth = _copy_rate(device, copied)
    if device != "cuda":
        return Constants(flops, bandwidth, None, 1, 0)
    properties = torch.cuda.get_device_properties(0)
    # The highest clock, at which a chip runs that a recurrence keeps waiting.
    megahertz = machine.gpu_numbers("clocks.max.sm")
    return Constants(
        flops,
        bandwidth,
        1e6 * megahertz[0] if megahertz else None,
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
        _barrier(properties.multi_processor_count),
    )


def clocks_at_work() -> dict[str, float]:
    """A GPU's clocks, in MHz, in the midst of half a second of products; {} if unknown."""
    a = torch.randn(WIDTH, WIDTH, device="cuda", dtype=torch.bfloat16)
    count = round(0.5 / clock.estimate(lambda: a @ a, "cuda"))
    for _ in range(count):
        a @ a
    numbers = machine.gpu_numbers("clocks.sm,clocks.mem")
    torch.cuda.synchronize()
    return dict(zip(("multiprocessors", "memory"), numbers, strict=False))


def _barrier(multiprocessors: int) -> float:
    """Seconds for all of them to wait for one another; 0 where no kernel can."""
    chip = chip_of(torch.device("cuda", 0))
    if chip is None or not chip.cooperative:
        return 0.0
    from benchmarks import barrier_rate  # needs Triton

    return barrier_rate.seconds(multiprocessors)


def _product_rate(device: str, dtype: str, width: int) -> float:
    storage, precision = DTYPES[dtype]
    a, b = (torch.randn(width, width, device=device).to(storage) for _ in range(2))
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        return 2 * width**3 / _best(lambda: torch.mm(a, b), device)
    finally:
        matmul.fp32_precision = before


def _copy_rate(device: str, copied: int) -> float:
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    return 2 * copied / _best(lambda: target.copy_(source), device)


def _best(call, device: str) -> float:
    (times,) = clock.take_turns([call], device, TRIALS)
    return min(times)
