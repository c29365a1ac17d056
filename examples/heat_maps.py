"""Heat maps with the characters of a text under them, and text coloured by a number a letter."""

import torch
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from torch import Tensor

from examples.pictures import INK

FONT = "DejaVu Sans Mono"  # comes with matplotlib
SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
# Both can be told apart without red and green. A state has a sign, a gate has none.
STATE = {"cmap": "PuOr", "vmin": -1, "vmax": 1}
GROUND = {"cmap": "PuOr", "vmin": -1.8, "vmax": 1.8}  # light enough for letters upon it
GATE = {"cmap": "cividis", "vmin": 0, "vmax": 1}


def sign(character: str) -> str:
    """What is drawn for a character: a sign for a space, a box where the font has no letter."""
    character = SIGNS.get(character, character)
    known = len(character) == 1 and get_font(findfont(FontProperties(family=FONT))).get_char_index(
        ord(character)
    )
    return character if known else "□"


def letters_under(axes: Axes, text: str) -> None:
    """A letter under each column; a space stays empty, so that words are seen as words."""
    labels = ["" if c == " " else sign(c) for c in text]
    axes.set_xticks(range(len(text)), labels, family=FONT)
    axes.tick_params(axis="x", length=0, pad=2)


def heat_map(axes: Axes, values: Tensor, text: str, colours: dict = STATE) -> AxesImage:
    """values (T, K), of T characters: a column for each of them, a row for each unit."""
    rows = values.detach().float().cpu().t()
    image = axes.imshow(rows.tolist(), aspect="auto", interpolation="nearest", **colours)
    letters_under(axes, text)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return image


def memory(states: Tensor) -> Tensor:
    """(H,): how much of states (T, B, H) is there a step later: h_t's correlation with h_{t-1}."""
    before, after = states[:-1].flatten(0, 1), states[1:].flatten(0, 1)
    before, after = before - before.mean(0), after - after.mean(0)
    scale = before.norm(dim=0) * after.norm(dim=0)
    return (before * after).sum(0) / scale.clamp_min(torch.finfo(scale.dtype).tiny)


def second_line(axes: Axes, answers: str, truth: str) -> None:
    """A second letter under each column, what was answered there; a wrong one stands out."""
    for column, (answer, right) in enumerate(zip(answers, truth, strict=True)):
        axes.annotate(
            "" if answer == " " else sign(answer),
            (column, 0),
            xytext=(0, -17),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            family=FONT,
            color="#777777" if answer == right else "#D55E00",
            weight="normal" if answer == right else "bold",
        )


def coloured_text(axes: Axes, text: str, values: Tensor, width: int = 72) -> AxesImage:
    """The text in its lines, the ground of each letter in the colour of its value (letters,)."""
    places, row, column = [], 0, 0
    for character in text:
        if column == width:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
    rows = 1 + places[-1][0]
    ground = torch.full((rows, width), torch.nan)
    for (row, column), character, value in zip(places, text, values.tolist(), strict=True):
        if character == "\n":
            continue
        ground[row, column] = value
        shown = "" if character == " " else sign(character)
        axes.text(column, row, shown, ha="center", va="center", color=INK, family=FONT, size=10)
    axes.set_axis_off()
    return axes.imshow(ground.tolist(), aspect="auto", interpolation="nearest", **GROUND)
