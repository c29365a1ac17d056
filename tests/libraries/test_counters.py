"""Programs that count operations, parameters and sizes."""

import pytest
from small_models import X, pair
from torch.utils.flop_counter import FlopCounterMode

import fastrnn

every_kind = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])


@every_kind
def test_thop_knows_classes(kind, library):
    """Of others it counts nothing, parameters included."""
    thop = library("thop")
    native, ours = pair(kind)
    right = thop.profile(native, (X,), verbose=False)
    assert thop.profile(ours, (X,), verbose=False) != right
    with fastrnn.restored(ours):
        assert thop.profile(ours, (X,), verbose=False) == right
    assert type(ours.rnn) is getattr(fastrnn, kind)
    count = getattr(thop.rnn_hooks, f"count_{kind.lower()}")
    custom = {getattr(fastrnn, kind): count}
    assert thop.profile(ours, (X,), verbose=False, custom_ops=custom) == right


@every_kind
def test_ptflops_knows_classes(kind, library):
    ptflops = library("ptflops")

    def count(model):
        return ptflops.get_model_complexity_info(
            model, (20, 5), as_strings=False, print_per_layer_stat=False, backend="pytorch"
        )

    native, ours = pair(kind)
    right = count(native)
    assert count(ours) != right
    with fastrnn.restored(ours):
        assert count(ours) == right


@every_kind
def test_torchinfo(kind, library):
    torchinfo = library("torchinfo")
    native, ours = (torchinfo.summary(model, input_data=X, verbose=0) for model in pair(kind))
    assert ours.total_mult_adds == native.total_mult_adds
    assert ours.total_params == native.total_params
    assert str(ours) == str(native)


@every_kind
def test_fvcore_records_torch_nns_operators(kind, library):
    """It has no count for them, and says so, as of torch.nn."""
    fvcore = library("fvcore.nn")
    found = []
    for model in pair(kind):
        analysis = fvcore.FlopCountAnalysis(model, X).unsupported_ops_warnings(False)
        found.append((analysis.total(), analysis.unsupported_ops()))
    assert found[0] == found[1]


@every_kind
def test_torchs_own_counter(kind):
    counts = []
    for model in pair(kind):
        with FlopCounterMode(display=False) as mode:
            model(X)
        counts.append(mode.get_total_flops())
    assert counts[0] == counts[1]
