"""A trained classifier with its letters and languages in one file, and what it says of a name."""

from pathlib import Path
from types import ModuleType

import torch

import fastrnn
from examples import checkpoint
from examples.common import UserError
from examples.names_data import clean, pack
from examples.surname_model import Classifier
from examples.text import Vocabulary

KEYS = {"cell", "hidden", "symbols", "languages", "state_dict"}


def save(path: Path, model: Classifier, vocabulary: Vocabulary, languages: list[str]) -> None:
    state_dict = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    values = {
        "cell": model.rnn.mode.partition("_")[0].lower(),
        "hidden": model.rnn.hidden_size,
        "symbols": vocabulary.symbols,
        "languages": languages,
        "state_dict": state_dict,
    }
    checkpoint.save(path, values)


def load(
    path: Path,
    library: ModuleType = fastrnn,
    *,
    cell: str | None = None,
    hidden: int | None = None,
) -> tuple[Classifier, Vocabulary, list[str]]:
    """(model on the CPU, vocabulary, languages); `cell` and `hidden`: the file's unless given."""
    values = checkpoint.read(path, KEYS, train="python -m examples.surnames")
    vocabulary, languages = Vocabulary(values["symbols"]), values["languages"]
    cell, hidden = cell or values["cell"], hidden or values["hidden"]
    model = Classifier(library, cell, len(vocabulary), hidden, len(languages))
    checkpoint.restore(path, model, values["state_dict"])
    return model, vocabulary, languages


@torch.no_grad()
def predict(
    model: Classifier, vocabulary: Vocabulary, languages: list[str], names: list[str], top: int = 3
) -> list[list[tuple[str, float]]]:
    """For each name its most probable languages, each with its probability."""
    for position, name in enumerate(names, 1):
        if not clean(name):
            raise UserError(f"name {position} of {len(names)} is empty")
    model.eval()
    ids = pack([vocabulary.encode(clean(name)) for name in names]).to(model.device)
    best = model(ids).softmax(-1).topk(min(top, len(languages)))
    return [
        [(languages[i], p) for i, p in zip(indices, probabilities, strict=True)]
        for indices, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
