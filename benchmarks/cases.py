"""The shapes that are measured, each with a name and an origin, and the suites made of them."""

from dataclasses import dataclass
from functools import partial

FORWARD = "forward"
TRAINING = "forward+backward"
HESSIAN = "hessian-vector"  # of `hessian.py` alone
ALL_CELLS = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Case:
    """One shape: T steps, B sequences, I inputs, H hidden units, `layers` deep.

    `cells` are measured unless the user names others. `shortest` makes the batch packed: its
    lengths spread evenly from `shortest` to T. `loss` is where gradients enter: "output" (and every
    final state) or "last", the output's last step alone. `streaming` continues from a given state
    and only infers.
    """

    name: str
    T: int
    B: int
    I: int
    H: int
    origin: str
    layers: int = 1
    cells: tuple[str, ...] = ("LSTM", "GRU")
    bidirectional: bool = False
    proj_size: int = 0
    shortest: int | None = None
    loss: str = "output"
    streaming: bool = False

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """The length of every sequence of a packed batch, in no sorted order; None if dense."""
        if self.shortest is None:
            return None
        last = max(self.B - 1, 1)
        longest_first = [self.T - b * (self.T - self.shortest) // last for b in range(self.B)]
        return tuple(longest_first[1::2] + longest_first[::2])

    @property
    def twin(self) -> str | None:
        """The name of the case that has the same batch with every length T, or None."""
        dense = self.name.removesuffix("-packed")
        return dense if dense != self.name and dense in CASES else None

    @property
    def modes(self) -> tuple[str, ...]:
        if self.streaming:
            return (FORWARD,)
        # Where the loss sits makes no difference to a forward pass: the dense twin has that.
        if self.loss == "last":
            return (TRAINING,)
        return (FORWARD, TRAINING)

    @property
    def kind(self) -> str:
        if self.streaming:
            return "streaming"
        if self.loss == "last":
            return "last step"
        return "dense" if self.shortest is None else "packed"

    @property
    def label(self) -> str:
        parts = [f"T{self.T} B{self.B} I{self.I} H{self.H}"]
        if self.layers > 1:
            parts.append(f"{self.layers} layers")
        if self.bidirectional:
            parts.append("bidirectional")
        if self.proj_size:
            parts.append(f"projected to {self.proj_size}")
        if self.shortest is not None:
            parts.append(f"lengths {self.shortest}-{self.T}")
        return ", ".join(parts)


_STACK = {"layers": 2, "bidirectional": True}
_HYDROLOGY = "a year of rainfall to streamflow (neuralhydrology)"
_DIARIZATION = "who speaks when, 10 s of speech (pyannote PyanNet)"
_TRANSDUCER = "prediction network of a speech transducer (Parakeet)"
_AUDIO = "guitar amplifier model on raw samples (neural-amp-modeler)"
_SIMULATOR = "PPO minibatch from a GPU simulator (torchrl with IsaacLab)"
_TTS = "text encoder of a speech synthesiser (Kokoro)"
_OCR = "text lines in scanned documents (docTR, EasyOCR)"
_FORECASTING = "many windows of a few time series (neuralforecast)"

# What recurrent networks are used for, the most telling first. Most of these fill a GPU.
APPLICATIONS = (
    Case("hydrology-256", 365, 256, 32, 256, _HYDROLOGY),
    Case("rl-simulator", 32, 8192, 64, 256, _SIMULATOR),
    Case("diarization", 589, 32, 60, 128, _DIARIZATION, layers=4, bidirectional=True),
    Case("codec", 750, 16, 512, 512, "10 s in a neural audio codec (EnCodec)", layers=2),
    Case("hydrology-256-packed", 365, 256, 32, 256, _HYDROLOGY, shortest=92),
    Case("transducer", 128, 32, 640, 640, _TRANSDUCER, layers=2),
    Case("transducer-step", 1, 8, 640, 640, _TRANSDUCER, layers=2, streaming=True),
    Case("anchor", 1024, 16, 768, 768, "the shape for which persistent kernels publish times"),
    Case("hydrology-64", 365, 256, 32, 64, _HYDROLOGY),
    Case("hydrology-128", 365, 256, 32, 128, _HYDROLOGY, cells=ALL_CELLS),
    Case("rl-step", 1, 4096, 64, 256, "one step of 4096 simulated robots (rsl_rl)", streaming=True),
    Case("rl-512", 128, 256, 32, 512, "recurrent policy in torchrl's benchmarks"),
    Case("audio-20k", 20_000, 32, 1, 40, _AUDIO),
    Case("tts-packed", 400, 16, 640, 256, _TTS, bidirectional=True, shortest=40),
    Case("diarization-packed", 589, 32, 60, 128, _DIARIZATION, 4, bidirectional=True, shortest=148),
    Case("ocr", 32, 128, 512, 128, _OCR, **_STACK),
    Case("forecasting", 96, 1024, 8, 128, _FORECASTING, layers=2),
    Case("forecasting-projected", 96, 1024, 8, 128, _FORECASTING, 2, ("LSTM",), proj_size=1),
    Case("large", 512, 64, 1024, 1024, "matrix products rule: cuDNN's best ground", layers=2),
    Case("audio-70k", 70_000, 8, 1, 40, _AUDIO + ", more steps than cuDNN takes"),
    Case("hydrology-64-packed", 365, 256, 32, 64, _HYDROLOGY, shortest=92),
    Case("hydrology-128-packed", 365, 256, 32, 128, _HYDROLOGY, shortest=92),
)

_LIVE = "a live signal: one sequence, its state carried from call to call"
_SENTENCES = "a batch of sentences of mixed lengths"
_RECORDINGS = "a batch of recordings of mixed lengths"
_CLASSIFIER = "sequence classifier: only the last step reaches the loss"

_desktop = partial(Case, cells=ALL_CELLS)

# What fits a CPU, from bound by calls (one sequence, H = 64) to bound by matrix products.
DESKTOP = (
    _desktop("tiny", 50, 1, 64, 64, "one short sequence: the overhead of a call is all"),
    _desktop("tiny-long", 1000, 4, 32, 64, "a few long series, small state"),
    _desktop("small", 50, 32, 64, 128, "the size of most tutorials"),
    _desktop("medium", 100, 64, 128, 256, "sensor data, tagging"),
    _desktop("wide-512", 128, 16, 512, 512, "language model on word embeddings"),
    _desktop("wide-1024", 32, 128, 256, 1024, "matrix products rule"),
    _desktop("tiny-stack", 50, 4, 64, 64, "a small two-layer tagger", **_STACK),
    _desktop("medium-stack", 100, 32, 128, 256, "a two-layer tagger", **_STACK),
    _desktop("streaming-64", 1, 1, 64, 64, _LIVE, streaming=True),
    _desktop("streaming-512", 1, 1, 512, 512, _LIVE, streaming=True),
    _desktop("streaming-1024", 1, 1, 1024, 1024, _LIVE, streaming=True),
    _desktop("streaming-512-by-4", 4, 1, 512, 512, _LIVE + ", 4 steps at a time", streaming=True),
    _desktop("packed-50", 50, 32, 64, 128, _SENTENCES, shortest=20),
    _desktop("packed-50-bi", 50, 32, 64, 128, _SENTENCES, shortest=20, bidirectional=True),
    _desktop("packed-128", 128, 16, 64, 128, _SENTENCES, shortest=51),
    _desktop("packed-128-bi", 128, 16, 64, 128, _SENTENCES, shortest=51, bidirectional=True),
    _desktop("packed-1000", 1000, 16, 32, 128, _RECORDINGS, shortest=500),
    _desktop("packed-1000-bi", 1000, 16, 32, 128, _RECORDINGS, shortest=500, bidirectional=True),
    _desktop("last-step-200", 200, 32, 64, 128, _CLASSIFIER, loss="last"),
    _desktop("last-step-500", 500, 32, 64, 128, _CLASSIFIER, loss="last"),
)

CASES = {case.name: case for case in APPLICATIONS + DESKTOP}

# Every kind of case, in two minutes on two cores, and about as fast on a GPU for each dtype.
_QUICK = {
    "cpu": (
        *("tiny", "small", "medium", "tiny-stack"),
        *("packed-50", "packed-128-bi"),
        *("streaming-64", "streaming-512", "transducer-step"),
        "last-step-200",
    ),
    "cuda": (
        *("hydrology-256", "transducer", "ocr", "small"),
        *("hydrology-256-packed", "packed-128-bi"),
        *("transducer-step", "streaming-512"),
        "last-step-200",
    ),
}
SUITES = ("quick", "cpu", "gpu", "full")
DEFAULT_SUITE = {"cpu": "quick", "cuda": "gpu"}


def suite(name: str, device: str) -> list[Case]:
    """The cases of a suite, in the order in which `device` ("cpu" or "cuda") measures them."""
    if name == "quick":
        return [CASES[case] for case in _QUICK[device]]
    if name == "cpu":
        return list(DESKTOP)
    if name == "gpu":
        return list(APPLICATIONS)
    if name == "full":
        return list(APPLICATIONS + DESKTOP if device == "cuda" else DESKTOP + APPLICATIONS)
    raise ValueError(f"no suite {name!r}; there are {', '.join(SUITES)}")
