"""Contexts: the default start method, and when it is chosen."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from sessions import Ending, run_command


def run_text(text: str) -> Ending:
    return run_command([sys.executable, "-c", text])


def test_the_default_is_the_interpreters() -> None:
    first = "m.get_all_start_methods()[0]"
    text = f"print({first}, m.get_start_method(allow_none=True), m.get_start_method())"
    ours, theirs = (
        run_text(f"import {package} as m; {text}") for package in ("procession", "multiprocessing")
    )
    assert (ours.exit_code, ours.stdout) == (0, theirs.stdout), ours


# An interpreter may have to try whether there is a folder for temporary files.
LOOKED_AT = """
import multiprocessing.context as context

looked = []

class Watched(context.DefaultContext):
    @property
    def _default_context(self):
        looked.append(self)
        return context._concrete_contexts["spawn"]

    def get_all_start_methods(self):
        looked.append(self)
        return ["spawn", "forkserver", "fork"]

context._default_context.__dict__.pop("_default_context", None)
context._default_context.__class__ = Watched
import procession
procession.get_context("spawn")
procession.get_start_method(allow_none=True)
print(len(looked), end=" ")
print(procession.get_start_method(), bool(looked))
"""


def test_the_interpreter_is_asked_for_its_default_when_that_is_needed() -> None:
    ending = run_text(LOOKED_AT)
    assert (ending.stdout, ending.stderr) == ("0 spawn True\n", "")


LIGHT = """
import sys
before = set(sys.modules)
import procession
procession.get_start_method()
procession.get_all_start_methods()
heavy = {"multiprocessing.reduction", "pickle", "socket", "subprocess", "tempfile", "threading"}
print(heavy & set(sys.modules) - before)
import multiprocessing.reduction
print(procession.reducer.HAVE_SEND_HANDLE, multiprocessing.reduction.HAVE_SEND_HANDLE)
"""


def test_choosing_the_default_loads_no_module_that_a_child_may_never_need() -> None:
    ending = run_text(LIGHT)
    assert (ending.stdout, ending.stderr) == ("set()\nTrue True\n", "")


OPEN = """
import sys
import procession

def nothing():
    pass

if __name__ == "__main__":
    child = procession.get_context(sys.argv[1]).Process(target=nothing)
    child.start()
    child.join()
    print(child.exitcode, procession.get_start_method(allow_none=True))
    procession.set_start_method("fork")
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="is so since Python 3.14")
def test_a_process_of_a_context_leaves_the_default_open(run_program: Callable[..., Ending]) -> None:
    ending = run_program(OPEN)
    assert (ending.exit_code, ending.stdout, ending.stderr) == (0, "0 None\n", "")


CHILDS = """
import sys
import procession

def tell(queue):
    queue.put(procession.get_start_method(allow_none=True))

if __name__ == "__main__":
    context = procession.get_context(sys.argv[1])
    queue = context.SimpleQueue()
    child = context.Process(target=tell, args=(queue,))
    child.start()
    child.join()
    print(queue.get())
"""


def test_a_child_goes_on_with_the_method_by_which_it_was_started(
    run_program: Callable[..., Ending], method: str
) -> None:
    ending = run_program(CHILDS)
    assert (ending.exit_code, ending.stdout, ending.stderr) == (0, f"{method}\n", "")


def test_frozen_programs_may_choose_the_method_afterwards() -> None:
    text = (
        "import sys, procession\n"
        "sys.frozen = True\n"
        "procession.freeze_support()\n"
        "print(procession.get_start_method(allow_none=True))\n"
        "procession.set_start_method('fork')\n"
    )
    ending = run_text(text)
    assert (ending.exit_code, ending.stdout, ending.stderr) == (0, "None\n", "")
