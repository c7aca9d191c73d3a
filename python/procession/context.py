"""Contexts: which start method, and where locks, queues and pools come from."""

from __future__ import annotations

import multiprocessing.context as _stdlib
import os
from multiprocessing import process as _process
from multiprocessing.context import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
    assert_spawning,
    get_spawning_popen,
    set_spawning_popen,
)
from multiprocessing.process import BaseProcess, current_process

from ._default import set_default_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    import sys
    from _ctypes import _CData
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from ctypes import _SimpleCData, c_char
    from multiprocessing.context import _force_start_method as _force_start_method
    from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar, overload

    from .pool import Pool
    from .queues import JoinableQueue, Queue, SimpleQueue
    from .sharedctypes import (
        Synchronized,
        SynchronizedArray,
        SynchronizedBase,
        SynchronizedString,
    )
    from .start.popen import Popen
    from .states import ProcessState
    from .synchronize import (
        Barrier,
        BoundedSemaphore,
        Condition,
        Event,
        Lock,
        OnOwnerDeath,
        RLock,
        Semaphore,
        _LockLike,
    )

    _T = TypeVar("_T")
    _CT = TypeVar("_CT", bound=_CData)
    if sys.version_info >= (3, 14):
        _Kwargs: TypeAlias = Mapping[str, Any] | None
    else:
        _Kwargs: TypeAlias = Mapping[str, Any]

__all__ = [
    "AuthenticationError",
    "BaseContext",
    "BufferTooShort",
    "DefaultContext",
    "ForkContext",
    "ForkProcess",
    "Process",
    "ProcessError",
    "TimeoutError",
    "assert_spawning",
    "get_spawning_popen",
    "set_spawning_popen",
]


class Process(BaseProcess):
    """A process of the default context; it has a target, or its class overrides `run`.

    Parameters
    ----------
    group, target, name, args, kwargs, daemon
        As for `multiprocessing.Process`.
    die_with_parent : bool, optional
        Whether it is ended by SIGKILL when the process that starts it ends, by whatever cause; a
        daemon always is. By default what the current process was made with.
    may_have_children : bool, optional
        Whether it may start processes even if it is a daemon. By default what the current process
        was made with.
    """

    _start_method: str | None = None
    _popen: Any

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: _Kwargs = {},  # noqa: B006 - it is not changed
        *,
        daemon: bool | None = None,
        die_with_parent: bool | None = None,
        may_have_children: bool | None = None,
    ) -> None:
        super().__init__(group, target, name, args, kwargs, daemon=daemon)
        config = self._config  # type: ignore[attr-defined]
        if die_with_parent is not None:
            config["die_with_parent"] = die_with_parent
        if may_have_children is not None:
            config["may_have_children"] = may_have_children

    def start(self) -> None:
        """Start the process; once for each object."""
        config = current_process()._config  # type: ignore[attr-defined]
        if config.get("daemon") and config.get("may_have_children"):
            self._start_by_daemon()
        else:
            super().start()
        # From here on this object owns the child. An exception before this ends the child.
        keep = getattr(self._popen, "keep", None)
        if keep is not None:
            keep()

    def _start_by_daemon(self) -> None:
        """Do the same as `BaseProcess.start`, which would refuse a daemon."""
        self._check_closed()  # type: ignore[attr-defined]
        assert self._popen is None, "cannot start a process twice"
        assert self._parent_pid == os.getpid(), (  # type: ignore[attr-defined]
            "can only start a process object created by current process"
        )
        _process._cleanup()  # type: ignore[attr-defined]
        self._popen = self._Popen(self)
        self._sentinel = self._popen.sentinel
        # Their objects may be large, or refer to this object.
        del self._target, self._args, self._kwargs  # type: ignore[attr-defined]
        _process._children.add(self)  # type: ignore[attr-defined]

    @property
    def state(self) -> ProcessState:
        """What the process is doing; see `procession.states.ProcessState`."""
        from .states import ProcessState

        self._check_closed()  # type: ignore[attr-defined]
        if self is current_process():
            return ProcessState("running")
        if self._popen is None:
            return ProcessState("new")
        state: ProcessState = self._popen.state()
        return state

    def terminate(self, *, tree: bool = False) -> None:
        """Send SIGTERM to the process, with `tree` to all that it started as well."""
        if tree:
            self._check_closed()  # type: ignore[attr-defined]
            self._popen.terminate_tree()
        else:
            super().terminate()

    def kill(self, *, tree: bool = False) -> None:
        """Send SIGKILL to the process, with `tree` to all that it started as well."""
        if tree:
            self._check_closed()  # type: ignore[attr-defined]
            self._popen.kill_tree()
        else:
            super().kill()

    def interrupt(self) -> None:
        """Send SIGINT to the process, as Ctrl-C does."""
        self._check_closed()  # type: ignore[attr-defined]
        self._popen.interrupt()

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:
        return _default_context.get_context().Process._Popen(process_obj)


def _own_state(process_obj: BaseProcess) -> ProcessState:
    """Return the state of this process, which runs while it asks."""
    from .states import ProcessState

    return ProcessState("running")


_main = type(current_process())
if _main.__name__ == "_MainProcess":
    # The object of the program's first process, made when `multiprocessing` was imported.
    current_process().__class__ = type("_MainProcess", (_main,), {"state": property(_own_state)})


class ForkProcess(Process):
    """A process that is started by fork."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:
        from .start.fork import ForkPopen

        return ForkPopen(process_obj)


class SpawnProcess(Process):
    """A process that is started as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:
        from .spawn import SpawnPopen

        return SpawnPopen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        # The child is no copy of another process.
        pass


class ForkServerProcess(Process):
    """A process that is started by a copy of a process that is kept ready."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:
        from .forkserver import ForkServerPopen

        return ForkServerPopen(process_obj)


class BaseContext(_stdlib.BaseContext):
    """What all contexts have in common; see :mod:`multiprocessing.context`."""

    _name: str

    def Lock(  # type: ignore[override]
        self, *, name: str = "", on_owner_death: OnOwnerDeath = "raise"
    ) -> Lock:
        """Return a lock; see `procession.synchronize.Lock`."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context(), name=name, on_owner_death=on_owner_death)

    def RLock(  # type: ignore[override]
        self, *, name: str = "", on_owner_death: OnOwnerDeath = "raise"
    ) -> RLock:
        """Return a re-entrant lock; see `procession.synchronize.RLock`."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context(), name=name, on_owner_death=on_owner_death)

    def Semaphore(  # type: ignore[override]
        self, value: int = 1, *, name: str = "", recover: bool = False
    ) -> Semaphore:
        """Return a semaphore; see `procession.synchronize.Semaphore`."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context(), name=name, recover=recover)

    def BoundedSemaphore(self, value: int = 1, *, name: str = "") -> BoundedSemaphore:  # type: ignore[override]
        """Return a bounded semaphore; see `procession.synchronize.BoundedSemaphore`."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context(), name=name)

    def Event(self, *, name: str = "") -> Event:  # type: ignore[override]
        """Return an event; see `procession.synchronize.Event`."""
        from .synchronize import Event

        return Event(ctx=self.get_context(), name=name)

    def Condition(  # type: ignore[override]
        self, lock: _LockLike | None = None, *, name: str = ""
    ) -> Condition:
        """Return a condition variable; see `procession.synchronize.Condition`."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context(), name=name)

    def Barrier(  # type: ignore[override]
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        name: str = "",
    ) -> Barrier:
        """Return a barrier; see `procession.synchronize.Barrier`."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context(), name=name)

    def Queue(self, maxsize: int = 0, *, name: str = "") -> Queue[Any]:  # type: ignore[override]
        """Return a queue; see `procession.queues.Queue`."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context(), name=name)

    def SimpleQueue(self) -> SimpleQueue[Any]:  # type: ignore[override]
        """Return a simple queue; see `procession.queues.SimpleQueue`."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def JoinableQueue(  # type: ignore[override]
        self, maxsize: int = 0, *, name: str = ""
    ) -> JoinableQueue[Any]:
        """Return a queue of tasks; see `procession.queues.JoinableQueue`."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context(), name=name)

    def Pool(  # type: ignore[override]
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        """Return a pool of worker processes; see `procession.pool.Pool`."""
        from .pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context())

    if TYPE_CHECKING:

        @overload
        def RawValue(self, typecode_or_type: type[_CT], *args: Any) -> _CT: ...
        @overload
        def RawValue(self, typecode_or_type: str, *args: Any) -> Any: ...

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Return a shared ctypes object; see `procession.sharedctypes.RawValue`."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    if TYPE_CHECKING:

        @overload
        def RawArray(
            self, typecode_or_type: type[_CT], size_or_initializer: int | Sequence[Any]
        ) -> ctypes.Array[_CT]: ...
        @overload
        def RawArray(
            self, typecode_or_type: str, size_or_initializer: int | Sequence[Any]
        ) -> Any: ...

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """Return a shared ctypes array; see `procession.sharedctypes.RawArray`."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def Value(self, typecode_or_type: type[_CT], *args: Any, lock: Literal[False]) -> _CT: ...
        @overload
        def Value(
            self,
            typecode_or_type: type[_SimpleCData[_T]],
            *args: Any,
            lock: Literal[True] | _LockLike = True,
        ) -> Synchronized[_T]: ...
        @overload
        def Value(
            self,
            typecode_or_type: type[_CT],
            *args: Any,
            lock: Literal[True] | _LockLike = True,
        ) -> SynchronizedBase[_CT]: ...
        @overload
        def Value(
            self,
            typecode_or_type: str,
            *args: Any,
            lock: Literal[True] | _LockLike = True,
        ) -> Synchronized[Any]: ...
        @overload
        def Value(
            self,
            typecode_or_type: str | type[_CData],
            *args: Any,
            lock: bool | _LockLike = True,
        ) -> Any: ...

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Return a shared ctypes object with a lock; see `procession.sharedctypes.Value`."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def Array(
            self,
            typecode_or_type: type[_CT],
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[False],
        ) -> ctypes.Array[_CT]: ...
        @overload
        def Array(
            self,
            typecode_or_type: type[c_char],
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[True] | _LockLike = True,
        ) -> SynchronizedString: ...
        @overload
        def Array(
            self,
            typecode_or_type: type[_SimpleCData[_T]],
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[True] | _LockLike = True,
        ) -> SynchronizedArray[_T]: ...
        @overload
        def Array(
            self,
            typecode_or_type: str,
            size_or_initializer: int | Sequence[Any],
            *,
            lock: Literal[True] | _LockLike = True,
        ) -> SynchronizedArray[Any]: ...
        @overload
        def Array(
            self,
            typecode_or_type: str | type[_CData],
            size_or_initializer: int | Sequence[Any],
            *,
            lock: bool | _LockLike = True,
        ) -> Any: ...

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:
        """Return a shared ctypes array with a lock; see `procession.sharedctypes.Array`."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def freeze_support(self) -> None:
        """Do what this process was started for, if it is a child of a frozen program."""
        from .spawn import freeze_support

        freeze_support()

    def set_executable(self, executable: str) -> None:
        """Choose the interpreter that spawn and forkserver start."""
        from ._stdlib import standard

        standard("spawn").set_executable(executable)

    def set_forkserver_preload(
        self,
        module_names: list[str],
        *,
        on_error: Literal["ignore", "warn", "fail"] = "ignore",
    ) -> None:
        """Choose what the process that is kept ready imports, when it is started.

        Parameters
        ----------
        module_names : list of str
            The modules; ``"__main__"`` is the program.
        on_error : {"ignore", "warn", "fail"}
            What follows if one can't be imported: nothing; an `ImportWarning`; or the error itself,
            on stderr, and no process can be started so. As in Python 3.15.

        Raises
        ------
        TypeError
            If the names are no strings.
        ValueError
            If `on_error` is none of these.
        """
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names, on_error=on_error)

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def get_context(self, method: None = None) -> Self: ...
        @overload
        def get_context(self, method: Literal["spawn"]) -> SpawnContext: ...
        @overload
        def get_context(self, method: Literal["fork"]) -> ForkContext: ...
        @overload
        def get_context(self, method: Literal["forkserver"]) -> ForkServerContext: ...
        @overload
        def get_context(self, method: str) -> BaseContext: ...

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method, or this one.

        Raises
        ------
        ValueError
            For a start method that there is not.
        """
        if method is None:
            return self._settled()
        try:
            return _concrete_contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None

    if TYPE_CHECKING:

        @overload
        def get_start_method(self, allow_none: Literal[False] = False) -> str: ...
        @overload
        def get_start_method(self, allow_none: bool) -> str | None: ...

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of the start method; None if it is still open and that is allowed."""
        return None if allow_none and self._is_open() else self._settled()._name

    def _is_open(self) -> bool:
        """Return whether the start method may still be chosen."""
        return False

    def _settled(self) -> BaseContext:
        """Return the context that starts the processes of this one."""
        return self


class ForkContext(BaseContext):
    """Processes are started by fork."""

    _name = "fork"
    Process: ClassVar[type[ForkProcess]] = ForkProcess


class SpawnContext(BaseContext):
    """Processes are started as fresh interpreters."""

    _name = "spawn"
    Process: ClassVar[type[SpawnProcess]] = SpawnProcess


class ForkServerContext(BaseContext):
    """Processes are started by copying a process that is kept ready."""

    _name = "forkserver"
    Process: ClassVar[type[ForkServerProcess]] = ForkServerProcess


class DefaultContext(BaseContext):
    """The context behind the module's functions; its start method may be set once."""

    Process: ClassVar[type[Process]] = Process

    def __init__(self, context: BaseContext | None = None) -> None:
        self._given_context = context
        self._actual_context: BaseContext | None = None

    @property
    def _default_context(self) -> BaseContext:
        """The context until another is set: the one given, or the running interpreter's default.

        The interpreter is asked when the answer is needed: it may have to look at the file system.
        """
        if self._given_context is not None:
            return self._given_context
        default, *_ = _stdlib._default_context.get_all_start_methods()
        return _concrete_contexts[default]

    def _is_open(self) -> bool:
        return self._actual_context is None

    def _settled(self) -> BaseContext:
        if self._actual_context is None:
            self._actual_context = self._default_context
        return self._actual_context

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Choose the start method.

        Raises
        ------
        RuntimeError
            If it was chosen before and `force` is false. A main module may choose again, in the
            children that import it, what its process chose.
        """
        if self._actual_context is not None and not force:
            if method == self._actual_context._name and hasattr(current_process(), "_inheriting"):
                return
            raise RuntimeError("context has already been set")
        if method is None and force:
            self._actual_context = None
        else:
            # None is the default, which is fixed by this.
            self._actual_context = self.get_context(method)

    def get_all_start_methods(self) -> list[str]:
        """Return the names of the start methods that there are, the default first."""
        default = self._default_context._name
        return [default, *(name for name in _concrete_contexts if name != default)]


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}
_default_context = DefaultContext()


set_default_context(_default_context)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Private names of the standard library's module that its public ones rely on.
        return getattr(_stdlib, name)
