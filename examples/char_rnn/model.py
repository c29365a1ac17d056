"""The network: letters -> RNN -> a score for each letter that may come next."""

from types import ModuleType

from torch import Tensor, nn

from examples.common import CELLS
from examples.text import read

DROPOUT = 0.6  # much, as the text is short
State = Tensor | tuple[Tensor, Tensor]  # of an LSTM (h_n, c_n)


class CharRNN(nn.Module):
    """Many to many, in step: a letter in, a guess at the next one out.

    In eval mode nothing is dropped.
    """

    def __init__(self, library: ModuleType, cell: str, symbols: int, hidden: int, layers: int):
        super().__init__()
        # Between layers; after the last one self.dropout does it. torch.nn warns of a single layer.
        between = DROPOUT if layers > 1 else 0.0
        self.rnn = getattr(library, CELLS[cell])(symbols, hidden, layers, dropout=between)
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Linear(hidden, symbols)

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """ids [T, B] -> (scores [T, B, symbols], the state after the last step)."""
        output, state = read(self.rnn, ids, state)
        return self.out(self.dropout(output)), state


def detach(state: State) -> State:
    """The same state, through which no gradient passes: what came before it is given."""
    return tuple(t.detach() for t in state) if isinstance(state, tuple) else state.detach()
