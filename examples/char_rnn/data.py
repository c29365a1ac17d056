"""A text cut for training: parallel streams, windows of them, and a part held out."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from examples.common import UserError
from examples.text import Vocabulary, read_text

HELD_OUT = 0.1  # of the text, its end


class Corpus(NamedTuple):
    path: Path
    digest: str  # two texts with the same digest are the same
    vocabulary: Vocabulary
    train: Tensor  # (letters,)
    held_out: Tensor


def load(path: Path, window: int, batch_size: int) -> Corpus:
    """The letters of a file; a UserError if they fill no window of each of the streams."""
    text = read_text(path)
    vocabulary = Vocabulary.of([text])
    ids = vocabulary.encode(text)
    train, held_out = ids.tensor_split([round((1 - HELD_OUT) * len(ids))])
    needed = window * batch_size + 1
    if len(train) < needed or len(held_out) < 2:
        raise UserError(
            f"{path}: {len(ids)} characters, {len(train)} of them to learn from, are too few for "
            f"one window of {window} steps in {batch_size} streams ({needed}); take a longer text, "
            "or a smaller --window or --batch-size"
        )
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus(path, digest, vocabulary, train, held_out)


def windows(ids: Tensor, window: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """(letters, the letter after each), both [T, B], one after the other.

    Column b reads on where it stopped in the window before: the text is cut into B streams of
    equal length, and these into windows that differ by one step at most and have up to `window`.
    """
    length = (len(ids) - 1) // batch_size
    count = -(-length // window)
    now, after = (
        part[: length * batch_size].view(batch_size, length).t().contiguous().tensor_split(count)
        for part in (ids[:-1], ids[1:])
    )
    return list(zip(now, after, strict=True))
