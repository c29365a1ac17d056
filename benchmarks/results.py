"""The results file: JSON, replaced as a whole after every row, so that it can always be read."""

import json
import os
from pathlib import Path

from benchmarks import machine

_ROW_FIELDS = {"case", "kind", "shape", "cell", "mode", "dtype", "status"}


class ResultsError(ValueError):
    """A results file that cannot be used; the message is one line and names the file."""


class Results:
    """Rows by key, the environment they were measured in, what the machine can do (`constants`,
    {} if nobody asked), and how busy it was in each of the `runs` that measured some of the rows:
    {"date": ..., "load": {"start": ..., "end": ...}}, None for a load average that is unknown."""

    def __init__(self, path: Path, environment: dict):
        self.path = path
        self.environment = environment
        self.constants: dict = {}
        self.runs: list[dict] = []
        self.rows: dict[str, dict] = {}

    @classmethod
    def load(cls, path: Path) -> "Results":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ResultsError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise ResultsError(f"cannot read {path}: it is not JSON") from error
        try:
            results = cls(path, dict(content["environment"]))
            results.constants = dict(content.get("constants", {}))
            results.runs = [_run(**run) for run in content.get("runs", [])]
            results.rows = dict(content["rows"])
            complete = all(row.keys() >= _ROW_FIELDS for row in results.rows.values())
        except (AttributeError, KeyError, TypeError, ValueError):
            complete = False
        if not complete:
            raise ResultsError(f"cannot read {path}: it holds no results of this benchmark")
        for row in results.rows.values():
            # Older files say it once for all rows.
            row.setdefault("device", results.environment.get("device"))
        return results

    @classmethod
    def resume(cls, path: Path, environment: dict) -> "Results":
        """The file's rows, to be added to; refused if they were measured elsewhere."""
        if not path.exists():
            return cls(path, environment)
        results = cls.load(path)
        if differences := machine.differences(results.environment, environment):
            raise ResultsError(f"cannot resume {path}: {'; '.join(differences)}")
        return results

    def begin(self) -> None:
        """A run begins; with every row that it adds, its end is put off."""
        load = machine.load()
        self.runs.append(_run(machine.date(), {"start": load, "end": load}))

    def add(self, key: str, row: dict) -> None:
        self.rows[key] = row
        if self.runs:
            self.runs[-1]["load"]["end"] = machine.load()
        self.save()

    def save(self) -> None:
        """Write the file whole, or leave it as it was."""
        content = {
            "environment": self.environment,
            "constants": self.constants,
            "runs": self.runs,
            "rows": self.rows,
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.path)
        except OSError as error:
            raise ResultsError(f"cannot write {self.path}: {error.strerror}") from error


def _run(date: str, load: dict) -> dict:
    return {"date": date, "load": {name: load[name] for name in ("start", "end")}}
