"""Roles that a unit may have in a network that reads a text: properties of a place in the text, and
how well a unit's value tells them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

OPENING, CLOSING = "‘“", "’”"


def in_quotation(text: str) -> list[bool]:
    """From ‘ up to its ’, both included. A ’ before a letter is an apostrophe: it’s, ’tis.

    A blank line closes too: the next paragraph of a speech opens a quotation of its own.
    """
    inside, found = False, []
    for k, character in enumerate(text):
        inside = inside or character in OPENING
        found.append(inside)
        apostrophe = text[k + 1 : k + 2].isalpha()
        if (character in CLOSING and not apostrophe) or text[k : k + 2] == "\n\n":
            inside = False
    return found


def in_brackets(text: str) -> list[bool]:
    """From ( up to its ), both included, or to a blank line."""
    inside, found = False, []
    for k, character in enumerate(text):
        inside = inside or character == "("
        found.append(inside)
        if character == ")" or text[k : k + 2] == "\n\n":
            inside = False
    return found


def since(text: str, signs: str) -> list[float]:
    """Characters since the last of these signs."""
    count, found = 0, []
    for character in text:
        count = 0 if character in signs else count + 1
        found.append(float(count))
    return found


def in_line(text: str) -> list[float]:
    return since(text, "\n")


def in_word(text: str) -> list[float]:
    return since(text, " \n")


def upper_case(text: str) -> list[bool]:
    return [character.isupper() for character in text]


ROLES: dict[str, Callable[[str], list]] = {
    "in a quotation": in_quotation,
    "in brackets": in_brackets,
    "place in the line": in_line,
    "letters since a space": in_word,
    "upper case": upper_case,
}


def ranks(values: Tensor) -> Tensor:
    """(N, H), from 1: the place of each value of (N, H) among those of its unit."""
    columns = values.t().contiguous()
    return (columns.argsort(1).argsort(1) + 1).t().double()


def ranking(ranks: Tensor, truth: Tensor) -> Tensor:
    """(H,) the area under the ROC curve of values with these ranks (N, H), truth (N,) bool.

    How often a place where it is true has a higher value than one where it is not.
    """
    true = truth.sum().double()
    false = len(truth) - true
    return (ranks[truth].sum(0) - true * (true + 1) / 2) / (true * false)


def correlation(values: Tensor, truth: Tensor) -> Tensor:
    """(H,), of values (N, H) with truth (N,)."""
    values = values.double() - values.double().mean(0)
    truth = truth.double() - truth.double().mean()
    scale = values.norm(dim=0) * truth.norm()
    return truth @ values / scale.clamp_min(torch.finfo(scale.dtype).tiny)


class Found(NamedTuple):
    unit: int
    sign: int  # 1, or -1 for a unit that falls where others would rise
    measure: str
    value: float  # on text that it was not chosen by


def find(values: Tensor, text: str, chosen_by: int) -> dict[str, Found]:
    """For each role the unit of values (N, H) that tells it best in the first `chosen_by` letters.

    Its score is that of the other letters. Left out is a role that never changes in either part.
    """
    parts = values.tensor_split([chosen_by])
    ranked = ranks(parts[0])
    found = {}
    for role, told in ROLES.items():
        first, rest = torch.tensor(told(text), device=values.device).tensor_split([chosen_by])
        if first.unique().numel() < 2 or rest.unique().numel() < 2:
            continue
        yes_or_no = first.dtype == torch.bool
        scores = 2 * ranking(ranked, first) - 1 if yes_or_no else correlation(parts[0], first)
        unit = int(scores.abs().argmax())
        sign = 1 if scores[unit] > 0 else -1
        alone = parts[1][:, unit : unit + 1] * sign
        if yes_or_no:
            found[role] = Found(unit, sign, "AUC", ranking(ranks(alone), rest).item())
        else:
            found[role] = Found(unit, sign, "correlation", correlation(alone, rest).item())
    return found


def telling(role: str, text: str, lines: int) -> slice:
    """So many lines of the text, or all: those in which the role changes most."""
    truth = torch.tensor(ROLES[role](text)).double()
    begins = [0] + [k + 1 for k, character in enumerate(text) if character == "\n"]
    ends = [*begins[lines:], len(text)]
    stretches = [slice(b, e) for b, e in zip(begins, ends, strict=False) if e > b]
    # Of longer lines more is to be seen.
    return max(stretches, key=lambda s: truth[s].var(correction=0).item() * (s.stop - s.start))
