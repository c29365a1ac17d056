"""The options of the command line."""

import argparse
import math
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples import common
from examples.char_rnn.training import Options
from examples.common import CELLS, LIBRARIES, positive

CHECKPOINT = "char_rnn.pt"
FOLDER = Path("out/char_rnn")
WORDS = {
    "hidden": "units of a layer",
    "layers": "one upon the other",
    "window": "T, steps that a gradient goes back",
    "batch_size": "B, streams that the text is cut into",
    "epochs": "how often the text is read",
    "rate": "the highest learning rate",
}
DEFAULTS = asdict(Options())
_DEFAULT = "default: %(default)s"


def temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is none, a temperature is 0 or more")
    return value


def rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is none, a learning rate is more than 0")
    return value


def parse(argv: list[str] | None, doc: str) -> argparse.Namespace:
    """`args.command` is train, sample or compare."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.char_rnn",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _train(commands.add_parser("train", help="learn from a text"))
    _sample(commands.add_parser("sample", help="write a text"))
    _compare(commands.add_parser("compare", help="fastrnn and torch.nn side by side"))
    for command in commands.choices.values():
        common.add_device(command)
    return parser.parse_args(argv)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Those of a training's options that were given."""
    values = {name: getattr(args, name, None) for name in DEFAULTS}
    return {name: value for name, value in values.items() if value is not None}


def _file(parser: argparse.ArgumentParser) -> None:
    text = "UTF-8 text, default: Alice in Wonderland"
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help=text)


def _options(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """Options that are None unless given."""
    kinds = {
        "cell": {"choices": CELLS},
        "library": {"choices": LIBRARIES},
        "rate": {"type": rate},
        "seed": {"type": int},
    }
    for name in names:
        kind = kinds.get(name, {"type": positive})
        words = f"{WORDS[name]}, " if name in WORDS else ""
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, **kind, help=f"{words}default: {DEFAULTS[name]}")


def _train(parser: argparse.ArgumentParser) -> None:
    _file(parser)
    _options(parser, DEFAULTS)
    add = parser.add_argument
    add("--resume", action="store_true", help="go on with the checkpoint, text and options its own")
    add("--save-every", type=positive, default=200, help="windows, default: %(default)s")
    common.add_out(parser, FOLDER.name)


def _sample(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", type=Path, default=FOLDER / CHECKPOINT, help=_DEFAULT)
    add("--temperature", type=temperature, default=0.8, help="0: the likeliest, default: 0.8")
    add("--prime", metavar="TEXT", help="what it begins with, default: the end of a line")
    add("--length", type=positive, default=500, help="characters, default: %(default)s")
    add("--seed", type=int, default=0, help=_DEFAULT)
    common.add_library(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    _file(parser)
    _options(parser, ["hidden", "layers", "window", "batch_size", "seed"])
    parser.add_argument("--steps", type=positive, default=100, help="windows, default: %(default)s")
