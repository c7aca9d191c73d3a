"""Processes that begin as copies of one that is kept ready.

The *template* is an interpreter that has imported the main module and what
`set_forkserver_preload` names, and waits, with one thread, for requests. A request is one message
on a socket, with descriptors: the payload (`procession.spawn`), the standard streams, what else the
child needs, and a socket of its own for the answer. The copy begins when the requester says so on
that socket, so a request whose answer got lost has no effect, and is simply made again.

The template is the copies' parent: it tells on the same socket how each ended, and ends those that
are daemons when the requester has died. All processes that came of one family may send requests;
the template leaves when the last of them has gone.

Killed at any step, it holds up nobody: a process that has the socket for requests has the
template's pidfd as well, and waits for both. A copy whose template was killed before it answered
keeps the answer's socket open; the requester shuts that down, so that the copy leaves, and asks
another template.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import pickle
import select
import selectors
import signal
import socket
import struct
import sys
import threading
from multiprocessing import util
from multiprocessing.process import BaseProcess, current_process

from . import _native
from .process import dies_with_parent, serve_as_copy
from .spawn import (
    PreparedPopen,
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

_MAX_FDS = 250
"""Descriptors that go with one message; the kernel takes 253."""

_PARENT = 2
"""Which of the descriptors of a request is the requester's pidfd."""

_MAX_TEMPLATES = 2
"""How many templates may be lost over one request."""

_TEMPLATE_PAYLOAD, _TEMPLATE_SOCKET = 4, 5


class PassedFd:
    """A descriptor that goes to the child, by its place among those that do."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        fds = get_inherited_fds()
        assert fds is not None
        return fds[self.index]


class ForkServerPopen(PreparedPopen):
    """A process that was started as a copy of the template."""

    method = "forkserver"
    DupFd = PassedFd

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


class Link:
    """The way to a template. It is closed when nobody uses it any more.

    One thread may find that the template is gone while others still use the descriptors, whose
    numbers must not become those of something else.

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
        # What the template sent before it ended may have come behind the look at the socket.
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
        self._inherited_fds: list[int] | None = None
        self._link: Link | None = None
        self._template: _native.Child | None = None
        # Children of which nobody else takes the status once they have ended.
        self._left: list[_native.Child] = []
        # A signal handler may start a process while this thread starts the template.
        self._lock = threading.RLock()

    def set_forkserver_preload(self, modules_names: list[str], *, on_error: str = "ignore") -> None:
        """Choose what the template imports, when it is started.

        Parameters
        ----------
        modules_names : list of str
            The modules; ``"__main__"`` is the program.
        on_error : {"ignore", "warn", "fail"}
            What follows if one can't be imported: nothing; an `ImportWarning`; or the error itself,
            with which the template ends.

        Raises
        ------
        TypeError
            If the names are no strings.
        ValueError
            If `on_error` is none of these.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        if on_error not in ("ignore", "warn", "fail"):
            raise ValueError(f"on_error must be 'ignore', 'warn', or 'fail', not {on_error!r}")
        self._preload_modules = modules_names
        self._preload_on_error = on_error

    def get_inherited_fds(self) -> list[int] | None:
        """Return the descriptors that came with this process; None if it was not started so."""
        return self._inherited_fds

    def ensure_running(self) -> Link:
        """Start the template unless it is there; return the way to it."""
        with self._lock:
            self._reap()
            if self._link is None:
                link, template = self._start()
                if self._link is None:
                    self._link, self._template = link, template
                else:
                    # A signal handler was faster. This one leaves, since nobody can reach it.
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
                    code = f"procession.forkserver import main; main({slot})"
                    fds = [payload, theirs.fileno()]
                    template = start_program(interpreter_command(code), slot, fds)
                finally:
                    os.close(payload)
            # Without a way to it, it leaves.
            self._left.append(template)
            link = Link(ours, os.dup(template.fileno()))
            self._left.remove(template)
        except BaseException:
            ours.close()
            raise
        atexit.register(self._leave)
        # Without a way to it, it leaves by itself.
        template.keep()
        return link, template

    def _leave(self) -> None:
        """Need the template no more."""
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
            # Its sockets close a moment before it is over. Who comes next takes its status.
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
        """Be the requester's side in a copy of the process, whose children are another's."""
        # Another thread may have held it.
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
            If the template ends before it answers, and so does the one that takes its place.
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
                    for at in range(0, len(everything), _MAX_FDS):
                        _send(answers, b"f", everything[at : at + _MAX_FDS])
                    header = _REQUEST.pack(shares, len(everything), daemon)
                    if not _send_request(link, header + bytes(streams), theirs.fileno()):
                        return None
                child = _take_answer(link, answers, shares)
                if child is not None:
                    with contextlib.suppress(OSError):
                        _send(answers, _GO)
                    begins = True
                return child
            except BaseException:
                if child is not None:
                    # A signal handler has raised; nobody else knows of the child.
                    child.signal(signal.SIGKILL)
                    self._left.append(child)
                raise
            finally:
                if not begins:
                    # Closing is not enough: what another thread has forked meanwhile has it, too.
                    with contextlib.suppress(OSError):
                        answers.shutdown(socket.SHUT_RDWR)


def _send_request(link: Link, message: bytes, answers: int) -> bool:
    """Send a request; return False if the template is gone."""
    while link.is_ready(link.requests, select.POLLOUT):
        try:
            _send(link.requests, message, [answers], socket.MSG_DONTWAIT)
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
        answer, pidfds, _, _ = _receive(answers, _ANSWER.size, 1)
    except ConnectionResetError:
        return None
    if not answer:
        return None
    pid, slot = _ANSWER.unpack(answer)
    if pid < 0:
        raise OSError(-pid, f"the forkserver can't fork: {os.strerror(-pid)}")
    if not pidfds:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    report = os.dup(answers.fileno())
    return _native.follow(pid, slot or None, shares, pidfds[0], report)


def _how_it_ended(template: _native.Child | None) -> str:
    """Return how a template ended that is not there any more."""
    code = None if template is None else template.wait(0)
    if code is None:
        return "is gone"
    if code >= 0:
        return f"left with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


_LAST_STEPS = 1.0
"""Seconds that a template has to be over once its sockets are closed."""


def _send(
    sock: socket.socket, message: bytes, fds: list[int] | None = None, flags: int = 0
) -> None:
    """Send a message with descriptors, whatever this program has SIGPIPE do."""
    passed = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    )
    sock.sendmsg([message], passed, flags | socket.MSG_NOSIGNAL)


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
        from ._install import install

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
    # What stays in the streams would be written by each copy. A reader that is gone is no reason to
    # go, too.
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
    """The process that has a copy made, as the copy sees it."""

    def __init__(self, sentinel: int, template: int) -> None:
        self.sentinel = sentinel
        self.template = template

    def take_along(self) -> None:
        # The template sees to that, and the copy itself if the template dies before.
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
        # A number for the socket on which to answer, also that no other number is left.
        self.spare: int | None = os.dup(requests.fileno())
        self.selector = selectors.DefaultSelector()
        self.selector.register(requests, selectors.EVENT_READ, self._take_request)

    def serve(self) -> None:
        # Once nobody can make requests it stays for those whose end it is to see.
        with self.requests:
            while self.open or self.copies:
                for key, _ in self.selector.select():
                    key.data()

    def _take_request(self) -> None:
        if self.spare is not None:
            os.close(self.spare)
            self.spare = None
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
        try:
            self.spare = os.dup(self.requests.fileno())
        except OSError as error:
            _refuse(answers, error.errno or errno.EMFILE)
            return
        if owner != os.getuid() or len(message) < _REQUEST.size:
            answers.close()
            return
        shares, count, daemon = _REQUEST.unpack(message[: _REQUEST.size])
        streams = list(message[_REQUEST.size :])
        fds: list[int] = []
        try:
            while len(fds) < count:
                more, received, flags, _ = _receive(answers, 1, _MAX_FDS)
                fds += received
                if not more:
                    answers.close()
                    return
                if flags & socket.MSG_CTRUNC:
                    # There were not enough numbers left for them.
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
                parent = os.dup(fds[_PARENT])
            pid, pidfd, slot = _native.fork_for_another(lambda: serve_as_copy(be_the_copy))
        except Exception as error:
            # No descriptor or number is left, or no place in the family.
            if parent is not None:
                os.close(parent)
            _refuse(answers, getattr(error, "errno", None) or errno.EAGAIN)
            return
        copy = self.copies[pid] = Copy(pid, slot, pidfd, answers, parent)
        self.selector.register(pidfd, selectors.EVENT_READ, lambda: self._see_end(copy))
        if parent is not None:
            self.selector.register(parent, selectors.EVENT_READ, lambda: self._end_orphan(copy))
        with contextlib.suppress(OSError):
            # If nobody is there any more, the copy sees that for itself.
            _send(answers, _ANSWER.pack(pid, slot or 0), [pidfd])

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
        code = _take_status(copy.pid)
        self.selector.unregister(copy.pidfd)
        os.close(copy.pidfd)
        self._forget_parent(copy)
        del self.copies[copy.pid]
        with copy.answers:
            try:
                _send(copy.answers, struct.pack("i", code))
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
        _forkserver._inherited_fds = rest
        _forkserver._link = Link(socket.socket(fileno=requests), template_sentinel)
        _native.set_parent(requester)
        _native.take_over(shares)
        return serve(payload, Requester(sentinel, template))


def _may_begin(answers: socket.socket, requester: int) -> bool:
    """Wait for the word to begin; return False if the requester won't say it."""
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    # It is the only one to tell of the requester's death if a copy of that has the socket, too.
    poll.register(requester, select.POLLIN)
    poll.poll()
    try:
        # A requester that has died may have said it before.
        return answers.recv(len(_GO), socket.MSG_DONTWAIT) == _GO
    except OSError:
        return False


def _refuse(answers: socket.socket, number: int) -> None:
    """Answer that there is no copy, and why."""
    with answers, contextlib.suppress(OSError):
        _send(answers, _ANSWER.pack(-number, 0))


def _take_status(pid: int) -> int:
    """Wait for a child; return its exit code, 255 if somebody else has taken its status."""
    try:
        status = os.waitid(os.P_PID, pid, os.WEXITED)
    except ChildProcessError:
        # What was preloaded may have the kernel reap.
        return 255
    assert status is not None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


_forkserver = ForkServer()
os.register_at_fork(after_in_child=_forkserver._after_fork)
ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
set_forkserver_preload = _forkserver.set_forkserver_preload
