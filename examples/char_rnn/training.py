"""Truncated backpropagation through time over a text, which can stop and go on at any window.

The text is cut into B streams, and these into windows of T steps. The state at the end of a window
is where the next one begins, but no gradient passes from one to the other: the network remembers
further back than it is taught. With an epoch the text, and so the state, begins anew.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.char_rnn.data import Corpus, windows
from examples.char_rnn.model import CharRNN, State, detach
from examples.common import LIBRARIES

WEIGHT_DECAY, CLIP = 0.05, 1.0
READERS = 8  # streams in which the held-out part is read


@dataclass(frozen=True)
class Options:
    """What a training is, beside its text."""

    library: str = "fastrnn"
    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    window: int = 48
    batch_size: int = 16
    epochs: int = 14
    rate: float = 1.6e-2  # the highest, after a tenth of the training
    seed: int = 0


@dataclass
class History:
    characters: list[int] = field(default_factory=list)  # read so far, at each step
    loss: list[float] = field(default_factory=list)  # of each step, in nats
    epochs: list[int] = field(default_factory=list)  # characters read at the end of each epoch
    held_out: list[float] = field(default_factory=list)  # bits per character, there


class Training:
    """A training between two windows; `state_dict` is all that the next window depends on."""

    def __init__(self, options: Options, corpus: Corpus, device: torch.device):
        torch.manual_seed(options.seed)
        self.options, self.corpus, self.device = options, corpus, device
        sizes = len(corpus.vocabulary), options.hidden, options.layers
        self.model = CharRNN(LIBRARIES[options.library], options.cell, *sizes).to(device)
        text = corpus.train.to(device)
        self.windows = windows(text, options.window, options.batch_size)
        self.total = options.epochs * len(self.windows)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.rate, weight_decay=WEIGHT_DECAY
        )
        # A short warm-up, then down along half a cosine.
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.rate, self.total, pct_start=0.1, cycle_momentum=False
        )
        self.steps = 0  # done
        self.state: State | None = None
        self.history = History()

    def step(self) -> float:
        """Learn from the next window; its loss, in nats for each character."""
        position = self.steps % len(self.windows)
        if position == 0:
            self.state = None
        ids, following = self.windows[position]
        self.model.train()
        scores, state = self.model(ids, self.state)
        loss = F.cross_entropy(scores.flatten(0, 1), following.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.state = detach(state)
        self.steps += 1
        read = self.history.characters[-1] if self.history.characters else 0
        self.history.characters.append(read + ids.numel())
        self.history.loss.append(loss.item())
        if position + 1 == len(self.windows):
            self.history.epochs.append(self.history.characters[-1])
            self.history.held_out.append(bits(self.model, self.corpus.held_out.to(self.device)))
        return self.history.loss[-1]

    def state_dict(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps": self.steps,
            "state": self.state,
            "history": vars(self.history),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """`saved` is on the CPU; its weights fit."""
        self.model.load_state_dict(saved["state_dict"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.steps = saved["steps"]
        state = saved["state"]
        if isinstance(state, tuple):
            self.state = tuple(t.to(self.device) for t in state)
        else:
            self.state = None if state is None else state.to(self.device)
        self.history = History(**saved["history"])
        torch.set_rng_state(saved["random"])
        if self.device.type == "cuda" and saved["random_cuda"] is not None:
            torch.cuda.set_rng_state(saved["random_cuda"], self.device)


@torch.no_grad()
def bits(model: CharRNN, text: Tensor) -> float:
    """Bits for each character of a text (letters,), the state carried through each of its parts."""
    model.eval()
    state, total, count = None, 0.0, 0
    # The window only bounds the memory.
    for ids, following in windows(text, 1024, min(READERS, len(text) - 1)):
        scores, state = model(ids, state)
        total += F.cross_entropy(scores.flatten(0, 1), following.flatten(), reduction="sum").item()
        count += ids.numel()
    return total / count / math.log(2)
