"""Processes that begin as copies of one that is kept ready.

The *template* is an interpreter that has imported the main module and what
`set_forkserver_preload` names, and waits, with one thread, for requests. A request is one message
on a socket, with descriptors: the payload (`procession.spawn`), the standard streams, what else the
child needs, and a socket of its own for the answer. The copy begins when the requester says so on
that socket, so a request whose answer got lost has no effect, and is simply made again.

The template is the copies' parent: it tells on the same socket how each ended, and ends those that
are daemons when the requester has died. All processes that came of one family may send requests;
the template leaves when the last of them has gone. If it is killed, the next request starts
another.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import pickle
import selectors
import signal
import socket
import struct
import sys
import threading
from multiprocessing import util
from multiprocessing.process import BaseProcess, current_process

from . import _native
from .process import Popen, dies_with_parent, serve_as_copy
from .spawn import (
    get_preparation_data,
    import_main_path,
    interpreter_command,
    memfd_of,
    serve,
    start_program,
    write_payload,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ensure_running", "get_inherited_fds", "set_forkserver_preload"]

_REQUEST = struct.Struct("QI?")
"""The slot with the child's shares, how many descriptors come, whether it is a daemon."""

_ANSWER = struct.Struct("iQ")
"""The child's pid, or -errno; its slot."""

_GO = b"g"
"""What a copy waits for."""

_CREDENTIALS = struct.Struct("3i")

_FDS_MOST = 250
"""Descriptors that go with one message; the kernel takes 253."""

_TEMPLATE_PAYLOAD, _TEMPLATE_SOCKET = 4, 5


class PassedFd:
    """A descriptor that goes to the child, by its place among those that do."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        fds = get_inherited_fds()
        assert fds is not None
        return fds[self.index]


class ForkServerPopen(Popen):
    """A process that was started as a copy of the template."""

    method = "forkserver"
    DupFd = PassedFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        payload = write_payload(self, process_obj, environment=dict(os.environ))
        try:
            shares = _native.reserve()
            dies = dies_with_parent(process_obj)
            try:
                return _forkserver.request(payload, self._fds, shares, dies)
            except BaseException:
                _native.unreserve(shares)
                raise
        finally:
            os.close(payload)


class ForkServer:
    """The requester's side."""

    def __init__(self) -> None:
        self._preload_modules = ["__main__"]
        self._inherited_fds: list[int] | None = None
        self._requests: socket.socket | None = None
        self._template: _native.Child | None = None
        self._lock = threading.Lock()

    def set_forkserver_preload(self, modules_names: list[str]) -> None:
        """Choose what the template imports, when it is started.

        Raises
        ------
        TypeError
            If these are no strings.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        self._preload_modules = modules_names

    def get_inherited_fds(self) -> list[int] | None:
        """Return the descriptors that came with this process; None if it was not started so."""
        return self._inherited_fds

    def ensure_running(self) -> socket.socket:
        """Start the template unless it is there; return the socket for requests."""
        with self._lock:
            if self._requests is None:
                self._start()
            assert self._requests is not None
            return self._requests

    def _start(self) -> None:
        self._reap()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            data = get_preparation_data("forkserver")
            keys = ("sys_path", "sys_argv", "init_main_from_path", "installed")
            wanted = {key: data.get(key) for key in keys}
            payload = memfd_of(io.BytesIO(pickle.dumps((wanted, self._preload_modules))))
            try:
                slot = _native.reserve()
                command = interpreter_command(f"procession.forkserver import main; main({slot})")
                fds = [payload, theirs.fileno()]
                self._template = start_program(command, slot, fds)
            except BaseException:
                ours.close()
                raise
            finally:
                os.close(payload)
        self._requests = ours
        atexit.register(self._leave)

    def _leave(self) -> None:
        """Need the template no more."""
        with self._lock:
            if self._requests is not None:
                self._requests.close()
                self._requests = None

    def _lose(self, lost: socket.socket) -> None:
        """Forget a template that does not answer any more."""
        with self._lock:
            if self._requests is lost:
                self._requests = None
                self._reap()
        lost.close()

    @property
    def _forkserver_pid(self) -> int | None:
        return None if self._template is None else self._template.pid

    def _reap(self) -> None:
        if self._template is not None and self._template.wait(0) is not None:
            self._template = None

    def _stop(self) -> None:
        """End the template, for tests of the standard library."""
        self._leave()
        with self._lock:
            if self._template is not None:
                self._template.signal(signal.SIGKILL)
                self._template.wait()
                self._template = None

    def request(self, payload: int, fds: list[int], shares: int, daemon: bool) -> _native.Child:
        """Have the template copied; return the child.

        Raises
        ------
        OSError
            If it can't be copied.
        """
        parent = os.pidfd_open(os.getpid())
        try:
            for _ in range(_TEMPLATES_MOST):
                requests = self.ensure_running()
                child = self._ask(requests, [payload, parent, *fds], shares, daemon)
                if child is not None:
                    return child
                self._lose(requests)
        finally:
            os.close(parent)
        raise RuntimeError(
            "the forkserver's template ends before it answers: what it printed says why; it "
            f"imports {self._preload_modules}"
        )

    def _ask(
        self, requests: socket.socket, fds: list[int], shares: int, daemon: bool
    ) -> _native.Child | None:
        """Make a request; return the child, or None if the template is gone."""
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answers:
            with theirs:
                # Streams that this program has closed are closed in the child, too.
                streams = [fd for fd in range(3) if _is_open(fd)]
                everything = [requests.fileno(), *streams, *fds]
                # Before the request, so that the template never waits for them.
                for at in range(0, len(everything), _FDS_MOST):
                    socket.send_fds(answers, [b"f"], everything[at : at + _FDS_MOST])
                header = _REQUEST.pack(shares, len(everything), daemon)
                try:
                    socket.send_fds(requests, [header + bytes(streams)], [theirs.fileno()])
                except (BrokenPipeError, ConnectionResetError):
                    return None
            try:
                answer, answered, _, _ = _receive(answers, _ANSWER.size, 1)
            except ConnectionResetError:
                return None
            if not answer:
                return None
            pid, slot = _ANSWER.unpack(answer)
            if pid < 0:
                raise OSError(-pid, f"the forkserver can't fork: {os.strerror(-pid)}")
            report = os.dup(answers.fileno())
            child = _native.follow(
                pid, slot or None, shares=shares, pidfd=answered[0], report=report
            )
            with contextlib.suppress(OSError):
                answers.send(_GO)
            return child


_TEMPLATES_MOST = 2
"""How many templates may be lost over one request."""


def _receive(sock: socket.socket, size: int, fds: int) -> tuple[bytes, list[int], int, Any]:
    return socket.recv_fds(sock, size, fds, socket.MSG_CMSG_CLOEXEC)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# The template's side.


def main(slot: int) -> None:
    """Be the template.

    Parameters
    ----------
    slot : int
        What `_native.reserve` gave in the process that starts it.
    """
    _native.inherit(3, slot)
    _native.drop_unopened()
    _native.begin("forkserver")
    # What comes with a request must not get the number of a stream.
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    requests = socket.socket(fileno=_TEMPLATE_SOCKET)
    requests.set_inheritable(False)
    # From now on an interrupt at the terminal is for those who do something.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(_TEMPLATE_PAYLOAD, "rb") as file:
        data, modules = pickle.load(file)
    _preload(data, modules)
    util._close_stdin()  # type: ignore[attr-defined]
    Template(requests, interrupt).serve()


def _preload(data: dict[str, Any], modules: list[str]) -> None:
    if data["installed"]:
        from .replacement import install

        install()
    sys.path[:] = data["sys_path"]
    sys.argv = data["sys_argv"]
    if "__main__" in modules and data["init_main_from_path"] is not None:
        current_process()._inheriting = True  # type: ignore[attr-defined]
        try:
            # If that fails, each copy tries it itself, and reports why.
            with contextlib.suppress(Exception, SystemExit, KeyboardInterrupt):
                import_main_path(data["init_main_from_path"])
        finally:
            del current_process()._inheriting  # type: ignore[attr-defined]
    for name in modules:
        if name != "__main__":
            with contextlib.suppress(ImportError):
                __import__(name)


class Requester:
    """The process that has a copy made, as the copy sees it."""

    def __init__(self, sentinel: int, template: int) -> None:
        self.sentinel = sentinel
        self.template = template

    def take_along(self) -> None:
        # The template sees to that, and the copy itself if the template dies before.
        _native.die_with_ward(os.dup(self.sentinel), self.template)


class Copy:
    """A child of the template."""

    def __init__(self, pid: int, slot: int | None, pidfd: int, answers: socket.socket) -> None:
        self.pid = pid
        self.slot = slot
        self.pidfd = pidfd
        self.answers = answers
        self.parent: int | None = None
        """The requester's pidfd, if the copy is to end with it."""


class Template:
    """The loop that serves requests."""

    def __init__(self, requests: socket.socket, interrupt: Any) -> None:
        self.requests = requests
        self.interrupt = interrupt
        self.open = True
        self.copies: dict[int, Copy] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(requests, selectors.EVENT_READ, self._take_request)

    def serve(self) -> None:
        # Once nobody can make requests it stays for those whose end it is to see.
        with self.requests:
            while self.open or self.copies:
                for key, _ in self.selector.select():
                    key.data()

    def _take_request(self) -> None:
        message, ancillary, _, _ = self.requests.recvmsg(
            _REQUEST.size + 3,
            socket.CMSG_SPACE(4) + socket.CMSG_SPACE(_CREDENTIALS.size),
            socket.MSG_CMSG_CLOEXEC,
        )
        if not message:
            self.open = False
            self.selector.unregister(self.requests)
            return
        answers: socket.socket | None = None
        requester, owner = 0, -1
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                answers = socket.socket(fileno=struct.unpack("i", data)[0])
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                requester, owner, _ = _CREDENTIALS.unpack(data)
        if answers is None:
            return
        if owner != os.getuid() or len(message) < _REQUEST.size:
            answers.close()
            return
        shares, count, daemon = _REQUEST.unpack(message[: _REQUEST.size])
        streams = list(message[_REQUEST.size :])
        fds: list[int] = []
        while len(fds) < count:
            more, received, _, _ = _receive(answers, 1, _FDS_MOST)
            fds += received
            if not more:
                break
        try:
            if len(fds) == count:
                self._copy(answers, requester, shares, daemon, streams, fds)
            else:
                answers.close()
        finally:
            for fd in fds:
                os.close(fd)

    def _copy(
        self,
        answers: socket.socket,
        requester: int,
        shares: int,
        daemon: bool,
        streams: list[int],
        fds: list[int],
    ) -> None:
        template = os.getpid()

        def be_the_copy() -> int:
            return self._be_the_copy(template, answers, requester, shares, streams, fds)

        try:
            pid, pidfd, slot = _native.fork_for_another(lambda: serve_as_copy(be_the_copy))
        except OSError as error:
            with answers, contextlib.suppress(OSError):
                answers.send(_ANSWER.pack(-(error.errno or 1), 0))
            return
        copy = self.copies[pid] = Copy(pid, slot, pidfd, answers)
        self.selector.register(pidfd, selectors.EVENT_READ, lambda: self._see_end(copy))
        if daemon:
            # The second that was sent after the streams and the socket for requests.
            copy.parent = os.dup(fds[1 + len(streams) + 1])
            self.selector.register(
                copy.parent, selectors.EVENT_READ, lambda: self._end_orphan(copy)
            )
        with contextlib.suppress(OSError):
            # If nobody is there any more, the copy sees that for itself.
            socket.send_fds(answers, [_ANSWER.pack(pid, slot or 0)], [pidfd])

    def _end_orphan(self, copy: Copy) -> None:
        """End a daemon whose parent has died."""
        signal.pidfd_send_signal(copy.pidfd, signal.SIGKILL)
        self._forget_parent(copy)

    def _forget_parent(self, copy: Copy) -> None:
        if copy.parent is not None:
            self.selector.unregister(copy.parent)
            os.close(copy.parent)
            copy.parent = None

    def _see_end(self, copy: Copy) -> None:
        """Tell how a copy ended."""
        status = os.waitid(os.P_PID, copy.pid, os.WEXITED)
        assert status is not None
        code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        self.selector.unregister(copy.pidfd)
        os.close(copy.pidfd)
        self._forget_parent(copy)
        del self.copies[copy.pid]
        with copy.answers:
            try:
                copy.answers.send(struct.pack("i", code))
            except OSError:
                # Its parent has gone before it.
                if copy.slot is not None:
                    _native.bury(copy.slot)

    def _be_the_copy(
        self,
        template: int,
        answers: socket.socket,
        requester: int,
        shares: int,
        streams: list[int],
        fds: list[int],
    ) -> int:
        self.selector.close()
        self.requests.close()
        for copy in self.copies.values():
            copy.answers.close()
            os.close(copy.pidfd)
            if copy.parent is not None:
                os.close(copy.parent)
        with answers:
            if answers.recv(1) != _GO:
                os._exit(0)
        signal.signal(signal.SIGINT, self.interrupt)
        requests, *rest = fds
        for stream in range(3):
            if stream in streams:
                fd = rest.pop(0)
                os.dup2(fd, stream)
                os.close(fd)
            else:
                with contextlib.suppress(OSError):
                    os.close(stream)
        payload, sentinel, *_forkserver._inherited_fds = rest
        _forkserver._requests = socket.socket(fileno=requests)
        _native.set_parent(requester)
        _native.take_over(shares)
        return serve(payload, Requester(sentinel, template))


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
set_forkserver_preload = _forkserver.set_forkserver_preload
