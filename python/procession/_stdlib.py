"""The modules of the standard library's :mod:`multiprocessing`, also where it is replaced.

Where procession takes its place (`procession._install`), the standard library's modules are kept
under the package name `STANDARD`, by which their relative imports find one another. Only the import
system knows that name. The modules and their definitions have their usual names, so their
representations and pickles do not mention procession.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

STANDARD = "procession._standard"
"""The package name under which the standard library's modules find one another."""

REPLACED = "multiprocessing"
"""The name of the package that is replaced."""


def import_module(name: str) -> ModuleType:
    """Import a module by its full name."""
    # Not needed by a child before it is prepared.
    import importlib

    return importlib.import_module(name)


def standard(name: str) -> Any:
    """Return a module of the standard library's package, also where it has been replaced."""
    if REPLACED in sys.modules and STANDARD not in sys.modules:
        return import_module(f"{REPLACED}.{name}")
    return import_module(f"{STANDARD}.{name}")


def loaded(name: str) -> Any:
    """Return a module of the standard library's package if it is in use, or None."""
    return sys.modules.get(f"{STANDARD}.{name}") or sys.modules.get(f"{REPLACED}.{name}")


def keep(module: ModuleType, name: str) -> None:
    """Keep a loaded module of the standard library under another name."""
    spec = module.__spec__
    assert spec is not None
    kept = _KeptSpec(spec, name)
    module.__spec__ = kept
    module.__package__ = kept.parent
    sys.modules[name] = module


def find(kept: str) -> ModuleSpec | None:
    """Find a module of the standard library by the name under which it is kept."""
    package, _, _ = kept.rpartition(".")
    spec = PathFinder.find_spec(_usual(kept), import_module(package).__path__)
    return spec if spec is not None and spec.loader is not None else None


def _usual(kept: str) -> str:
    """Return the usual name of a module that is kept under another."""
    return f"{REPLACED}{kept.removeprefix(STANDARD)}"


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
        kept = f"{STANDARD}{self.name.removeprefix(REPLACED)}"
        is_package = self.submodule_search_locations is not None
        return kept if is_package else kept.rpartition(".")[0]


class KeptLoader:
    """Loads a module of the standard library under the name where it is kept.

    Parameters
    ----------
    spec : ModuleSpec
        How the module was found, by its usual name.
    when_loaded : callable
        Called with the module once it is loaded.
    """

    def __init__(self, spec: ModuleSpec, when_loaded: Callable[[Any], None]) -> None:
        self.spec = spec
        self.when_loaded = when_loaded

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the module, with its usual names."""
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
        """Run the module's code."""
        # The import system has set the spec of the name that was imported.
        module.__spec__ = self.kept
        loader: Any = self.kept.loader
        # Other threads that import the module wait until it is loaded.
        self.kept._initializing = True
        try:
            exec(loader.get_code(self.spec.name), module.__dict__)
        finally:
            self.kept._initializing = False
        self.when_loaded(module)
