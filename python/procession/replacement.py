"""Putting procession in the place of multiprocessing.

From then on ``multiprocessing`` in `sys.modules` is this package, and ``multiprocessing.x`` is
``procession.x`` where there is one. The standard library's own modules go on working with one
another: their relative imports lead to where they are kept, under the name `STANDARD`, and those of
which procession has no form yet are still to be had by their usual names.
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


class _Found:
    """A loader of a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has given it the name by which it was asked for.
        module.__spec__ = self.spec


class _Finder:
    """Finds ``multiprocessing.x``, and the standard library's modules for one another."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if package == _REPLACED and module in _OURS:
            found = _import_module(f"procession.{module}")
        elif package == _REPLACED and module:
            return self._standard(name, module)
        elif name.startswith(f"{STANDARD}."):
            return self._standard(name, name.removeprefix(f"{STANDARD}."))
        else:
            return None
        return ModuleSpec(name, _Found(found))  # type: ignore[arg-type]

    def _standard(self, name: str, module: str) -> ModuleSpec | None:
        found = sys.modules.get(f"{STANDARD}.{module}") or _load(module)
        return ModuleSpec(name, _Found(found)) if found else None  # type: ignore[arg-type]


def standard(name: str) -> Any:
    """Return a module of the standard library's package, also where it has been replaced."""
    if _REPLACED in sys.modules and f"{STANDARD}" not in sys.modules:
        return _import_module(f"{_REPLACED}.{name}")
    return _import_module(f"{STANDARD}.{name}")


def loaded(name: str) -> Any:
    """Return a module of the standard library's package if it is in use, or None."""
    return sys.modules.get(f"{STANDARD}.{name}") or sys.modules.get(f"{_REPLACED}.{name}")


def _load(name: str) -> ModuleType | None:
    """Load a module of the standard library's package that nobody has imported yet."""
    package, _, _ = f"{STANDARD}.{name}".rpartition(".")
    where = _import_module(package).__path__
    spec = PathFinder.find_spec(f"{STANDARD}.{name}", where)
    if spec is None or spec.loader is None:
        return None
    # What is pickled by reference goes by its public name.
    module = type(sys)(f"{_REPLACED}.{name}")
    module.__file__ = spec.origin
    module.__loader__ = spec.loader
    module.__spec__ = spec
    module.__package__ = spec.parent
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    sys.modules[spec.name] = module
    try:
        exec(spec.loader.get_code(spec.name), module.__dict__)  # type: ignore[attr-defined]
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _keep(module: ModuleType, name: str) -> None:
    """Have a module of the standard library look for its like under another name."""
    spec = module.__spec__
    assert spec is not None
    kept = ModuleSpec(name, spec.loader, origin=spec.origin)
    kept.submodule_search_locations = spec.submodule_search_locations
    kept.has_location = spec.has_location
    kept.cached = spec.cached
    module.__spec__ = kept
    module.__package__ = kept.parent
    sys.modules[name] = module


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
