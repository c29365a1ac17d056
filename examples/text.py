"""Text as data: a UTF-8 file becomes symbols, symbols become numbers, and numbers become text.

A character that can be written in two ways, `é` as one code point or as `e` and an accent, is
one symbol here: text is brought into composed form (Unicode's NFC) before anything else.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from examples.common import UserError

ALICE = Path(__file__).parent / "data/text/alice.txt"  # a text to read, if no other is given

PADDING = ""  # fills a batch up behind a short text: nothing, when it is decoded
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # stands for every character that is not in the vocabulary


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file in composed form; UserError, in one line, if there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a text file") from None
    try:
        text = content.decode("utf-8").removeprefix("\N{BYTE ORDER MARK}")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty, expected text; give one that has some")
    return normal(text.replace("\r\n", "\n"))


class Vocabulary:
    """Symbol <-> index. Index 0 is padding, 1 is unknown; then what a task adds; then characters.

    `decode(encode(text))` is the text in composed form if each of its characters is known.
    """

    def __init__(self, symbols: Sequence[str]):
        self.symbols = list(symbols)
        self.index = {symbol: i for i, symbol in enumerate(self.symbols)}
        if self.symbols[:2] != [PADDING, UNKNOWN] or len(self.index) < len(self.symbols):
            raise ValueError("symbols must begin with PADDING and UNKNOWN and differ")
        if any(normal(symbol) != symbol for symbol in self.symbols):
            raise ValueError("symbols must be text in composed form")

    @classmethod
    def of(
        cls, texts: Iterable[str], *, extra: Sequence[str] = (), at_least: int = 1
    ) -> "Vocabulary":
        """The characters that occur `at_least` so often in the texts, in the order of Unicode.

        `extra` symbols, such as "<end>", are more than a character long, so no text has them.
        """
        counts = Counter(character for text in texts for character in normal(text))
        del counts[UNKNOWN]
        known = sorted(character for character, n in counts.items() if n >= at_least)
        return cls([PADDING, UNKNOWN, *extra, *known])

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        """(T,) int64, an index for each character."""
        unknown = self.index[UNKNOWN]
        return torch.tensor(
            [self.index.get(character, unknown) for character in normal(text)], dtype=torch.int64
        )

    def decode(self, ids: Tensor) -> str:
        """The text of (T,) indices; padding is left out, an unknown character is `�`."""
        return "".join(self.symbols[i] for i in ids.tolist())

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.symbols, ensure_ascii=False, indent=0), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        content = read_text(path)
        try:
            symbols = json.loads(content)
            if not isinstance(symbols, list):
                raise ValueError("expected a list of symbols")
            return cls(symbols)
        # A symbol that is no text is a TypeError; lists in lists without end, a RecursionError.
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: not a vocabulary that was saved ({error})") from None


def read(rnn: nn.Module, ids: Tensor | PackedSequence, hx=None) -> tuple:
    """`rnn` over letters as numbers: (output, state).

    A letter as a vector is a single 1 among zeros, and to multiply W_ih by it is to pick a column
    of W_ih. fastrnn looks that column up; torch.nn needs the vector.
    """
    if not isinstance(rnn, (nn.LSTM, nn.GRU, nn.RNN)):
        return rnn(ids, hx, one_hot=True)
    data = ids.data if isinstance(ids, PackedSequence) else ids
    x = F.one_hot(data, rnn.input_size).to(rnn.weight_ih_l0.dtype)
    return rnn(ids._replace(data=x) if isinstance(ids, PackedSequence) else x, hx)
