"""`procession run`, and `procession.install()`, which does the same from inside."""

from __future__ import annotations

import os
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import procession
import pytest
from sessions import LAUNCHERS, Ending, run_command

COMMAND = (sys.executable, "-m", "procession")
RUN = LAUNCHERS["procession"]


def run_text(tmp_path: Path, text: str, *arguments: str) -> Ending:
    program = tmp_path / "program.py"
    program.write_text(text)
    return run_command([*RUN, str(program), *arguments])


WHOSE = """
import multiprocessing, sys
import multiprocessing.pool
import multiprocessing.context, multiprocessing.queues, multiprocessing.process
from multiprocessing import Pool, Process, Queue, get_context, synchronize
from multiprocessing.pool import Pool as PoolClass
from multiprocessing.queues import Empty
from multiprocessing.connection import wait

def whose(*_):
    import multiprocessing
    import multiprocessing.pool
    import multiprocessing.queues
    from multiprocessing import Lock
    return [
        multiprocessing.__name__,
        multiprocessing.pool.__name__,
        sys.modules["multiprocessing"].__name__,
        type(multiprocessing.Queue()).__module__,
        type(Lock()).__module__,
        multiprocessing.pool.Pool.__module__,
    ]

def put_whose(queue):
    queue.put(whose())

if __name__ == "__main__":
    print(*whose())
    print(PoolClass.__module__, synchronize.__name__, type(Process()).__module__)
    queue = Queue()
    process = Process(target=put_whose, args=(queue,))
    process.start()
    print(*queue.get())
    process.join()
    with Pool(1) as pool:
        print(*pool.apply(whose))
        print(type(pool).__module__)
    with get_context("fork").Pool(1) as pool:
        print(*pool.map(whose, [1])[0])
"""


def test_multiprocessing_is_procession_in_a_program_and_its_children(tmp_path: Path) -> None:
    ending = run_text(tmp_path, WHOSE)
    names = (
        "procession procession.pool procession procession.queues procession.synchronize "
        "procession.pool"
    )
    assert ending.stdout.splitlines() == [
        names,
        "procession.pool procession.synchronize procession.context",
        names,
        names,
        "procession.pool",
        names,
    ], ending.stderr
    assert ending.exit_code == 0


def test_installing_twice_changes_nothing(tmp_path: Path) -> None:
    text = "import procession\nprocession.install()\nprocession.install()\n" + WHOSE
    program = tmp_path / "program.py"
    program.write_text(text)
    once = run_command([sys.executable, str(program)])
    assert once.exit_code == 0, once.stderr
    assert once.stdout == run_text(tmp_path, WHOSE).stdout
    again = run_text(tmp_path, text)
    assert (again.exit_code, again.stdout) == (0, once.stdout), again.stderr


ARGUMENTS = """
import os, sys
print(__name__)
print(sys.argv)
print(os.path.realpath(sys.path[0]))
print(globals().get("__file__"))
import beside
"""


def test_a_script_sees_its_arguments_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("print('beside')")
    program = tmp_path / "program.py"
    program.write_text(ARGUMENTS)
    arguments = ["-x", "--help", "run", "two words"]
    for command in (COMMAND[:1], RUN):
        ending = run_command([*command, str(program), *arguments])
        assert ending.stdout.splitlines() == [
            "__main__",
            str([str(program), *arguments]),
            str(tmp_path.resolve()),
            str(program),
            "beside",
        ], ending.stderr
        relative = run_command([*command, "program.py"], cwd=tmp_path)
        assert relative.stdout.splitlines()[1] == "['program.py']"
        assert relative.stdout.splitlines()[2] == str(tmp_path.resolve())


def test_a_module_sees_its_arguments(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys\nprint(__package__, sys.argv[1:])")
    (package / "module.py").write_text("import sys\nprint(__name__, sys.argv, sys.path[0])")
    for command in (COMMAND[:1], RUN):
        ending = run_command([*command, "-m", "package", "-a", "b"], cwd=tmp_path)
        assert ending.stdout == "package ['-a', 'b']\n", ending.stderr
        ending = run_command([*command, "-m", "package.module", "-m"], cwd=tmp_path)
        file = str(package / "module.py")
        assert ending.stdout == f"__main__ {[file, '-m']} {tmp_path}\n", ending.stderr


def test_code_sees_its_arguments(tmp_path: Path) -> None:
    code = "import sys; print(__name__, sys.argv, repr(sys.path[0]))"
    for command in (COMMAND[:1], RUN):
        ending = run_command([*command, "-c", code, "a", "-c"], cwd=tmp_path)
        assert ending.stdout == "__main__ ['-c', 'a', '-c'] ''\n", ending.stderr


def test_a_folder_and_an_archive_are_run(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "__main__.py").write_text("import sys\nprint(__name__, sys.argv[1:])")
    with zipfile.ZipFile(tmp_path / "archive.pyz", "w") as archive:
        archive.write(folder / "__main__.py", "__main__.py")
    for program in ("folder", "archive.pyz"):
        ending = run_command([*RUN, program, "x"], cwd=tmp_path)
        assert ending.stdout == "__main__ ['x']\n", ending.stderr


@pytest.mark.parametrize(
    ("statement", "status", "stderr"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(5)", 5, ""),
        ("raise SystemExit('text')", 1, "text\n"),
        ("import os; os._exit(9)", 9, ""),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", -9, ""),
    ],
)
@pytest.mark.parametrize("how", ["script", "-c", "-m"])
def test_the_programs_status_is_the_commands(
    tmp_path: Path, how: str, statement: str, status: int, stderr: str
) -> None:
    (tmp_path / "program.py").write_text(statement)
    program = {"script": ["program.py"], "-c": ["-c", statement], "-m": ["-m", "program"]}[how]
    ending = run_command([*RUN, *program], cwd=tmp_path)
    assert (ending.exit_code, ending.stderr) == (status, stderr)


COMES_BACK = """
import multiprocessing, sys

class Found:
    def __init__(self, value):
        self.value = value

def find(queue):
    queue.put(Found(7))

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[-1])
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=find, args=(queue,))
    child.start()
    found = queue.get()
    child.join()
    with multiprocessing.Pool(1) as pool:
        again = pool.apply(Found, (8,))
    print(type(found) is type(again) is Found, found.value, again.value)
"""


@pytest.mark.parametrize("how", [[], ["-m"]])
def test_what_a_program_defines_comes_back_from_its_children(
    tmp_path: Path, method: str, how: list[str]
) -> None:
    (tmp_path / "program.py").write_text(COMES_BACK)
    command = [*RUN, *how, "program" if how else "program.py", method]
    ending = run_command(command, cwd=tmp_path)
    assert (ending.exit_code, ending.stdout, ending.stderr) == (0, "True 7 8\n", ""), ending


def test_an_uncaught_exception_is_shown_with_its_line(tmp_path: Path) -> None:
    ending = run_text(tmp_path, "def fail():\n    raise LookupError('here')\n\nfail()\n")
    assert ending.exit_code == 1
    assert "raise LookupError('here')" in ending.stderr
    assert ending.stderr.endswith("LookupError: here\n")
    assert "program.py" in ending.stderr


def test_a_program_that_does_not_parse_is_shown(tmp_path: Path) -> None:
    ending = run_text(tmp_path, "this is no Python\n")
    assert ending.exit_code == 1
    assert "SyntaxError" in ending.stderr


def test_a_program_may_name_its_encoding(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_bytes("# coding: latin-1\nprint(ascii('é'))\n".encode("latin-1"))
    assert run_command([*RUN, str(program)]).stdout == "'\\xe9'\n"


def test_a_programs_classes_can_be_pickled(tmp_path: Path) -> None:
    text = """
import multiprocessing

class Thing:
    def __init__(self, value):
        self.value = value

def double(thing):
    return Thing(thing.value * 2)

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        print([thing.value for thing in pool.map(double, map(Thing, range(4)))])
"""
    ending = run_text(tmp_path, text)
    assert (ending.exit_code, ending.stdout) == (0, "[0, 2, 4, 6]\n"), ending.stderr


LOOK = """
import multiprocessing, sys

def look():
    import sys
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name[0] != "_"}
    for name in ("count", "index"):
        del flags[name]
    return flags, sys.warnoptions, sys._xoptions, sys.argv, __debug__, look.__doc__

def put_look(queue):
    queue.put(look())

if __name__ == "__main__":
    print(look(), sys.stdout.write_through)
    print(sys.path)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=put_look, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
"""

OPTIONS = [
    ["-u"],
    ["-OO", "-B"],
    ["-uO", "-bdqR"],
    ["-I"],
    ["-P", "-E", "-s"],
    ["-S", "--check-hash-based-pycs", "always"],
    ["-X", "dev", "-X", "utf8=1", "-W", "ignore", "-Werror::UserWarning"],
    ["-BXdev", "-sWignore"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_the_interpreters_options_are_the_programs_and_its_childrens(
    tmp_path: Path, options: list[str]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(LOOK)
    ours = run_command([*RUN, *options, str(program), "-u", "x"])
    assert len(ours.stdout.splitlines()) == 3, ours
    plain = run_command([*COMMAND[:1], *options, str(program), "-u", "x"])
    assert (ours.stdout, ours.stderr) == (plain.stdout, plain.stderr)


@pytest.mark.parametrize(
    "how", [["-c", "print(1)"], ["-cimport program"], ["-m", "program"], ["-"]]
)
def test_options_go_with_every_kind_of_program(tmp_path: Path, how: list[str]) -> None:
    (tmp_path / "program.py").write_text("import sys\nprint(sys.flags, sys.path, sys.argv)\n")
    for options in (["-O"], ["-OP"], ["-I"]):
        endings = [
            run_command([*command, *options, *how, "x"], cwd=tmp_path)
            for command in (RUN, COMMAND[:1])
        ]
        assert endings[0].stdout == endings[1].stdout, endings
        assert endings[0].exit_code == endings[1].exit_code


def test_options_of_the_commands_own_interpreter_are_kept(tmp_path: Path) -> None:
    look = "import sys; print(sys.flags.optimize, sys.flags.no_user_site, sys.warnoptions)"
    command = [sys.executable, "-sW", "ignore", "-m", "procession", "run", "-O", "-c", look]
    assert run_command(command).stdout == "1 1 ['ignore']\n"


FROM_STDIN = """
import multiprocessing, sys

def answer(queue):
    queue.put(sys.argv)

print(__name__, sys.argv, repr(sys.path[0]), "__file__" in globals())
queue = multiprocessing.get_context("fork").SimpleQueue()
process = multiprocessing.get_context("fork").Process(target=answer, args=(queue,))
process.start()
print(queue.get())
process.join()
process = multiprocessing.get_context("spawn").Process(target=print, args=("spawned",))
process.start()
process.join()
raise SystemExit(3)
"""


def test_a_program_may_come_from_standard_input(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FROM_STDIN)
    for options in ([], ["-u"]):
        line = f"{' '.join([*RUN, *options])} - a -b < program.py"
        ending = run_command(["sh", "-c", line], cwd=tmp_path)
        assert ending.stdout.splitlines() == [
            "__main__ ['-', 'a', '-b'] '' False",
            "['-', 'a', '-b']",
            "spawned",
        ], ending
        assert ending.exit_code == 3
        assert ending.stderr == ""


def test_standard_input_is_typed_at_a_terminal(tmp_path: Path) -> None:
    terminal, other = os.openpty()
    try:
        os.write(terminal, b"import multiprocessing\nprint(6 * 7, multiprocessing)\n\x04")
        ending = run_command(["sh", "-c", f'{" ".join(RUN)} - <"$0"', os.ttyname(other)])
    finally:
        os.close(terminal)
        os.close(other)
    assert "42 <module 'procession'" in ending.stdout, ending
    assert ending.exit_code == 0


def test_one_may_look_around_when_the_program_is_over(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("value = 40\n")
    question = tmp_path / "question"
    question.write_text("print(value + 2)\n")
    for command in (RUN, COMMAND[:1]):
        line = f"{' '.join(command)} -i {program} < {question}"
        ending = run_command(["sh", "-c", line])
        assert ending.stdout == "42\n", ending


def test_a_programs_annotations_are_its_own(tmp_path: Path) -> None:
    text = "def function(x: int): pass\nprint(function.__annotations__)\n"
    for how in ("script", "-c", "-"):
        (tmp_path / "program.py").write_text(text)
        program = {"script": "program.py", "-c": f"-c '{text}'", "-": "- < program.py"}[how]
        ending = run_command(["sh", "-c", f"{' '.join(RUN)} {program}"], cwd=tmp_path)
        assert ending.stdout == "{'x': <class 'int'>}\n", ending


@pytest.mark.parametrize("how", ["program.py", "-c '{}'"])
def test_a_program_has_the_names_and_annotations_that_it_has_without(
    tmp_path: Path, how: str
) -> None:
    text = "x: int = 1\nimport __main__\nprint(__main__.__annotations__, sorted(globals()))\n"
    (tmp_path / "program.py").write_text(text)
    program = how.format(text)
    usual, ending = (
        run_command(["sh", "-c", f"{' '.join(command)} {program}"], cwd=tmp_path)
        for command in (COMMAND[:1], RUN)
    )
    assert (ending.exit_code, ending.stdout) == (0, usual.stdout), ending
    assert "<class 'int'>" in ending.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-Z", "program.py"], "there is no option -Z before the program"),
        (["--size", "3", "program.py"], "put the program's own options after the program"),
        (["-x", "program.py"], "make that line a comment"),
        (["-W"], "the option -W needs a value"),
        (["-u"], "there is no program: name a script"),
    ],
)
def test_a_wrong_option_is_told_with_what_to_do(arguments: list[str], says: str) -> None:
    ending = run_command([*RUN, *arguments])
    assert ending.exit_code == 2
    assert ending.stdout == ""
    assert says in ending.stderr
    assert "Usage: procession run [OPTION]... SCRIPT" in ending.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["-V"]])
def test_the_version_is_told(arguments: list[str]) -> None:
    ending = run_command([*COMMAND, *arguments])
    assert ending.exit_code == 0
    assert procession.__version__ in ending.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["run", "--help"]])
def test_help_is_given(arguments: list[str]) -> None:
    ending = run_command([*COMMAND, *arguments])
    assert ending.exit_code == 0
    assert "Usage: procession" in ending.stdout
    assert "run" in ending.stdout
    assert ending.stderr == ""


@pytest.mark.parametrize("arguments", [["run"], ["walk"], ["run", "-m"], ["run", "-c"]])
def test_a_command_that_makes_no_sense_is_status_2(arguments: list[str]) -> None:
    ending = run_command([*COMMAND, *arguments])
    assert ending.exit_code == 2
    assert ending.stderr != ""
    assert "Traceback" not in ending.stderr


def test_a_missing_program_is_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.py")
    ending = run_command([*RUN, missing])
    assert ending.exit_code == 2
    assert missing in ending.stderr
    assert "No such file" in ending.stderr
    assert "Traceback" not in ending.stderr
    ending = run_command([*RUN, "-m", "no_such_module"])
    assert ending.exit_code == 1
    assert "No module named no_such_module" in ending.stderr


def test_the_command_is_installed(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("procession")
    ending = run_command([str(command), "run", "-c", "import multiprocessing as m; print(m)"])
    assert ending.exit_code == 0, ending.stderr
    assert "procession" in ending.stdout


def test_ctrl_c_ends_a_program_as_it_does_without(tmp_path: Path) -> None:
    text = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
    program = tmp_path / "program.py"
    program.write_text(text)

    def press(process: Any) -> None:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)

    ending = run_command([*RUN, str(program)], press)
    assert ending.exit_code == -signal.SIGINT
    assert ending.stderr.endswith("KeyboardInterrupt\n")
