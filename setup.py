import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")

# The device code lives in the top-level folder `kernels/` and installs as `fastrnn.kernels`: a
# top-level package of that name would shadow Hugging Face's `kernels`, which transformers imports.
setup(
    name="fastrnn",
    version="0.1.0",
    description="Drop-in LSTM, GRU and RNN for PyTorch that finish sooner",
    # A package index shows no picture and follows no link that is relative to the checkout.
    long_description=re.sub(r"!?\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", README),
    long_description_content_type="text/markdown",
    author="The fastrnn authors",
    keywords=["LSTM", "GRU", "RNN", "PyTorch", "Triton", "CUDA", "recurrent neural networks"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=["fastrnn", "fastrnn.kernels"],
    package_dir={"fastrnn": "fastrnn", "fastrnn.kernels": "kernels"},
    package_data={"fastrnn": ["py.typed", "*.pyi"], "fastrnn.kernels": ["*.csv"]},
    install_requires=["torch>=2.9"],
    extras_require={
        # Triton comes with CUDA builds of torch; name it only to run kernels in its interpreter.
        "triton": ["triton>=3.5; platform_system == 'Linux'"],
        # rich: progress bars and tables; matplotlib: pictures; numpy: torch warns without it.
        "bench": ["rich", "matplotlib", "numpy", "pytest", "pytest-benchmark"],
        "examples": ["rich", "matplotlib", "numpy"],
        "test": [
            "triton>=3.5; platform_system == 'Linux'",
            "hypothesis",
            "matplotlib",
            "mypy",  # what a type checker sees of fastrnn
            "numpy",
            "onnx",  # torch's exporter needs this and onnxscript; onnxruntime runs what comes out
            "onnxruntime",
            "onnxscript",
            "pytest",
            "pytest-benchmark",
            "pytest-xdist",  # the tests on all cores: compiling every plan takes minutes
            "rich",
            "setuptools>=77",
        ],
        # What tests/libraries/ tries fastrnn with; .ci/libraries installs it and runs them.
        "libraries": [
            "accelerate",
            "backpack-for-pytorch",
            "bitsandbytes",
            "captum",
            "darts",
            "flair",
            "fvcore",
            "gluonts",
            "gymnasium",
            "higher",
            "lightning",
            "neuralhydrology",
            "opacus",
            "ptflops",
            "pytest",
            "pytorch-forecasting",
            "sb3-contrib",
            "skorch",
            "thop",
            "tianshou",
            "torch-pruning",
            "torchao",
            "torchinfo",
            "torchopt",
            "torchrl",
            # flair takes these only, and without the bounds pip tries one version after another.
            "huggingface_hub<1",
            "transformers>=4.57,<5",
        ],
        "dev": ["ruff", "build"],
    },
)
