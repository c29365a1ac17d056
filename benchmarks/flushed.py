"""A second process that flushes denormals, for rows that are shown with and without.

`torch.set_flush_denormal` acts on one thread and on the threads that it starts later, so it cannot
be switched on and off in a process whose worker threads exist.
"""

import multiprocessing
import signal
from contextlib import suppress

from benchmarks import machine
from benchmarks.measure import ERROR, Row, describe, measure


class Worker:
    """Measures rows one after another in the other process, which starts with the first of them."""

    def __init__(self, threads: int):
        self.threads = threads
        self.process = None

    def measure(self, row: Row, rounds: int) -> dict:
        if self.process is None:
            self._start()
        try:
            self.connection.send((row, rounds))
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            message = f"the process that flushes denormals died ({self.process.exitcode})"
            self.process = None
            return describe(row) | {"status": ERROR, "message": message}

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end, self.threads), daemon=True)
        self.process.start()
        # Ours would keep the pipe open after the process has died.
        other_end.close()


def _serve(connection, threads: int) -> None:
    # Ctrl-C reaches both processes; the parent answers it, and this one ends with the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.prepare(threads, flush_denormal=True)
    with suppress(EOFError):
        while True:
            connection.send(measure(*connection.recv()))
