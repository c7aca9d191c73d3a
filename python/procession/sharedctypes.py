"""ctypes objects in shared memory, with or without a lock."""

from __future__ import annotations

import ctypes
from typing import Any

from ._native import Block
from .replacement import standard

__all__ = ["Array", "Block", "RawArray", "RawValue", "Value", "copy", "synchronized"]

_stdlib = standard("sharedctypes")
copy = _stdlib.copy
synchronized = _stdlib.synchronized
_typecodes: dict[str, type] = _stdlib.typecode_to_type


def _make(type_: Any) -> Any:
    return type_.from_buffer(memoryview(Block(ctypes.sizeof(type_))))


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """Return a ctypes object in shared memory.

    Parameters
    ----------
    typecode_or_type : type or str
        A ctypes type, or a letter as for `array.array`.
    *args
        Passed on to the type.
    """
    made = _make(_typecodes.get(typecode_or_type, typecode_or_type))
    made.__init__(*args)
    return made


def RawArray(typecode_or_type: Any, size_or_initializer: Any) -> Any:
    """Return a ctypes array in shared memory.

    Parameters
    ----------
    typecode_or_type : type or str
        The elements' type, as for `RawValue`.
    size_or_initializer : int or sequence
        How many zeros, or the elements.
    """
    element = _typecodes.get(typecode_or_type, typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _make(element * size_or_initializer)
    made = _make(element * len(size_or_initializer))
    made.__init__(*size_or_initializer)
    return made


def _with_lock(made: Any, lock: Any, ctx: Any) -> Any:
    if lock is False:
        return made
    if lock in (True, None):
        lock = ctx.RLock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(made, lock, ctx=ctx)


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any) -> Any:
    """Return a `RawValue`, wrapped with a lock unless `lock` is false."""
    return _with_lock(RawValue(typecode_or_type, *args), lock, ctx)


def Array(typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: Any) -> Any:
    """Return a `RawArray`, wrapped with a lock unless `lock` is false."""
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock, ctx)
