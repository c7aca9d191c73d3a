"""Putting procession in the place of multiprocessing.

From then on ``multiprocessing`` in `sys.modules` is this package, and ``multiprocessing.x`` is
``procession.x`` where there is one. The standard library's own modules go on working with one
another: their relative imports lead to where they are kept, under the name `STANDARD`, and those of
which procession has no form yet are still to be had by their usual names.

Where they are kept is known to the import system only: the modules, and what is defined in them,
are called as they always are, so what is shown or pickled of them says nothing of procession.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

STANDARD = "procession._standard"
"""The package name under which the standard library's modules find one another."""

_REPLACED = "multiprocessing"

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


def _import_module(name: str) -> ModuleType:
    # Not needed by a child before it is prepared.
    from importlib import import_module

    return import_module(name)


def _usual(kept: str) -> str:
    """Return the usual name of a module that is kept under another."""
    return f"{_REPLACED}{kept.removeprefix(STANDARD)}"


class _KeptSpec(ModuleSpec):
    """A module of the standard library by its usual name, with the package where it is kept.

    Parameters
    ----------
    spec : ModuleSpec
        How the module was found.
    kept : str
        The name under which it is kept.
    """

    def __init__(self, spec: ModuleSpec, kept: str) -> None:
        super().__init__(_usual(kept), spec.loader)
        self.origin = spec.origin
        self.submodule_search_locations = spec.submodule_search_locations
        self.has_location = spec.has_location
        self.cached = spec.cached

    @property
    def parent(self) -> str:
        """Where relative imports of the module begin."""
        kept = f"{STANDARD}{self.name.removeprefix(_REPLACED)}"
        is_package = self.submodule_search_locations is not None
        return kept if is_package else kept.rpartition(".")[0]


class _KeptLoader:
    """Loads a module of the standard library where such are kept."""

    def __init__(self, spec: ModuleSpec) -> None:
        self.spec = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        kept = _KeptSpec(self.spec, spec.name)
        module = type(sys)(kept.name)
        module.__loader__ = kept.loader
        module.__package__ = kept.parent
        if kept.origin is not None:
            module.__file__ = kept.origin
        if kept.cached is not None:
            module.__cached__ = kept.cached  # type: ignore[attr-defined]
        if kept.submodule_search_locations is not None:
            module.__path__ = kept.submodule_search_locations
        self.kept: Any = kept
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has written down by which name it was asked for.
        module.__spec__ = self.kept
        loader: Any = self.kept.loader
        # Other threads that import the module wait until it is loaded.
        self.kept._initializing = True
        try:
            exec(loader.get_code(self.spec.name), module.__dict__)
        finally:
            self.kept._initializing = False
        if module.__name__.partition(".")[2] not in _OURS:
            sys.modules.setdefault(module.__name__, module)
        _adapt(module)


class _OtherName:
    """A loader of a module by a name beside its own."""

    def __init__(self, own: str) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _import_module(self.own)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has given it the name by which it was asked for.
        module.__spec__ = self.spec


class _Finder:
    """Finds ``multiprocessing.x``, and the standard library's modules for one another."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # What is imported here would be loaded a second time: the import system takes a module that
        # has come meanwhile for one that it still has to load.
        package, _, module = name.partition(".")
        if package == _REPLACED and module in _OURS:
            return _spec(name, _OtherName(f"procession.{module}"))
        if package == _REPLACED and module:
            kept = f"{STANDARD}.{module}"
            there = kept in sys.modules or _find(kept) is not None
            return _spec(name, _OtherName(kept)) if there else None
        if name.startswith(f"{STANDARD}."):
            found = _find(name)
            return _spec(name, _KeptLoader(found)) if found is not None else None
        return None


def _spec(name: str, loader: Any) -> ModuleSpec:
    return ModuleSpec(name, loader)


def _find(kept: str) -> ModuleSpec | None:
    """Find a module of the standard library by the name under which it is kept."""
    package, _, _ = kept.rpartition(".")
    spec = PathFinder.find_spec(_usual(kept), _import_module(package).__path__)
    return spec if spec is not None and spec.loader is not None else None


def standard(name: str) -> Any:
    """Return a module of the standard library's package, also where it has been replaced."""
    if _REPLACED in sys.modules and f"{STANDARD}" not in sys.modules:
        return _import_module(f"{_REPLACED}.{name}")
    return _import_module(f"{STANDARD}.{name}")


def loaded(name: str) -> Any:
    """Return a module of the standard library's package if it is in use, or None."""
    return sys.modules.get(f"{STANDARD}.{name}") or sys.modules.get(f"{_REPLACED}.{name}")


def _adapt(module: Any) -> None:
    """Have a module of the standard library make what has been replaced.

    What it has by reference of its own kind could not be pickled: by its name there is another.
    """
    if module.__name__ == f"{_REPLACED}.managers":
        module.get_context = get_context
        module.SyncManager.register("Pool", make_pool, module.PoolProxy)


def get_context(method: str | None = None) -> Any:
    """Return the context of a start method, or the default, for those who start a manager."""
    from .context import _default_context

    return _default_context.get_context(method)


def make_pool(*args: Any, **kwds: Any) -> Any:
    """Make a pool for those who have the manager."""
    from .pool import Pool

    return Pool(*args, **kwds)


def _keep(module: ModuleType, name: str) -> None:
    """Have a module of the standard library look for its like under another name."""
    spec = module.__spec__
    assert spec is not None
    kept = _KeptSpec(spec, name)
    module.__spec__ = kept
    module.__package__ = kept.parent
    sys.modules[name] = module
    _adapt(module)


def install() -> None:
    """Make ``import multiprocessing`` mean procession, in this process and all that it starts.

    Call it before the program's own imports: what was imported from `multiprocessing` before keeps
    its meaning. Modules that procession does not have yet stay the standard library's. Programs
    that are run as such (`subprocess`) are not concerned. A second call changes nothing.
    """
    import procession

    if sys.modules.get(_REPLACED) is procession:
        return
    for name, module in list(sys.modules.items()):
        if name == _REPLACED:
            _keep(module, STANDARD)
        elif name.startswith(f"{_REPLACED}."):
            short = name.removeprefix(f"{_REPLACED}.")
            _keep(module, f"{STANDARD}.{short}")
            if short in _OURS:
                del sys.modules[name]
    sys.modules[_REPLACED] = procession
    for name in _OURS:
        ours = sys.modules.get(f"procession.{name}")
        if ours is not None:
            sys.modules[f"{_REPLACED}.{name}"] = ours
    sys.meta_path.insert(0, _Finder())
