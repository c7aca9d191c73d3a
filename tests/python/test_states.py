"""What processes are doing, and ending whole trees of them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import procession
import pytest
from processes import eventually, is_running


def wait_for(event: Any) -> None:
    event.wait()


def acquire(lock: Any) -> None:
    with lock:
        pass


def spin(begun: Any) -> None:
    begun.set()
    while True:
        pass


def sleep_long() -> None:
    while True:
        time.sleep(60)


def start_two(method: str, pids: Any, daemon: bool) -> None:
    ctx = procession.get_context(method)
    for _ in range(2):
        child = ctx.Process(target=sleep_long, daemon=daemon)
        child.start()
        pids.put(child.pid)
    sleep_long()


def start_one(method: str, pids: Any, options: dict[str, bool]) -> None:
    child = procession.get_context(method).Process(target=sleep_long, **options)
    child.start()
    pids.put(child.pid)
    sleep_long()


def end(process: Any) -> None:
    process.kill()
    process.join()


def test_a_process_is_new_until_it_is_started_and_ended_when_it_was_joined(ctx: Any) -> None:
    process = ctx.Process(target=sleep_long)
    assert process.state == "new"
    process.start()
    assert process.state in ("ready", "running", "blocked")
    process.kill()
    assert eventually(lambda: process.state in ("zombie", "ended"))
    process.join()
    assert process.state == "ended"


def test_who_waits_is_blocked_on_an_object_and_its_holder(ctx: Any) -> None:
    lock = ctx.Lock(name="ledger")
    with lock:
        process = ctx.Process(target=acquire, args=(lock,))
        process.start()
        # It wakes now and then and checks whether it has something to do.
        states: list[Any] = []
        assert eventually(lambda: states.append(process.state) or states[-1].blocked_on is not None)
        assert states[-1] == "blocked"
        on = states[-1].blocked_on
        assert (on.operation, on.kind, on.name) == ("acquire", "Lock", "ledger")
        assert on.pid == os.getpid()
        assert on.seconds >= 0
        assert "ledger" in repr(states[-1])
    process.join()
    assert process.exitcode == 0


def test_who_computes_runs_or_is_ready_and_can_be_stopped(ctx: Any) -> None:
    begun = ctx.Event()
    process = ctx.Process(target=spin, args=(begun,))
    process.start()
    begun.wait()
    assert eventually(lambda: process.state in ("running", "ready"))
    os.kill(process.pid, signal.SIGSTOP)
    assert eventually(lambda: process.state == "stopped")
    end(process)


def test_the_family_is_a_tree(ctx: Any, method: str) -> None:
    pids = ctx.Queue()
    process = ctx.Process(target=start_two, args=(method, pids, False), name="the middle")
    process.start()
    grandchildren = {pids.get(), pids.get()}
    members = {member.pid: member for member in procession.family()}
    assert members[process.pid].name == "the middle"
    assert members[process.pid].parent == os.getpid()
    assert {members[pid].parent for pid in grandchildren} == {process.pid}
    assert {members[pid].depth for pid in grandchildren} == {members[process.pid].depth + 1}
    process.kill(tree=True)
    process.join()
    assert eventually(lambda: not any(is_running(pid) for pid in grandchildren))


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_tree_is_ended_as_a_whole(ctx: Any, method: str, how: str) -> None:
    pids = ctx.Queue()
    process = ctx.Process(target=start_two, args=(method, pids, False))
    process.start()
    grandchildren = [pids.get(), pids.get()]
    getattr(process, how)(tree=True)
    process.join()
    number = signal.SIGTERM if how == "terminate" else signal.SIGKILL
    assert process.exitcode == -number
    assert eventually(lambda: not any(is_running(pid) for pid in grandchildren))


def test_interrupt_is_a_ctrl_c(ctx: Any) -> None:
    begun = ctx.Event()
    process = ctx.Process(target=spin, args=(begun,))
    process.start()
    begun.wait()
    process.interrupt()
    process.join()
    assert process.exitcode == 1


@pytest.mark.parametrize(
    ("options", "dies"), [({}, False), ({"die_with_parent": True}, True), ({"daemon": True}, True)]
)
def test_a_process_dies_with_its_parent_where_that_was_asked_for(
    ctx: Any, method: str, options: dict[str, bool], dies: bool
) -> None:
    pids = ctx.Queue()
    parent = ctx.Process(target=start_one, args=(method, pids, options))
    parent.start()
    child = pids.get()
    end(parent)
    if dies:
        assert eventually(lambda: not is_running(child))
    else:
        # It has had the time that others need to die.
        time.sleep(0.3)
        assert is_running(child)
        os.kill(child, signal.SIGKILL)


def test_a_daemon_may_have_children_where_that_was_asked_for(ctx: Any, method: str) -> None:
    pids = ctx.Queue()
    daemon = ctx.Process(
        target=start_one, args=(method, pids, {}), daemon=True, may_have_children=True
    )
    daemon.start()
    child = pids.get()
    assert is_running(child)
    end(daemon)
    # A child of a daemon is one as well, unless it is said otherwise.
    assert eventually(lambda: not is_running(child))
