"""Where the code lies and what importing it costs: from a wheel, a checkout, without Triton."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(__file__).parents[1]
MODULES = {"cell", "cells", "device"}


def run(code, cwd, *path):
    """What a fresh Python prints, in a folder, with folders on its path: as JSON."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # pip leaves compiled files behind, too
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_public_names_exist():
    assert len(set(fastrnn.__all__)) == len(fastrnn.__all__)
    for name in fastrnn.__all__:
        assert hasattr(fastrnn, name)
    names: dict = {}
    exec("from fastrnn import *", names)
    assert set(fastrnn.__all__) <= names.keys()


def test_the_device_code_is_no_package_of_its_own():
    assert {file.stem for file in (ROOT / "kernels").glob("*.py")} >= MODULES
    assert not (ROOT / "kernels/__init__.py").exists()
    assert not (ROOT / "fastrnn/kernels").exists()


WHERE = """
import json
import fastrnn, fastrnn.kernels.cell, fastrnn.kernels.cells
from fastrnn.kernels import cells
assert cells is fastrnn.kernels.cells
print(json.dumps([fastrnn.__file__, cells.__file__]))
"""


def test_a_checkout_works_from_its_root():
    package, cells = run(WHERE, ROOT)
    assert Path(package) == ROOT / "fastrnn/__init__.py"
    assert Path(cells) == ROOT / "kernels/cells.py"


def test_a_checkout_works_from_elsewhere(tmp_path):
    package, cells = run(WHERE, tmp_path, ROOT)
    assert Path(package) == ROOT / "fastrnn/__init__.py"
    assert Path(cells) == ROOT / "kernels/cells.py"


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_the_other_package_named_kernels_is_not_shadowed(tmp_path, place):
    other = tmp_path / "site/kernels"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("name = 'the other'\n", "utf-8")
    code = "import json, kernels; print(json.dumps([kernels.name, kernels.__file__]))"
    if place == "root":
        found = run(code, ROOT, other.parent)
    else:
        found = run(code, tmp_path, ROOT, other.parent)
    assert found == ["the other", str(other / "__init__.py")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the checkout, in a folder of its own."""
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    if missing := {"pip", "setuptools"} - installed:
        pytest.skip(f"to build a wheel, {' and '.join(missing)} must be installed")
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out")
    shutil.copytree(ROOT, folder / "checkout", ignore=unwanted)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", folder, folder / "checkout"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_a_wheel_is_pure_and_holds_one_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name == f"fastrnn-{fastrnn.__version__}-py3-none-any.whl"
    metadata = f"fastrnn-{fastrnn.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"fastrnn", metadata}
    for file in (ROOT / "fastrnn").glob("*.py"):
        assert f"fastrnn/{file.name}" in names
    for file in (ROOT / "kernels").glob("*.py"):
        assert f"fastrnn/kernels/{file.name}" in names
    assert any(name.startswith(metadata) and name.endswith("LICENSE") for name in names)


def test_an_unpacked_wheel_works(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    package, cells = run(WHERE, tmp_path, tmp_path / "site")
    assert Path(package) == tmp_path / "site/fastrnn/__init__.py"
    assert Path(cells) == tmp_path / "site/fastrnn/kernels/cells.py"


def test_everything_but_kernels_works_without_triton():
    code = """
import json, sys
sys.modules["triton"] = None
import torch, fastrnn
output, _ = fastrnn.GRU(3, 4)(torch.randn(9, 2, 3))
output.sum().backward()
converted = fastrnn.convert(torch.nn.LSTM(3, 4), None)
print(json.dumps([list(output.shape), fastrnn.explain(converted, torch.randn(9, 2, 3)).engine]))
"""
    assert run(code, ROOT) == [[9, 2, 4], "torch"]


@pytest.fixture(scope="module")
def imports():
    """Seconds of the processor, and new modules, of `import fastrnn` after `import torch`; three
    times, afresh. A wall clock would count the other tests that run beside."""
    code = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.process_time()
import fastrnn
seconds = time.process_time() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""
    return [run(code, ROOT) for _ in range(3)]


def test_importing_costs_little(imports):
    assert min(seconds for seconds, _ in imports) < 0.050


def test_importing_brings_nothing_heavy(imports):
    _, names = imports[0]
    packages = {name.split(".")[0] for name in names}
    assert packages - {"fastrnn", "torch"} <= sys.stdlib_module_names
    heavy = ("torch._dynamo", "torch._inductor", "torch.fx", "torch.onnx")
    assert not [name for name in names if name.startswith(heavy)]
    assert not {"fastrnn.kernels.device", "fastrnn.diagnosis"} & set(names)
