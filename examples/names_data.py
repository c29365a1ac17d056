"""Surnames as data: a folder of `<Language>.txt`, one name a line, becomes batches of indices."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_sequence

from examples.common import UserError
from examples.text import Vocabulary, normal, read_text


class Example(NamedTuple):
    ids: Tensor  # [letters of the name]
    language: int


def clean(name: str) -> str:
    """One spelling for one name: composed letters, lower case, a straight apostrophe."""
    return normal(name.strip().lower().replace("’", "'"))


def read_names(path: Path) -> list[str]:
    """The names of a UTF-8 file, cleaned and each of them once, in the order of the file."""
    # A name that is repeated would be learnt from and examined on.
    names = list(dict.fromkeys(filter(None, map(clean, read_text(path).splitlines()))))
    if len(names) == 1:
        raise UserError(f"{path}: only one name, expected one to learn and one to hold out")
    return names


def read_folder(folder: Path) -> dict[str, list[str]]:
    """Language -> names, from the `<Language>.txt` files of a folder."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(f"{folder}: no *.txt files, expected one for each language")
    if len(files) == 1:
        raise UserError(f"{folder}: only {files[0].name}, expected at least two languages")
    return {file.stem: read_names(file) for file in files}


def split(
    names: dict[str, list[str]], seed: int, held_out: float = 0.15
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(train, test): the same share of each language is held out; the seed decides which names."""
    generator = torch.Generator().manual_seed(seed)
    train, test = {}, {}
    for language, known in names.items():
        order = torch.randperm(len(known), generator=generator).tolist()
        count = max(1, round(held_out * len(known)))
        test[language] = [known[i] for i in order[:count]]
        train[language] = [known[i] for i in order[count:]]
    return train, test


def vocabulary_of(names: dict[str, list[str]]) -> Vocabulary:
    # A letter that occurs once stays unknown: so there is something to learn about the unknown.
    return Vocabulary.of((name for known in names.values() for name in known), at_least=2)


def examples(names: dict[str, list[str]], vocabulary: Vocabulary) -> list[Example]:
    return [
        Example(vocabulary.encode(clean(name)), language)
        for language, known in enumerate(names.values())
        for name in known
    ]


def pack(names: list[Tensor]) -> PackedSequence:
    """Names of different lengths as one batch, without a step spent on padding."""
    lengths = torch.tensor([len(name) for name in names])
    padded = pad_sequence(names)  # [T, B]
    return pack_padded_sequence(padded, lengths, enforce_sorted=False)


def batches(
    data: list[Example], size: int, generator: torch.Generator
) -> Iterator[tuple[PackedSequence, Tensor]]:
    """All the data once, shuffled: (packed indices, languages [B])."""
    order = torch.randperm(len(data), generator=generator).tolist()
    for start in range(0, len(order), size):
        batch = [data[i] for i in order[start : start + size]]
        yield pack([e.ids for e in batch]), torch.tensor([e.language for e in batch])
