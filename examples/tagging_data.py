"""Text as sentences without spaces, and a tag for each letter: whether a word begins with it."""

import re
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from examples.names_data import pack
from examples.text import Vocabulary, normal


class Sentence(NamedTuple):
    """A sentence without its spaces."""

    letters: str
    ids: Tensor  # (T,)
    begins: Tensor  # (T,) bool: whether a word begins with the letter


def words_of(text: str) -> list[str]:
    """Lower case, nothing but letters: "Don't ask, I said" -> dont, ask, i, said."""
    return re.findall(r"[^\W\d_]+", re.sub(r"['’]", "", normal(text).lower()))


def sentences_of(text: str) -> list[list[str]]:
    """The words of each sentence; headings, which stand alone between empty lines, are some too."""
    return [words for part in re.split(r"[.!?;:]|\n\s*\n", text) if (words := words_of(part))]


def sentence(words: list[str], vocabulary: Vocabulary) -> Sentence:
    begins = torch.cat([torch.arange(len(word)) == 0 for word in words])
    letters = "".join(words)
    return Sentence(letters, vocabulary.encode(letters), begins)


def spaced(letters: str, begins: Tensor) -> str:
    marks = zip(letters, begins.tolist(), strict=True)
    return "".join(f" {letter}" if begin else letter for letter, begin in marks).strip()


def packed(batch: list[Sentence], device: torch.device) -> tuple[PackedSequence, Tensor]:
    """The letters, and in the same order whether a word begins there."""
    return (
        pack([s.ids for s in batch]).to(device),
        pack([s.begins for s in batch]).data.to(device),
    )
