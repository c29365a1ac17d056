"""A checkpoint: plain values and tensors in a file that plain torch reads and torch.nn takes."""

import os
import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples.common import UserError


def save(path: Path, values: dict[str, Any]) -> None:
    """For `torch.load(path, weights_only=True)`. The old file is replaced at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    torch.save(values, half)
    os.replace(half, path)


def read(path: Path, keys: Collection[str], *, train: str) -> dict[str, Any]:
    """What `save` wrote, `keys` among it, on the CPU; `train` is the command that makes one."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint, train one: {train}")
    # torch.save writes a zip file; on other bytes torch.load fails in any of a dozen ways.
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a checkpoint, which is a file that torch.save wrote")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        raise UserError(f"{path}: not a checkpoint that torch.load reads") from None
    if not isinstance(values, dict) or not values.keys() >= set(keys):
        raise UserError(f"{path}: not a checkpoint of this example, expected {sorted(keys)}")
    return values


def restore(path: Path, model: nn.Module, saved: dict) -> None:
    """Load the weights; a UserError names every parameter whose size is not the model's."""

    def size(state_dict: dict, name: str) -> str:
        return "×".join(map(str, state_dict[name].shape)) if name in state_dict else "missing"

    expected = model.state_dict()
    differences = [
        f"{name} is {size(saved, name)}, expected {size(expected, name)}"
        for name in sorted(saved.keys() | expected.keys())
        if size(saved, name) != size(expected, name)
    ]
    if differences:
        raise UserError(f"{path}: " + "; ".join(differences))
    model.load_state_dict(saved)
