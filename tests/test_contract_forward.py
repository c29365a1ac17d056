"""The forms of forward: sizes, layouts, packed sequences, initial states, dtypes."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from tests.contract import (
    UNPROJECTED,
    assert_same_outcome,
    assert_twins_agree,
    each_class,
    every_module,
    insist_on_the_loop,
    mapped,
    normal,
    packed,
    state_for,
    tensors,
    twins,
)

DOUBLE = torch.float64
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
with_state = pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
LENGTHS = {"sorted": [9, 4, 4, 1], "unsorted": [2, 9, 1, 3], "equal": [3, 3], "one": [4]}


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


@every_module
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forth", "both"])
@pytest.mark.parametrize(("layers", "given"), [(1, True), (2, False), (3, True)])
@pytest.mark.parametrize(("T", "B", "H"), [(1, 1, 17), (9, 3, 17), (7, 3, 4), (9, 1, 4)])
def test_padded(kind, given, bidirectional, layers, T, B, H):
    native, ours = twins(kind, 5, H, layers, bidirectional=bidirectional, dtype=DOUBLE)
    assert_twins_agree(native, ours, normal(T, B, 5), state_for(native, B) if given else None)


@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
@with_state
@pytest.mark.parametrize(("T", "B", "I"), [(1, 1, 1), (9, 3, 1), (9, 1, 5)])
def test_one_hidden_unit(kind, given, T, B, I):
    native, ours = twins(kind, I, 1, 2, bidirectional=True, dtype=DOUBLE)
    assert_twins_agree(native, ours, normal(T, B, I), state_for(native, B) if given else None)


@every_module
@every_float
@with_state
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_dtypes(kind, dtype, given, options):
    native, ours = twins(kind, 5, 17, dtype=dtype, **options)
    x, hx = normal(9, 3, 5, dtype=dtype), state_for(native, 3)
    assert_twins_agree(native, ours, x, hx if given else None)
    assert_twins_agree(native, ours, packed([5, 9, 2], 5, dtype=dtype), hx if given else None)


@every_module
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_modules(kind, dtype):
    native, ours = twins(kind, 5, 4, 2)
    for module in (native, ours):
        with pytest.warns(UserWarning, match="Complex modules are a new feature"):
            module.to(dtype)
        with torch.no_grad():
            for n, weight in enumerate(module.parameters()):
                weight.copy_(normal(*weight.shape, seed=n, dtype=dtype) / 4)
    x, hx = normal(3, 2, 5, dtype=dtype), state_for(native, 2)
    expected, _ = assert_same_outcome(lambda: native(x, hx), lambda: ours(x, hx))
    if expected is not None:
        assert_twins_agree(native, ours, x, hx)


@every_module
@with_state
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_batch_first(kind, given, options):
    native, ours = twins(kind, 5, 6, batch_first=True, dtype=DOUBLE, **options)
    assert_twins_agree(native, ours, normal(3, 9, 5), state_for(native, 3) if given else None)


@every_module
@with_state
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_unbatched(kind, given, batch_first, options):
    native, ours = twins(kind, 5, 6, batch_first=batch_first, dtype=DOUBLE, **options)
    for T in (1, 9):
        assert_twins_agree(native, ours, normal(T, 5), state_for(native) if given else None)


@every_module
@pytest.mark.parametrize(
    ("lengths", "given"),
    [("sorted", True), ("unsorted", False), ("unsorted", True), ("equal", False), ("one", True)],
)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forth", "both"])
@pytest.mark.parametrize("layers", [1, 2])
def test_packed(kind, given, lengths, bidirectional, layers):
    lengths = LENGTHS[lengths]
    native, ours = twins(kind, 5, 6, layers, bidirectional=bidirectional, dtype=DOUBLE)
    x = packed(lengths, 5)
    hx = state_for(native, len(lengths)) if given else None
    assert_twins_agree(native, ours, x, hx)
    output, expected = ours(x, hx)[0], native(x, hx)[0]
    assert type(output) is PackedSequence
    assert torch.equal(output.batch_sizes, expected.batch_sizes)
    assert torch.equal(output.sorted_indices, x.sorted_indices)
    assert torch.equal(output.unsorted_indices, x.unsorted_indices)


@every_module
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_without_indices(kind, batch_first):
    native, ours = twins(kind, 5, 6, 2, batch_first=batch_first, dtype=DOUBLE)
    x = pack_sequence([normal(n, 5, seed=n) for n in (4, 3, 1)])
    assert x.sorted_indices is None
    assert_twins_agree(native, ours, x, state_for(native, 3))
    assert ours(x)[0].sorted_indices is None
    x = pack_padded_sequence(normal(3, 4, 5), torch.tensor([4, 1, 1]), batch_first=True)
    assert_twins_agree(native, ours, x)
    bare = PackedSequence(x.data, x.batch_sizes)
    assert_twins_agree(native, ours, bare)


@each_class
def test_packed_data_not_contiguous(kind):
    native, ours = twins(kind, 5, 6, 2, bidirectional=True, dtype=DOUBLE)
    x = packed([3, 5, 1], 5)
    strided = mapped(lambda data: data.t().contiguous().t(), x)
    assert not strided.data.is_contiguous()
    assert_twins_agree(native, ours, strided, state_for(native, 3))


STRIDES = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "features first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every other": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "broadcast over time": lambda x: x[:1].expand_as(x),
    "broadcast over batch": lambda x: x[:, :1].expand_as(x),
    "reversed storage": lambda x: x.flip(0).as_strided(x.shape, x.stride()),
    "offset": lambda x: torch.cat([x, x])[x.shape[0] :],
}


@each_class
@pytest.mark.parametrize("layout", STRIDES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_strided_input_and_state(kind, layout, batch_first):
    native, ours = twins(kind, 5, 6, 2, batch_first=batch_first, bidirectional=True, dtype=DOUBLE)
    x = STRIDES[layout](normal(9, 9, 5))
    hx = mapped(STRIDES[layout], state_for(native, 9))
    assert_twins_agree(native, ours, x, hx)
    assert_twins_agree(native.float(), ours.float(), x.float(), mapped(torch.Tensor.float, hx))


@every_module
def test_state_of_zero_stride(kind):
    native, ours = twins(kind, 5, 6, 2, dtype=DOUBLE)
    hx = mapped(lambda h: h[:, :1].detach(), state_for(native, 3))
    seen = []
    for module in (native, ours):
        start = mapped(lambda h: h.clone().requires_grad_(), hx)
        expanded = mapped(lambda h: h.expand(-1, 3, -1), start)
        output, _ = module(normal(9, 3, 5), expanded)
        output.pow(2).sum().backward()
        seen.append([output.detach(), *(h.grad for h in tensors(start))])
    for mine, theirs in zip(seen[1], seen[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@every_module
def test_state_may_be_a_list(kind):
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    hx = state_for(native, 3)
    if isinstance(hx, tuple):
        assert_twins_agree(native, ours, normal(9, 3, 5), list(hx))
    else:
        assert_same_outcome(
            lambda: native(normal(9, 3, 5), [hx]), lambda: ours(normal(9, 3, 5), [hx])
        )


@each_class
@with_state
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forth", "both"])
def test_empty_batch(kind, given, dtype, batch_first, bidirectional):
    native, ours = twins(
        kind, 5, 6, 2, batch_first=batch_first, bidirectional=bidirectional, dtype=dtype
    )
    x = normal(0, 4, 5, dtype=dtype) if batch_first else normal(4, 0, 5, dtype=dtype)
    assert_twins_agree(native, ours, x, state_for(native, 0) if given else None)


@every_module
def test_arguments_by_name(kind):
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)

    def by_name(module, x, hx):
        return module(hx=hx, input=x)

    assert_twins_agree(native, ours, normal(9, 3, 5), state_for(native, 3), by_name)


@each_class
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forth", "both"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (9, 9)], ids=str)
def test_output_layout_and_memory(kind, batch_first, bidirectional, shape):
    """Strides are native's or contiguous; no result shares memory with another or an argument."""
    native, ours = twins(
        kind, 5, 6, 2, batch_first=batch_first, bidirectional=bidirectional, dtype=DOUBLE
    )
    x = normal(*shape, 5)
    hx = state_for(native, shape[0] if batch_first else shape[1])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            expected, got = native(x, hx), ours(x, hx)
            for theirs, mine in zip(tensors(expected), tensors(got), strict=True):
                assert mine.is_contiguous() or mine.stride() == theirs.stride()
                assert mine.requires_grad == theirs.requires_grad == grad
        memory = [t.untyped_storage().data_ptr() for t in tensors((got, x, hx, ours.all_weights))]
        assert len(set(memory)) == len(memory)


@every_module
def test_large_inputs_saturate_like_native(kind):
    native, ours = twins(kind, 5, 6, 2, bidirectional=True, dtype=DOUBLE)
    assert_twins_agree(
        native, ours, 100 * normal(9, 3, 5), mapped(lambda h: 10 * h, state_for(native, 3))
    )


@every_module
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_number_spreads_like_native(kind, value):
    native, ours = twins(kind, 5, 6, dtype=DOUBLE)
    x = normal(9, 3, 5)
    x[3, 1, 2] = value
    for theirs, mine in zip(tensors(native(x)), tensors(ours(x)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)


@every_module
def test_repeated_calls_give_equal_bits(kind):
    _, ours = twins(kind, 5, 17, 2, bidirectional=True)
    x = normal(20, 3, 5, dtype=torch.float32)
    first, second = tensors(ours(x)), tensors(ours(x))
    assert all(map(torch.equal, first, second))
    with torch.no_grad():
        ours(normal(3, 2, 5, dtype=torch.float32))
    assert all(map(torch.equal, first, tensors(ours(x))))
