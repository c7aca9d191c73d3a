"""The names of the standard library's modules and their definitions once it is replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sessions import LAUNCHERS, Ending, run_command

INSTALL = "import procession\nprocession.install()\n"
BEGINNINGS = {
    "run": "",
    "install": INSTALL,
    "install when much is imported": (
        "import multiprocessing.managers, multiprocessing.pool, multiprocessing.dummy\n"
        "import multiprocessing.synchronize, multiprocessing.sharedctypes\n" + INSTALL
    ),
}


def run_text(tmp_path: Path, beginning: str, text: str) -> Ending:
    program = tmp_path / "program.py"
    program.write_text(BEGINNINGS[beginning] + text)
    launcher = LAUNCHERS["procession"] if beginning == "run" else (sys.executable,)
    # Since Python 3.15 a fork beside other threads would raise, as a manager's server may make.
    options = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
    return run_command([*launcher, *options, str(program)], cwd=tmp_path)


EVERYTHING = """
import importlib, pkgutil, sys
import multiprocessing
from procession._stdlib import STANDARD

for module in pkgutil.walk_packages(sys.modules[STANDARD].__path__, "multiprocessing."):
    if "win32" not in module.name:
        importlib.import_module(module.name)
        importlib.import_module(STANDARD + module.name.removeprefix("multiprocessing"))

modules = {}
for name, module in sys.modules.items():
    if name.partition(".")[0] in ("multiprocessing", "procession"):
        modules.setdefault(id(module), (name, module))

def everything():
    seen = set()
    todo = [(name, module) for name, module in modules.values()]
    while todo:
        where, thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield where, thing
        is_class = isinstance(thing, type) and thing.__module__.startswith("multiprocessing")
        if is_class or id(thing) in modules:
            todo += [(f"{where}.{name}", value) for name, value in list(vars(thing).items())]
"""

NAMES = (
    EVERYTHING
    + """
kept = 0
for where, thing in everything():
    if where.endswith((".__package__", ".STANDARD", ".__dict__", ".modules")):
        continue
    kept += STANDARD in where
    spec = getattr(thing, "__spec__", None)
    shown = [
        getattr(thing, "__module__", None),
        getattr(thing, "__name__", None),
        getattr(thing, "__qualname__", None),
        getattr(spec, "name", None),
        repr(spec),
        repr(thing) if not isinstance(thing, dict) else "",
        thing.__globals__.get("__name__") if type(thing).__name__ == "function" else None,
    ]
    if any(isinstance(text, str) and "_standard." in text for text in shown):
        print(where, shown)
files = [module.__file__ for _, module in modules.values()]
print(kept > 500, sorted(file for file in files if files.count(file) > 1))
"""
)


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_nothing_is_called_after_where_it_is_kept(tmp_path: Path, beginning: str) -> None:
    ending = run_text(tmp_path, beginning, NAMES)
    assert (ending.stdout, ending.stderr) == ("True []\n", ""), ending


PICKLES = (
    EVERYTHING
    + """
import pickle, threading
from multiprocessing import managers, pool, shared_memory, connection

def failing():
    raise LookupError("here")

if __name__ == "__main__":
    try:
        failing()
    except LookupError as error:
        raised = error
    with pool.ThreadPool(1) as threads:
        outcome = threads.apply_async(failing)
        outcome.wait()
    things = [
        pool.ExceptionWithTraceback(raised, raised.__traceback__),
        pool.MaybeEncodingError("cause", "value"),
        pool.RemoteTraceback("text"),
        outcome._value,
        multiprocessing.TimeoutError("late"),
        multiprocessing.AuthenticationError("no"),
        multiprocessing.ProcessError(1),
        multiprocessing.BufferTooShort(b"x"),
        managers.Namespace(a=1),
        managers.Token("list", ("localhost", 1), "x"),
        managers.RemoteError("text"),
        managers.Array("i", [1, 2]),
        managers.SyncManager,
        multiprocessing.dummy.Namespace(a=1),
        multiprocessing.reduction.DupFd,
        connection.Client,
    ]
    with open("pickles", "wb") as file:
        for thing in things:
            pickle.dump(thing, file)
    references = 0
    for where, thing in everything():
        is_named = isinstance(thing, type) or type(thing).__name__ == "function"
        if is_named and str(thing.__module__).startswith("multiprocessing"):
            try:
                by_reference = pickle.dumps(thing)
            except Exception:
                continue
            references += 1
            assert b"procession" not in by_reference, where
    with managers.SyncManager() as manager:
        for proxy in (manager.list(), manager.dict(), manager.Namespace(), manager.Lock()):
            assert b"procession" not in pickle.dumps(proxy)
    print(len(things), references > 150)
"""
)

LOAD = """
import pickle, sys
count = 0
with open("pickles", "rb") as file:
    while True:
        try:
            thing = pickle.load(file)
        except EOFError:
            break
        kind = thing if isinstance(thing, type) or callable(thing) else type(thing)
        assert "procession" not in kind.__module__, kind
        count += 1
print(count, "procession" in sys.modules)
"""


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_pickles_are_read_by_a_python_without_procession(tmp_path: Path, beginning: str) -> None:
    ending = run_text(tmp_path, beginning, PICKLES)
    assert (ending.exit_code, ending.stderr) == (0, ""), ending
    count, enough = ending.stdout.split()
    assert enough == "True"
    # Without site there is nothing but the standard library.
    plain = run_command([sys.executable, "-I", "-S", "-c", LOAD], cwd=tmp_path)
    assert plain.stdout == f"{count} False\n", plain


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_pickles_of_a_python_without_procession_are_read(tmp_path: Path, beginning: str) -> None:
    text = (
        "import multiprocessing, multiprocessing.pool, multiprocessing.managers, pickle\n"
        "things = [multiprocessing.pool.MaybeEncodingError(1, 2), multiprocessing.TimeoutError(),\n"
        "          multiprocessing.managers.Namespace(a=1), multiprocessing.pool.ThreadPool]\n"
        "print(pickle.dumps(things).hex())\n"
    )
    plain = subprocess.run(
        [sys.executable, "-I", "-S", "-c", text], check=True, capture_output=True, text=True
    )
    read = (
        "import multiprocessing, multiprocessing.pool, multiprocessing.managers, pickle\n"
        f"things = pickle.loads(bytes.fromhex({plain.stdout.strip()!r}))\n"
        "print([type(thing).__name__ for thing in things])\n"
        "print(isinstance(things[0], multiprocessing.pool.MaybeEncodingError))\n"
        "print(things[3] is multiprocessing.pool.ThreadPool)\n"
    )
    ending = run_text(tmp_path, beginning, read)
    assert ending.stdout.splitlines() == [
        "['MaybeEncodingError', 'TimeoutError', 'Namespace', 'type']",
        "True",
        "True",
    ], ending


SHOWN = """
import logging, multiprocessing, warnings
from multiprocessing import managers, pool, shared_memory

class Unpicklable:
    def __reduce__(self):
        raise TypeError("not this one")

def fail(how):
    if how == "result":
        return Unpicklable()
    raise LookupError("here")

if __name__ == "__main__":
    import traceback
    multiprocessing.log_to_stderr(logging.DEBUG)
    with multiprocessing.Pool(1) as workers:
        for how in ("result", "raise"):
            try:
                workers.apply(fail, (how,))
            except Exception:
                traceback.print_exc()
    with managers.SyncManager() as manager:
        try:
            manager.list().pop()
        except IndexError:
            traceback.print_exc()
        try:
            manager.Nothing()
        except AttributeError:
            traceback.print_exc()
        print(manager.list(), repr(manager.dict()), type(manager))
    with pool.ThreadPool(1) as threads:
        print(threads, type(threads))
        try:
            threads.apply(fail, ("raise",))
        except LookupError:
            traceback.print_exc()
    try:
        from multiprocessing import nothing
    except ImportError as error:
        print(error)
    try:
        import multiprocessing.nothing
    except ImportError as error:
        print(error)
    try:
        from multiprocessing.reduction import nothing
    except ImportError as error:
        print(error)
    warnings.simplefilter("always")
    warnings.warn("from here", source=pool)
    print(multiprocessing.managers, multiprocessing.reduction, pool.RemoteTraceback)
"""


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_what_is_shown_has_the_usual_names(tmp_path: Path, beginning: str) -> None:
    ending = run_text(tmp_path, beginning, SHOWN)
    assert ending.exit_code == 0, ending
    assert "_standard" not in ending.stdout + ending.stderr
    assert "multiprocessing.pool.RemoteTraceback: " in ending.stderr
    assert "multiprocessing.pool.MaybeEncodingError: " in ending.stderr
    assert "multiprocessing.managers.RemoteError" not in ending.stdout
    assert "<class 'multiprocessing.managers.SyncManager'>" in ending.stdout
    assert "<class 'multiprocessing.pool.ThreadPool'>" in ending.stdout
    assert "<module 'multiprocessing.managers' from " in ending.stdout


MANAGED = """
import multiprocessing, sys

def square(x):
    return x * x

if __name__ == "__main__":
    multiprocessing.set_start_method(METHOD)
    with multiprocessing.Manager() as manager:
        values = manager.list([1, 2])
        pool = manager.Pool(2)
        print(pool.map(square, values), list(pool.imap(square, values)))
        print(pool.apply_async(square, (7,)).get(), values)
        pool.terminate()
        pool.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_managers_server_is_started_in_every_way(tmp_path: Path, method: str) -> None:
    for beginning in ("run", "install when much is imported"):
        ending = run_text(tmp_path, beginning, MANAGED.replace("METHOD", repr(method)))
        assert ending.stdout == "[1, 4] [1, 4]\n49 [1, 2]\n", ending
        assert ending.stderr == ""
