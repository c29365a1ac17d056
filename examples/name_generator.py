"""Write surnames, letter by letter, in the manner of a language: one to many.

One thing goes in, a language, and many come out, the letters of a name. The language is the state
that an LSTM begins with, a vector for each language that is learned along with the weights:

    h_0, c_0 = H[language], C[language]
    p(x_t | x_1 .. x_t-1, language) = softmax(W h_t + b),  h_t, c_t = LSTM(x_t-1, h_t-1, c_t-1)

It is said once, at the beginning, as Vinyals et al. do with a picture that is to be described
(arXiv:1411.4555); a name is so short that the LSTM keeps it in mind. In training it reads the true
letters between <begin> and <end> and guesses each next one (teacher forcing, Williams and Zipser
1989). To write, it reads what it has drawn itself, from softmax(scores / temperature), until it
draws <end>.

Prints some names for each language, those in brackets being known ones, and two measures. Bits per
letter: how much a held-out name surprises the model, beside the same model that is not told the
language, and beside guessing each letter by how frequent it is. And a judge: a network that names
the language of a surname, as in surnames.py, reads the new names that were written, beside the same
judge on real names that were held out, and beside chance.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from examples import common
from examples.common import LIBRARIES, UserError
from examples.name_pictures import Drawn, draw_names, draw_writing
from examples.name_writer import BEGIN, END, Writer, bits_per_letter, framed, loss_of, write
from examples.names_data import Example, examples, pack, read_folder, split
from examples.surname_model import Classifier
from examples.text import Vocabulary
from examples.training import train

NAMES = Path(__file__).parent / "data/names"
SHOWN = ["Armenian", "Czech", "Greek", "Irish", "Italian", "Japanese", "Polish", "Vietnamese"]
EACH = 40  # names written in each language, to be judged
BATCH = 64


def judge_loss(judge: Classifier, batch: list[Example], device: torch.device) -> Tensor:
    languages = torch.tensor([e.language for e in batch], device=device)
    return F.cross_entropy(judge(pack([e.ids for e in batch]).to(device)), languages)


@torch.no_grad()
def verdicts(judge: Classifier, data: list[Example], device: torch.device) -> Tensor:
    """(B,): the language that the judge takes each name for."""
    return judge.eval()(pack([e.ids for e in data]).to(device)).argmax(1).cpu()


def right(judge: Classifier, data: list[Example], device: torch.device) -> float:
    truth = torch.tensor([e.language for e in data])
    return (verdicts(judge, data, device) == truth).float().mean().item()


def untold(data: list[Example]) -> list[Example]:
    """All names as if they were of one language."""
    return [e._replace(language=0) for e in data]


def frequency_bits(train_data: list[Example], test_data: list[Example], symbols: int) -> float:
    """Bits per letter of a guess by frequency alone; each symbol is counted once more than it is,
    so that none is impossible."""
    counts = torch.ones(symbols)
    for e in train_data:
        counts += torch.bincount(e.ids[1:], minlength=symbols)  # <begin> need not be guessed
    surprise = -(counts / counts.sum()).log2()
    return surprise[torch.cat([e.ids[1:] for e in test_data])].mean().item()


def chosen(languages: list[str] | None, known: list[str]) -> list[int]:
    """The places of the languages among those known; SHOWN, or all there are, unless given."""
    if languages is None:
        languages = [language for language in SHOWN if language in known] or known
    for language in languages:
        if language not in known:
            raise UserError(f"no names of {language!r}; known: {', '.join(known)}")
    return [known.index(language) for language in languages]


def experiment(args: argparse.Namespace) -> common.Figures:
    if not (math.isfinite(args.temperature) and args.temperature > 0):
        raise UserError(f"--temperature {args.temperature:g}: expected more than 0, such as 0.8")
    train_names, test_names = split(read_folder(args.data), args.seed)
    languages = list(train_names)
    show = chosen(args.languages, languages)
    texts = [name for names in train_names.values() for name in names]
    # A letter that occurs once stays unknown: so there is something to learn about the unknown.
    vocabulary = Vocabulary.of(texts, extra=(BEGIN, END), at_least=2)
    train_data, test_data = examples(train_names, vocabulary), examples(test_names, vocabulary)
    framed_train, framed_test = framed(train_data, vocabulary), framed(test_data, vocabulary)

    library = LIBRARIES[args.library]
    writer = Writer(library, len(vocabulary), len(languages))
    train(writer, loss_of, framed_train, args, "writer", BATCH)
    ignorant = Writer(library, len(vocabulary), 1)
    train(ignorant, loss_of, untold(framed_train), args, "writer, not told the language", BATCH)
    judge = Classifier(library, "lstm", len(vocabulary), 128, len(languages))
    train(judge, judge_loss, train_data, args, "judge", BATCH)

    asked = torch.arange(len(languages), device=args.device).repeat_interleave(EACH)
    names, chances = write(writer, vocabulary, asked, args.temperature)
    known = {*texts, *(name for held_out in test_names.values() for name in held_out)}
    written = [
        Example(vocabulary.encode(name), language)
        for name, language in zip(names, asked.tolist(), strict=True)
    ]
    new = [e for e, name in zip(written, names, strict=True) if name not in known]
    judged = verdicts(judge, written, args.device).tolist()
    drawn = {}
    for i in show:
        own = slice(EACH * i, EACH * (i + 1))
        takes = [languages[verdict] for verdict in judged[own]]
        drawn[languages[i]] = Drawn(names[own], takes, chances[:, own].cpu())
    show_names(drawn, known)
    draw_names(args.out / "names.png", drawn, known)
    draw_writing(args.out / "writing.png", drawn, known, vocabulary)
    print(f"saved names.png and writing.png in {args.out}")

    return {
        "bits per held-out letter": bits_per_letter(writer, framed_test, args.device),
        "  not told the language": bits_per_letter(ignorant, untold(framed_test), args.device),
        "  by the letters' frequency": frequency_bits(framed_train, framed_test, len(vocabulary)),
        f"share of {len(names)} written names that are new": len(new) / len(names),
        "share of the new ones that the judge gives to their language": right(
            judge, new, args.device
        ),
        "  of real held-out names": right(judge, test_data, args.device),
        "  by chance": 1 / len(languages),
    }


def show_names(drawn: dict[str, Drawn], known: set[str]) -> None:
    table = Table("language", "names written (known ones in brackets)", "new, judged right")
    for language, (names, verdicts, _) in drawn.items():
        some = (f"({name})" if name in known else name for name in dict.fromkeys(names[:7]))
        new = [v for name, v in zip(names, verdicts, strict=True) if name not in known]
        table.add_row(language, ", ".join(some).title(), f"{new.count(language)} of {len(new)}")
    Console(highlight=False, markup=False).print(table)


def main(argv: list[str] | None = None) -> common.Figures:
    def options(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--languages", nargs="+", metavar="LANGUAGE", help="to show, such as Greek Polish")
        add(
            "--temperature",
            type=float,
            default=0.8,
            help="below 1: play safe; default: %(default)s",
        )
        add(
            "--data",
            type=Path,
            default=NAMES,
            help="folder of <Language>.txt, default: %(default)s",
        )
        common.add_library(parser)
        common.add_out(parser, "name_generator")

    return common.run(experiment, "name_generator", __doc__, argv, steps=1500, options=options)


if __name__ == "__main__":
    main()
