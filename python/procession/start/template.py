"""The forkserver's template: it makes a copy of itself for each request.

`procession.start.request` describes the messages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import selectors
import signal
import socket
import struct
import sys
from multiprocessing import util
from multiprocessing.process import current_process

from .. import _native
from .._install import install
from . import child, request
from .child import import_main_path, serve, serve_as_copy
from .request import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PAYLOAD, _SOCKET = child.PAYLOAD, child.FIRST_OTHER
"""The descriptors that the template is started with, beside the arena's."""


def main(slot: int) -> None:
    """Be the template.

    Parameters
    ----------
    slot : int
        What `_native.reserve` returned in the process that starts it.
    """
    _native.inherit(child.ARENA, slot)
    _native.drop_unopened()
    _native.begin("forkserver")
    # A descriptor that comes with a request must not get the number of a stream.
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    requests = socket.socket(fileno=_SOCKET)
    requests.set_inheritable(False)
    # From now on an interrupt at the terminal is for other processes.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(_PAYLOAD, "rb") as file:
        data, modules = pickle.load(file)
    _preload(data, modules)
    util._close_stdin()  # type: ignore[attr-defined]
    Template(requests, interrupt).serve()


def _preload(data: dict[str, Any], modules: list[str]) -> None:
    if data["installed"]:
        install()
    sys.path[:] = data["sys_path"]
    sys.argv = data["sys_argv"]
    on_error = data["on_error"]
    if "__main__" in modules and data["init_main_from_path"] is not None:
        current_process()._inheriting = True  # type: ignore[attr-defined]
        try:
            import_main_path(data["init_main_from_path"])
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # Each copy tries it itself, and reports why it fails.
            _handle_import_error(on_error, f"__main__ from {data['init_main_from_path']!r}", error)
        finally:
            del current_process()._inheriting  # type: ignore[attr-defined]
    for name in modules:
        if name != "__main__":
            try:
                __import__(name)
            except ImportError as error:
                _handle_import_error(on_error, f"module {name!r}", error)
    # What stays in the streams' buffers would be written by each copy. If their reader is gone, the
    # template goes on.
    with contextlib.suppress(OSError):
        util._flush_std_streams()  # type: ignore[attr-defined]


def _handle_import_error(on_error: str, what: str, error: BaseException) -> None:
    """Do what `set_forkserver_preload` was told to do about something that can't be imported."""
    if on_error == "fail":
        raise error
    if on_error == "warn":
        import warnings

        warnings.warn(f"Failed to preload {what}: {error}", ImportWarning, stacklevel=2)


class Requester:
    """The process that requested a copy, as the copy sees it."""

    def __init__(self, sentinel: int, template: int) -> None:
        self.sentinel = sentinel
        self.template = template

    def take_along(self) -> None:
        """Have this process end when the requester does."""
        # The template does that, or the copy itself if the template dies first.
        _native.die_with(os.dup(self.sentinel), self.template)


class Copy:
    """A child of the template."""

    def __init__(
        self,
        pid: int,
        slot: int | None,
        pidfd: int,
        answers: socket.socket,
        parent: int | None,
    ) -> None:
        self.pid = pid
        self.slot = slot
        self.pidfd = pidfd
        self.answers = answers
        self.parent = parent
        """The requester's pidfd, if the copy is to end with it."""


class Template:
    """The loop that serves requests."""

    def __init__(self, requests: socket.socket, interrupt: Any) -> None:
        self.requests = requests
        self.interrupt = interrupt
        self.open = True
        self.copies: dict[int, Copy] = {}
        # This keeps one descriptor number for the answer's socket, so that the template can also
        # answer that it has no number left.
        self.spare: int | None = os.dup(requests.fileno())
        self.selector = selectors.DefaultSelector()
        self.selector.register(requests, selectors.EVENT_READ, self._take_request)

    def serve(self) -> None:
        """Serve requests until no process can make any, and all copies have ended."""
        with self.requests:
            while self.open or self.copies:
                for key, _ in self.selector.select():
                    key.data()

    def _take_request(self) -> None:
        if self.spare is not None:
            os.close(self.spare)
            self.spare = None
        message, ancillary, _, _ = self.requests.recvmsg(
            request.REQUEST.size + 3,
            socket.CMSG_SPACE(4) + socket.CMSG_SPACE(request.CREDENTIALS.size),
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
                requester, owner, _ = request.CREDENTIALS.unpack(data)
        if answers is None:
            return
        try:
            self.spare = os.dup(self.requests.fileno())
        except OSError as error:
            _refuse(answers, error.errno or errno.EMFILE)
            return
        if owner != os.getuid() or len(message) < request.REQUEST.size:
            answers.close()
            return
        shares, count, daemon = request.REQUEST.unpack(message[: request.REQUEST.size])
        streams = list(message[request.REQUEST.size :])
        fds: list[int] = []
        try:
            while len(fds) < count:
                more, received, flags, _ = request.receive(answers, 1, request.MAX_FDS)
                fds += received
                if not more:
                    answers.close()
                    return
                if flags & socket.MSG_CTRUNC:
                    # There were not enough descriptor numbers left.
                    _refuse(answers, errno.EMFILE)
                    return
            self._copy(answers, requester, shares, daemon, streams, fds)
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

        parent: int | None = None
        try:
            if daemon:
                parent = os.dup(fds[request.PARENT])
            pid, pidfd, slot = _native.fork_for_another(lambda: serve_as_copy(be_the_copy))
        except Exception as error:
            # There is no descriptor or pid left, or no slot in the family.
            if parent is not None:
                os.close(parent)
            _refuse(answers, getattr(error, "errno", None) or errno.EAGAIN)
            return
        copy = self.copies[pid] = Copy(pid, slot, pidfd, answers, parent)
        self.selector.register(pidfd, selectors.EVENT_READ, lambda: self._see_end(copy))
        if parent is not None:
            self.selector.register(parent, selectors.EVENT_READ, lambda: self._end_orphan(copy))
        with contextlib.suppress(OSError):
            # If the requester is gone, the copy sees that for itself.
            request.send(answers, request.ANSWER.pack(pid, slot or 0), [pidfd])

    def _end_orphan(self, copy: Copy) -> None:
        """End a daemon after the death of its parent."""
        signal.pidfd_send_signal(copy.pidfd, signal.SIGKILL)
        self._forget_parent(copy)

    def _forget_parent(self, copy: Copy) -> None:
        if copy.parent is not None:
            self.selector.unregister(copy.parent)
            os.close(copy.parent)
            copy.parent = None

    def _see_end(self, copy: Copy) -> None:
        """Report how a copy ended."""
        code = _take_status(copy.pid)
        self.selector.unregister(copy.pidfd)
        os.close(copy.pidfd)
        self._forget_parent(copy)
        del self.copies[copy.pid]
        with copy.answers:
            try:
                request.send(copy.answers, struct.pack("i", code))
            except OSError:
                # Its parent ended before it.
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
        if self.spare is not None:
            os.close(self.spare)
        for copy in self.copies.values():
            copy.answers.close()
            os.close(copy.pidfd)
            if copy.parent is not None:
                os.close(copy.parent)
        requests, template_sentinel, sentinel, payload, *rest = fds
        with answers:
            if not _may_begin(answers, sentinel):
                os._exit(0)
        signal.signal(signal.SIGINT, self.interrupt)
        for stream in range(3):
            if stream in streams:
                fd = rest.pop(0)
                os.dup2(fd, stream)
                os.close(fd)
            else:
                with contextlib.suppress(OSError):
                    os.close(stream)
        child.inherited_fds = rest
        request._forkserver._link = Link(socket.socket(fileno=requests), template_sentinel)
        _native.set_parent(requester)
        _native.take_over(shares)
        return serve(payload, Requester(sentinel, template))


def _may_begin(answers: socket.socket, requester: int) -> bool:
    """Wait for the message to begin; return False if the requester won't send it."""
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    # Only the pidfd shows the requester's death if a copy of the requester has the socket, too.
    poll.register(requester, select.POLLIN)
    poll.poll()
    try:
        # A requester that has died may have sent it before.
        return answers.recv(len(request.GO), socket.MSG_DONTWAIT) == request.GO
    except OSError:
        return False


def _refuse(answers: socket.socket, number: int) -> None:
    """Answer that there is no copy, and why."""
    with answers, contextlib.suppress(OSError):
        request.send(answers, request.ANSWER.pack(-number, 0))


def _take_status(pid: int) -> int:
    """Wait for a child; return its exit code, 255 if its status was taken elsewhere."""
    try:
        status = os.waitid(os.P_PID, pid, os.WEXITED)
    except ChildProcessError:
        # A preloaded module may have set SIGCHLD so that the kernel reaps.
        return 255
    assert status is not None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
