"""A setting that is in force within a `with` block: of one thread or asynchronous task alone."""

from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Setting(ContextDecorator):
    """A value of a setting: in force within a `with` block, or in each call of a function that it
    decorates, and nowhere else.

    One object may be entered again: later, within its own block, and in several threads. What is in
    force is kept in the context of the thread or task, not in the object.
    """

    def __init__(self, name: str, entered: Any, value: Any) -> None:
        self.name, self.entered, self.value = name, entered, value

    def __repr__(self) -> str:
        return f"{self.name}({self.value!r}), to be used in a `with` statement"

    def __enter__(self) -> None:
        self.entered.set((*self.entered.get(), self))

    def __exit__(self, *error: object) -> None:
        entered = self.entered.get()
        if self not in entered:
            raise RuntimeError(f"{self.name}({self.value!r}) was entered in another context")
        # Not always the last: blocks of two generators may end in any order.
        place = len(entered) - 1 - entered[::-1].index(self)
        self.entered.set(entered[:place] + entered[place + 1 :])

    def __call__(self, func: F) -> F:
        if isgeneratorfunction(func) or isasyncgenfunction(func):
            raise TypeError(f"{self.name} cannot decorate a generator: write a `with` block in it")
        if not iscoroutinefunction(func):
            return super().__call__(func)

        @wraps(func)
        async def within(*args, **kwargs):
            with self:
                return await func(*args, **kwargs)

        return within  # type: ignore[return-value]


def variable(name: str, default: Any) -> ContextVar[tuple[Setting, ...]]:
    """The settings of one name whose blocks are entered, outermost first, after the default:
    `.get()[-1].value` is the value in force."""
    outermost = Setting(name, None, default)  # which is never entered or left
    return ContextVar(f"fastrnn_{name}", default=(outermost,))
