"""Modules in other processes: DataLoader's workers, forked and spawned children, CUDA left alone.
Processes that train together are in test_distributed.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIOS = ("spawn_safety", "fork_safety", "cuda_is_left_alone")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_processes(scenario):
    if scenario == "fork_safety" and sys.platform != "linux":
        pytest.skip("fork is safe on Linux alone")
    command = [sys.executable, "-m", "tests.processes", scenario]
    root = Path(__file__).parent.parent
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
