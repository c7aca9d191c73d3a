"""Modules of the standard library that are loaded when an attribute of them is used.

A spawned child imports this package before anything else. It may never need most of the modules
that `multiprocessing` imports (sockets, subprocesses, threads, enumerations). While
`multiprocessing` is imported, *stand-ins* take the place of these modules. `multiprocessing` keeps
the stand-ins, and no other module finds them. A module that is imported already is used itself.
"""

from __future__ import annotations

import _functools
import _signal
import _thread
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)


class LazyModule(ModuleType):
    """Stands for a module until an attribute of it is used."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and sys.modules.get(self.__name__, self) is self:
            # The import system checks whether some attributes exist.
            raise AttributeError(attribute)
        return getattr(self._loaded(), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(self._loaded(), attribute, value)

    def _loaded(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        # By the import system, with its locks; every importer gets the same module.
        from importlib import import_module

        return import_module(self.__name__)


class LazyThreading(LazyModule):
    """Stands for `threading`, of which a process uses attributes as it begins and as it ends."""

    def __getattr__(self, attribute: str) -> Any:
        if "threading" not in sys.modules:
            # A process that never had threads has none to repair after a fork or to wait for.
            if attribute == "_HAVE_THREAD_NATIVE_ID":
                return False
            if attribute == "_shutdown":
                return lambda: None
        return super().__getattr__(attribute)


def _args_from_interpreter_flags() -> list[str]:
    import subprocess

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _stand_in(name: str) -> ModuleType:
    """Return a stand-in for a module, with the attributes that other modules' imports use."""
    module: ModuleType = LazyThreading(name) if name == "threading" else LazyModule(name)
    bound = vars(module)
    if name == "multiprocessing.reduction":
        # Read where the default start method is chosen; on Linux it is true.
        bound["HAVE_SEND_HANDLE"] = True
    elif name == "subprocess":
        bound["_args_from_interpreter_flags"] = _args_from_interpreter_flags
    elif name == "threading":
        bound["local"] = _thread._local
    elif name == "functools":
        bound["partial"] = _functools.partial
    elif name == "signal":
        # Searched for the names of signals.
        bound.update(
            (signal, number) for signal, number in vars(_signal).items() if signal[:3] == "SIG"
        )
    return module


class StandIns:
    """A ``with`` block in which modules that are not imported yet have stand-ins.

    In a process with several threads it does nothing, since other threads would find them.

    Parameters
    ----------
    *names : str
        Of the modules that `_stand_in` knows.
    """

    def __init__(self, *names: str) -> None:
        wanted = names if _thread._count() == 0 else ()
        self.stand_ins = {name: _stand_in(name) for name in wanted if name not in sys.modules}

    def __enter__(self) -> None:
        sys.modules.update(self.stand_ins)

    def __exit__(self, *_: object) -> None:
        for name, module in self.stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
            if name == "signal":
                # From now on its signals are members of the enumeration.
                bound = vars(module)
                for signal in [signal for signal in bound if signal[:3] == "SIG"]:
                    del bound[signal]


if "multiprocessing" not in sys.modules:
    with StandIns("multiprocessing.reduction", "subprocess", "threading", "signal"):
        from multiprocessing import util as util
if "_pickle" not in sys.modules:
    with StandIns("functools"):
        import _pickle as _pickle

multiprocessing: Any = sys.modules["multiprocessing"]
reduction: Any = multiprocessing.context.reduction
"""`multiprocessing.reduction`, or its stand-in until it is used."""

# An attribute of the package, as after a usual import.
vars(multiprocessing).setdefault("reduction", reduction)
