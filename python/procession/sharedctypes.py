"""ctypes objects in shared memory, with or without a lock.

All of them can be sent to other processes of the family, by whatever way.
"""

from __future__ import annotations

import ctypes
from multiprocessing.reduction import ForkingPickler

from ._default import default_context
from ._native import Block
from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _ctypes import _CData
    from collections.abc import Sequence
    from ctypes import _SimpleCData, c_char
    from multiprocessing import sharedctypes as _typed
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, TypeVar, overload

    from .synchronize import _LockLike

    _T = TypeVar("_T")
    _CT = TypeVar("_CT", bound=_CData)

__all__ = ["Array", "Block", "RawArray", "RawValue", "Value", "copy", "synchronized"]

_stdlib: Any = standard("sharedctypes")
_typecodes: dict[str, type] = _stdlib.typecode_to_type


def _make(type_: Any) -> Any:
    try:
        size = ctypes.sizeof(type_)
    except TypeError as error:
        *others, last = _typecodes
        raise TypeError(
            f"bad typecode (must be a ctypes type or one of {', '.join(others)} or {last})"
        ) from error
    return _over(type_, Block(size))


def _over(type_: Any, block: Block) -> Any:
    made = type_.from_buffer(memoryview(block))
    # The standard library's objects use the same name.
    made._wrapper = block
    ForkingPickler.register(type_, _reduce)
    return made


def _reduce(obj: Any) -> Any:
    block = getattr(obj, "_wrapper", None)
    if block is None:
        # An object in this process's own memory.
        return obj.__reduce__()
    if not isinstance(block, Block):
        return _stdlib.reduce_ctype(obj)
    if isinstance(obj, ctypes.Array):
        return _rebuild, (obj._type_, obj._length_, block)
    return _rebuild, (type(obj), None, block)


def _rebuild(type_: Any, length: int | None, block: Block) -> Any:
    return _over(type_ if length is None else type_ * length, block)


if TYPE_CHECKING:

    @overload
    def RawValue(typecode_or_type: type[_CT], *args: Any) -> _CT: ...
    @overload
    def RawValue(typecode_or_type: str, *args: Any) -> Any: ...


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


if TYPE_CHECKING:

    @overload
    def RawArray(
        typecode_or_type: type[_CT], size_or_initializer: int | Sequence[Any]
    ) -> ctypes.Array[_CT]: ...
    @overload
    def RawArray(typecode_or_type: str, size_or_initializer: int | Sequence[Any]) -> Any: ...


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


def copy(obj: _CT) -> _CT:
    """Return a copy of a ctypes object, in shared memory."""
    made: _CT = _make(type(obj))
    ctypes.pointer(made)[0] = obj
    return made


if TYPE_CHECKING:

    class SynchronizedBase(_typed.SynchronizedBase[_CT]):
        def get_lock(self) -> _LockLike: ...  # type: ignore[override]

    class Synchronized(SynchronizedBase[_SimpleCData[_T]], _typed.Synchronized[_T]): ...

    class SynchronizedArray(
        SynchronizedBase[ctypes.Array[_SimpleCData[_T]]], _typed.SynchronizedArray[_T]
    ): ...

    class SynchronizedString(SynchronizedArray[bytes], _typed.SynchronizedString): ...

else:

    class SynchronizedBase(_stdlib.SynchronizedBase):
        """A ctypes object and its lock."""

        def __reduce__(self) -> Any:
            return synchronized, (self._obj, self._lock)

    class Synchronized(SynchronizedBase, _stdlib.Synchronized):
        """A value and its lock."""

    class SynchronizedArray(SynchronizedBase, _stdlib.SynchronizedArray):
        """An array and its lock."""

    class SynchronizedString(SynchronizedArray, _stdlib.SynchronizedString):
        """An array of characters and its lock."""


_of_structures: dict[type, type] = {}


if TYPE_CHECKING:

    @overload
    def synchronized(
        obj: _SimpleCData[_T], lock: _LockLike | None = None, ctx: BaseContext | None = None
    ) -> Synchronized[_T]: ...
    @overload
    def synchronized(
        obj: ctypes.Array[c_char], lock: _LockLike | None = None, ctx: BaseContext | None = None
    ) -> SynchronizedString: ...
    @overload
    def synchronized(
        obj: ctypes.Array[_SimpleCData[_T]],
        lock: _LockLike | None = None,
        ctx: BaseContext | None = None,
    ) -> SynchronizedArray[_T]: ...
    @overload
    def synchronized(
        obj: _CT, lock: _LockLike | None = None, ctx: BaseContext | None = None
    ) -> SynchronizedBase[_CT]: ...


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> Any:
    """Return a ctypes object in shared memory wrapped with a lock.

    Parameters
    ----------
    obj : ctypes object
        As from `RawValue` and `RawArray`.
    lock : Lock or RLock, optional
        A new RLock if left out.
    ctx : BaseContext, optional
        Where that comes from.
    """
    assert not isinstance(obj, _stdlib.SynchronizedBase), "object already synchronized"
    if lock is None:
        lock = (ctx or default_context().get_context()).RLock()
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock)
    if isinstance(obj, ctypes.Array):
        string = obj._type_ is ctypes.c_char
        return SynchronizedString(obj, lock) if string else SynchronizedArray(obj, lock)
    type_ = type(obj)
    if type_ not in _of_structures:
        fields = {field[0]: _stdlib.make_property(field[0]) for field in type_._fields_}
        name = f"Synchronized{type_.__name__}"
        _of_structures[type_] = type(name, (SynchronizedBase,), fields)
    return _of_structures[type_](obj, lock)


def _with_lock(made: Any, lock: Any, ctx: Any) -> Any:
    if lock is False:
        return made
    if lock in (True, None):
        return synchronized(made, None, ctx=ctx)
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(made, lock, ctx=ctx)


if TYPE_CHECKING:

    @overload
    def Value(
        typecode_or_type: type[_CT],
        *args: Any,
        lock: Literal[False],
        ctx: BaseContext | None = None,
    ) -> _CT: ...
    @overload
    def Value(
        typecode_or_type: type[_SimpleCData[_T]],
        *args: Any,
        lock: Literal[True] | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> Synchronized[_T]: ...
    @overload
    def Value(
        typecode_or_type: type[_CT],
        *args: Any,
        lock: Literal[True] | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> SynchronizedBase[_CT]: ...
    @overload
    def Value(
        typecode_or_type: str,
        *args: Any,
        lock: Literal[True] | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> Synchronized[Any]: ...
    @overload
    def Value(
        typecode_or_type: str | type[_CData],
        *args: Any,
        lock: bool | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> Any: ...


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:
    """Return a `RawValue`, wrapped with a lock unless `lock` is false."""
    return _with_lock(RawValue(typecode_or_type, *args), lock, ctx)


if TYPE_CHECKING:

    @overload
    def Array(
        typecode_or_type: type[_CT],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[False],
        ctx: BaseContext | None = None,
    ) -> ctypes.Array[_CT]: ...
    @overload
    def Array(
        typecode_or_type: type[c_char],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[True] | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> SynchronizedString: ...
    @overload
    def Array(
        typecode_or_type: type[_SimpleCData[_T]],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[True] | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> SynchronizedArray[_T]: ...
    @overload
    def Array(
        typecode_or_type: str,
        size_or_initializer: int | Sequence[Any],
        *,
        lock: Literal[True] | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> SynchronizedArray[Any]: ...
    @overload
    def Array(
        typecode_or_type: str | type[_CData],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: bool | _LockLike = True,
        ctx: BaseContext | None = None,
    ) -> Any: ...


def Array(
    typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: Any = None
) -> Any:
    """Return a `RawArray`, wrapped with a lock unless `lock` is false."""
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock, ctx)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Private names of the standard library's module that its public ones rely on.
        return getattr(standard("sharedctypes"), name)
