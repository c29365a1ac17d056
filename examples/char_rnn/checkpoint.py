"""A training in a file: to sample from, to go on with, to load into plain torch.nn."""

from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import fastrnn
from examples import checkpoint
from examples.char_rnn import data
from examples.char_rnn.model import CharRNN
from examples.char_rnn.training import Options, Training
from examples.common import UserError
from examples.text import Vocabulary

TRAIN = "python -m examples.char_rnn train"
OPTIONS = [field.name for field in fields(Options)]
KEYS = {
    *OPTIONS,
    *("text", "digest", "symbols"),
    *("state_dict", "optimizer", "schedule", "steps", "state", "history", "random", "random_cuda"),
}


def save(path: Path, training: Training) -> None:
    corpus = training.corpus
    values = {
        **asdict(training.options),
        "text": str(corpus.path.absolute()),
        "digest": corpus.digest,
        "symbols": corpus.vocabulary.symbols,
        **training.state_dict(),
    }
    checkpoint.save(path, values)


def _model(values: dict[str, Any], library: ModuleType) -> CharRNN:
    sizes = len(values["symbols"]), values["hidden"], values["layers"]
    return CharRNN(library, values["cell"], *sizes)


def load(path: Path, library: ModuleType = fastrnn) -> tuple[CharRNN, Vocabulary]:
    """The trained network, in eval mode on the CPU, and its letters."""
    values = checkpoint.read(path, KEYS, train=TRAIN)
    model = _model(values, library)
    checkpoint.restore(path, model, values["state_dict"])
    return model.eval(), Vocabulary(values["symbols"])


def resume(path: Path, text: Path | None, asked: dict[str, Any], device: torch.device) -> Training:
    """The training in the file; a UserError if it is not of this text or not what was asked for.

    `asked` has options by name; those that it lacks are the file's, as is the text where None.
    """
    values = checkpoint.read(path, KEYS, train=TRAIN)
    differences = [
        f"{name} is {values[name]}, asked for {value}"
        for name, value in asked.items()
        if value != values[name]
    ]
    if differences:
        raise UserError(
            f"{path}: {'; '.join(differences)}; resume without these options, or train anew"
        )
    options = Options(**{name: values[name] for name in OPTIONS})
    text = text or Path(values["text"])
    corpus = data.load(text, options.window, options.batch_size)
    if corpus.digest != values["digest"]:
        raise UserError(
            f"{path}: was trained on another text than {text} is; resume with {values['text']} "
            "as it was, or train anew"
        )
    training = Training(options, corpus, device)
    checkpoint.restore(path, training.model, values["state_dict"])
    training.load_state_dict(values)
    return training
