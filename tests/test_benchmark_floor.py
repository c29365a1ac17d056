"""The least time that a machine could take for a row, and what the machine can do."""

import pytest

from benchmarks import rates
from benchmarks.cases import CASES, Case
from benchmarks.floor import Constants, floor

# A machine that does an operation and moves a byte in a second, at a cycle a second.
SLOW = Constants({"float32": 1.0, "bfloat16": 1.0}, 1.0, 1.0, 10, 1000)


# T=3 B=2 I=4 H=5, one layer of an LSTM: W_ih is 20x4, W_hh 20x5, two biases of 20.
@pytest.mark.parametrize(
    ("changes", "training", "constants", "expected"),
    [
        # 6 rows by W_ih, 4 by W_hh: before the first step there is nothing to multiply.
        ({}, False, {}, (2 * (6 * 80 + 4 * 100), "math")),
        ({}, True, {}, (3 * 2 * (6 * 80 + 4 * 100), "math")),
        ({"streaming": True}, False, {}, (2 * (6 * 80 + 6 * 100), "math")),
        ({"bidirectional": True}, False, {}, (2 * 2 * (6 * 80 + 4 * 100), "math")),
        ({"layers": 2}, False, {}, (2 * (6 * 80 + 4 * 100 + 6 * 100 + 4 * 100), "math")),
        ({"proj_size": 2}, False, {}, (2 * (6 * 80 + 4 * 40 + 6 * 10), "math")),
        # Lengths 3 and 1.
        ({"shortest": 1}, False, {"bandwidth": 9.0}, (2 * (4 * 80 + 2 * 100), "math")),
        # x, weights and biases, output, h_n and c_n; and in training the gradient of each.
        ({}, False, {"fast": True}, (4 * (24 + 220 + 30 + 20), "memory")),
        ({}, True, {"fast": True}, (2 * 4 * (24 + 220 + 30 + 20), "memory")),
        ({"loss": "last"}, True, {"fast": True}, (4 * (2 * (24 + 220) + 30 + 20 + 10), "memory")),
        # 400 bytes of W_hh at 128 a cycle, between three steps twice; back, the same again.
        ({}, False, {"fast": True, "bandwidth": 1e9}, (2 * 400 / 128, "latency")),
        ({}, True, {"fast": True, "bandwidth": 1e9}, (4 * 400 / 128, "latency")),
        ({"layers": 2}, False, {"fast": True, "bandwidth": 1e9}, (3 * 400 / 128, "latency")),
        (
            {"layers": 2, "bidirectional": True},
            False,
            {"fast": True, "bandwidth": 1e9},
            (5 * 400 / 128, "latency"),
        ),
        # In four of ten multiprocessors each, W_hh stands twice: a sequence for each, five numbers.
        (
            {},
            False,
            {"fast": True, "bandwidth": 1e9, "shared_bytes": 100, "barrier": 3.0},
            (2 * (3 + 20 / 64), "latency"),
        ),
        ({}, False, {"fast": True, "bandwidth": 1e9, "clock": None}, (1176 / 1e9, "memory")),
    ],
)
def test_the_floor(changes, training, constants, expected):
    shape = {"name": "shape", "T": 3, "B": 2, "I": 4, "H": 5, "origin": ""}
    if constants.pop("fast", False):
        constants["flops"] = {"float32": 1e30}
    seconds, bound = floor(
        Case(**shape | changes), "LSTM", "float32", training, SLOW._replace(**constants)
    )
    assert (seconds, bound) == (pytest.approx(expected[0]), expected[1])


def test_the_floor_knows_cells_and_sizes_of_numbers():
    def seconds(cell, dtype, constants):
        return floor(CASES["hydrology-64"], cell, dtype, False, constants).seconds

    assert seconds("LSTM", "float32", SLOW) == 4 * seconds("RNN", "float32", SLOW)
    assert seconds("LSTM", "float32", SLOW) == pytest.approx(
        4 / 3 * seconds("GRU", "float32", SLOW)
    )
    memory = SLOW._replace(flops={"float32": 1e30, "bfloat16": 1e30}, clock=None)
    assert seconds("GRU", "float32", memory) == 2 * seconds("GRU", "bfloat16", memory)


def test_what_a_machine_can_do_is_measured_once():
    measured = rates.measure("cpu", ["float32", "bfloat16"], width=64, copied=1 << 16)
    assert min(measured.flops.values()) > 0
    assert measured.bandwidth > 0
    known = {"floor": measured._asdict()}
    assert rates.constants("cpu", ["float32"], known) is known
