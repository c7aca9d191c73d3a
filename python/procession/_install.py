"""Putting procession in the place of multiprocessing.

Afterwards ``multiprocessing`` in `sys.modules` is this package, and ``multiprocessing.x`` is
``procession.x`` if procession has that module. The standard library's own modules still work with
one another (`procession._stdlib`). Those that procession does not replace keep their usual names.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec

from ._default import default_context
from ._stdlib import REPLACED, STANDARD, KeptLoader, find, import_module, keep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

_OURS = {
    "context",
    "forkserver",
    "pool",
    "process",
    "queues",
    "sharedctypes",
    "spawn",
    "synchronize",
}


class _OtherName:
    """A loader of a module under a second name."""

    def __init__(self, own: str) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module by its own name."""
        module = import_module(self.own)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is: it has been run by its own name."""
        # The import system has set the spec of the second name.
        module.__spec__ = self.spec


class _Finder:
    """Finds ``multiprocessing.x``, and the standard library's modules for one another."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how the module is loaded, or None if it is for others to find."""
        # A module that is imported here would be loaded a second time: the import system does not
        # see that it has been loaded meanwhile.
        package, _, module = name.partition(".")
        if package == REPLACED and module in _OURS:
            return _spec(name, _OtherName(f"procession.{module}"))
        if package == REPLACED and module:
            kept = f"{STANDARD}.{module}"
            there = kept in sys.modules or find(kept) is not None
            return _spec(name, _OtherName(kept)) if there else None
        if name.startswith(f"{STANDARD}."):
            found = find(name)
            return None if found is None else _spec(name, KeptLoader(found, _when_loaded))
        return None


def _spec(name: str, loader: Any) -> ModuleSpec:
    return ModuleSpec(name, loader)


def _when_loaded(module: Any) -> None:
    """Let a module of the standard library be found by its usual name if that is not ours."""
    if module.__name__.partition(".")[2] not in _OURS:
        sys.modules.setdefault(module.__name__, module)
    _adapt(module)


def _adapt(module: Any) -> None:
    """Have a module of the standard library make procession's objects.

    It refers to the standard library's classes. These can't be pickled, since another class has
    their name.
    """
    if module.__name__ == f"{REPLACED}.managers":
        module.get_context = get_context
        module.SyncManager.register("Pool", make_pool, module.PoolProxy)


def get_context(method: str | None = None) -> Any:
    """Return the context of a start method or the default one, in which a manager is started."""
    return default_context().get_context(method)


def make_pool(*args: Any, **kwds: Any) -> Any:
    """Make a pool for the users of a manager."""
    from .pool import Pool

    return Pool(*args, **kwds)


def install() -> None:
    """Make ``import multiprocessing`` mean procession, in this process and all that it starts.

    Call it before the program's own imports: what was imported from `multiprocessing` before keeps
    its meaning. Modules that procession does not have yet stay the standard library's. Programs
    that are run as such (`subprocess`) are not concerned. A second call changes nothing.
    """
    procession = sys.modules["procession"]
    if sys.modules.get(REPLACED) is procession:
        return
    for name, module in list(sys.modules.items()):
        if name == REPLACED:
            keep(module, STANDARD)
        elif name.startswith(f"{REPLACED}."):
            short = name.removeprefix(f"{REPLACED}.")
            keep(module, f"{STANDARD}.{short}")
            _adapt(module)
            if short in _OURS:
                del sys.modules[name]
    sys.modules[REPLACED] = procession
    for name in _OURS:
        ours = sys.modules.get(f"procession.{name}")
        if ours is not None:
            sys.modules[f"{REPLACED}.{name}"] = ours
    sys.meta_path.insert(0, _Finder())
