"""What a pool's task calls, in one line, for the error that says that its worker died.

Little may be kept of an open task, and no object may be kept alive: an argument may be large, or
refer to the pool. Of a small task its message is kept, which costs nothing. Of a larger one the
line is kept, made of the first items of plain containers. Neither runs code from outside, which may
be what killed the worker: an object is shown by its class and the values that it is pickled with.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Self

from . import _native

_MAX_LENGTH = 80
"""Characters of the arguments."""

_MAX_BYTES = 1024
"""Bytes of a task that is kept as it is."""

_MAX_ITEMS = 6
"""Items of a container that are looked at."""

_MAX_DEPTH = 3
"""Containers within one another that are looked into."""

_MAX_BITS = 256
"""Of a number that is written out."""

_BRACKETS: dict[type, tuple[str, str]] = {
    tuple: ("(", ")"),
    list: ("[", "]"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}
_SIMPLE = frozenset((bool, float, complex, type(None), range, slice))
_HARMLESS = frozenset(("datetime", "decimal", "fractions", "pathlib", "uuid"))
"""Modules with objects that may be unpickled, and shown by their own `repr`."""

_HARMLESS_BUILTINS = frozenset(("complex", "frozenset", "range", "set", "slice"))

_EACH = {"procession.crew.call_each": "x", "procession.crew.call_each_star": "*x"}
"""How the functions that take a chunk pass an item to another function."""

_MAX_NAMES = 1024
"""Functions that are kept by name; beyond that all are dropped, and remembered again."""

Brief = bytes | str
"""What is kept of a task: its message, or the line."""


class Names(dict[Any, Any]):
    """What is remembered of functions that go by name, within bounds.

    Only those may be remembered. One that goes by value (a bound method, a partial, a callable
    object) has a state, which each task gets as it was when the task was submitted.
    """

    def remember(self, key: Any, value: Any, pickled: bytes) -> None:
        """Remember a value, if the function was pickled by name."""
        if _is_by_name(pickled):
            if len(self) >= _MAX_NAMES:
                self.clear()
            self[key] = value


def _is_by_name(pickled: bytes) -> bool:
    """Return whether a pickle is only a reference to a global."""
    at = 11 if pickled[2:3] == pickle.FRAME else 2
    for _ in ("module", "name"):
        if pickled[at : at + 1] != pickle.SHORT_BINUNICODE:
            return False
        at += 2 + pickled[at + 1]
        if pickled[at : at + 1] != pickle.MEMOIZE:
            return False
        at += 1
    return pickled[at:] == pickle.STACK_GLOBAL + pickle.MEMOIZE + pickle.STOP


def brief(task: bytes, func: bytes, args: Any, kwds: Mapping[str, Any]) -> Brief:
    """Return what is to be kept of a task.

    Parameters
    ----------
    task : bytes
        Its message.
    func : bytes
        The pickled function.
    args, kwds
        The arguments.
    """
    return task if len(task) <= _MAX_BYTES else _line(func, args, kwds)


def line(kept: Brief) -> str:
    """Return what a task calls, in one line."""
    if isinstance(kept, str):
        return kept
    func, args, kwds = _native.peek_task(kept)
    return _line(func, *(_made(*part) for part in (args, kwds)))


def _line(func: bytes, args: Any, kwds: Mapping[str, Any] | None) -> str:
    name = _name(func)
    each = _EACH.get(name)
    if each is not None:
        func, items = args
        name = _text(func) if _is_stand_in(func) else _name(_native.dumps(func))
        return f"{name}({each}) for x in {_cut(_text(items))}"
    texts = [_text(arg) for arg in islice(args, _MAX_ITEMS)]
    texts += (f"{key}={_text(value)}" for key, value in islice((kwds or {}).items(), _MAX_ITEMS))
    return f"{name}({_cut(', '.join(texts))})"


def _name(func: bytes) -> str:
    # A function that is not pickled by name may bring much data.
    return _cut(_text(_made(True, func)))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "..."


def _text(value: Any, depth: int = _MAX_DEPTH) -> str:
    """Return the start of a value's representation, or something close to it."""
    kind = type(value)
    if kind is str or kind is bytes:
        return repr(value[: _MAX_LENGTH + 1])
    if kind is int:
        bits = value.bit_length()
        return repr(value) if bits <= _MAX_BITS else f"<int of {bits} bits>"
    if kind in _SIMPLE or kind.__module__.partition(".")[0] in _HARMLESS:
        return repr(value)
    if kind in _BRACKETS or kind is dict:
        return _items(value, depth)
    if _is_stand_in(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, _StandIn):
        return value.text(depth)
    return f"<{kind.__module__}.{kind.__qualname__} object>"


def _items(value: Any, depth: int) -> str:
    kind = type(value)
    left, right = _BRACKETS.get(kind, ("{", "}"))
    if not value and kind in (set, frozenset):
        return f"{kind.__name__}()"
    texts: list[str] = []
    if depth > 0:
        # Another thread may change it meanwhile.
        first = islice(value.copy() if kind is set else value, _MAX_ITEMS)
        if kind is dict:
            pairs = list(islice(value.items(), _MAX_ITEMS))
            texts = [f"{_text(key, depth - 1)}: {_text(item, depth - 1)}" for key, item in pairs]
        else:
            texts = [_text(item, depth - 1) for item in first]
    if len(value) > len(texts):
        texts.append("...")
    elif kind is tuple and len(texts) == 1:
        right = ",)"
    return f"{left}{', '.join(texts)}{right}"


class _StandIn:
    """Stands for an object of any class, and for what any function returns."""

    __slots__ = ("args", "items", "state")
    args: tuple[Any, ...]
    items: list[Any]
    state: Any

    def __new__(cls, *args: Any, **kwds: Any) -> Self:
        self = super().__new__(cls)
        self.args = args
        self.items = []
        self.state = kwds
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        self.items.append(item)

    add = append

    def extend(self, items: Iterable[Any]) -> None:
        self.items.extend(items)

    def __setitem__(self, key: Any, item: Any) -> None:
        self.items.append((key, item))

    def __call__(self, *args: Any, **kwds: Any) -> Self:
        return self

    def text(self, depth: int) -> str:
        name = _text(type(self))
        if depth <= 0:
            return f"{name}(...)"
        if name == "builtins.getattr" and len(self.args) == 2:
            # A method.
            return f"{_text(self.args[0], depth - 1)}.{self.args[1]}"
        texts = [_text(arg, depth - 1) for arg in self.args[:_MAX_ITEMS]]
        if self.items:
            texts.append(_items(self.items, depth - 1))
        state = self.state[1] if type(self.state) is tuple and len(self.state) == 2 else self.state
        if type(state) is dict:
            pairs = islice(state.items(), _MAX_ITEMS)
            texts += (f"{key}={_text(value, depth - 1)}" for key, value in pairs)
        elif state is not None:
            texts.append(_text(state, depth - 1))
        return f"{name}({', '.join(texts)})"


def _is_stand_in(value: Any) -> bool:
    """Return whether it stands for a class or function itself."""
    return isinstance(value, type) and issubclass(value, _StandIn)


class _Unpickler(pickle.Unpickler):
    """Makes stand-ins for all that is not harmless."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _HARMLESS_BUILTINS:
            return getattr(__import__("builtins"), name)
        if module.partition(".")[0] in _HARMLESS:
            return super().find_class(module, name)
        return type(name, (_StandIn,), {"__module__": module, "__slots__": ()})

    def persistent_load(self, pid: Any) -> Any:
        return self.find_class("persistent", str(pid))


def _made(is_pickled: bool, value: Any) -> Any:
    return _Unpickler(io.BytesIO(value)).load() if is_pickled else value
