"""Another process that measures.

For rows that flush denormals in a run that does not: `torch.set_flush_denormal` acts on one thread
and on the threads that it starts later, so it cannot be switched on and off in a process whose
worker threads exist. And for every row on a GPU, where a kernel can hang, or leave the process
unable to use the device: the next row then gets a new process.
"""

import multiprocessing
import signal
from contextlib import suppress
from functools import cache

import torch

from benchmarks import machine
from benchmarks.measure import ERROR, Row, describe, measure

# For a process to end by itself.
PATIENCE = 30


class Worker:
    """Measures rows one after another in the other process, which starts with the first of them.

    limit: seconds after which a row is given up, and its process killed; None is no limit.
    """

    def __init__(self, threads: int, flush_denormal: bool, limit: float | None = None):
        self.threads = threads
        self.flush_denormal = flush_denormal
        self.limit = limit
        self.process = None

    def measure(self, row: Row, rounds: int) -> dict:
        if self.process is None:
            self._start()
        try:
            self.connection.send((row, rounds))
            if not self.connection.poll(self.limit):
                self.process.kill()
                return self._failed(row, f"no result after {self.limit:g} s, given up")
            record, usable = self.connection.recv()
        except (EOFError, OSError):
            return self._failed(row, "the process that measures died ({})")
        if not usable:
            self._end()
        return record

    def _failed(self, row: Row, message: str) -> dict:
        message = message.format(self._end())
        return describe(row) | {"status": ERROR, "message": message}

    def _end(self) -> int | None:
        """Wait for the process to end; its exit code."""
        self.connection.close()
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(PATIENCE)
        code, self.process = self.process.exitcode, None
        return code

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        arguments = (other_end, self.threads, self.flush_denormal)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        # Ours would keep the pipe open after the process has died.
        other_end.close()


def _serve(connection, threads: int, flush_denormal: bool) -> None:
    # Ctrl-C reaches both processes; the parent answers it, and this one ends with the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.prepare(threads, flush_denormal)
    usable = True
    with suppress(EOFError):
        while usable:
            row, rounds = connection.recv()
            if row.device == "cuda":
                _wake()
            record = measure(row, rounds)
            usable = row.device != "cuda" or _usable()
            connection.send((record, usable))


@cache
def _wake() -> None:
    """Load the libraries, so that the first row does not pay for it."""
    module = torch.nn.LSTM(8, 8, device="cuda")
    module(torch.randn(2, 2, 8, device="cuda"))[0].sum().backward()
    torch.cuda.synchronize()


def _usable() -> bool:
    """Whether the device still answers this process, which then gives back what it holds."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
