"""Gates: what an LSTM or a GRU lets in, keeps and lets out at each letter, and what a unit means.

A gate is a number from 0 to 1 for each unit at each step. Of an LSTM (Hochreiter and Schmidhuber
1997; the forget gate is Gers, Schmidhuber and Cummins 2000):

    c_t = f · c_{t-1} + i · g        f: how much is kept, i: how much of the new g gets in
    h_t = o · tanh(c_t)              o: how much is shown

fastrnn gives them, rnn(ids, one_hot=True, return_gates=True, return_cell_states=True). A network
that has learned to foretell the next letter (examples/char_rnn) is asked for them over a sentence.

Some units then have a role that a person can read: Karpathy, Johnson and Li (2015, "Visualizing and
understanding recurrent networks", arXiv:1506.02078) found one that is on within quotations, and one
that counts the letters of a line. For each role this looks for the unit whose state tells it best,
and scores it on the end of the text, by which neither the network nor the unit was chosen: with
the area under the ROC curve (AUC: 0.5 is chance, 1 is always right) or, of a count, the
correlation. Beside it: the best unit of a network that was not trained.

Without --checkpoint a network is trained first, and kept.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import fastrnn
from examples import common, heat_maps
from examples.char_rnn import checkpoint, data
from examples.char_rnn.__main__ import run as train
from examples.char_rnn.model import CharRNN
from examples.char_rnn.training import Options, Training
from examples.roles import Found, find, telling
from examples.text import ALICE, Vocabulary, normal, read_text

SENTENCE = "‘Off with her head!’ the Queen shouted at the top of her voice."
LONGEST = 100  # letters that can be told apart in a picture
WINDOW = 64  # steps that a gradient goes back: about a line
RATE = 6e-3  # lower than for the fewest bits: roles are clearer
CHOSEN_BY = 30_000  # letters before the held-out part, by which a unit is chosen
SHOWN = 16  # units in the picture of the gates
CLEAR = 0.1  # ahead of an untrained network, so that a role is drawn
LINES = 5  # of text for each role
MEANING = {
    "i": "i, how much gets in",
    "f": "f, how much is kept",
    "g": "g, what is new",
    "o": "o, how much is shown",
    "r": "r, how much of h_t-1 the new sees",
    "z": "z, how much is kept",
    "n": "n, what is new",
    "tanh(c)": "tanh(c), what is remembered",
    "h": "h, the state",
}


def network(args: argparse.Namespace, text: str) -> tuple[CharRNN, Vocabulary]:
    """That of the checkpoint, or one that learns from the text now."""
    path = args.checkpoint
    if path is None:
        sizes = {"hidden": args.hidden, "window": WINDOW, "epochs": args.epochs}
        options = Options(args.library, args.cell, **sizes, rate=RATE, seed=args.seed)
        shortest = 2 * options.window * options.batch_size
        if len(text) < shortest:
            raise common.UserError(
                f"{args.text}: {len(text)} characters are too few to learn from; "
                f"take a text of {shortest} or more, or a --checkpoint"
            )
        corpus = data.load(args.text, options.window, options.batch_size)
        path = args.out / f"{args.cell}.pt"
        train(Training(options, corpus, args.device), path, save_every=200)
        print(f"network: {path}; without another training: --checkpoint {path}")
    model, vocabulary = checkpoint.load(path, fastrnn)
    if isinstance(model.rnn, fastrnn.RNN):
        raise common.UserError(f"{path}: an RNN has no gates; train an LSTM or a GRU")
    return model.to(args.device), vocabulary


@torch.no_grad()
def activations(rnn: fastrnn.LSTM | fastrnn.GRU, ids: Tensor) -> dict[str, Tensor]:
    """Of a text (T,) the gates of the last layer, by letter, and its state: (T, H) each."""
    lstm = isinstance(rnn, fastrnn.LSTM)
    how = {"return_cell_states": True} if lstm else {}
    found = rnn(ids.unsqueeze(1), one_hot=True, return_gates=True, **how)
    gates = {name: gate[:, 0] for name, gate in found[-1].items()}
    # As h_t sees it, c_t is between -1 and 1.
    return gates | ({"tanh(c)": found[2][:, 0].tanh()} if lstm else {"h": found[0][:, 0]})


def state_of(rnn: fastrnn.LSTM | fastrnn.GRU, ids: Tensor) -> Tensor:
    *_, state = activations(rnn, ids).values()
    return state


def compared(trained: dict[str, Found], untrained: dict[str, Found]) -> common.Figures:
    """What the best unit for each role reaches, beside that of a network that was not trained."""
    figures = {}
    for role, unit in trained.items():
        figures[f"{role}, {unit.measure} held out"] = unit.value
        figures[f"{role}, {unit.measure} untrained"] = untrained[role].value
    return figures


def draw_gates(path: Path, shown: dict[str, Tensor], sentence: str, names: dict[int, str]) -> None:
    """shown[gate] (T, H), of the units in `names`, the name of some is empty."""
    figure = Figure(figsize=(3.2 + 0.16 * len(sentence), 2.3 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1)
    for axes, (name, values) in zip(panels, shown.items(), strict=True):
        signed = name in ("g", "n", "tanh(c)", "h")
        colours = heat_maps.STATE if signed else heat_maps.GATE
        image = heat_maps.heat_map(axes, values[:, list(names)], sentence, colours)
        axes.set_yticks(range(len(names)), names.values(), fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_title(MEANING[name], loc="left", color=heat_maps.INK)
        axes.set_ylabel("units", color=heat_maps.INK)
        figure.colorbar(image, ax=axes, pad=0.01)
    panels[-1].set_xlabel("a letter a step ⟶")
    figure.savefig(path, dpi=110)


def draw_roles(
    path: Path,
    text: str,
    state: Tensor,
    found: dict[str, Found],
    chance: dict[str, Found],
    roles: list[str],
) -> None:
    """For each of the roles some lines of the text, in the colours of its unit.

    `state` is (letters, H); `found` are the units of the network, `chance` those of an untrained.
    """
    figure = Figure(figsize=(10, 1.6 * len(roles) + 0.8), layout="constrained")
    panels = figure.subplots(len(roles), 1, squeeze=False)[:, 0]
    for axes, role in zip(panels, roles, strict=True):
        unit = found[role]
        place = telling(role, text, LINES)
        values = unit.sign * state[place, unit.unit].cpu()
        image = heat_maps.coloured_text(axes, text[place], values)
        reached = f"{unit.measure} {unit.value:.2f}, untrained {chance[role].value:.2f}"
        heading = f"{role}: unit {unit.unit} of {state.shape[1]}, {reached}"
        axes.set_title(heading, loc="left", color=heat_maps.INK, weight="bold", fontsize=11)
    title = "Held-out text, in the colours of units that have a role"
    figure.suptitle(title, color=heat_maps.INK)
    bar = figure.colorbar(image, ax=panels, aspect=50, pad=0.01, label="no ⟵ the unit ⟶ yes")
    bar.ax.set_ylim(-1, 1)
    figure.savefig(path, dpi=110)


def experiment(args: argparse.Namespace) -> common.Figures:
    sentence = normal(args.sentence)
    if not 2 <= len(sentence) <= LONGEST:
        raise common.UserError(f"--sentence has {len(sentence)} letters, expected 2 to {LONGEST}")
    text = read_text(args.text)
    model, vocabulary = network(args, text)
    seen = round((1 - data.HELD_OUT) * len(text))  # by the network, in its training
    chosen_by = min(seen, CHOSEN_BY)
    text = text[seen - chosen_by :]
    ids = vocabulary.encode(text).to(args.device)

    torch.manual_seed(args.seed)
    rnn = model.rnn
    fresh = type(rnn)(rnn.input_size, rnn.hidden_size, rnn.num_layers).to(args.device)
    state = state_of(rnn, ids)
    found = find(state, text, chosen_by)
    if not found:
        raise common.UserError(f"{args.text}: too short or too even to look for roles in it")
    chance = find(state_of(fresh, ids), text, chosen_by)
    leads = {role: unit.value - chance[role].value for role, unit in found.items()}
    clear = [role for role, lead in leads.items() if lead > CLEAR] or [max(leads, key=leads.get)]

    gates = activations(rnn, vocabulary.encode(sentence).to(args.device))
    order = heat_maps.memory(state.unsqueeze(1)).argsort(descending=True).tolist()
    names = {}
    for role in clear:
        unit = found[role].unit
        names[unit] = f"{names[unit]}, {role}" if unit in names else role
    others = [unit for unit in order if unit not in names]
    step = max(1, len(others) // (SHOWN - len(names)))
    names |= dict.fromkeys(others[::step][: SHOWN - len(names)], "")
    cell = type(rnn).__name__.lower()
    paths = [args.out / f"{cell}_{what}.png" for what in ("gates", "roles")]
    draw_gates(paths[0], gates, sentence, names)
    draw_roles(paths[1], text[chosen_by:], state[chosen_by:], found, chance, clear)
    print(f"gates: {paths[0]}\nroles: {paths[1]}")
    return compared(found, chance)


def options(parser: argparse.ArgumentParser) -> None:
    common.add_library(parser)
    common.add_out(parser, "gates")
    add = parser.add_argument
    add("--checkpoint", type=Path, help="of examples.char_rnn, in place of a training")
    add("--text", type=Path, default=ALICE, help="UTF-8 text, default: Alice in Wonderland")
    add("--sentence", default=SENTENCE, help="whose gates are drawn, default: %(default)s")
    add("--cell", choices=("lstm", "gru"), default="lstm", help="default: %(default)s")
    add("--hidden", type=common.positive, default=192, help="units, default: %(default)s")
    add("--epochs", type=common.positive, default=14, help="of training, default: %(default)s")


def main(argv: list[str] | None = None) -> common.Figures:
    return common.run(experiment, "gates", __doc__, argv, options=options)


if __name__ == "__main__":
    main()
