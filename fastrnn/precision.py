"""How float32 products are computed on a GPU: the kernels' and those of torch around them alike.

torch.nn's recurrent layers follow `torch.backends.cudnn.rnn.fp32_precision`, "tf32" unless changed,
while torch's matrix products follow a setting of their own, "ieee" unless changed.
"""

from contextlib import contextmanager

import torch

from .setting import Setting, variable

PRECISIONS = ("tf32", "tf32x3", "ieee")

_chosen = variable("use_precision", None)


def use_precision(name: str) -> Setting:
    """`with use_precision(name):` within the block, or as a decorator within the calls of a
    function, fastrnn's kernels multiply float32 in the named precision.

    "tf32": operands of 11 significant bits, as torch.nn's layers by default; "tf32x3": three such
    products for one, nearly as exact as float32; "ieee": float32, without matrix units. Outside,
    `torch.backends.cudnn.rnn.fp32_precision` decides. Sums are always of float32.

    Raises:
        ValueError: no such precision.
    """
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; there are: {', '.join(PRECISIONS)}")
    return Setting("use_precision", _chosen, name)


def fp32_precision():
    """The name of the precision in force."""
    chosen = _chosen.get()[-1].value
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
