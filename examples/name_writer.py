"""A network that writes names: it begins with a language as its state, then draws letters."""

import math
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from examples.names_data import Example, pack
from examples.text import PADDING, UNKNOWN, Vocabulary, read

BEGIN, END = "<begin>", "<end>"
LONGEST = 30  # letters: none of the names is longer


class Writer(nn.Module):
    """One to many: language -> (h_0, c_0); letters so far -> a score for each next letter."""

    def __init__(self, library: ModuleType, symbols: int, languages: int, hidden: int = 128):
        super().__init__()
        self.h_0 = nn.Embedding(languages, hidden)
        self.c_0 = nn.Embedding(languages, hidden)
        self.rnn = library.LSTM(symbols, hidden)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(hidden, symbols)

    def begin(self, languages: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) -> h_0 and c_0, (1, B, H) each."""
        return self.h_0(languages).unsqueeze(0), self.c_0(languages).unsqueeze(0)

    def forward(self, ids: Tensor | PackedSequence, state: tuple) -> tuple[Tensor, tuple]:
        """Scores (T, B, symbols), of packed letters (letters, symbols); and (h_n, c_n)."""
        output, state = read(self.rnn, ids, state)
        if isinstance(output, PackedSequence):
            output = output.data
        return self.out(self.dropout(output)), state


def framed(data: list[Example], vocabulary: Vocabulary) -> list[Example]:
    """Each name between the symbols for its beginning and its end."""
    begin, end = (torch.tensor([vocabulary.index[symbol]]) for symbol in (BEGIN, END))
    return [e._replace(ids=torch.cat([begin, e.ids, end])) for e in data]


def loss_of(model: Writer, batch: list[Example], device: torch.device) -> Tensor:
    """Teacher forcing: at each letter of the name, whatever the model thinks, guess the next.

    The letters and those that follow them are packed alike, so each stands beside its own: there
    is no padding to be left out.
    """
    letters = pack([e.ids[:-1] for e in batch]).to(device)
    following = pack([e.ids[1:] for e in batch]).to(device)
    languages = torch.tensor([e.language for e in batch], device=device)
    scores, _ = model(letters, model.begin(languages))
    return F.cross_entropy(scores, following.data)


@torch.no_grad()
def bits_per_letter(model: Writer, data: list[Example], device: torch.device) -> float:
    model.eval()
    return loss_of(model, data, device).item() / math.log(2)


@torch.no_grad()
def write(
    model: Writer, vocabulary: Vocabulary, languages: Tensor, temperature: float
) -> tuple[list[str], Tensor]:
    """A name for each of the languages (B,); and the chances (T, B, symbols) that it was drawn by.

    A letter is drawn from softmax(scores / temperature) and read in the next step.
    """
    model.eval()
    begin, end = vocabulary.index[BEGIN], vocabulary.index[END]
    never = [vocabulary.index[PADDING], vocabulary.index[UNKNOWN], begin]
    state = model.begin(languages)
    letters = torch.full_like(languages, begin)
    written, chances = [], []
    for step in range(LONGEST):
        scores, state = model(letters.unsqueeze(0), state)
        # A name has a first letter.
        scores[..., never if step else [*never, end]] = -math.inf
        chances.append((scores[0] / temperature).softmax(-1))
        letters = chances[-1].multinomial(1).squeeze(1)
        written.append(letters)
    ids = torch.stack(written, 1)
    names = [vocabulary.decode(row).partition(END)[0] for row in ids]
    return names, torch.stack(chances)
