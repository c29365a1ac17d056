"""What guessing without a network costs, in bits for each character of the held-out part."""

import math
from collections import Counter
from itertools import pairwise

from torch import Tensor

PRIOR = 5.0  # the letter pairs start as if so many had been seen, spread as single letters are


def baselines(train: Tensor, held_out: Tensor, characters: int) -> dict[str, float]:
    """Cross entropies; what is counted is counted in the training part."""
    text = train.tolist()
    letters, pairs = Counter(text), Counter(pairwise(text))

    def alone(b: int) -> float:
        return (letters[b] + 1) / (len(text) + characters)

    def after(a: int, b: int) -> float:
        return (pairs[a, b] + PRIOR * alone(b)) / (letters[a] + PRIOR)

    end = held_out.tolist()
    bits = {
        "letter frequencies": [-math.log2(alone(b)) for b in end[1:]],
        "the letter before": [-math.log2(after(a, b)) for a, b in pairwise(end)],
    }
    means = {name: sum(values) / len(values) for name, values in bits.items()}
    return {"nothing": math.log2(characters), **means}
