"""What checkers of types say of what only procession has, or has in another form.

Below a line is what they say of it; behind a `reveal_type` the type, where they agree.
"""

import ctypes
import multiprocessing.context
import multiprocessing.pool
import multiprocessing.sharedctypes

import procession
from procession.errors import PoolTerminatedError, RemoteExceptionError, WorkerDiedError
from procession.pool import AsyncResult
from procession.queues import JoinableQueue, Queue
from procession.states import BlockedOn, Member, ProcessState
from procession.synchronize import Lock

# Names: submodules are there without an import of their own.

reveal_type(procession.pool.Pool(2))  # Pool
procession.queues.nonexistent
# mypy: Module has no attribute "nonexistent" [attr-defined]
# pyright: "nonexistent" is not a known attribute of module ".queues" [reportAttributeAccessIssue]
procession.__version__.upper()
reveal_type(procession.install())  # None
reveal_type(procession.family())
# mypy: list[tuple[int, int, int, str, ProcessState, int | None, fallback=Member]]
# pyright: list[Member]
reveal_type(procession.family()[0].state.blocked_on)
# mypy: tuple[str, str | None, str | None, str | None, float, int | None, str | None, fallback=BlockedOn] | None
# pyright: BlockedOn | None

# Queues.

numbers: Queue[int] = procession.Queue(name="numbers")
reveal_type(numbers.handle)  # str
reveal_type(numbers.get_many(10))  # list[int]
reveal_type(numbers.put_many([1, 2]))  # int
reveal_type(Queue[int].open(numbers.handle).get())  # int
reveal_type(Queue[int](name="more").get())  # int
numbers.put_many(["one"])
# mypy: List item 0 has incompatible type "str"; expected "int" [list-item]
# pyright: Argument of type "list[str]" cannot be assigned to parameter "objs" of type "Iterable[int]" in function "put_many" [reportArgumentType]
numbers.get_many("10")
# mypy: Argument 1 to "get_many" of "Queue" has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['10']" cannot be assigned to parameter "max_count" of type "int" in function "get_many" [reportArgumentType]
procession.Queue(name=1)
# mypy: Argument "name" to "Queue" has incompatible type "int"; expected "str" [arg-type]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "name" of type "str" in function "__init__" [reportArgumentType]
tasks: Queue[str] = JoinableQueue[str]()

# Processes.


def work(number: int) -> float:
    return number / 2


process = procession.Process(target=work, die_with_parent=True, may_have_children=False)
reveal_type(process.state)  # ProcessState
reveal_type(process.terminate(tree=True))  # None
process.kill(tree="yes")
# mypy: Argument "tree" to "kill" of "Process" has incompatible type "str"; expected "bool" [arg-type]
# pyright: Argument of type "Literal['yes']" cannot be assigned to parameter "tree" of type "bool" in function "kill" [reportArgumentType]
process.interrupt(1)
# mypy: Too many arguments for "interrupt" of "Process" [call-arg]
# pyright: Expected 0 positional arguments [reportCallIssue]
procession.Process(target=work, die_with_parent="yes")
# mypy: Argument "die_with_parent" to "Process" has incompatible type "str"; expected "bool | None" [arg-type]
# pyright: Argument of type "Literal['yes']" cannot be assigned to parameter "die_with_parent" of type "bool | None" in function "__init__" [reportArgumentType]

# Contexts: what a context's own is asked for is itself.

reveal_type(procession.get_start_method(allow_none=True))  # str | None
context = procession.get_context("fork")
reveal_type(context.get_context())  # ForkContext
reveal_type(context.get_context("spawn"))  # SpawnContext
reveal_type(context.Process(target=work).state)  # ProcessState
ours: multiprocessing.context.BaseContext = context
multiprocessing.pool.Pool(2, context=context)
procession.pool.Pool(2, context="fork")
# mypy: Argument "context" to "Pool" has incompatible type "str"; expected "BaseContext | None" [arg-type]
# pyright: Argument of type "Literal['fork']" cannot be assigned to parameter "context" of type "BaseContext | None" in function "__init__" [reportArgumentType]
procession.set_forkserver_preload(["numpy"], on_error="warn")
procession.set_forkserver_preload(["numpy"], on_error="shout")
# mypy: Argument "on_error" has incompatible type "Literal['shout']"; expected "Literal['ignore', 'warn', 'fail']" [arg-type]
# pyright: Argument of type "Literal['shout']" cannot be assigned to parameter "on_error" of type "Literal['ignore', 'warn', 'fail']" in function "set_forkserver_preload" [reportArgumentType]

# Pools.

with procession.Pool(2) as pool:
    reveal_type(pool.apply_async(work, (1,)))  # AsyncResult[float]
    wrong: AsyncResult[str] = pool.apply_async(work, (1,))
    # mypy: Argument 1 to "apply_async" of "Pool" has incompatible type "Callable[[int], float]"; expected "Callable[..., str]" [arg-type]
    # pyright: Type "AsyncResult[float]" is not assignable to declared type "AsyncResult[str]" [reportAssignmentType]
    reveal_type(pool.starmap_async(work, [(1,)]))  # MapResult[float]
    reveal_type(pool.imap_unordered(work, [1]))  # IMapUnorderedIterator[float]
    pool.imap(work, [1], chunksize=None)
    # mypy: Argument "chunksize" to "imap" of "Pool" has incompatible type "None"; expected "int" [arg-type]
    # pyright: Argument of type "None" cannot be assigned to parameter "chunksize" of type "int" in function "imap" [reportArgumentType]

# Values and arrays: without a lock they are what they hold.

reveal_type(procession.Value(ctypes.c_int, lock=False))  # c_int
reveal_type(procession.Array(ctypes.c_int, 3, lock=False))  # Array[c_int]
value = procession.Value(ctypes.c_int)
theirs: multiprocessing.sharedctypes.Synchronized[int] = value
reveal_type(value.get_lock())  # Lock | RLock


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_double),)


reveal_type(procession.Value(Point).get_obj())  # Point

# Locks and their kin.

lock = procession.Lock(name="lock", on_owner_death="recover")
reveal_type(lock.handle)  # str
reveal_type(lock.locked())  # bool
procession.Lock(on_owner_death="retry")
# mypy: Argument "on_owner_death" has incompatible type "Literal['retry']"; expected "Literal['raise', 'recover']" [arg-type]
# pyright: Argument of type "Literal['retry']" cannot be assigned to parameter "on_owner_death" of type "OnOwnerDeath" in function "Lock" [reportArgumentType]
Lock(on_owner_death="retry")
# mypy: Argument "on_owner_death" to "Lock" has incompatible type "Literal['retry']"; expected "Literal['raise', 'recover']" [arg-type]
# pyright: Argument of type "Literal['retry']" cannot be assigned to parameter "on_owner_death" of type "OnOwnerDeath" in function "__init__" [reportArgumentType]
procession.Semaphore(2, recover=1.5)
# mypy: Argument "recover" has incompatible type "float"; expected "bool" [arg-type]
# pyright: Argument of type "float" cannot be assigned to parameter "recover" of type "bool" in function "Semaphore" [reportArgumentType]
reveal_type(procession.Condition().wait_for(lambda: [1]))  # list[int]
with lock:
    pass

# Errors.


def explain(error: Exception) -> None:
    if isinstance(error, WorkerDiedError):
        reveal_type(error.pid)  # int
        reveal_type(error.signal)  # Signals | None
        reveal_type(error.call)  # str
    if isinstance(error, RemoteExceptionError):
        reveal_type(error.reason)  # str
    if isinstance(error, procession.OwnerDiedError):
        reveal_type(error.pid)  # int | None
        reveal_type(error.kind)  # str | None
    if isinstance(error, procession.StaleHandleError):
        reveal_type(error.handle)  # str | None
    if isinstance(error, PoolTerminatedError):
        raise procession.ProcessError from error


def show(member: Member, state: ProcessState, blocked: BlockedOn) -> None:
    reveal_type(member.task)  # int | None
    reveal_type(state.blocked_on)
    # mypy: tuple[str, str | None, str | None, str | None, float, int | None, str | None, fallback=BlockedOn] | None
    # pyright: BlockedOn | None
    reveal_type(blocked.seconds)  # float
