"""Dates in words -> ISO: the phrases mean their dates, attention learns what the state alone does
not, both libraries learn the same, and bad input is one clear line."""

import re
from datetime import date, timedelta
from functools import partial

import pytest
import torch

from examples.common import LIBRARIES
from examples.dates import __main__ as dates
from examples.dates import data, training
from examples.dates.data import ISO, STYLES
from examples.dates.model import Translator, translate
from examples.text import PADDING, UNKNOWN, Vocabulary
from tests import commands
from tests.losses import assert_same

error_of = partial(commands.error_of, dates.main)

CPU = torch.device("cpu")
BATCH = 16
MONTHS = ["jan", "f[eé][bv]", "mar|mär", "a[pv]r", "ma[iy]", "jun|juin", "jul|juil", "au|aoû"]
MONTHS += ["sep", "o[ck]t", "nov", "d[eé][cz]"]
NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
NUMBERS = {word: n for n, word in enumerate(NUMBERS.split(), 1)}
NUMBERS |= {f"{word}teen": n for n, word in enumerate(["fif", "six", "seven", "eigh", "nine"], 15)}
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBERS |= {word: n for n, word in zip(range(20, 100, 10), TENS, strict=True)}
FIRSTS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
FIRSTS = {word: n for n, word in enumerate(FIRSTS.split(), 1)}
FIRSTS |= {word + "th": n for word, n in NUMBERS.items() if 12 < n < 20}
FIRSTS |= {"twentieth": 20, "thirtieth": 30}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, figures) of a short training by the command line."""
    before = torch.get_num_threads()
    out = tmp_path_factory.mktemp("dates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dates, "HELD_OUT", 300)
        patch.setattr(training, "POINTS", 2)
        figures = dates.main(["--steps", "120", "--device", "cpu", "--out", str(out)])
    torch.set_num_threads(before)
    return out, figures


def year_of(words):
    """nineteen oh five; two thousand and five; twenty ten."""
    numbers = [NUMBERS.get(word, 0) for word in words]
    if "thousand" in words:
        return 2000 + sum(numbers[2:])
    if "hundred" in words:
        return numbers[0] * 100
    return numbers[0] * 100 + sum(numbers[1:])


def parse(phrase):
    """Its date, found without the patterns that wrote it."""
    phrase = phrase.lower()
    if match := re.fullmatch(r"(\d+)/(\d+)/(\d{4})", phrase):
        month, day, year = map(int, match.groups())
        return date(year, month, day)
    if match := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", phrase):
        day, month, year = map(int, match.groups())
        return date(year if year > 99 else 1900 + year if year >= 69 else 2000 + year, month, day)
    words = [word for word in re.split(r"[ ,.-]+", phrase) if word]
    (month,) = (
        n
        for n, names in enumerate(MONTHS, 1)
        if any(re.match(names, word) for word in words if word != "mardi")
    )
    digits = [int(n) for word in words for n in re.findall(r"\d+", word)]
    if digits:
        day = min(digits)
    else:
        day = sum(FIRSTS.get(word, 0) for word in words)
        before = words[[word in FIRSTS for word in words].index(True) - 1]
        day += NUMBERS[before] if before in ("twenty", "thirty") else 0
    if any(n > 99 for n in digits):
        return date(max(digits), month, day)
    # The words of a year stand in a row, and those of the day are another row.
    spoken = re.search(
        r"\b(nineteen|twenty|two thousand)\b(?!-)( (hundred|and|oh|[a-z]+))*([ -][a-z]+)?", phrase
    )
    known = NUMBERS.keys() | {"thousand", "hundred", "oh", "and"}
    year = [word for word in re.split("[ -]", spoken.group()) if word in known]
    return date(year_of(year), month, day)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style[1])
def test_a_phrase_of_each_style_means_its_date(style):
    days, _ = data.split(0)
    edges = [data.FIRST, data.LAST, date(1968, 12, 31), date(1969, 1, 1), date(2068, 12, 31)]
    edges += [date(2000, 2, 29), date(2069, 1, 1), date(2005, 5, 5), date(2010, 10, 10)]
    edges += [date(2023, 1, 1) + timedelta(n) for n in range(365)]  # each day of a year
    for day in edges + days[:300]:
        phrase = data.write(day, *style)
        assert parse(phrase) == parse(phrase.lower()) == parse(phrase.upper()) == day, phrase
        assert len(phrase) <= dates.LONGEST


def test_weekdays_are_right():
    day = date(2024, 2, 29)
    phrases = {data.write(day, *style) for style in STYLES if "{weekday}" in style[1]}
    assert {re.split("[ ,]", phrase)[0] for phrase in phrases} == {
        "Thursday",
        "Donnerstag",
        "jeudi",
    }


def test_the_splits_share_no_date_and_lack_none():
    days, held_out = data.split(3)
    assert (days, held_out) == data.split(3)
    assert held_out != data.split(4)[1]
    assert len(held_out) == pytest.approx(0.1 * (len(days) + len(held_out)), abs=1)
    every = {data.FIRST + timedelta(n) for n in range((data.LAST - data.FIRST).days + 1)}
    assert sorted(days + held_out) == sorted(every)
    assert {date(1904, 2, 29), date(2000, 2, 29), date(2096, 2, 29)} <= every
    assert sum(day.month == 2 and day.day == 29 for day in every) == 49  # 1900 was no leap year


def test_pairs_are_valid_dates_of_the_days_given():
    days, held_out = data.split(0)
    for pair in data.draw(held_out, 500, seed=1):
        assert date.fromisoformat(pair.iso) == parse(pair.phrase)
        assert ISO.decode(ISO.encode(pair.iso)) == pair.iso
    answers = {pair.iso for pair in data.draw(days, 5000, seed=1)}
    assert not answers & {day.isoformat() for day in held_out}


def small(library, attention, letters):
    torch.manual_seed(0)
    return Translator(LIBRARIES[library], len(letters), 16, attention=attention)


@pytest.fixture(scope="module")
def pairs():
    days, held_out = data.split(0)
    return data.draw(days, 100 * BATCH, 0), data.draw(held_out, 20, 1)


def test_both_libraries_learn_the_same(pairs, monkeypatch):
    monkeypatch.setattr(training, "BATCH", BATCH)
    learned, test = pairs
    letters = Vocabulary.of(pair.phrase for pair in learned)
    native, fast = (
        training.train(small(library, True, letters), letters, learned, test, CPU, library).losses
        for library in ("torch.nn", "fastrnn")
    )
    assert_same(fast, native)
    assert native[-1] < native[0] - 0.5


def test_a_phrase_alone_is_translated_as_in_a_batch(pairs):
    learned, test = pairs
    letters = Vocabulary.of(pair.phrase for pair in learned)
    model = small("fastrnn", True, letters)
    phrases = [pair.phrase for pair in test]
    together = translate(model, data.pack(phrases, letters))
    for b, phrase in enumerate(phrases):
        alone = translate(model, data.pack([phrase], letters))
        torch.testing.assert_close(together.probability[b], alone.probability[0])
        T = len(phrase)
        torch.testing.assert_close(together.weights[:, b, :T], alone.weights[:, 0])
        assert not together.weights[:, b, T:].any()  # padding is never looked at
        torch.testing.assert_close(together.weights[:, b].sum(-1), torch.ones(10))


def test_one_step_at_a_time_scores_as_all_in_one_call(pairs):
    learned, test = pairs
    letters = Vocabulary.of(pair.phrase for pair in learned)
    model = small("fastrnn", True, letters)
    phrases, _ = data.encode(test, letters)
    answer = translate(model, phrases)
    scores = model(phrases, answer.ids)  # told its own letters, all at once
    assert torch.equal(scores.argmax(-1), answer.ids)
    best = scores.softmax(-1).amax(-1).prod(0)
    torch.testing.assert_close(best, answer.probability)


@pytest.mark.slow
def test_attention_learns_what_the_state_alone_does_not(trained):
    out, figures = trained
    assert figures["exactly right, attention on"] > 0.4
    assert figures["exactly right, attention off"] < 0.05
    assert figures["exactly right, always the most frequent date"] < 0.01
    for picture in ("attention.png", "right.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def asking(out, *phrases, options=()):
    """The command line."""
    return ["--out", str(out), "--device", "cpu", *options, "--ask", *phrases]


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_trained_model_is_asked(trained, library, capsys):
    out, _ = trained
    phrases = "Friday,  May 6th 1983", "6 ☃ $x$ 1983"
    figures = dates.main(asking(out, *phrases, options=["--library", library]))
    assert next(iter(figures)).startswith("Friday, May 6th 1983 -> 1983-")
    assert all(0 < probability <= 1 for probability in figures.values())
    assert f"read as {UNKNOWN}: 6 {UNKNOWN} {UNKNOWN}" in capsys.readouterr().out
    assert (out / "asked.png").stat().st_size > 0


def test_bad_phrases_are_one_line(trained, capsys):
    out, _ = trained
    empty = error_of(asking(out, "May 6, 1983", " "), capsys)
    assert "phrase 2 of 2 is empty" in empty
    assert "longer than 120 letters" in error_of(asking(out, "x" * 121), capsys)


def test_bad_checkpoints_are_one_line(trained, tmp_path, capsys):
    out, _ = trained
    missing = error_of(asking(tmp_path, "May 6, 1983"), capsys)
    assert "train one: python -m examples.dates" in missing
    other = asking(out, "May 6, 1983", options=["--hidden", "32"])
    wrong = error_of(other, capsys)
    assert "attention.weight is 128×128, expected 32×32" in wrong
    assert "odd" in error_of(["--hidden", "33", "--out", tmp_path], capsys)


def test_letters_of_the_answers():
    assert ISO.symbols[:3] == [PADDING, UNKNOWN, data.START]
    assert set(ISO.symbols[3:]) == set("0123456789-")


def test_letters_right_counts_letters(pairs):
    learned, test = pairs
    letters = Vocabulary.of(pair.phrase for pair in learned)
    right = training.letters_right(small("fastrnn", False, letters), letters, test, CPU)
    assert right.shape == (10, len(test))
    assert right.dtype == torch.bool
