"""Data flow in a cell: a sentence read letter by letter, by hand and by the module.

A recurrent network is one cell, called again and again. In each call it gets a letter x_t and what
it made of the letters before, h_{t-1}, and gives h_t (kernels/cells.py has the three cells):

    h_t = cell(x_t, h_{t-1}),   t = 1 .. T

RNNCell, LSTMCell (Hochreiter and Schmidhuber 1997; it has a second state, c_t) and GRUCell (Cho et
al. 2014, arXiv:1406.1078) are called so over a real sentence. The modules RNN, LSTM and GRU take
the whole sentence at once, and give the same to rounding: in fastrnn and in torch.nn.

States that were never trained show nothing. So each network first learns to keep something: at each
letter it has to say with which letter the word began (at any other sign, that sign).

Prints the shapes at each station of a step, how far hand and module are apart, and how often the
answer is right within words of text that was held out, beside always giving the most frequent one.
The picture shows h_t over the sentence, the units that change least on top, and the answers.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from examples import common, heat_maps
from examples.text import ALICE, Vocabulary, normal, read, read_text

CELLS = ("RNN", "LSTM", "GRU")
SENTENCE = "‘Oh dear!  I shall be late!’ (she ran across the field after it)"
LONGEST = 100  # letters that can be told apart in a picture
T, B = 50, 32
HELD_OUT = 0.1  # of the text, its end


class Keeper(nn.Module):
    """Letters (T, B) -> scores (T, B, I) of the letter that the word began with, and every h_t."""

    def __init__(self, library, cell: str, symbols: int, hidden: int):
        super().__init__()
        self.rnn = getattr(library, cell)(symbols, hidden)
        self.out = nn.Linear(hidden, symbols)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = read(self.rnn, ids)
        return self.out(states), states


def first_letters(ids: Tensor, is_letter: Tensor) -> Tensor:
    """(T, B): for each of ids (T, B) the letter its word began with; any other sign is itself."""
    inside = is_letter[ids]
    begins = ~inside
    begins[1:] |= ~inside[:-1]
    begins[0] = True
    at = torch.arange(len(ids), device=ids.device).unsqueeze(-1) * begins
    return ids.gather(0, at.cummax(0).values)


def train(model: Keeper, ids: Tensor, is_letter: Tensor, steps: common.Steps) -> list[float]:
    """The loss of each step, on pieces of the text at random."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in steps:
        begins = torch.randint(len(ids) - T, (B,)).tolist()
        piece = torch.stack([ids[begin : begin + T] for begin in begins], 1)
        scores, _ = model(piece)
        truth = first_letters(piece, is_letter)
        adam.zero_grad()
        loss = F.cross_entropy(scores.flatten(0, 1), truth.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
        steps.show(loss)
    return losses


def cell_of(library, module: nn.Module) -> nn.Module:
    """The cell with the weights of a module of one layer."""
    kind = type(module).__name__ + "Cell"
    cell = getattr(library, kind)(module.input_size, module.hidden_size).to(module.weight_ih_l0)
    weights = module.state_dict()
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in weights.items()})
    return cell


def by_hand(cell: nn.Module, x: Tensor) -> Tensor:
    """(T, B, H): h_t of every letter in x (T, B, I), one call of the cell after the other."""
    state, states = None, []
    for x_t in x:
        state = cell(x_t, state)
        h_t = state[0] if isinstance(state, tuple) else state  # LSTMCell gives h_t and c_t
        states.append(h_t)
    return torch.stack(states)


def by_module(library, trained: nn.Module, x: Tensor) -> Tensor:
    module = getattr(library, type(trained).__name__)(trained.input_size, trained.hidden_size)
    module.to(x).load_state_dict(trained.state_dict())
    return module(x)[0]


def stations(cell: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """What is where in the first step, by name and shape; None where a cell has no such thing."""
    x_t = x[0]
    h = x_t.new_zeros(len(x_t), cell.hidden_size)
    from_letter = F.linear(x_t, cell.weight_ih, cell.bias_ih)
    gates = from_letter.split(cell.hidden_size, 1)
    state = cell(x_t)
    h_t, c_t = state if isinstance(state, tuple) else (state, None)
    return {
        "x_t, a one-hot letter (B, I)": x_t,
        "W_ih (gates·H, I)": cell.weight_ih,
        "W_ih x_t + b_ih (B, gates·H)": from_letter,
        "h_t-1, the state before (B, H)": h,
        "W_hh (gates·H, H)": cell.weight_hh,
        "W_hh h_t-1 + b_hh (B, gates·H)": F.linear(h, cell.weight_hh, cell.bias_hh),
        "each gate (B, H)": gates[0] if len(gates) > 1 else None,
        "c_t, the cell state (B, H)": c_t,
        "h_t, the new state (B, H)": h_t,
        "output, every h_t (T, B, H)": by_hand(cell, x),
    }


def show_shapes(cells: list[nn.Module], x: Tensor) -> None:
    table = Table("in one step", *(type(cell).__name__ for cell in cells))
    columns = [stations(cell, x) for cell in cells]
    for station in columns[0]:
        found = [column[station] for column in columns]
        table.add_row(station, *("–" if t is None else "×".join(map(str, t.shape)) for t in found))
    Console(highlight=False, markup=False).print(table)


def draw(path: Path, read_by: dict[str, tuple[Tensor, str]], sentence: str, truth: str) -> None:
    """read_by[cell]: h_t (T, H), its units in order, and the answers to the sentence."""
    figure = Figure(figsize=(2 + 0.18 * len(sentence), 9.5), layout="constrained")
    panels = figure.subplots(len(read_by), 1)
    for axes, (name, (states, answers)) in zip(panels, read_by.items(), strict=True):
        image = heat_maps.heat_map(axes, states, sentence)
        heat_maps.second_line(axes, answers, truth)
        axes.set_title(name, loc="left", color=heat_maps.INK, weight="bold")
        axes.set_ylabel("units\nfast ⟵ ⟶ slow", color=heat_maps.INK)
    panels[-1].set_xlabel("a letter a step ⟶", labelpad=20)
    title = "The hidden state h_t while a sentence is read. Below it the answers to:"
    figure.suptitle(f"{title} with which letter did this word begin?", color=heat_maps.INK)
    figure.colorbar(image, ax=panels, label="h_t", aspect=40, pad=0.01)
    figure.savefig(path, dpi=110)


def experiment(args: argparse.Namespace) -> common.Figures:
    wording = normal(args.sentence)
    if not 2 <= len(wording) <= LONGEST:
        raise common.UserError(f"--sentence has {len(wording)} letters, expected 2 to {LONGEST}")
    text = read_text(ALICE)
    vocabulary = Vocabulary.of([text])
    is_letter = torch.tensor([s.isalpha() for s in vocabulary.symbols], device=args.device)
    ids = vocabulary.encode(text).to(args.device)
    seen, held_out = ids.tensor_split([int(len(ids) * (1 - HELD_OUT))])
    held_out = held_out[: len(held_out) // B * B].view(B, -1).t()
    sentence = vocabulary.encode(wording).to(args.device).unsqueeze(1)  # (T, 1)

    library = common.LIBRARIES[args.library]
    models = {
        name: Keeper(library, name, len(vocabulary), args.hidden).to(args.device) for name in CELLS
    }
    for name, model in models.items():
        train(model, seen, is_letter, common.Steps(args.steps, f"{name}, loss"))

    x = F.one_hot(sentence, len(vocabulary)).float()  # (T, 1, I)
    show_shapes([cell_of(library, model.rnn) for model in models.values()], x)
    figures, read_by = {}, {}
    truth = first_letters(held_out, is_letter)
    in_words = is_letter[held_out]
    with torch.no_grad():
        for name, model in models.items():
            for kind, its in common.LIBRARIES.items():
                apart = by_hand(cell_of(its, model.rnn), x) - by_module(its, model.rnn, x)
                figures[f"{name}, by hand and by module, {kind}"] = apart.abs().max().item()
        for name, model in models.items():
            scores, states = model(held_out)
            right = (scores.argmax(-1) == truth)[in_words]
            figures[f"{name}, right answers held out"] = right.double().mean().item()
            order = heat_maps.memory(states).argsort(descending=True)
            scores, states = model(sentence)
            answers = vocabulary.decode(scores[:, 0].argmax(-1))
            read_by[name] = states[:, 0, order], answers
    counts = torch.bincount(truth[in_words])
    figures["the most frequent answer"] = (counts.max() / counts.sum()).item()
    path = args.out / "states.png"
    truth = vocabulary.decode(first_letters(sentence, is_letter)[:, 0])
    draw(path, read_by, wording, truth)
    print(f"hidden states: {path}")
    return figures


def options(parser: argparse.ArgumentParser) -> None:
    common.add_library(parser)
    common.add_out(parser, "data_flow")
    add = parser.add_argument
    add("--sentence", default=SENTENCE, help="to be read, default: %(default)s")
    add("--hidden", type=common.positive, default=24, help="units, default: %(default)s")


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "data_flow", __doc__, argv, steps=400, options=options)


if __name__ == "__main__":
    main()
