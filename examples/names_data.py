"""Surnames as data: a folder of `<Language>.txt`, one name a line, becomes batches of indices."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_sequence

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class UserError(ValueError):
    """Something the user can put right, told in one line."""


class Example(NamedTuple):
    ids: Tensor  # [letters of the name]
    language: int


def clean(name: str) -> str:
    """One spelling for one name: composed letters, lower case, a straight apostrophe."""
    return unicodedata.normalize("NFC", name.strip().lower().replace("’", "'"))


def read_names(path: Path) -> list[str]:
    """The names of a UTF-8 file, cleaned and each of them once, in the order of the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = content.decode("utf-8").removeprefix("\N{BYTE ORDER MARK}")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason})") from None
    # A name that is repeated would be learnt from and examined on.
    names = list(dict.fromkeys(filter(None, map(clean, text.splitlines()))))
    if not names:
        raise UserError(f"{path}: the file is empty, expected one name a line")
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


class Vocabulary:
    """Letter <-> index. Index 0 stands for every letter that is not in the vocabulary."""

    def __init__(self, symbols: list[str]):
        self.symbols = symbols
        self.index = {symbol: i for i, symbol in enumerate(symbols)}

    @classmethod
    def of(cls, names: dict[str, list[str]]) -> "Vocabulary":
        # A letter that occurs once stays unknown: so there is something to learn about the unknown.
        counts = Counter(letter for known in names.values() for name in known for letter in name)
        return cls([UNKNOWN, *sorted(letter for letter, n in counts.items() if n > 1)])

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, name: str) -> Tensor:
        return torch.tensor([self.index.get(letter, 0) for letter in clean(name)])


def examples(names: dict[str, list[str]], vocabulary: Vocabulary) -> list[Example]:
    return [
        Example(vocabulary.encode(name), language)
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
