"""Each public name has a type, as in the standard library's stubs, and documentation."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mypy
import procession
import pytest
from checkers import Message, run_mypy

STUBS = Path(mypy.__file__).parent / "typeshed" / "stdlib" / "multiprocessing"

MODULES = sorted(procession._SUBMODULES | {"dummy.connection"})

NOT_OURS = {
    "forkserver.ForkServer.connect_to_new_process": "the template takes requests of its own kind",
    "forkserver.MAXFDS_TO_SEND": "the template takes requests of its own kind",
    "forkserver.SIGNED_STRUCT": "the template takes requests of its own kind",
    "forkserver.connect_to_new_process": "the template takes requests of its own kind",
    "forkserver.main": "the template takes requests of its own kind",
    "forkserver.read_signed": "the template takes requests of its own kind",
    "forkserver.write_signed": "the template takes requests of its own kind",
    "synchronize.Condition.acquire": "is the lock's, so it is found on the object",
    "synchronize.Condition.release": "is the lock's, so it is found on the object",
}
"""What the stubs have and this package does not."""

ANY = {
    "pool.MapResult": "is made by the pool",
    "sharedctypes.Value": "an overload more, for a value of a known type",
}
"""Where this package has `Any` and the stubs have a type, or nothing."""


def is_public(name: str) -> bool:
    return not name.startswith("_")


def defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """What a stub defines, in whatever version of Python and on whatever platform."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from defined([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
            yield statement.name, statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement
        elif isinstance(statement, ast.Assign):
            names = [name for name in statement.targets if isinstance(name, ast.Name)]
            yield from ((name.id, statement) for name in names)


def in_stubs(module: str) -> Iterator[str]:
    """The public names of a module of the standard library, and those of its classes' members."""
    path = STUBS.joinpath(*module.split("."))
    file = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")
    if not file.exists():
        return
    for name, statement in defined(ast.parse(file.read_text()).body):
        if not is_public(name):
            continue
        yield f"{module}.{name}"
        if isinstance(statement, ast.ClassDef):
            for member, _ in defined(statement.body):
                if is_public(member):
                    yield f"{module}.{name}.{member}"


def is_ours(thing: Any) -> bool:
    name = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", None)
    return str(name).partition(".")[0] == "procession"


def in_package(module: str) -> Iterator[tuple[str, Any]]:
    """The public names that a module of the package defines, and those of its classes' members."""
    loaded = importlib.import_module(f"procession.{module}")
    for name, thing in vars(loaded).items():
        is_its_own = getattr(thing, "__module__", None) == loaded.__name__
        if not (is_its_own and is_public(name)) and name not in getattr(loaded, "__all__", ()):
            continue
        yield f"{module}.{name}", thing
        if inspect.isclass(thing):
            members = {name for kind in thing.__mro__ if is_ours(kind) for name in vars(kind)}
            for member in filter(is_public, members):
                yield f"{module}.{name}.{member}", inspect.getattr_static(thing, member)


OURS = {symbol: thing for module in MODULES for symbol, thing in in_package(module)}
OURS |= {name: getattr(procession, name) for name in procession.__all__}
THEIRS = {symbol for module in MODULES for symbol in in_stubs(module)}
THEIRS |= set(procession.__all__)
SYMBOLS = sorted(OURS.keys() | THEIRS)


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Message]]:
    """What mypy says of each symbol, by package."""
    folder = tmp_path_factory.mktemp("names")
    packages = ("procession", "multiprocessing")
    for package in packages:
        modules = [f"import {package}.{module}" for module in MODULES]
        revealed = [f"reveal_type({package}.{symbol})" for symbol in SYMBOLS]
        (folder / f"names_of_{package}.py").write_text("\n".join([*revealed, *modules, ""]))
    found = run_mypy(folder, [f"names_of_{package}.py" for package in packages])
    return {
        package: {
            SYMBOLS[message.line - 1]: message
            for message in found[f"names_of_{package}.py"]
            if message.line <= len(SYMBOLS)
        }
        for package in packages
    }


def test_checkers_know_each_name_of_the_standard_library(
    types: dict[str, dict[str, Message]],
) -> None:
    theirs = {symbol for symbol, said in types["multiprocessing"].items() if said.is_type}
    ours = {symbol for symbol, said in types["procession"].items() if said.is_type}
    assert len(theirs) > 400
    assert theirs - ours == NOT_OURS.keys()


def test_nothing_is_any_by_accident(types: dict[str, dict[str, Message]]) -> None:
    found = {}
    for symbol, said in types["procession"].items():
        standard = types["multiprocessing"].get(symbol)
        allowed = standard.text.count("Any") if standard is not None and standard.is_type else 0
        if said.text.count("Any") > allowed:
            found[symbol] = said.text
    assert found.keys() == ANY.keys(), found


def needs_documentation(thing: Any) -> bool:
    # A method of the extension knows its class, a property only what it calls.
    defined_by = getattr(thing, "__objclass__", None) or getattr(thing, "fget", None) or thing
    return is_ours(defined_by) and (callable(thing) or inspect.isdatadescriptor(thing))


def test_what_is_public_is_documented() -> None:
    missing = []
    for symbol, thing in OURS.items():
        function = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
        if needs_documentation(function) and not (function.__doc__ or "").strip():
            missing.append(symbol)
    for module in MODULES:
        loaded = importlib.import_module(f"procession.{module}")
        if is_ours(loaded) and not (loaded.__doc__ or "").strip():
            missing.append(module)
    assert not missing
