"""A character RNN that names the language of a surname, with torch.nn or with fastrnn inside."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from examples.common import CELLS
from examples.names_data import Example, batches, pack
from examples.text import read


class Classifier(nn.Module):
    """Many to one: letters -> RNN -> last hidden state -> a score for each language."""

    def __init__(self, library: ModuleType, cell: str, symbols: int, hidden: int, languages: int):
        super().__init__()
        self.rnn = getattr(library, CELLS[cell])(symbols, hidden)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(hidden, languages)

    @property
    def device(self) -> torch.device:
        return self.out.weight.device

    def forward(self, ids: PackedSequence) -> Tensor:
        _, state = read(self.rnn, ids)
        h_n = state[0] if isinstance(state, tuple) else state  # an LSTM has (h_n, c_n)
        return self.out(self.dropout(h_n[-1]))  # [B, languages]


@dataclass
class History:
    """What a training leaves behind: the mean loss of each epoch, the seconds of each batch."""

    train_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train(
    model: Classifier,
    train_data: list[Example],
    test_data: list[Example],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    on_batch: Callable[[float], None] = lambda mean_loss: None,
) -> History:
    """Adam on the cross entropy. The seed fixes the order of the names and what dropout drops."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    history = History()
    for _ in range(epochs):
        model.train()
        total, seen = 0.0, 0
        for ids, languages in batches(train_data, batch_size, generator):
            start = time.perf_counter()
            loss = F.cross_entropy(model(ids.to(model.device)), languages.to(model.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # .item() waits for the device, so the clock is honest on a GPU too.
            total += loss.item() * len(languages)
            history.seconds.append(time.perf_counter() - start)
            seen += len(languages)
            on_batch(total / seen)
        schedule.step()
        history.train_loss.append(total / seen)
        scores, languages = evaluate(model, test_data)
        history.test_loss.append(F.cross_entropy(scores, languages).item())
    return history


@torch.no_grad()
def evaluate(model: Classifier, data: list[Example]) -> tuple[Tensor, Tensor]:
    """(scores [B, languages], languages [B]) of the data, on the CPU."""
    model.eval()
    scores = model(pack([e.ids for e in data]).to(model.device)).cpu()
    return scores, torch.tensor([e.language for e in data])
