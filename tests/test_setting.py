"""`use_engine`, `use_memory`, `use_precision`: names checked at once, in force in blocks alone."""

import asyncio
import contextvars
import threading

import pytest

import fastrnn
from fastrnn.dispatch import forced_engine
from fastrnn.memory import memory_mode
from fastrnn.precision import fp32_precision

# The function, what reads the value in force, the default, and two other values.
SETTINGS = [
    (fastrnn.use_engine, forced_engine, "auto", ("torch.bptt", "torch.reference")),
    (fastrnn.use_memory, memory_mode, "save", ("recompute", "save")),
    (fastrnn.use_precision, fp32_precision, fp32_precision(), ("ieee", "tf32x3")),
]
every_setting = pytest.mark.parametrize(
    ("use", "value", "default", "others"), SETTINGS, ids=lambda part: getattr(part, "__name__", "")
)


@every_setting
def test_an_unknown_name_is_refused_without_a_block(use, value, default, others):
    with pytest.raises(ValueError, match=r"unknown .* 'bogus'.*: ") as error:
        use("bogus")
    assert all(name in str(error.value) for name in others)


@every_setting
def test_only_a_block_puts_it_in_force(use, value, default, others):
    setting = use(others[0])
    assert value() == default
    assert repr(setting) == f"{use.__name__}({others[0]!r}), to be used in a `with` statement"
    with setting as nothing:
        assert nothing is None
        assert value() == others[0]
    assert value() == default


@every_setting
def test_one_object_again_and_within_itself(use, value, default, others):
    outer, inner = map(use, others)
    for _ in range(2):
        with outer, inner:
            assert value() == others[1]
            with outer:
                assert value() == others[0]
            assert value() == others[1]
        assert value() == default


@every_setting
def test_a_recursive_function_is_decorated(use, value, default, others):
    @use(others[0])
    def depth(n):
        """How deep it is."""
        assert value() == others[0]
        with use(others[1]):
            return 1 + depth(n - 1) if n else 0

    assert depth(3) == 3
    assert depth.__doc__ == "How deep it is."
    assert value() == default


@every_setting
def test_a_coroutine_is_decorated(use, value, default, others):
    async def seen():
        await asyncio.sleep(0)
        return value()

    async def several():
        tasks = [use(other)(seen)() for other in others]
        return await asyncio.gather(*tasks, seen())

    assert asyncio.run(several()) == [*others, default]


def test_a_generator_is_not_decorated():
    def steps():
        yield

    async def asynchronous_steps():
        yield

    for function in (steps, asynchronous_steps):
        with pytest.raises(TypeError, match="use_engine cannot decorate a generator"):
            fastrnn.use_engine("torch")(function)


@every_setting
def test_blocks_of_generators_end_in_any_order(use, value, default, others):
    def block(name):
        with use(name):
            yield

    first, second = map(block, others)
    next(first), next(second)
    assert value() == others[1]
    first.close()
    assert value() == others[1]
    second.close()
    assert value() == default


@every_setting
def test_one_object_in_two_threads(use, value, default, others):
    setting, seen = use(others[0]), []
    entered, left = threading.Event(), threading.Event()

    def other():
        seen.append(value())
        with setting:
            entered.set()
            assert left.wait(10)
            seen.append(value())
        seen.append(value())

    thread = threading.Thread(target=other)
    with setting:
        thread.start()
        assert entered.wait(10)
    assert value() == default
    left.set()
    thread.join()
    assert seen == [default, others[0], default]


@every_setting
def test_left_where_it_was_not_entered(use, value, default, others):
    setting = use(others[0])
    contextvars.copy_context().run(setting.__enter__)
    with pytest.raises(RuntimeError, match="was entered in another context"):
        setting.__exit__(None, None, None)
    assert value() == default
