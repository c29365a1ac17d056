"""The examples, each with a line on what it shows; `python -m examples.NAME` runs one."""

import ast
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
# In the order of the course in README.md; the last five do what torch.nn cannot do on a GPU.
NAMES = (
    *("data_flow", "vocabulary", "surnames", "name_generator", "tagging", "dates"),
    *("vanishing", "long_memory", "gates", "char_rnn"),
    *("wgan_gp", "maml", "integrated_gradients", "ensemble", "per_sample_gradients"),
)


def file_of(name: str) -> Path:
    """Where an example's command begins."""
    file = FOLDER / f"{name}.py"
    return file if file.exists() else FOLDER / name / "__main__.py"


def summary(name: str) -> str:
    """The first line of an example's docstring, without running the example."""
    text = ast.get_docstring(ast.parse(file_of(name).read_text("utf-8")))
    return text.partition("\n")[0]


def main(argv: list[str]) -> int:
    if argv and argv[0] not in ("-h", "--help"):
        known = argv[0] if argv[0] in NAMES else NAMES[0]
        print(f"error: to run an example, write python -m examples.{known}", file=sys.stderr)
        return 2
    print("python -m examples.NAME runs an example, with --help it prints the options.\n")
    width = max(map(len, NAMES))
    for name in NAMES:
        print(f"  {name:{width}}  {summary(name)}")
    print("\nexamples/README.md shows what they find.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
