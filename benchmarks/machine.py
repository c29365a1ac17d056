"""Where a measurement was taken: the environment, its identity and its one line."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def prepare(threads: int | None, flush_denormal: bool) -> None:
    """Set up this process. Has to come before any work: threads inherit the denormal setting."""
    if threads is not None:
        torch.set_num_threads(threads)
    if flush_denormal and not torch.set_flush_denormal(True):
        raise ValueError("this processor cannot flush denormals")


def environment(
    device: str, flush_denormal: bool, engine: str | None = None, commit: str | None = None
) -> dict:
    """What a measurement may depend on, as JSON; None where there is nothing to tell.

    engine: what fastrnn was told to use. commit: for where there is no git to ask.
    """
    cuda = device == "cuda"
    clocks = gpu_numbers("clocks.max.sm,clocks.max.mem") if cuda else []
    return {
        "device": device,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if cuda
        else None,
        "gpu_clocks": "multiprocessors {:g} MHz, memory {:g} MHz".format(*clocks)
        if len(clocks) == 2
        else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "commit": commit or _output("git", "describe", "--always", "--dirty", "--exclude=*"),
        "engine": engine,
        "flush_denormal": flush_denormal,
        "date": date(),
    }


def date() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def load() -> float | None:
    """How many threads ran or waited for a core, a mean of the last minute; None on Windows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def differences(old: dict, new: dict) -> list[str]:
    """How two environments differ, the date aside."""
    return [
        f"{name} was {old.get(name)}, is {new[name]}"
        for name in new
        if name != "date" and old.get(name) != new[name]
    ]


def gpu_numbers(query: str) -> list[float]:
    """What nvidia-smi answers to a query for numbers; [] if it doesn't."""
    answer = _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits")
    try:
        return [float(number) for number in (answer or "").split(",")]
    except ValueError:
        return []


def line(environment: dict) -> str:
    """One line for people."""
    known = {name: value for name, value in environment.items() if value is not None}
    threads = known["threads"]
    parts = [
        known.get("gpu"),
        f"{known['cpu']}, {known['cores']} cores, {threads} thread{'s' if threads != 1 else ''}",
        *(
            f"{title} {known[name]}"
            for name, title in (
                ("gpu_clocks", "up to"),
                ("driver", "driver"),
                ("cuda", "CUDA"),
                ("cudnn", "cuDNN"),
                ("torch", "torch"),
                ("triton", "triton"),
                ("python", "Python"),
                ("commit", "fastrnn at"),
                ("engine", "engine"),
            )
            if name in known
        ),
        known["os"],
        "denormals flushed" if known["flush_denormal"] else None,
        known["date"][:10],
    ]
    return " · ".join(part for part in parts if part)


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [row.split(":", 1)[1].strip() for row in text.splitlines() if "model name" in row]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """The first line that a command prints; None if it fails or is not there."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if lines else None
