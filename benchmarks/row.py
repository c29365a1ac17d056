"""One row of results: a case, a cell, a mode and a dtype on a device, by an engine."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import fastrnn
from benchmarks.cases import Case

# Of a row: measured; not as exact as torch.nn; an exception; not for the engine that was named.
OK, FAILED, ERROR, UNSERVED = "ok", "FAILED", "ERROR", "n/a"
# Besides those that `fastrnn.use_engine` knows: its own choice, and torch.nn alone.
AUTO, NATIVE = "auto", "torch.nn"


@dataclass(frozen=True)
class Row:
    """What to measure. `flush_denormal` says how the measuring process treats denormals,
    `cold_start` whether other processes are to measure their first call too."""

    case: Case
    cell: str
    mode: str
    dtype: str
    device: str
    flush_denormal: bool
    engine: str = AUTO
    cold_start: bool = False

    @classmethod
    def from_dict(cls, fields: dict) -> "Row":
        """The inverse of `dataclasses.asdict`."""
        return cls(**fields | {"case": Case(**fields["case"])})

    @property
    def key(self) -> str:
        parts = [self.case.name, self.cell, self.mode, self.dtype]
        return "/".join(parts + ["flushed"] if self.flush_denormal else parts)

    @property
    def kind(self) -> str:
        # Elsewhere gradients do not shrink to denormals, and flushing makes no difference.
        flushed = self.flush_denormal and self.case.loss == "last"
        return self.case.kind + (", denormals flushed" if flushed else "")

    def use_engine(self) -> AbstractContextManager:
        """Within the block, fastrnn uses the row's engine."""
        return nullcontext() if self.engine in (AUTO, NATIVE) else fastrnn.use_engine(self.engine)


def describe(row: Row) -> dict:
    """What is known of a row before it is measured, as JSON."""
    return {
        "case": row.case.name,
        "kind": row.kind,
        "shape": row.case.label,
        "T": row.case.T,
        "H": row.case.H,
        "cell": row.cell,
        "mode": row.mode,
        "dtype": row.dtype,
        "device": row.device,
        "origin": row.case.origin,
    }
