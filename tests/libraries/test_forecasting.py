"""Forecasting of time series."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import assert_near, converted, rnns, way

import fastrnn

ROOT = Path(__file__).parents[2]
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
FIT = """
import sys, warnings
warnings.simplefilter("ignore")
import fastrnn, torch
from torch import nn
if sys.argv[1] == "patch":
    fastrnn.patch()
import numpy, pandas, lightning.pytorch
from pytorch_forecasting import DeepAR, TemporalFusionTransformer, TimeSeriesDataSet

steps = list(range(40))
frame = pandas.DataFrame({"t": steps * 2, "g": ["a"] * 40 + ["b"] * 40})
frame["y"] = numpy.random.default_rng(0).normal(size=80) + 5
data = TimeSeriesDataSet(
    frame, time_idx="t", target="y", group_ids=["g"], max_encoder_length=12,
    min_encoder_length=12, max_prediction_length=4, time_varying_unknown_reals=["y"],
)
batches = data.to_dataloader(train=True, batch_size=8, num_workers=0)
for kind in (TemporalFusionTransformer, DeepAR):
    model, lines = kind.from_dataset(data, hidden_size=8), []
    fastrnn.convert(model, lines.append)
    rnns = [m for m in model.modules() if isinstance(m, nn.RNNBase)]
    ours = [hasattr(m, "native") for m in rnns]
    assert rnns and all(ours) if sys.argv[1] == "patch" else not any(ours), rnns
    assert all("is a subclass of torch.nn.LSTM" in line for line in lines)
    assert bool(lines) == (sys.argv[1] == "convert")
    lightning.pytorch.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, limit_train_batches=2,
    ).fit(model, batches)
"""


@pytest.mark.parametrize("how", ["convert", "patch"])
def test_pytorch_forecasting(how, library):
    """Its RNNs are subclasses of torch.nn's: `convert` leaves them alone, `patch` comes first."""
    library("pytorch_forecasting")
    command = [sys.executable, "-c", FIT, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["RNNModel", "BlockRNNModel"])
def test_darts(name, library):
    models = library("darts.models")
    import numpy
    from darts import TimeSeries

    series = TimeSeries.from_values(numpy.sin(numpy.arange(60) / 3).astype("float32"))
    more = {"training_length": 15} if name == "RNNModel" else {"output_chunk_length": 3}
    found = []
    for how in ("native", "convert", "patch"):
        with way(how):
            model = getattr(models, name)(
                model="GRU", input_chunk_length=10, hidden_dim=8, n_epochs=1, random_state=0,
                pl_trainer_kwargs=QUIET, **more,
            )  # fmt: skip
            model.fit(series)
        if how == "convert":
            converted(model.model)
        assert rnns(model.model) == {"torch.GRU" if how == "native" else "fastrnn.GRU"}
        found.append(torch.from_numpy(model.predict(5).values()))
    assert_near(found[1], found[0])
    assert_near(found[2], found[0])


def test_neuralhydrology(library):
    CudaLSTM = library("neuralhydrology.modelzoo.cudalstm").CudaLSTM
    from neuralhydrology.utils.config import Config

    settings = {
        "model": "cudalstm", "hidden_size": 8, "output_dropout": 0.0, "initial_forget_bias": 3,
        "head": "regression", "output_activation": "linear", "dynamic_inputs": ["rain", "heat"],
        "target_variables": ["flow"], "predict_last_n": 1, "seq_length": 20, "use_frequencies": [],
    }  # fmt: skip
    model = CudaLSTM(Config(settings, dev_mode=True))
    data = {"x_d": {"rain": torch.randn(4, 20, 1), "heat": torch.randn(4, 20, 1)}}
    expected = model(data)["y_hat"]
    converted(model)
    assert type(model.lstm) is fastrnn.LSTM
    assert_near(model(data)["y_hat"], expected)
    model(data)["y_hat"].sum().backward()


def test_gluonts(library):
    DeepARModel = library("gluonts.torch.model.deepar.module").DeepARModel
    model = DeepARModel(
        freq="D", context_length=8, prediction_length=4, hidden_size=8, lags_seq=[1, 2]
    ).eval()
    past = model._past_length
    inputs = {
        "feat_static_cat": torch.zeros(2, 1, dtype=torch.long),
        "feat_static_real": torch.zeros(2, 1),
        "past_time_feat": torch.randn(2, past, 1),
        "past_target": torch.randn(2, past),
        "past_observed_values": torch.ones(2, past),
        "future_time_feat": torch.randn(2, 4, 1),
    }
    target = {"future_target": torch.randn(2, 4), "future_observed_values": torch.ones(2, 4)}
    found = []
    for change in (lambda model: None, converted):
        change(model)
        torch.manual_seed(0)
        found.append((model(**inputs, num_parallel_samples=3), model.loss(**inputs, **target)))
    assert rnns(model) == {"fastrnn.LSTM"}
    assert_near(found[1], found[0])
    found[1][1].sum().backward()
