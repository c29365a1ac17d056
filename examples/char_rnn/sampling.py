"""Text written by the network: each letter is drawn from its guess, and is what it reads next."""

from collections.abc import Iterator

import torch
from torch import Tensor

from examples.char_rnn.model import CharRNN
from examples.text import PADDING, UNKNOWN, Vocabulary, normal


@torch.no_grad()
def write(
    model: CharRNN, prime: Tensor, length: int, temperature: float, seed: int, never: Tensor
) -> Iterator[Tensor]:
    """The `length` letters, (1,) each, that follow the prime (letters,).

    The scores are divided by the temperature: below 1 the probable becomes more probable, at 0
    nothing else is left. Letters in `never` are not drawn.
    """
    model.eval()
    generator = torch.Generator(prime.device).manual_seed(seed)
    ids, state = prime.unsqueeze(1), None
    for _ in range(length):
        # All that was read before is in the state, so that the next call has one letter.
        scores, state = model(ids, state)
        last = scores[-1, 0].index_fill(0, never, -torch.inf)
        last -= last.max()  # so that no temperature makes it overflow
        if temperature == 0:
            ids = last.argmax().view(1, 1)
        else:
            shares = (last / temperature).softmax(0)
            ids = torch.multinomial(shares, 1, generator=generator).view(1, 1)
        yield ids[0]


def sample(
    model: CharRNN,
    vocabulary: Vocabulary,
    prime: str,
    *,
    length: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    """The prime, then one letter after the other."""
    device = model.out.weight.device
    never = torch.tensor([vocabulary.index[symbol] for symbol in (PADDING, UNKNOWN)], device=device)
    yield normal(prime)
    ids = vocabulary.encode(prime).to(device)
    for letter in write(model, ids, length, temperature, seed, never):
        yield vocabulary.decode(letter)


def unknown(vocabulary: Vocabulary, prime: str) -> list[str]:
    """The characters of the prime that the network has never seen, each once."""
    return [c for c in dict.fromkeys(normal(prime)) if c not in vocabulary.index]
