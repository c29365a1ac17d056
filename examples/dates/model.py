"""An encoder-decoder: one network reads the phrase, another writes the date."""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from examples.dates.data import ISO, START
from examples.text import read

LENGTH = len("1998-03-03")  # of every answer, so that no sign for its end is needed


class Read(NamedTuple):
    """What the encoder makes of a batch of phrases."""

    states: Tensor  # (T, B, H): of each letter, seen from both sides
    padding: Tensor  # (B, T): True beyond a phrase's end
    h_n: Tensor  # (1, B, H)


class Translator(nn.Module):
    def __init__(self, library: ModuleType, letters: int, hidden: int, *, attention: bool):
        super().__init__()
        # Half of the state for each direction: both together begin the decoder's.
        self.encoder = library.GRU(letters, hidden // 2, bidirectional=True)
        self.decoder = library.GRU(len(ISO), hidden)
        self.attention = nn.Linear(hidden, hidden, bias=False) if attention else None
        self.mix = nn.Linear(2 * hidden if attention else hidden, hidden)
        self.out = nn.Linear(hidden, len(ISO))
        for name, weight in self.named_parameters():
            # A letter is one column of W_ih. At the usual scale, 1/√H, it hardly moves the state,
            # and learning is several times as slow.
            if "weight_ih" in name:
                nn.init.normal_(weight, std=0.5)
            # What was read long ago should neither fade nor blow up: a rotation for each gate.
            if "weight_hh" in name:
                for gate in weight.chunk(3):
                    nn.init.orthogonal_(gate)

    def encode(self, phrases: PackedSequence) -> Read:
        output, h_n = read(self.encoder, phrases)
        states, lengths = pad_packed_sequence(output)
        padding = torch.arange(len(states)) >= lengths.unsqueeze(1)
        return Read(states, padding.to(states.device), torch.cat([*h_n], dim=1).unsqueeze(0))

    def decode(self, before: Tensor, h: Tensor, phrase: Read) -> tuple[Tensor, Tensor, Tensor]:
        """Letters (L, B) -> scores of those that follow (L, B, symbols), state, and weights.

        The weights (L, B, T) say where each step looked; without attention they are zero.
        """
        s, h = read(self.decoder, before, h)  # all L steps are one call
        weights = s.new_zeros(*before.shape, len(phrase.states))
        if self.attention is not None:
            score = torch.einsum("lbh,tbh->lbt", self.attention(s), phrase.states)
            weights = score.masked_fill(phrase.padding, -torch.inf).softmax(-1)
            context = torch.einsum("lbt,tbh->lbh", weights, phrase.states)
            s = torch.cat([s, context], dim=-1)
        return self.out(self.mix(s).tanh()), h, weights

    def forward(self, phrases: PackedSequence, iso: Tensor) -> Tensor:
        """Teacher forcing: each step is told the true letter before its own. iso is (10, B)."""
        phrase = self.encode(phrases)
        start = torch.full_like(iso[:1], ISO.index[START])
        scores, _, _ = self.decode(torch.cat([start, iso[:-1]]), phrase.h_n, phrase)
        return scores


class Answer(NamedTuple):
    ids: Tensor  # (10, B)
    probability: Tensor  # (B,): what the model gives to the whole answer
    weights: Tensor  # (10, B, T)


@torch.no_grad()
def translate(model: Translator, phrases: PackedSequence) -> Answer:
    """Greedy: each step is told the likeliest letter of the step before it."""
    phrase = model.encode(phrases)
    h = phrase.h_n
    letter = torch.full((1, h.shape[1]), ISO.index[START], device=h.device)
    steps = []
    for _ in range(LENGTH):
        scores, h, weights = model.decode(letter, h, phrase)
        probability, letter = scores.softmax(-1).max(-1)
        steps.append((letter, probability, weights))
    ids, probabilities, weights = (torch.cat(part) for part in zip(*steps, strict=True))
    return Answer(ids, probabilities.prod(0), weights)
