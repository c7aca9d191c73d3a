"""What checkers of types say of a program that uses what `multiprocessing` has as well.

Below a line is what they say of it; behind a `reveal_type` the type, where they agree. They must
say the same of the program with `multiprocessing` in the place of `procession`.
"""

import ctypes
from collections.abc import Iterator

import procession as mp
import procession.pool
from procession.connection import Client, Connection, Listener, wait
from procession.context import BaseContext
from procession.dummy import Pool as DummyPool
from procession.managers import BaseManager, DictProxy, ListProxy, Namespace, SyncManager
from procession.pool import AsyncResult, MapResult, ThreadPool
from procession.process import BaseProcess
from procession.queues import JoinableQueue, Queue, SimpleQueue
from procession.reduction import ForkingPickler
from procession.shared_memory import ShareableList, SharedMemory
from procession.synchronize import Event, Lock
from procession.util import Finalize

# Names.

mp.nonexistent
# mypy: Module has no attribute "nonexistent" [attr-defined]
# pyright: "nonexistent" is not a known attribute of module "procession" [reportAttributeAccessIssue]
mp.get_contexts()
# mypy: Module has no attribute "get_contexts"; maybe "get_context"? [attr-defined]
# pyright: "get_contexts" is not a known attribute of module "procession" [reportAttributeAccessIssue]
reveal_type(mp.cpu_count())  # int
reveal_type(mp.active_children())  # list[BaseProcess]
reveal_type(mp.current_process())  # BaseProcess
reveal_type(mp.parent_process())  # BaseProcess | None
reveal_type(mp.get_logger())  # Logger
reveal_type(mp.get_all_start_methods())  # list[str]
reveal_type(mp.get_start_method())  # str
reveal_type(mp.TimeoutError("late"))  # TimeoutError

# Queues.

numbers: mp.Queue[int] = mp.Queue(10)
reveal_type(numbers)  # Queue[int]
reveal_type(numbers.get())  # int
reveal_type(numbers.get(timeout=1.5))  # int
reveal_type(numbers.get_nowait())  # int
reveal_type(numbers.qsize())  # int
numbers.put(1)
numbers.put("one")
# mypy: Argument 1 to "put" of "Queue" has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['one']" cannot be assigned to parameter "obj" of type "int" in function "put" [reportArgumentType]
numbers.put_nowait(b"one")
# mypy: Argument 1 to "put_nowait" of "Queue" has incompatible type "bytes"; expected "int" [arg-type]
# pyright: Argument of type "Literal[b"one"]" cannot be assigned to parameter "obj" of type "int" in function "put_nowait" [reportArgumentType]
numbers.get(timeout="1")
# mypy: Argument "timeout" to "get" of "Queue" has incompatible type "str"; expected "float | None" [arg-type]
# pyright: Argument of type "Literal['1']" cannot be assigned to parameter "timeout" of type "float | None" in function "get" [reportArgumentType]
numbers.put(1, block="no")
# mypy: Argument "block" to "put" of "Queue" has incompatible type "str"; expected "bool" [arg-type]
# pyright: Argument of type "Literal['no']" cannot be assigned to parameter "block" of type "bool" in function "put" [reportArgumentType]
numbers.nonexistent()
# mypy: "Queue[int]" has no attribute "nonexistent" [attr-defined]
# pyright: Cannot access attribute "nonexistent" for class "Queue[int]" [reportAttributeAccessIssue]
mp.Queue(maxsize="10")
# mypy: Argument "maxsize" to "Queue" has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['10']" cannot be assigned to parameter "maxsize" of type "int" in function "__init__" [reportArgumentType]
reveal_type(mp.SimpleQueue())
# mypy: SimpleQueue[Never]
# pyright: SimpleQueue[Unknown]

tasks: JoinableQueue[str] = mp.JoinableQueue()
reveal_type(tasks.get())  # str
tasks.put(1)
# mypy: Argument 1 to "put" of "Queue" has incompatible type "int"; expected "str" [arg-type]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "obj" of type "str" in function "put" [reportArgumentType]
tasks.task_done()
tasks.join(1)
# mypy: Too many arguments for "join" of "JoinableQueue" [call-arg]
# pyright: Expected 0 positional arguments [reportCallIssue]

simple: SimpleQueue[bytes] = mp.SimpleQueue()
reveal_type(simple.get())  # bytes
simple.put("text")
# mypy: Argument 1 to "put" of "SimpleQueue" has incompatible type "str"; expected "bytes" [arg-type]
# pyright: Argument of type "Literal['text']" cannot be assigned to parameter "obj" of type "bytes" in function "put" [reportArgumentType]
simple.get(timeout=1)
# mypy: Unexpected keyword argument "timeout" for "get" of "SimpleQueue" [call-arg]
# pyright: No parameter named "timeout" [reportCallIssue]


def drain(queue: Queue[int]) -> list[int]:
    return [queue.get() for _ in range(queue.qsize())]


drain(numbers)
drain(tasks)
# mypy: Argument 1 to "drain" has incompatible type "JoinableQueue[str]"; expected "Queue[int]" [arg-type]
# pyright: Argument of type "JoinableQueue[str]" cannot be assigned to parameter "queue" of type "Queue[int]" in function "drain" [reportArgumentType]


# Processes.


def work(number: int, name: str = "") -> float:
    return number / 2


def pair(first: int, second: str) -> tuple[int, str]:
    return first, second


class Worker(mp.Process):
    def __init__(self, queue: Queue[int]) -> None:
        super().__init__(name="worker", daemon=True)
        self.queue = queue

    def run(self) -> None:
        reveal_type(self.queue.get())  # int
        reveal_type(self.name)  # str


process = mp.Process(target=work, args=(1,), kwargs={"name": "one"}, daemon=True)
reveal_type(process)  # Process
reveal_type(process.pid)  # int | None
reveal_type(process.exitcode)  # int | None
reveal_type(process.sentinel)  # int
reveal_type(process.is_alive())  # bool
reveal_type(process.start())  # None
reveal_type(process.join(1))  # None
process.join("1")
# mypy: Argument 1 to "join" of "BaseProcess" has incompatible type "str"; expected "float | None" [arg-type]
# pyright: Argument of type "Literal['1']" cannot be assigned to parameter "timeout" of type "float | None" in function "join" [reportArgumentType]
process.exitcode = 3
# mypy: Property "exitcode" defined in "BaseProcess" is read-only [misc]
# pyright: Cannot assign to attribute "exitcode" for class "Process" [reportAttributeAccessIssue]
process.nonexistent
# mypy: "Process" has no attribute "nonexistent" [attr-defined]
# pyright: Cannot access attribute "nonexistent" for class "Process" [reportAttributeAccessIssue]
mp.Process(target=1)
# mypy: Argument "target" to "Process" has incompatible type "int"; expected "Callable[..., object] | None" [arg-type]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "target" of type "((...) -> object) | None" in function "__init__" [reportArgumentType]
mp.Process(targets=work)
# mypy: Unexpected keyword argument "targets" for "Process"; did you mean "target"? [call-arg]
# pyright: No parameter named "targets" [reportCallIssue]
mp.Process(target=work, args=1)
# mypy: Argument "args" to "Process" has incompatible type "int"; expected "Iterable[Any]" [arg-type]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "args" of type "Iterable[Any]" in function "__init__" [reportArgumentType]
mp.Process(target=work, daemon="yes")
# mypy: Argument "daemon" to "Process" has incompatible type "str"; expected "bool | None" [arg-type]
# pyright: Argument of type "Literal['yes']" cannot be assigned to parameter "daemon" of type "bool | None" in function "__init__" [reportArgumentType]
Worker([1])
# mypy: Argument 1 to "Worker" has incompatible type "list[int]"; expected "Queue[int]" [arg-type]
# pyright: Argument of type "list[int]" cannot be assigned to parameter "queue" of type "Queue[int]" in function "__init__" [reportArgumentType]
reveal_type(Worker(numbers).queue)  # Queue[int]
base: BaseProcess = process

# Contexts.

reveal_type(mp.get_context())  # DefaultContext
reveal_type(mp.get_context("fork"))  # ForkContext
reveal_type(mp.get_context("spawn"))  # SpawnContext
reveal_type(mp.get_context("forkserver"))  # ForkServerContext
mp.get_context("thread").Process
# mypy: "BaseContext" has no attribute "Process" [attr-defined]
# pyright: Cannot access attribute "Process" for class "BaseContext" [reportAttributeAccessIssue]
mp.get_context(1)
# mypy: No overload variant matches argument type "int" [call-overload]
# pyright: No overloads for "get_context" match the provided arguments [reportCallIssue]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "method" of type "str" in function "get_context" [reportArgumentType]
mp.set_start_method(1)
# mypy: Argument 1 has incompatible type "int"; expected "str | None" [arg-type]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "method" of type "str | None" in function "set_start_method" [reportArgumentType]
mp.set_start_method("spawn", force=True)
context = mp.get_context("spawn")
reveal_type(context.Process(target=work, args=(1,)))  # SpawnProcess
reveal_type(context.Queue())  # Queue[Any]
reveal_type(context.Pool(2))  # Pool
reveal_type(context.get_start_method())  # str
context.nonexistent
# mypy: "SpawnContext" has no attribute "nonexistent" [attr-defined]
# pyright: Cannot access attribute "nonexistent" for class "SpawnContext" [reportAttributeAccessIssue]


def use(context: BaseContext) -> None:
    reveal_type(context.Lock())  # Lock
    reveal_type(context.Event())  # Event
    context.Process
    # mypy: "BaseContext" has no attribute "Process" [attr-defined]
    # pyright: Cannot access attribute "Process" for class "BaseContext" [reportAttributeAccessIssue]


# Pools.

with mp.Pool(2) as pool:
    reveal_type(pool)  # Pool
    reveal_type(pool.map(work, [1, 2]))  # list[float]
    reveal_type(pool.map(str, range(3)))  # list[str]
    reveal_type(pool.map(work, [1, 2], chunksize=1))  # list[float]
    reveal_type(pool.map_async(work, [1, 2]))  # MapResult[float]
    reveal_type(pool.map_async(work, [1, 2]).get())  # list[float]
    reveal_type(pool.starmap(pair, [(1, "one")]))  # list[tuple[int, str]]
    reveal_type(pool.starmap_async(pair, [(1, "one")]).get())  # list[tuple[int, str]]
    reveal_type(pool.imap(work, [1, 2]))  # IMapIterator[float]
    reveal_type(pool.imap(work, [1, 2]).next(timeout=1))  # float
    reveal_type(list(pool.imap_unordered(work, [1, 2], 10)))  # list[float]
    reveal_type(pool.apply(work, (1,)))  # float
    reveal_type(pool.apply_async(work, (1,)).get(1))  # float
    reveal_type(pool.apply_async(work, (1,)).ready())  # bool
    result: AsyncResult[float] = pool.apply_async(work, (1,), callback=print)
    results: MapResult[float] = pool.map_async(work, [1, 2], callback=print)
    iterator: Iterator[float] = pool.imap(work, [1, 2])
    texts: list[str] = pool.map(work, [1, 2])
    # mypy: Argument 1 to "map" of "Pool" has incompatible type "Callable[[int, str], float]"; expected "Callable[[int], str]" [arg-type]
    # pyright: Type "list[float]" is not assignable to declared type "list[str]" [reportAssignmentType]
    pool.map(work, ["one"])
    # mypy: Argument 1 to "map" of "Pool" has incompatible type "Callable[[int, str], float]"; expected "Callable[[str], float]" [arg-type]
    # pyright: Argument of type "list[str]" cannot be assigned to parameter "iterable" of type "Iterable[_S@map]" in function "map" [reportArgumentType]
    pool.map(work, 1)
    # mypy: Argument 2 to "map" of "Pool" has incompatible type "int"; expected "Iterable[int]" [arg-type]
    # pyright: Argument of type "Literal[1]" cannot be assigned to parameter "iterable" of type "Iterable[_S@map]" in function "map" [reportArgumentType]
    pool.map(1, [1])
    # mypy: Argument 1 to "map" of "Pool" has incompatible type "int"; expected "Callable[[int], Never]" [arg-type]
    # pyright: Argument of type "Literal[1]" cannot be assigned to parameter "func" of type "(_S@map) -> _T@map" in function "map" [reportArgumentType]
    pool.imap(work, ["one"])
    # mypy: Argument 1 to "imap" of "Pool" has incompatible type "Callable[[int, str], float]"; expected "Callable[[str], float]" [arg-type]
    # pyright: Argument of type "list[str]" cannot be assigned to parameter "iterable" of type "Iterable[_S@imap]" in function "imap" [reportArgumentType]
    pool.starmap(pair, [1])
    # mypy: List item 0 has incompatible type "int"; expected "Iterable[Any]" [list-item]
    # pyright: Argument of type "list[int]" cannot be assigned to parameter "iterable" of type "Iterable[Iterable[Any]]" in function "starmap" [reportArgumentType]
    pool.apply(work, 1)
    # mypy: Argument 2 to "apply" of "Pool" has incompatible type "int"; expected "Iterable[Any]" [arg-type]
    # pyright: Argument of type "Literal[1]" cannot be assigned to parameter "args" of type "Iterable[Any]" in function "apply" [reportArgumentType]
    pool.apply(work, (1,), kwds=[1])
    # mypy: Argument "kwds" to "apply" of "Pool" has incompatible type "list[int]"; expected "Mapping[str, Any]" [arg-type]
    # pyright: Argument of type "list[int]" cannot be assigned to parameter "kwds" of type "Mapping[str, Any]" in function "apply" [reportArgumentType]
    pool.apply_async(work, (1,), callback=str.upper)
    # mypy: Cannot infer value of type parameter "_T" of "apply_async" of "Pool" [misc]
    # pyright: Argument of type "(self: str) -> str" cannot be assigned to parameter "callback" of type "((_T@apply_async) -> object) | None" in function "apply_async" [reportArgumentType]
    pool.apply_async(work, (1,), error_callback=len)
    # mypy: Argument "error_callback" to "apply_async" of "Pool" has incompatible type "Callable[[Sized], int]"; expected "Callable[[BaseException], object] | None" [arg-type]
    # pyright: Argument of type "(obj: Sized, /) -> int" cannot be assigned to parameter "error_callback" of type "((BaseException) -> object) | None" in function "apply_async" [reportArgumentType]
    pool.map_async(work, [1], callback=str.upper)
    # mypy: Argument "callback" to "map_async" of "Pool" has incompatible type "Callable[[str], str]"; expected "Callable[[list[float]], object] | None" [arg-type]
    # pyright: Argument of type "(self: str) -> str" cannot be assigned to parameter "callback" of type "((list[_T@map_async]) -> object) | None" in function "map_async" [reportArgumentType]
    pool.map(work, [1], chunksize="1")
    # mypy: Argument "chunksize" to "map" of "Pool" has incompatible type "str"; expected "int | None" [arg-type]
    # pyright: Argument of type "Literal['1']" cannot be assigned to parameter "chunksize" of type "int | None" in function "map" [reportArgumentType]
    pool.nonexistent
    # mypy: "Pool" has no attribute "nonexistent" [attr-defined]
    # pyright: Cannot access attribute "nonexistent" for class "Pool" [reportAttributeAccessIssue]
mp.Pool("2")
# mypy: Argument 1 has incompatible type "str"; expected "int | None" [arg-type]
# pyright: Argument of type "Literal['2']" cannot be assigned to parameter "processes" of type "int | None" in function "Pool" [reportArgumentType]
mp.Pool(2, initializer=1)
# mypy: Argument "initializer" has incompatible type "int"; expected "Callable[..., object] | None" [arg-type]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "initializer" of type "((...) -> object) | None" in function "Pool" [reportArgumentType]
mp.Pool(initargs=1)
# mypy: Argument "initargs" has incompatible type "int"; expected "Iterable[Any]" [arg-type]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "initargs" of type "Iterable[Any]" in function "Pool" [reportArgumentType]
reveal_type(procession.pool.Pool(2).apply(pair, (1, "one")))  # tuple[int, str]
reveal_type(ThreadPool(2).map(work, [1]))  # list[float]
reveal_type(DummyPool(2))  # Any


class Tally(procession.pool.Pool):
    def count(self) -> int:
        return len(self.map(work, [1]))


with Tally(2) as tally:
    reveal_type(tally)  # Tally

# Values and arrays.

reveal_type(mp.Value(ctypes.c_int, 1))  # Synchronized[int]
reveal_type(mp.Value(ctypes.c_int, 1).value)  # int
reveal_type(mp.Value("i", 1))  # Synchronized[Any]
reveal_type(mp.Value("d").value)  # Any
reveal_type(mp.Value(ctypes.c_double, lock=True).value)  # float
reveal_type(mp.Value(ctypes.c_double, lock=mp.Lock()).value)  # float
reveal_type(mp.Value(ctypes.c_int).get_obj().value)  # int
reveal_type(mp.Array(ctypes.c_double, 10))  # SynchronizedArray[float]
reveal_type(mp.Array(ctypes.c_double, [1.5])[0])  # float
reveal_type(mp.Array(ctypes.c_double, [1.5])[:])  # list[float]
reveal_type(mp.Array("d", 10))  # SynchronizedArray[Any]
reveal_type(mp.Array(ctypes.c_char, 10).value)  # bytes
reveal_type(len(mp.Array("d", 10)))  # int
reveal_type(mp.RawValue(ctypes.c_int))  # c_int
reveal_type(mp.RawArray(ctypes.c_int, 3))  # Array[c_int]
reveal_type(mp.RawValue("i"))  # Any
mp.Value(ctypes.c_int).value = "one"
# mypy: Incompatible types in assignment (expression has type "str", variable has type "int") [assignment]
# pyright: Cannot assign to attribute "value" for class "Synchronized[int]" [reportAttributeAccessIssue]
mp.Array(ctypes.c_int, 3)[0] = "one"
# mypy: No overload variant of "__setitem__" of "SynchronizedArray" matches argument types "int", "str" [call-overload]
# pyright: No overloads for "__setitem__" match the provided arguments [reportCallIssue]
# pyright: Argument of type "Literal['one']" cannot be assigned to parameter "value" of type "int" in function "__setitem__" [reportArgumentType]
mp.Array(ctypes.c_int)
# mypy: No overload variant matches argument type "type[c_int]" [call-overload]
# pyright: No overloads for "Array" match the provided arguments [reportCallIssue]
mp.Array(ctypes.c_int, 3, mp.Lock())
# mypy: No overload variant matches argument types "type[c_int]", "int", "Lock" [call-overload]
# pyright: No overloads for "Array" match the provided arguments [reportCallIssue]
mp.Value(int, 1)
# mypy: Argument 1 has incompatible type "type[int]"; expected "type[_SimpleCData[Never]]" [arg-type]
# pyright: No overloads for "Value" match the provided arguments [reportCallIssue]
# pyright: Argument of type "type[int]" cannot be assigned to parameter "typecode_or_type" of type "str | type[_CData]" in function "Value" [reportArgumentType]
mp.Value("i", lock="yes")
# mypy: No overload variant matches argument types "str", "str" [call-overload]
# pyright: No overloads for "Value" match the provided arguments [reportCallIssue]
# pyright: Argument of type "Literal['yes']" cannot be assigned to parameter "lock" of type "_LockLike | bool" in function "Value" [reportArgumentType]
mp.RawArray(ctypes.c_int, 1.5)
# mypy: No overload variant matches argument types "type[c_int]", "float" [call-overload]
# pyright: No overloads for "RawArray" match the provided arguments [reportCallIssue]
# pyright: Argument of type "float" cannot be assigned to parameter "size_or_initializer" of type "int | Sequence[Any]" in function "RawArray" [reportArgumentType]

# Locks and their kin.

lock = mp.Lock()
reveal_type(lock)  # Lock
reveal_type(lock.acquire(timeout=1))  # bool
reveal_type(lock.release())  # None
reveal_type(mp.RLock())  # RLock
reveal_type(mp.Semaphore(2).get_value())  # int
reveal_type(mp.BoundedSemaphore(2))  # BoundedSemaphore
reveal_type(mp.Event().wait(1))  # bool
reveal_type(mp.Event().is_set())  # bool
reveal_type(mp.Condition())  # Condition
reveal_type(mp.Condition(lock).wait(1))  # bool
reveal_type(mp.Condition().wait_for(lambda: True, 1))  # bool
reveal_type(mp.Barrier(2).wait())  # int
reveal_type(mp.Barrier(2, action=print, timeout=1).n_waiting)  # int
with lock as held:
    reveal_type(held)  # bool
lock.acquire("yes")
# mypy: Argument 1 to "acquire" of "Lock" has incompatible type "str"; expected "bool" [arg-type]
# pyright: Argument of type "Literal['yes']" cannot be assigned to parameter "block" of type "bool" in function "acquire" [reportArgumentType]
lock.acquire(timeout="1")
# mypy: Argument "timeout" to "acquire" of "Lock" has incompatible type "str"; expected "float | None" [arg-type]
# pyright: Argument of type "Literal['1']" cannot be assigned to parameter "timeout" of type "float | None" in function "acquire" [reportArgumentType]
lock.release(1)
# mypy: Too many arguments for "release" of "Lock" [call-arg]
# pyright: Expected 0 positional arguments [reportCallIssue]
lock.nonexistent
# mypy: "Lock" has no attribute "nonexistent" [attr-defined]
# pyright: Cannot access attribute "nonexistent" for class "Lock" [reportAttributeAccessIssue]
mp.Semaphore("2")
# mypy: Argument 1 has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['2']" cannot be assigned to parameter "value" of type "int" in function "Semaphore" [reportArgumentType]
mp.Condition(mp.Event())
# mypy: Argument 1 has incompatible type "Event"; expected "Lock | RLock | None" [arg-type]
# pyright: Argument of type "Event" cannot be assigned to parameter "lock" of type "_LockLike | None" in function "Condition" [reportArgumentType]
mp.Condition().notify("1")
# mypy: Argument 1 to "notify" of "Condition" has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['1']" cannot be assigned to parameter "n" of type "int" in function "notify" [reportArgumentType]
mp.Barrier("2")
# mypy: Argument 1 has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['2']" cannot be assigned to parameter "parties" of type "int" in function "Barrier" [reportArgumentType]
mp.Barrier()
# mypy: Too few arguments [call-arg]
# pyright: Argument missing for parameter "parties" [reportCallIssue]


def signal(event: Event, guard: Lock) -> None:
    event.set(True)
    # mypy: Too many arguments for "set" of "Event" [call-arg]
    # pyright: Expected 0 positional arguments [reportCallIssue]
    guard.acquire(block=False)


signal(lock, lock)
# mypy: Argument 1 to "signal" has incompatible type "Lock"; expected "Event" [arg-type]
# pyright: Argument of type "Lock" cannot be assigned to parameter "event" of type "Event" in function "signal" [reportArgumentType]

# Connections.

left, right = mp.Pipe()
reveal_type(left)  # Connection[Any, Any]
reveal_type(left.recv())  # Any
reveal_type(left.recv_bytes())  # bytes
reveal_type(left.poll(1))  # bool
left.send_bytes("text")
# mypy: Argument 1 to "send_bytes" of "_ConnectionBase" has incompatible type "str"; expected "Buffer" [arg-type]
# pyright: Argument of type "Literal['text']" cannot be assigned to parameter "buf" of type "ReadableBuffer" in function "send_bytes" [reportArgumentType]
reveal_type(wait([left, right], timeout=1))  # list[_ConnectionBase[Any, Any] | socket | int]
reveal_type(Client(("localhost", 1), authkey=b"key"))  # Connection[Any, Any]
reveal_type(Listener().accept())  # Connection[Any, Any]
typed: Connection[int, str] = left
typed.send("one")
# mypy: Argument 1 to "send" of "_ConnectionBase" has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['one']" cannot be assigned to parameter "obj" of type "int" in function "send" [reportArgumentType]
reveal_type(typed.recv())  # str

# Managers.

with mp.Manager() as manager:
    reveal_type(manager)  # SyncManager
    reveal_type(manager.dict())  # DictProxy[Any, Any]
    reveal_type(manager.list([1]))  # ListProxy[int]
    reveal_type(manager.Queue())  # Queue[Any]
    reveal_type(manager.Namespace())  # Namespace
    reveal_type(manager.Value("i", 1))  # ValueProxy[int]
    shared: DictProxy[str, int] = manager.dict(one=1)
    items: ListProxy[int] = manager.list([1])
    reveal_type(shared["one"])  # int
    items.append("one")
    # mypy: Argument 1 to "append" of "BaseListProxy" has incompatible type "str"; expected "int" [arg-type]
    # pyright: Argument of type "Literal['one']" cannot be assigned to parameter "object" of type "int" in function "append" [reportArgumentType]
    shared[1] = 1
    # mypy: Invalid index type "int" for "DictProxy[str, int]"; expected type "str" [index]
    # pyright: Argument of type "Literal[1]" cannot be assigned to parameter "key" of type "str" in function "__setitem__" [reportArgumentType]
    manager.nonexistent
    # mypy: "SyncManager" has no attribute "nonexistent" [attr-defined]
    # pyright: Cannot access attribute "nonexistent" for class "SyncManager" [reportAttributeAccessIssue]


class Served(BaseManager):
    pass


Served.register("Namespace", Namespace)
reveal_type(Served(("localhost", 0), b"key"))  # Served
reveal_type(SyncManager().start())  # None

# The rest.

memory = SharedMemory(create=True, size=8)
reveal_type(memory.buf)  # memoryview[int] | None
SharedMemory(size="8")
# mypy: Argument "size" to "SharedMemory" has incompatible type "str"; expected "int" [arg-type]
# pyright: Argument of type "Literal['8']" cannot be assigned to parameter "size" of type "int" in function "__init__" [reportArgumentType]
reveal_type(ShareableList([1, 2])[0])  # int
reveal_type(ForkingPickler.dumps(1))  # memoryview[int]
Finalize(None, 1)
# mypy: No overload variant of "Finalize" matches argument types "None", "int" [call-overload]
# pyright: Argument of type "Literal[1]" cannot be assigned to parameter "callback" of type "(...) -> _R_co@Finalize" in function "__init__" [reportArgumentType]
