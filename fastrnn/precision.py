"""How float32 products are computed on a GPU: the kernels' and those of torch around them alike.

torch.nn's recurrent layers follow `torch.backends.cudnn.rnn.fp32_precision`, "tf32" unless changed,
while torch's matrix products follow a setting of their own, "ieee" unless changed.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import torch

PRECISIONS = ("tf32", "tf32x3", "ieee")

_chosen: ContextVar[str | None] = ContextVar("fastrnn_precision", default=None)


@contextmanager
def use_precision(name: str):
    """Within the block, fastrnn's kernels multiply float32 in the named precision.

    "tf32": operands of 11 significant bits, as torch.nn's layers by default; "tf32x3": three such
    products for one, nearly as exact as float32; "ieee": float32, without matrix units. Outside,
    `torch.backends.cudnn.rnn.fp32_precision` decides. Sums are always of float32.

    Raises:
        ValueError: no such precision.
    """
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; there are: {', '.join(PRECISIONS)}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def fp32_precision():
    """The name of the precision in force."""
    chosen = _chosen.get()
    if chosen is None:
        chosen = torch.backends.cudnn.rnn.fp32_precision
    return chosen if chosen in PRECISIONS else "ieee"


@contextmanager
def products(precision, device):
    """Within the block, torch's own products of float32 on a GPU are of the kernels' precision.

    torch has one setting for the whole process, so for as long as this takes to launch, products
    that other threads launch follow it too, and its older names (`allow_tf32`,
    `get_float32_matmul_precision`) may not be read. A setting that matmul had inherited from
    `torch.backends.fp32_precision` is its own afterwards.
    """
    wanted = "tf32" if precision == "tf32" else "ieee"
    before = torch.backends.cuda.matmul.fp32_precision
    same = before == wanted or (before == "none" and wanted == "ieee")
    if device.type != "cuda" or precision == "half" or same:
        yield
        return
    torch.backends.cuda.matmul.fp32_precision = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
