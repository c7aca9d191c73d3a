"""The requester's side of the forkserver.

The *template* is an interpreter that has imported the main module and the modules that
`set_forkserver_preload` names. It has one thread, which waits for requests. A request is one
message on a socket. It brings descriptors: the payload (`procession.start.payload`), the standard
streams, others that the child needs, and a new socket for the answer. The copy begins when the
requester says so on that socket. So a request that got no answer has no effect, and is made again.

The template is the copies' parent. It reports on the same socket how a copy ended. It ends a daemon
when the requester has died. All processes of a family may send requests; the template exits when
the last of them has ended.

A template that is killed at any step blocks no other process: a process that has the socket for
requests also has the template's pidfd, and waits for both. If the template is killed after it made
a copy and before it answered, the copy keeps the answer's socket open. The requester shuts that
socket down, so that the copy exits, and asks another template.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import pickle
import select
import signal
import socket
import struct
import threading

from .. import _native
from . import child
from .payload import get_preparation_data, interpreter_command, memfd_of, start_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REQUEST = struct.Struct("QI?")
"""The slot with the child's shares, how many descriptors come, whether it is a daemon."""

ANSWER = struct.Struct("iQ")
"""The child's pid, or -errno; its slot."""

GO = b"g"
"""The message that lets a copy begin."""

CREDENTIALS = struct.Struct("3i")

MAX_FDS = 250
"""Descriptors that go with one message; the kernel takes 253."""

PARENT = 2
"""The index of the requester's pidfd among the descriptors of a request."""

_MAX_TEMPLATES = 2
"""How many templates may be lost over one request."""

_LAST_STEPS = 1.0
"""Seconds that a template has to end once its sockets are closed."""


class Link:
    """The way to a template. It is closed when the last thread that uses it drops it.

    One thread may find that the template is gone while others still use the descriptors. Until
    then their numbers must not become those of other files.

    Parameters
    ----------
    requests : socket.socket
        Where requests go.
    sentinel : int
        The template's pidfd.
    """

    def __init__(self, requests: socket.socket, sentinel: int) -> None:
        self.requests = requests
        self.sentinel = sentinel

    def __del__(self) -> None:
        self.requests.close()
        os.close(self.sentinel)

    def is_ready(self, sock: socket.socket, event: int) -> bool:
        """Wait until a socket is ready; return False if the template has ended and it is not."""
        poll = select.poll()
        poll.register(sock, event)
        poll.register(self.sentinel, select.POLLIN)
        ready = dict(poll.poll())
        # The template may have sent something after the check of the socket and before it ended.
        return sock.fileno() in ready or _looks(sock.fileno(), event) != 0


def _looks(fd: int, event: int) -> int:
    """Return what `poll` says of a descriptor at this instant."""
    poll = select.poll()
    poll.register(fd, event)
    ready = poll.poll(0)
    return ready[0][1] if ready else 0


class ForkServer:
    """The requester's side."""

    def __init__(self) -> None:
        self._preload_modules = ["__main__"]
        self._preload_on_error = "ignore"
        self._link: Link | None = None
        self._template: _native.Child | None = None
        # Children that are reaped here, since no other object waits for them.
        self._left: list[_native.Child] = []
        # A signal handler may start a process while this thread starts the template.
        self._lock = threading.RLock()

    def set_forkserver_preload(self, modules_names: list[str], *, on_error: str = "ignore") -> None:
        """Choose what the template imports; see `BaseContext.set_forkserver_preload`."""
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        if on_error not in ("ignore", "warn", "fail"):
            raise ValueError(f"on_error must be 'ignore', 'warn', or 'fail', not {on_error!r}")
        self._preload_modules = modules_names
        self._preload_on_error = on_error

    def get_inherited_fds(self) -> list[int] | None:
        """Return the descriptors that came with this process; None if it was not started so."""
        return child.inherited_fds

    def ensure_running(self) -> Link:
        """Start the template unless it runs; return the way to it."""
        with self._lock:
            self._reap()
            if self._link is None:
                link, template = self._start()
                if self._link is None:
                    self._link, self._template = link, template
                else:
                    # A signal handler was faster. This template exits: no process can reach it.
                    self._left.append(template)
            return self._link

    def _start(self) -> tuple[Link, _native.Child]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                data = get_preparation_data("forkserver")
                keys = ("sys_path", "sys_argv", "init_main_from_path", "installed")
                wanted = {key: data.get(key) for key in keys}
                wanted["on_error"] = self._preload_on_error
                payload = memfd_of(io.BytesIO(pickle.dumps((wanted, self._preload_modules))))
                try:
                    slot = _native.reserve()
                    code = f"procession.start.template import main; main({slot})"
                    fds = [payload, theirs.fileno()]
                    template = start_program(interpreter_command(code), slot, fds)
                finally:
                    os.close(payload)
            # If no link to it is made, it exits.
            self._left.append(template)
            link = Link(ours, os.dup(template.fileno()))
            self._left.remove(template)
        except BaseException:
            ours.close()
            raise
        atexit.register(self._leave)
        # Once no process has a link to it, it exits by itself.
        template.keep()
        return link, template

    def _leave(self) -> None:
        """Drop the link to the template."""
        with self._lock:
            self._link = None

    def _lose(self, lost: Link) -> _native.Child | None:
        """Forget a template that does not answer any more; return it if it is a child of ours."""
        with self._lock:
            if self._link is not lost:
                return None
            template = self._template
            if template is not None:
                self._left.append(template)
            self._link = self._template = None
        if template is not None:
            # Its sockets close a moment before it has ended. The next request takes its status.
            template.wait(_LAST_STEPS)
        return template

    @property
    def _forkserver_pid(self) -> int | None:
        return None if self._template is None else self._template.pid

    def _reap(self) -> None:
        self._left = [child for child in self._left if child.wait(0) is None]

    def _stop(self) -> None:
        """End the template, for tests of the standard library."""
        self._leave()
        with self._lock:
            if self._template is not None:
                self._template.signal(signal.SIGKILL)
                self._template.wait()
                self._template = None

    def _after_fork(self) -> None:
        """Adapt to a copy of the process, in which these children are not its own."""
        # Another thread of the original may have held the lock.
        self._lock = threading.RLock()
        self._template = None
        self._left = []

    def request(self, payload: int, fds: list[int], shares: int, daemon: bool) -> _native.Child:
        """Have the template copied; return the child.

        Raises
        ------
        OSError
            If it can't be copied.
        RuntimeError
            If the template ends before it answers, and so does its successor.
        EOFError
            The same, if a module that it can't import is to end it.
        """
        lost: _native.Child | None = None
        parent = os.pidfd_open(os.getpid())
        try:
            for _ in range(_MAX_TEMPLATES):
                link = self.ensure_running()
                child = self._ask(link, [parent, payload], fds, shares, daemon)
                if child is not None:
                    return child
                lost = self._lose(link) or lost
        finally:
            os.close(parent)
        message = (
            "the forkserver's template ends before it answers, which it did "
            f"{_MAX_TEMPLATES} times in a row; the last {_how_it_ended(lost)}. The process was not "
            f"started. The template imports {self._preload_modules}: what these print, and what "
            "they do when a process forks, may say why"
        )
        if self._preload_on_error != "fail":
            raise RuntimeError(message)
        error = EOFError(message)
        error.add_note(
            "Forkserver process may have crashed during module preloading. Check stderr."
        )
        raise error

    def _ask(
        self, link: Link, needed: list[int], fds: list[int], shares: int, daemon: bool
    ) -> _native.Child | None:
        """Make a request; return the child, or None if the template is gone."""
        child: _native.Child | None = None
        begins = False
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answers:
            try:
                with theirs:
                    # Streams that this program has closed are closed in the child, too.
                    streams = [fd for fd in range(3) if _is_open(fd)]
                    everything = [link.requests.fileno(), link.sentinel, *needed, *streams, *fds]
                    # Before the request, so that the template never waits for them.
                    for at in range(0, len(everything), MAX_FDS):
                        send(answers, b"f", everything[at : at + MAX_FDS])
                    header = REQUEST.pack(shares, len(everything), daemon)
                    if not _send_request(link, header + bytes(streams), theirs.fileno()):
                        return None
                child = _take_answer(link, answers, shares)
                if child is not None:
                    with contextlib.suppress(OSError):
                        send(answers, GO)
                    begins = True
                return child
            except BaseException:
                if child is not None:
                    # A signal handler has raised; nothing else refers to the child.
                    child.signal(signal.SIGKILL)
                    self._left.append(child)
                raise
            finally:
                if not begins:
                    # Closing is not enough: a child that another thread forked may have it, too.
                    with contextlib.suppress(OSError):
                        answers.shutdown(socket.SHUT_RDWR)


def _send_request(link: Link, message: bytes, answers: int) -> bool:
    """Send a request; return False if the template is gone."""
    while link.is_ready(link.requests, select.POLLOUT):
        try:
            send(link.requests, message, [answers], socket.MSG_DONTWAIT)
        except BlockingIOError:
            # Another requester was faster.
            continue
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True
    return False


def _take_answer(link: Link, answers: socket.socket, shares: int) -> _native.Child | None:
    """Wait for the answer; return the child, which has not begun, or None if there is no answer.

    Raises
    ------
    OSError
        If the template can't be copied.
    """
    if not link.is_ready(answers, select.POLLIN):
        return None
    try:
        answer, pidfds, _, _ = receive(answers, ANSWER.size, 1)
    except ConnectionResetError:
        return None
    if not answer:
        return None
    pid, slot = ANSWER.unpack(answer)
    if pid < 0:
        raise OSError(-pid, f"the forkserver can't fork: {os.strerror(-pid)}")
    if not pidfds:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    report = os.dup(answers.fileno())
    return _native.follow(pid, slot or None, shares, pidfds[0], report)


def _how_it_ended(template: _native.Child | None) -> str:
    """Return how a template that is gone has ended."""
    code = None if template is None else template.wait(0)
    if code is None:
        return "is gone"
    if code >= 0:
        return f"left with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def send(sock: socket.socket, message: bytes, fds: list[int] | None = None, flags: int = 0) -> None:
    """Send a message with descriptors; it raises no SIGPIPE."""
    passed = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    )
    sock.sendmsg([message], passed, flags | socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, size: int, fds: int) -> tuple[bytes, list[int], int, Any]:
    return socket.recv_fds(sock, size, fds, socket.MSG_CMSG_CLOEXEC)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


_forkserver = ForkServer()
os.register_at_fork(after_in_child=_forkserver._after_fork)
