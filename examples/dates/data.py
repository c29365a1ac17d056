"""Dates written in many ways, each beside its ISO form: what the network reads and answers."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from examples.text import Vocabulary

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
START = "<start>"  # what the decoder is told in place of a letter before the first one
ISO = Vocabulary.of(["0123456789-"], extra=[START])


class Language(NamedTuple):
    months: str  # in order, a space between
    weekdays: str  # from Monday
    patterns: list[str]  # for str.format with the `words` of a date


LANGUAGES = {
    "English": Language(
        "January February March April May June July August September October November December",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        [
            "the {third} of {month}, {spoken}",
            "{month} the {third}, {spoken}",
            "{weekday} the {third} of {month} {spoken}",
            "in the year {spoken}, on the {third} day of {month}",
            "on the {rd} day of {month} {year}",
            "{weekday}, {month} {rd} {year}",
            "{month:.3} {day}, {year}",
            "{month_number}/{day}/{year}",
        ],
    ),
    "German": Language(
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
        [
            "{weekday}, den {day}. {month} {year}",
            "am {day}. {month} des Jahres {year}",
            "{day}.{month_number}.{yy}",
        ],
    ),
    "French": Language(
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "lundi mardi mercredi jeudi vendredi samedi dimanche",
        [
            "le {er} {month} {year}",
            "{weekday} {er} {month} {year}",
        ],
    ),
}
STYLES = [(name, pattern) for name, its in LANGUAGES.items() for pattern in its.patterns]
CASES = str, str, str.lower, str.upper  # as it is twice as often

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
UNITS = SMALL.split()
TENS = ["", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def cardinal(n: int) -> str:
    """0 to 99: ninety-eight."""
    if n < 20:
        return UNITS[n]
    return TENS[n // 10] + (f"-{UNITS[n % 10]}" if n % 10 else "")


def ordinal(n: int) -> str:
    """1 to 99: twenty-third."""
    tens, dash, last = cardinal(n).rpartition("-")
    regular = last.removesuffix("y") + "ieth" if last.endswith("y") else last + "th"
    return tens + dash + ORDINALS.get(last, regular)


def spoken(year: int) -> str:
    """nineteen ninety-eight, nineteen hundred, nineteen oh five, two thousand and five."""
    century, rest = divmod(year, 100)
    if century % 10 == 0 and rest < 10:
        return f"{UNITS[century // 10]} thousand" + (f" and {UNITS[rest]}" if rest else "")
    if rest < 10:
        return cardinal(century) + (f" oh {UNITS[rest]}" if rest else " hundred")
    return f"{cardinal(century)} {cardinal(rest)}"


def write(day: date, language: str, pattern: str) -> str:
    months, weekdays = (words.split() for words in LANGUAGES[language][:2])
    n = day.day
    suffix = "th" if 11 <= n <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    words = {
        "day": n,
        "rd": f"{n}{suffix}",
        "er": "1er" if n == 1 else n,
        "third": ordinal(n),
        "month": months[day.month - 1],
        "month_number": day.month,
        "weekday": weekdays[day.weekday()],
        "year": day.year,
        # Two digits mean one of the years 1969 to 2068, as they do to Python's strptime.
        "yy": f"{day:%y}" if 1969 <= day.year <= 2068 else day.year,
        "spoken": spoken(day.year),
    }
    return pattern.format(**words)


class Pair(NamedTuple):
    phrase: str
    iso: str


def split(seed: int, held_out: float = 0.1) -> tuple[list[date], list[date]]:
    """(dates to learn from, dates held out): no date is in both, however it is written."""
    days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    random.Random(seed).shuffle(days)
    count = round(held_out * len(days))
    return days[count:], days[:count]


def draw(days: Sequence[date], count: int, seed: int) -> list[Pair]:
    """`count` of the dates, each written in any style."""
    draws = random.Random(seed)

    def pair() -> Pair:
        day, style, case = draws.choice(days), draws.choice(STYLES), draws.choice(CASES)
        return Pair(case(write(day, *style)), day.isoformat())

    return [pair() for _ in range(count)]


def pack(phrases: Sequence[str], letters: Vocabulary) -> PackedSequence:
    """Phrases of any lengths as one batch, without padding."""
    return pack_sequence([letters.encode(phrase) for phrase in phrases], enforce_sorted=False)


def encode(pairs: Sequence[Pair], letters: Vocabulary) -> tuple[PackedSequence, Tensor]:
    """The phrases, packed, and their answers (10, B), letter by letter."""
    phrases = pack([pair.phrase for pair in pairs], letters)
    return phrases, torch.stack([ISO.encode(pair.iso) for pair in pairs], dim=1)
