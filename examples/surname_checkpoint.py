"""A trained classifier with its letters and languages in one file, and what it says of a name."""

import pickle
import zipfile
from pathlib import Path

import torch

from examples.names_data import UserError, Vocabulary, clean, pack
from examples.surname_model import DEVICE, Classifier, FastClassifier

KEYS = {"cell", "hidden", "symbols", "languages", "state_dict"}


def save(path: Path, model: Classifier, vocabulary: Vocabulary, languages: list[str]) -> None:
    """Plain values and tensors only, so that `torch.load(path, weights_only=True)` takes it."""
    state_dict = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    values = {
        "cell": model.rnn.mode.partition("_")[0].lower(),
        "hidden": model.rnn.hidden_size,
        "symbols": vocabulary.symbols,
        "languages": languages,
        "state_dict": state_dict,
    }
    torch.save(values, path)


def load(
    path: Path,
    kind: type[Classifier] = FastClassifier,
    *,
    cell: str | None = None,
    hidden: int | None = None,
) -> tuple[Classifier, Vocabulary, list[str]]:
    """(model, vocabulary, languages); `cell` and `hidden` are those of the file unless given."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint, train one: python -m examples.surnames")
    values = read(path)
    vocabulary, languages = Vocabulary(values["symbols"]), values["languages"]
    model = kind(
        cell or values["cell"], len(vocabulary), hidden or values["hidden"], len(languages)
    )
    check_sizes(path, saved=values["state_dict"], expected=model.state_dict())
    model.load_state_dict(values["state_dict"])
    return model.to(DEVICE), vocabulary, languages


def read(path: Path) -> dict:
    """The values that `save` wrote."""
    # torch.save writes a zip file; on other bytes torch.load fails in any of a dozen ways.
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a checkpoint, which is a file that torch.save wrote")
    try:
        values = torch.load(path, map_location=DEVICE, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        raise UserError(f"{path}: not a checkpoint that torch.load reads") from None
    if not isinstance(values, dict) or not values.keys() >= KEYS:
        raise UserError(f"{path}: not a checkpoint of this example, expected {sorted(KEYS)}")
    return values


def check_sizes(path: Path, *, saved: dict, expected: dict) -> None:
    """Name every parameter whose size in the checkpoint is not the size in the model."""

    def size(state_dict: dict, name: str) -> str:
        return "×".join(map(str, state_dict[name].shape)) if name in state_dict else "missing"

    differences = [
        f"{name} is {size(saved, name)}, expected {size(expected, name)}"
        for name in sorted(saved.keys() | expected.keys())
        if size(saved, name) != size(expected, name)
    ]
    if differences:
        raise UserError(f"{path}: " + "; ".join(differences))


@torch.no_grad()
def predict(
    model: Classifier, vocabulary: Vocabulary, languages: list[str], names: list[str], top: int = 3
) -> list[list[tuple[str, float]]]:
    """For each name its most probable languages, each with its probability."""
    for position, name in enumerate(names, 1):
        if not clean(name):
            raise UserError(f"name {position} of {len(names)} is empty")
    model.eval()
    ids = pack([vocabulary.encode(name) for name in names]).to(DEVICE)
    best = model(ids).softmax(-1).topk(min(top, len(languages)))
    return [
        [(languages[i], p) for i, p in zip(indices, probabilities, strict=True)]
        for indices, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
