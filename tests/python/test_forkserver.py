"""The forkserver's template, and what becomes of its copies when it is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import procession
import pytest
from sessions import Ending

KILLED_AT = {
    "before the fork": "os.register_at_fork(before=die)",
    "between its fork and its answer": "os.register_at_fork(after_in_parent=die)",
    "between its answer and the word to begin": """
send = request.send
def send_and_die(sock, message, *rest):
    send(sock, message, *rest)
    if len(message) == request.ANSWER.size:
        die()
request.send = send_and_die
""",
    "after the word to begin": "",
}

PRELOADED = """
import os, signal, sys
from procession.start import request

def die():
    # Once for each request for it.
    try:
        os.unlink("to-be-killed")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

{step}
"""

PROGRAM = """
import os, select, signal, sys, threading
import procession
from procession import _native, forkserver
from procession.start import request
from processes import eventually, members_of, stat

STEP = {step!r}
context = procession.get_context("forkserver")

def kill_the_template(lock, queue):
    with lock:
        if STEP == "after the word to begin":
            os.kill(os.getppid(), signal.SIGKILL)
        queue.put(os.getpid())

def tell(queue):
    queue.put(os.getpid())

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def only_the_template_is_left():
    forkserver._forkserver._reap()
    _native.check()
    known = {{os.getpid(), forkserver._forkserver._forkserver_pid}}
    return members_of(os.getsid(0)) == known == {{row["pid"] for row in _native.processes()}}

def start_and_join(target, *args):
    process = context.Process(target=target, args=args)
    process.start()
    process.join()
    # On older kernels an exit code that only the template knows is not known.
    assert process.exitcode in (0, 255), process.exitcode

def main():
    lock, queue = context.Lock(), context.SimpleQueue()
    context.set_forkserver_preload(["preloaded"])
    start_and_join(tell, queue)
    queue.get()
    before = descriptors()
    take = request._take_answer
    for _ in range(3):
        awaited = []

        def take_late(link, *rest):
            child = take(link, *rest)
            if STEP == "between its answer and the word to begin" and not awaited:
                awaited.append(select.select([link.sentinel], [], []))
            return child

        request._take_answer = take_late
        template = forkserver._forkserver._forkserver_pid
        open("to-be-killed", "w").close()
        start_and_join(kill_the_template, lock, queue)
        request._take_answer = take
        assert eventually(lambda: (stat(template) or "Z")[0] in "ZX"), "the template lives"
        start_and_join(tell, queue)
        assert len({{queue.get() for _ in range(2)}}) == 2
        queue.empty() or print("more than two processes began")
    assert eventually(only_the_template_is_left), (
        members_of(os.getsid(0)), forkserver._forkserver._forkserver_pid, _native.processes()
    )
    print(descriptors() - before)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def run_with_preloaded(
    run_program: Callable[..., Ending], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Ending]:
    """Run a program; its template imports another text."""

    def run(text: str, preloaded: str) -> Ending:
        (tmp_path / "preloaded.py").write_text(preloaded)
        monkeypatch.chdir(tmp_path)
        return run_program(text, env={"PYTHONPATH": str(Path(__file__).parent)})

    return run


@pytest.mark.parametrize("method", ["forkserver"])
@pytest.mark.parametrize("step", KILLED_AT)
def test_a_template_that_is_killed_costs_nothing(
    run_with_preloaded: Callable[[str, str], Ending], step: str
) -> None:
    ending = run_with_preloaded(PROGRAM.format(step=step), PRELOADED.format(step=KILLED_AT[step]))
    assert (ending.exit_code, ending.stdout) == (0, "0\n"), ending
    assert not ending.left_processes
    assert ending.stderr == ""


NEVER_ANSWERS = """
import os, sys
import procession
from procession import _native, forkserver
from procession.start import request
from processes import eventually, members_of

if __name__ == "__main__":
    context = procession.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    lock = context.Lock()
    for _ in range(2):
        process = context.Process(target=print, args=("the target runs", lock))
        try:
            process.start()
        except RuntimeError as error:
            print(error)
    assert eventually(lambda: members_of(os.getsid(0)) == {os.getpid()}), members_of(os.getsid(0))
    forkserver._forkserver._reap()
    _native.check()
    print([row["pid"] == os.getpid() for row in _native.processes()])
"""


@pytest.mark.parametrize("method", ["forkserver"])
@pytest.mark.parametrize("hook", ["before", "after_in_parent"])
@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("os._exit(7)", "left with exit code 7"),
    ],
)
def test_a_template_that_never_answers_is_an_error_that_says_how_it_ended(
    run_with_preloaded: Callable[[str, str], Ending], hook: str, death: str, how: str
) -> None:
    preloaded = f"import os, signal\nos.register_at_fork({hook}=lambda: {death})"
    ending = run_with_preloaded(NEVER_ANSWERS, preloaded)
    lines = ending.stdout.splitlines()
    assert len(lines) == 3, ending
    for line in lines[:2]:
        assert line.startswith("the forkserver's template ends before it answers"), line
        assert f"2 times in a row; the last {how}." in line
        assert "['preloaded']" in line
    assert lines[2] == "[True]"
    assert ending.stderr == ""


STARTED_BY = """
import os, sys, threading
import procession
from procession import forkserver
from procession.start import request
from processes import eventually, members_of

context = procession.get_context("forkserver")

def put_one(queue):
    queue.put(1)

def start_one(queue):
    process = context.Process(target=put_one, args=(queue,))
    process.start()
    process.join()

def start_some(queue):
    for _ in range(3):
        open("to-be-killed", "w").close()
        start_one(queue)

def start_by_threads(queue):
    for _ in range(3):
        open("to-be-killed", "w").close()
        threads = [threading.Thread(target=start_one, args=(queue,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

def main(starter):
    queue = context.SimpleQueue()
    context.set_forkserver_preload(["preloaded"])
    first = context.Process(target=put_one, args=(queue,))
    first.start()
    first.join()
    if starter == "threads":
        start_by_threads(queue)
    else:
        requester = procession.get_context(starter).Process(target=start_some, args=(queue,))
        requester.start()
        requester.join()
        assert requester.exitcode in (0, 255), requester.exitcode
    count = 0
    while not queue.empty():
        count += queue.get()
    template = forkserver._forkserver._forkserver_pid
    forkserver._forkserver._leave()
    assert eventually(lambda: members_of(os.getsid(0)) <= {os.getpid(), template}), (
        members_of(os.getsid(0))
    )
    print(count)

if __name__ == "__main__":
    main(STARTER)
"""


@pytest.mark.parametrize("method", ["forkserver"])
@pytest.mark.parametrize(("starter", "count"), [("threads", 10), ("fork", 4), ("forkserver", 4)])
def test_whoever_asks_the_template_outlives_it(
    run_with_preloaded: Callable[[str, str], Ending], starter: str, count: int
) -> None:
    step = KILLED_AT["between its fork and its answer"]
    text = STARTED_BY.replace("STARTER", repr(starter))
    ending = run_with_preloaded(text, PRELOADED.format(step=step))
    assert (ending.exit_code, ending.stdout) == (0, f"{count}\n"), ending
    assert not ending.left_processes
    assert ending.stderr == ""


REQUESTER_DIES_TOO = """
import os, signal, sys, time
import procession
from procession import forkserver
from procession.start import request
from processes import descendants_of, eventually, is_running, stat

context = procession.get_context("forkserver")

def ask_and_die(queue):
    send = request.send

    def keep(sock, message, *rest):
        if message == request.GO:
            # A process that is forked while the answer is under way has its socket.
            if (helper := os.fork()) == 0:
                time.sleep(600)
            queue.put((child.pid, forkserver._forkserver._forkserver_pid, helper))
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        send(sock, message, *rest)

    take = request._take_answer

    def note(*args):
        nonlocal child
        child = take(*args)
        return child

    child = None
    request.send, request._take_answer = keep, note
    context.Process(target=queue.put, args=("the target runs",)).start()

if __name__ == "__main__":
    queue = context.SimpleQueue()
    requester = procession.get_context("spawn").Process(target=ask_and_die, args=(queue,))
    requester.start()
    copy, template, helper = queue.get()
    requester.join()
    print(eventually(lambda: not is_running(copy)), is_running(helper), queue.empty())
    os.kill(helper, signal.SIGKILL)
"""


@pytest.mark.parametrize("method", ["forkserver"])
def test_a_copy_leaves_if_nobody_can_tell_it_to_begin(
    run_with_preloaded: Callable[[str, str], Ending],
) -> None:
    ending = run_with_preloaded(REQUESTER_DIES_TOO, "")
    assert (ending.stdout, ending.stderr) == ("True True True\n", ""), ending


NO_DESCRIPTORS = """
import os, sys
import procession
from processes import eventually

if __name__ == "__main__":
    context = procession.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    queue = context.SimpleQueue()
    started = []
    numbers = set()
    for _ in range(40):
        process = context.Process(target=queue.get)
        try:
            process.start()
            started.append(process)
        except OSError as error:
            numbers.add(error.strerror)
    for process in started:
        queue.put(None)
    for process in started:
        process.join()
        assert process.exitcode == 0
    last = context.Process(target=print, args=("it still works",), kwargs={"flush": True})
    last.start()
    last.join()
    print(0 < len(started) < 40, numbers)
"""


@pytest.mark.parametrize("method", ["forkserver"])
@pytest.mark.parametrize("limit", range(30, 34))
def test_a_template_without_descriptors_refuses_and_goes_on(
    run_with_preloaded: Callable[[str, str], Ending], limit: int
) -> None:
    preloaded = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    ending = run_with_preloaded(NO_DESCRIPTORS, preloaded)
    assert ending.stdout == (
        'it still works\nTrue {"the forkserver can\'t fork: Too many open files"}\n'
    ), ending
    assert ending.stderr == ""


INTERRUPTED = """
import os, signal, sys
import procession
from procession import _native, forkserver
from procession.start import request
from processes import eventually, members_of

class Interrupted(Exception):
    pass

def interrupt(*_):
    raise Interrupted

if __name__ == "__main__":
    context = procession.get_context("forkserver")
    queue = context.SimpleQueue()
    first = context.Process(target=queue.get)
    first.start()
    queue.put(None)
    first.join()
    signal.signal(signal.SIGUSR1, interrupt)
    before = len(os.listdir("/proc/self/fd"))
    for name in ("_send_request", "_take_answer", "send"):
        plain = getattr(request, name)

        def and_interrupt(*args, plain=plain):
            value = plain(*args)
            if plain.__name__ != "send" or args[1] == request.GO:
                os.kill(os.getpid(), signal.SIGUSR1)
            return value

        setattr(request, name, and_interrupt)
        try:
            context.Process(target=queue.get).start()
        except Interrupted:
            print(name)
        setattr(request, name, plain)

    def only_the_template_is_left():
        forkserver._forkserver._reap()
        _native.check()
        known = {os.getpid(), forkserver._forkserver._forkserver_pid}
        return members_of(os.getsid(0)) == known == {row["pid"] for row in _native.processes()}

    assert eventually(only_the_template_is_left), (members_of(os.getsid(0)), _native.processes())
    forkserver._forkserver._reap()
    print(len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.parametrize("method", ["forkserver"])
def test_a_start_that_is_interrupted_leaves_no_copy(
    run_with_preloaded: Callable[[str, str], Ending],
) -> None:
    ending = run_with_preloaded(INTERRUPTED, "")
    assert ending.stdout == "_send_request\n_take_answer\nsend\n0\n", ending
    assert ending.stderr == ""


PRELOADS = """
import sys
import procession

if __name__ == "__main__":
    context = procession.get_context("forkserver")
    context.set_forkserver_preload(["preloaded", "is_not_there"]{on_error})
    for _ in range(2):
        child = context.Process(target=print, args=("the target runs",))
        child.start()
        child.join()
        print(child.exitcode, flush=True)
"""


@pytest.mark.parametrize("method", ["forkserver"])
def test_what_a_preloaded_module_prints_is_printed_once(
    run_with_preloaded: Callable[[str, str], Ending], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise it would be written at once.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    preloaded = "import sys\nprint('once')\nsys.stderr.write('and that, too')\n"
    ending = run_with_preloaded(PRELOADS.format(on_error=""), preloaded)
    assert ending.stdout == "once\n" + 2 * "the target runs\n0\n", ending
    assert ending.stderr == "and that, too"


@pytest.mark.parametrize("method", ["forkserver"])
@pytest.mark.parametrize("on_error", ["ignore", "warn"])
def test_a_module_that_cannot_be_preloaded_is_ignored_or_told(
    run_with_preloaded: Callable[[str, str], Ending], on_error: str
) -> None:
    preloaded = "import warnings\nwarnings.simplefilter('always', ImportWarning)\n"
    ending = run_with_preloaded(PRELOADS.format(on_error=f", on_error={on_error!r}"), preloaded)
    assert ending.stdout == 2 * "the target runs\n0\n", ending
    warning = "ImportWarning: Failed to preload module 'is_not_there'"
    assert ending.stderr.count(warning) == (on_error == "warn"), ending


@pytest.mark.parametrize("method", ["forkserver"])
def test_a_module_that_cannot_be_preloaded_is_an_error_of_start_where_that_is_asked_for(
    run_with_preloaded: Callable[[str, str], Ending],
) -> None:
    ending = run_with_preloaded(PRELOADS.format(on_error=", on_error='fail'"), "")
    assert ending.exit_code == 1
    assert ending.stdout == ""
    assert "No module named 'is_not_there'" in ending.stderr
    assert "EOFError: the forkserver's template ends before it answers" in ending.stderr
    assert "Forkserver process may have crashed during module preloading." in ending.stderr
    assert not ending.left_processes


@pytest.mark.parametrize("method", ["forkserver"])
@pytest.mark.parametrize("on_error", ["ignore", "warn", "fail"])
def test_a_main_module_that_cannot_be_preloaded_is_treated_likewise(
    run_program: Callable[..., Ending], on_error: str
) -> None:
    text = f"""
import procession
if __name__ == "__main__":
    context = procession.get_context("forkserver")
    context.set_forkserver_preload(["__main__"], on_error={on_error!r})
    child = context.Process(target=print)
    child.start()
    child.join()
    print(child.exitcode)
else:
    import is_not_there
"""
    ending = run_program(text, env={"PYTHONWARNINGS": "always"})
    assert ending.stdout == ("" if on_error == "fail" else "1\n"), ending
    assert "No module named 'is_not_there'" in ending.stderr
    assert ending.stderr.count("Failed to preload __main__ from") == (on_error == "warn")
    assert not ending.left_processes


def test_how_errors_of_preloading_are_treated_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="on_error must be 'ignore', 'warn', or 'fail'"):
        procession.set_forkserver_preload([], on_error="pass")
