"""Hooks: attributes that are set by assignment, as in Go, and used as decorators, as in Python."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, overload

__all__ = ["BoundHook", "Hook", "HookOwner", "adopt_methods", "check_hook_name"]

F = TypeVar("F", bound=Callable[..., object])


class HookOwner(Protocol):
    """What a class with hooks has: the place where they are kept, and the way to change one."""

    _hooks: dict[str, Callable[..., object]]

    def _set_hook(self, name: str, func: Callable[..., object] | None) -> None: ...


class BoundHook(Generic[F]):
    """The hook of one server: call it with a function to set it, which is what a decorator does.

    ``bool(server.on_read)`` tells whether it is set, ``server.on_read.func`` is the function.
    """

    __slots__ = ("_name", "_owner")

    def __init__(self, owner: HookOwner, name: str) -> None:
        self._owner = owner
        self._name = name

    @property
    def func(self) -> F | None:
        """The function that is set; None where none is."""
        func: Any = self._owner._hooks.get(self._name)
        return func  # type: ignore[no-any-return]

    def __call__(self, func: F) -> F:
        """Set the hook and return the function, so that its name stays bound to it."""
        set_hook(self._owner, self._name, func)
        return func

    def __bool__(self) -> bool:
        return self.func is not None

    def __repr__(self) -> str:
        return f"<hook {self._name}: {self.func!r}>"


class Hook(Generic[F]):
    """Descriptor of a hook: ``server.on_read = f``, ``@server.on_read``, and None to clear it.

    Args:
        may_be_async: Whether it may be a coroutine function.
    """

    def __init__(self, *, may_be_async: bool = False) -> None:
        self.may_be_async = may_be_async

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> Hook[F]: ...
    @overload
    def __get__(self, owner: HookOwner, kind: type) -> BoundHook[F]: ...
    def __get__(self, owner: HookOwner | None, kind: type) -> Hook[F] | BoundHook[F]:
        return self if owner is None else BoundHook(owner, self._name)

    def __set__(self, owner: HookOwner, func: F | BoundHook[F] | None) -> None:
        # a.on_read = b.on_read means the function, not b.
        set_hook(owner, self._name, func.func if isinstance(func, BoundHook) else func)


def set_hook(owner: HookOwner, name: str, func: Callable[..., object] | None) -> None:
    """Set a hook, or clear it with None.

    Raises:
        TypeError: func cannot be called, or is a coroutine function, or an object that is called like one, where
            nobody would await it.
    """
    if func is not None:
        if not callable(func):
            raise TypeError(f"{name}: must be a function or None, not {func!r}")
        hook: Hook[Any] = getattr(type(owner), name)
        if _any_of(inspect.isasyncgenfunction, func) or (
            _any_of(inspect.iscoroutinefunction, func) and not hook.may_be_async
        ):
            raise TypeError(f"{name}: {func!r} is async; a callback is a plain function")
    owner._set_hook(name, func)


def _any_of(is_such: Callable[[Any], bool], func: Any) -> bool:
    """Tell whether a function is such a one, or what an object has for ``__call__``."""
    while isinstance(func, functools.partial):
        func = func.func
    return is_such(func) or is_such(type(func).__call__)


def adopt_methods(cls: type, inherited: dict[str, Callable[..., object]]) -> dict[str, Callable[..., object]]:
    """Return the methods of a class that are named as hooks, with those it inherits; the hooks keep the names.

    A method would hide the hook of its name, and nobody would ever call it.
    """
    methods = dict(inherited)
    for name, value in list(vars(cls).items()):
        if isinstance(value, Hook) or not any(
            isinstance(vars(base).get(name), Hook) for base in cls.__mro__[1:]
        ):
            continue
        methods[name] = value
        delattr(cls, name)
    return methods


def check_hook_name(owner: object, name: str) -> None:
    """Refuse to set an attribute that looks like a hook and is none.

    Raises:
        AttributeError: There is no such hook; the message names the nearest.
    """
    if name.startswith("on_") and not isinstance(getattr(type(owner), name, None), Hook):
        names = sorted(
            {n for kind in type(owner).__mro__ for n, v in vars(kind).items() if isinstance(v, Hook)}
        )
        # Here, as most programs never need it: a quarter of a megabyte.
        import difflib

        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
        raise AttributeError(f"there is no hook {name!r}{hint}")
