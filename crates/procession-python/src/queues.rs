//! `procession.queues`: messages between processes.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use procession_shm::queue::{self, JoinError, QueueError};
use procession_shm::wait::{Deadline, Stopped, Waiting};
use pyo3::exceptions::{PyException, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::errors::{OwnerDiedError, arena_error, handle};
use crate::message::{
    BUFFER, Message, Room, View, extend, join_bytes, memory_error, new_bytes, new_count, new_list,
    new_tuple, no_memory,
};
use crate::objects::{Made, Truth};
use crate::pickling::{
    self, OBJECT_HEAD, decode, encode, object_head, peek, prepare_queues, queue_error, split,
    unpickling,
};
use crate::waiting::{deadline, look_around};

/// Something that is so in this process, and not in those that are forked from it.
#[derive(Default)]
struct InProcess {
    /// The process's number; 0 in none.
    pid: AtomicU32,
}

impl InProcess {
    fn note(&self) {
        self.pid.store(std::process::id(), Ordering::Relaxed);
    }

    /// As [`Self::note`], if it was so in no process yet: without a system call mostly, for `put`.
    fn note_first(&self) {
        if self.pid.load(Ordering::Relaxed) == 0 {
            self.note();
        }
    }

    fn is_so(&self) -> bool {
        let pid = self.pid.load(Ordering::Relaxed);
        pid != 0 && pid == std::process::id()
    }
}

/// A queue between processes, as `multiprocessing.Queue`, without feeder thread and pipe.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct Queue {
    queue: Made<queue::Queue>,
    closed: InProcess,
    /// Whether something was put.
    has_put: InProcess,
    kept: Kept,
    /// Why the message behind the last that `get_many` returned could not be unpickled, and the
    /// process that is to be told. Used with the interpreter attached and left before anything else
    /// runs, so no fork finds it locked.
    spoilt: Mutex<Option<(u32, PyErr)>>,
}

/// What this process got and could not return, oldest first: messages that there was no memory to
/// unpickle, and what a signal handler's exception came between.
#[derive(Default)]
struct Kept {
    /// How many there are; a hint in a copy of the process, which has none.
    count: AtomicUsize,
    /// Whether there is room for one more without an allocation.
    ready: AtomicBool,
    /// Used as `Queue::spoilt`.
    inner: Mutex<KeptMessages>,
}

#[derive(Default)]
struct KeptMessages {
    /// The process that they are for.
    pid: u32,
    messages: Vec<Message>,
    /// Messages that have been unpickled, with their numbers.
    objects: VecDeque<(u64, Py<PyAny>)>,
    /// What the next one goes into if there is no memory at all.
    reserve: Vec<u8>,
}

impl KeptMessages {
    fn len(&self) -> usize {
        self.messages.len() + self.objects.len()
    }
}

/// Something that was kept.
enum Again {
    Message(Message),
    Object(u64, Py<PyAny>),
}

/// How many gets try to unpickle a message that fails by no fault of its own: one that always fails
/// so does not keep those behind it from being got.
const MAX_TRIES: u32 = 10;

/// Why a message has no object.
enum NoObject {
    /// It is the message's doing, which is used up by it.
    Unreadable(PyErr),
    /// There was no memory for it; the message is kept, or the error says that it is not.
    NoMemory(PyErr),
    /// A signal handler has raised this; the message is kept.
    Interrupted(PyErr),
    /// A signal handler seems to have raised this while the message was unpickled; it is kept.
    Disturbed(PyErr),
}

impl From<NoObject> for PyErr {
    fn from(why: NoObject) -> Self {
        match why {
            NoObject::Unreadable(error)
            | NoObject::NoMemory(error)
            | NoObject::Interrupted(error)
            | NoObject::Disturbed(error) => error,
        }
    }
}

impl Kept {
    /// Makes room before a message is got, so that keeping it needs no memory when there is none.
    #[inline]
    fn prepare(&self) -> PyResult<()> {
        if self.ready.load(Ordering::Relaxed) { Ok(()) } else { self.make_ready() }
    }

    #[cold]
    fn make_ready(&self) -> PyResult<()> {
        let made = self.with(|kept| {
            kept.messages.try_reserve(1)?;
            kept.objects.try_reserve(1)?;
            kept.reserve.try_reserve_exact(queue::INLINE_MOST)
        });
        made.map_err(|_| no_memory("a message"))?;
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Calls `work` with what this process has; nothing that a copy of it has from the original.
    fn with<T>(&self, work: impl FnOnce(&mut KeptMessages) -> T) -> T {
        let mut kept = self.inner.lock().expect(NO_PANIC);
        let mut of_the_original = VecDeque::new();
        if kept.pid != std::process::id() {
            kept.messages.clear();
            of_the_original = std::mem::take(&mut kept.objects);
            kept.pid = std::process::id();
        }
        let result = work(&mut kept);
        self.count.store(kept.len(), Ordering::Relaxed);
        drop(kept);
        // Behind the lock, as it may run any code.
        drop(of_the_original);
        result
    }

    fn len(&self) -> usize {
        match self.count.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.with(|kept| kept.len()),
        }
    }

    #[inline]
    fn next(&self) -> Option<Again> {
        if self.count.load(Ordering::Relaxed) == 0 { None } else { self.take_oldest() }
    }

    #[cold]
    fn take_oldest(&self) -> Option<Again> {
        self.with(|kept| {
            let message = kept.messages.first().map(|message| message.number);
            match kept.objects.front() {
                Some(&(number, _)) if message.is_none_or(|message| number < message) => {
                    kept.objects.pop_front().map(|(number, object)| Again::Object(number, object))
                }
                _ => message.map(|_| Again::Message(kept.messages.remove(0))),
            }
        })
    }

    /// Keeps unpickled messages, in their place. This can't fail after [`Self::prepare`] unless
    /// other threads keep some at the same time and there is no memory.
    #[cold]
    fn keep_objects(&self, objects: Vec<(u64, Py<PyAny>)>) {
        self.ready.store(false, Ordering::Relaxed);
        let lost = self.with(|kept| {
            if kept.objects.is_empty() {
                kept.objects = objects.into();
            } else if kept.objects.try_reserve(objects.len()).is_ok() {
                kept.objects.extend(objects);
                kept.objects.make_contiguous().sort_unstable_by_key(|&(number, _)| number);
            } else {
                return objects;
            }
            Vec::new()
        });
        // Behind the lock, as it may run any code.
        drop(lost);
    }

    /// As [`Self::keep_objects`], for one, which needs no memory.
    #[cold]
    fn keep_object(&self, number: u64, object: Py<PyAny>) {
        self.ready.store(false, Ordering::Relaxed);
        let lost = self.with(|kept| {
            if kept.objects.try_reserve(1).is_err() {
                return Some(object);
            }
            let behind = kept.objects.iter().position(|&(other, _)| other > number);
            kept.objects.insert(behind.unwrap_or(kept.objects.len()), (number, object));
            None
        });
        drop(lost);
    }

    /// Makes a message independent of the buffer that it came in. If there is no memory for that,
    /// which can't be after [`Self::prepare`] unless other threads fail at the same time, it has
    /// only its first bytes.
    fn own(&self, room: Room<'_>) -> Message {
        let mut head = Vec::new();
        let needed = room.view().head.len();
        if head.try_reserve_exact(needed).is_err() {
            self.ready.store(false, Ordering::Relaxed);
            head = self.with(|kept| std::mem::take(&mut kept.reserve));
        }
        room.into_message(head)
    }

    /// Keeps a message, in its place.
    fn put_back(&self, message: Message) -> bool {
        self.ready.store(false, Ordering::Relaxed);
        self.with(|kept| {
            let has_room = kept.messages.try_reserve(1).is_ok();
            if has_room {
                let number = message.number;
                let behind = kept.messages.iter().position(|other| other.number > number);
                kept.messages.insert(behind.unwrap_or(kept.messages.len()), message);
            }
            has_room
        })
    }
}

/// The parts of a task: the pickled function, the arguments, the keywords.
type TaskParts<'py> = (Bound<'py, PyBytes>, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

/// A longer message is copied with the interpreter detached.
const LONG: usize = 64 << 10;

/// What becomes of a message that there is no memory for.
#[derive(Clone, Copy)]
enum NoMemory {
    /// It stays in the queue.
    Leave,
    /// It is taken without what is behind its head.
    Cut,
}

impl Queue {
    fn queue(&self) -> PyResult<&queue::Queue> {
        self.queue.get()
    }

    fn open_still(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        if self.closed.is_so() {
            let name = slf.repr()?;
            return Err(PyValueError::new_err(format!("Queue {name} is closed")));
        }
        Ok(())
    }

    fn not_spoilt(&self) -> PyResult<()> {
        match self.spoilt.lock().expect(NO_PANIC).take() {
            Some((pid, error)) if pid == std::process::id() => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts what needs no wait with the interpreter attached, which is most of what there is.
    fn put_parts(
        &self,
        py: Python<'_>,
        kind: u8,
        message: &[&[u8]],
        until: impl FnOnce() -> Deadline,
    ) -> PyResult<u64> {
        let queue = self.queue()?;
        // A handler that raises does so before the message is put, so what `put` raises was not
        // put.
        py.check_signals()?;
        let len: usize = message.iter().map(|part| part.len()).sum();
        if queue.most().is_none() && len <= queue::INLINE_MOST {
            match queue.put_parts(kind, message, Waiting::NOT) {
                // Somebody is at this end: that may last, if it was stopped there.
                Err(QueueError::Stopped(_)) => {}
                Err(error) => return Err(queue_failure(py, error, "Full")),
                Ok(number) => return Ok(number),
            }
        }
        let waiting = Waiting { deadline: until(), interruptible: true };
        loop {
            let mut raised = None;
            // A long message takes time to copy.
            let mut copied = || {
                let handled = Python::attach(|py| py.check_signals());
                handled.map_err(|error| {
                    raised = Some(error);
                    Stopped::Interrupted
                })
            };
            match py.detach(|| queue.put_unless(kind, message, waiting, &mut copied)) {
                Ok(number) => return Ok(number),
                Err(QueueError::Stopped(Stopped::Interrupted)) => match raised {
                    Some(error) => return Err(error),
                    None => look_around(py)?,
                },
                Err(error) => return Err(queue_failure(py, error, "Full")),
            }
        }
    }

    fn get_message(
        &self,
        py: Python<'_>,
        message: &mut Room<'_>,
        until: impl FnOnce() -> Deadline,
        claims: bool,
        without_memory: NoMemory,
    ) -> PyResult<()> {
        let queue = self.queue()?;
        self.kept.prepare()?;
        let claim =
            if claims { Some(crate::arena::own()?.task().map_err(arena_error)?) } else { None };
        loop {
            match queue.get_at_once(message, claim) {
                Ok(Some(got)) => {
                    message.received(got);
                    return Ok(());
                }
                Err(QueueError::NoMemory { number, len }) => {
                    without_memory.make_room(py, message, number, len)?;
                    if len > LONG {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => return Err(queue_failure(py, error, "Empty")),
            }
        }
        let waiting = Waiting { deadline: until(), interruptible: true };
        loop {
            let got = py.detach(|| match claim {
                Some(claim) => queue.get_claiming(message, claim, waiting),
                None => queue.get(message, waiting),
            });
            match got {
                Ok(got) => {
                    message.received(got);
                    return Ok(());
                }
                Err(QueueError::NoMemory { number, len }) => {
                    without_memory.make_room(py, message, number, len)?;
                }
                Err(QueueError::Stopped(Stopped::Interrupted)) => look_around(py)?,
                Err(error) => return Err(queue_failure(py, error, "Empty")),
            }
        }
    }

    /// As [`Self::get_message`] if there is one, and says so; what prevents it shows itself again
    /// at the next call.
    fn get_if_any(
        &self,
        py: Python<'_>,
        message: &mut Room<'_>,
        without_memory: NoMemory,
    ) -> PyResult<bool> {
        let queue = self.queue()?;
        if self.kept.prepare().is_err() {
            return Ok(false);
        }
        loop {
            match queue.get_at_once(message, None) {
                Ok(Some(got)) => {
                    message.received(got);
                    return Ok(true);
                }
                Err(QueueError::NoMemory { number, len })
                    if without_memory.make_room(py, message, number, len).is_ok() => {}
                Ok(None) | Err(_) => return Ok(false),
            }
        }
    }

    /// The object that a message is; the message is kept if that is not its own fault.
    #[inline]
    fn open<'py>(&self, py: Python<'py>, room: Room<'_>) -> Result<Bound<'py, PyAny>, NoObject> {
        match object_of(py, &room.view()) {
            Ok(object) => Ok(object),
            Err(NoObject::Unreadable(error)) => Err(NoObject::Unreadable(error)),
            Err(why) => Err(self.keep_for_later(py, self.kept.own(room), why)),
        }
    }

    /// As [`Self::open`], for one that was kept.
    #[cold]
    fn open_kept<'py>(
        &self,
        py: Python<'py>,
        message: Message,
    ) -> Result<Bound<'py, PyAny>, NoObject> {
        match object_of(py, &message.view()) {
            Ok(object) => Ok(object),
            Err(NoObject::Unreadable(error)) => Err(NoObject::Unreadable(error)),
            Err(why) => Err(self.keep_for_later(py, message, why)),
        }
    }

    /// Keeps a message, unless there was no memory for what it becomes too often; gives what is
    /// raised.
    #[cold]
    fn keep_for_later(&self, py: Python<'_>, mut message: Message, why: NoObject) -> NoObject {
        let (len, is_cut) = (message.view().len, message.view().is_cut());
        message.tries += u32::from(!matches!(why, NoObject::Interrupted(_)));
        let is_over = message.tries >= MAX_TRIES;
        let is_kept = !is_over && !is_cut && self.kept.put_back(message);
        let NoObject::NoMemory(error) = why else { return why };
        let fate = match (is_kept, is_over) {
            (true, _) => "which the next get() tries again",
            (false, true) => "which was tried so often that it is discarded",
            (false, false) => "which is lost",
        };
        let raised = no_memory(format_args!("what a message of {len} bytes becomes, {fate}"));
        raised.set_cause(py, Some(error));
        NoObject::NoMemory(raised)
    }

    /// Returns an object that was got. If a signal came meanwhile its handler runs here, while the
    /// object can be kept: what `get` raises has cost no message.
    #[inline]
    fn hand_out<'py>(
        &self,
        py: Python<'py>,
        number: u64,
        object: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match py.check_signals() {
            Ok(()) => Ok(object),
            Err(error) => {
                self.kept.keep_object(number, object.unbind());
                Err(error)
            }
        }
    }

    /// Takes and opens the messages that there are, up to `most`, waiting only for the first. What
    /// `objects` has when this fails is to be kept.
    fn get_objects(
        &self,
        py: Python<'_>,
        most: usize,
        until: impl Fn() -> Deadline,
        objects: &mut Vec<(u64, Py<PyAny>)>,
    ) -> PyResult<()> {
        let mut buffer = BUFFER;
        while objects.len() < most {
            if objects.try_reserve(1).is_err() {
                let none = objects.is_empty();
                return if none { Err(no_memory("a message")) } else { Ok(()) };
            }
            let (number, opened) = match self.kept.next() {
                Some(Again::Object(number, object)) => (number, Ok(object.into_bound(py))),
                Some(Again::Message(message)) => (message.number, self.open_kept(py, message)),
                None => {
                    let mut room = Room::new(&mut buffer, 0);
                    if objects.is_empty() {
                        self.get_message(py, &mut room, &until, false, NoMemory::Leave)?;
                    } else if !self.get_if_any(py, &mut room, NoMemory::Leave)? {
                        return Ok(());
                    }
                    (room.number, self.open(py, room))
                }
            };
            match opened {
                Ok(object) => objects.push((number, object.unbind())),
                Err(why) if objects.is_empty() => return Err(why.into()),
                // The message was kept.
                Err(NoObject::NoMemory(_)) => return Ok(()),
                Err(NoObject::Unreadable(error)) if error.is_instance_of::<PyException>(py) => {
                    *self.spoilt.lock().expect(NO_PANIC) = Some((std::process::id(), error));
                    return Ok(());
                }
                // What ends a program is not kept for a later get.
                Err(why) => return Err(why.into()),
            }
        }
        Ok(())
    }

    /// Puts all objects, and counts them in `put`.
    fn put_all(
        slf: &Bound<'_, Self>,
        objs: &Bound<'_, PyAny>,
        until: impl FnOnce() -> Deadline,
        put: &mut usize,
    ) -> PyResult<()> {
        /// After so many objects, or bytes, signals are looked for.
        const RUN: usize = 256;
        const RUN_BYTES: usize = 1 << 20;
        let (this, py) = (slf.get(), slf.py());
        this.open_still(slf)?;
        this.has_put.note_first();
        // One behind the other: where each ends, and what it is.
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for object in objs.try_iter()? {
            let kind = encode(&object?, |kind, message| {
                extend(&mut bytes, message)?;
                Ok(kind)
            })?;
            let count = ends.len();
            let room = ends.try_reserve(1);
            room.map_err(|_| no_memory(format_args!("more than {count} messages at once")))?;
            ends.push((kind, bytes.len()));
        }
        let waiting = Waiting { deadline: until(), interruptible: true };
        let queue = this.queue()?;
        while *put < ends.len() {
            py.check_signals()?;
            let mut start = put.checked_sub(1).map_or(0, |before| ends[before].1);
            let limit = start.saturating_add(RUN_BYTES);
            let run = ends[*put..].iter().take(RUN).take_while(|&&(_, end)| end <= limit).count();
            let run = ends[*put..].iter().take(run.max(1)).map(|&(kind, end)| {
                let message = &bytes[start..end];
                start = end;
                (kind, message)
            });
            match py.detach(|| queue.put_many(run, waiting)) {
                Ok(run) => *put += run,
                Err(QueueError::Stopped(Stopped::Interrupted)) => look_around(py)?,
                Err(QueueError::Stopped(Stopped::TimedOut)) if *put > 0 => break,
                Err(error) => return Err(queue_failure(py, error, "Full")),
            }
        }
        // Now, as it can be told here how many were put.
        py.check_signals()
    }
}

/// The object that a message is, or why it is none.
#[inline]
fn object_of<'py>(py: Python<'py>, message: &View<'_>) -> Result<Bound<'py, PyAny>, NoObject> {
    if message.len > queue::INLINE_MOST {
        // A signal that came while it was copied, before its handler interrupts the unpickling.
        py.check_signals().map_err(NoObject::Interrupted)?;
    }
    message.object(py).map_err(|error| reason(py, message, error))
}

/// Why a message could not be unpickled.
#[cold]
fn reason(py: Python<'_>, message: &View<'_>, error: PyErr) -> NoObject {
    if error.is_instance_of::<PyMemoryError>(py) {
        return NoObject::NoMemory(error);
    }
    // Only unpickling runs any code, and with it handlers.
    if message.is_pickled() {
        match comes_from_a_handler(py, message, &error) {
            Ok(false) => {}
            Ok(true) => return NoObject::Disturbed(error),
            // Such as another signal's.
            Err(another) => return NoObject::Disturbed(another),
        }
    }
    NoObject::Unreadable(error)
}

fn comes_from_a_handler(py: Python<'_>, message: &View<'_>, error: &PyErr) -> PyResult<bool> {
    let load = unpickling(py, &message.bytes(py)?)?;
    let judge = py.import("procession.decoding")?.getattr("comes_from_a_handler")?;
    judge.call1((load, error.value(py)))?.is_truthy()
}

/// An exception of `put_many`, with how many objects were put.
#[cold]
fn with_put(py: Python<'_>, error: PyErr, put: usize) -> PyErr {
    // An exception without room for it is raised as it is.
    let count = new_count(py, put as u64);
    let _ = count.and_then(|count| error.value(py).setattr(pickling::put(py), count));
    error
}

impl NoMemory {
    fn make_room(
        self,
        py: Python<'_>,
        message: &mut Room<'_>,
        number: u64,
        len: usize,
    ) -> PyResult<()> {
        match (message.enlarge(py, len), self) {
            (Err(_), Self::Cut) => message.cut(number),
            (made, _) => made?,
        }
        Ok(())
    }
}

/// What a queue's error is in Python; where the wait ended first, the named class of `queue`.
fn queue_failure(py: Python<'_>, error: QueueError, waited: &str) -> PyErr {
    match error {
        QueueError::Stopped(_) => queue_error(py, waited),
        QueueError::Arena(error) => arena_error(error),
        QueueError::NoMemory { .. } => memory_error(format_args!("{error}")),
    }
}

/// Gives an object that can't be pickled to the queue's `_on_queue_feeder_error`, as the standard
/// library's feeder thread does, if a subclass has made that its own; else that is the error of
/// `put`.
fn hand_over(queue: &Bound<'_, Queue>, object: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let (py, name) = (queue.py(), "_on_queue_feeder_error");
    if error.is_instance_of::<PyMemoryError>(py) {
        // The object can be pickled, and what follows needs memory.
        return Err(error);
    }
    let theirs = match queue.getattr_opt(name)? {
        Some(theirs) if error.is_instance_of::<PyException>(py) => theirs,
        _ => return Err(error),
    };
    let ours = py.import("procession.queues")?.getattr("Queue")?.getattr(name)?;
    if theirs.is(&ours) { Err(error) } else { theirs.call1((error, object)).map(|_| ()) }
}

/// A pool's task as bytes: the pickled function, the arguments, the keywords.
#[pyfunction]
pub(crate) fn join_task<'py>(
    func: &Bound<'py, PyBytes>,
    args: &Bound<'py, PyAny>,
    kwds: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = func.py();
    let none = py.None().into_bound(py);
    let kwds = if kwds.len()? > 0 { kwds } else { &none };
    encode(args, |args_kind, args| {
        encode(kwds, |kwds_kind, kwds| {
            let args_head = object_head(args_kind, args.len())?;
            let kwds_head = object_head(kwds_kind, kwds.len())?;
            join_bytes(py, &[&args_head, args, &kwds_head, kwds, func.as_bytes()])
        })
    })
}

/// The parts of a task that `_get_task` gave: the pickled function, the arguments, the keywords.
#[pyfunction]
pub(crate) fn split_task<'py>(
    py: Python<'py>,
    task: &Bound<'py, PyBytes>,
) -> PyResult<TaskParts<'py>> {
    let mut rest = task.as_bytes();
    let args = split(py, &mut rest)?;
    let kwds = split(py, &mut rest)?;
    Ok((new_bytes(py, rest)?, args, (!kwds.is_none()).then_some(kwds)))
}

/// The parts of a task, of which those that are pickled are left as they are: the pickled function;
/// for the arguments and the keywords, whether they are pickled, and they or their bytes.
#[pyfunction]
pub(crate) fn peek_task<'py>(
    py: Python<'py>,
    task: &Bound<'py, PyBytes>,
) -> PyResult<(Bound<'py, PyBytes>, Peeked<'py>, Peeked<'py>)> {
    let mut rest = task.as_bytes();
    let (args, kwds) = (peek(py, &mut rest)?, peek(py, &mut rest)?);
    Ok((new_bytes(py, rest)?, args, kwds))
}

type Peeked<'py> = (bool, Bound<'py, PyAny>);

/// What became of a task. It stays bytes until the caller that waits for it calls `load`, which may
/// run any code: what that raises concerns no other task.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct Outcome {
    number: u64,
    /// Whether the task went well and its result is here.
    #[pyo3(get)]
    ok: bool,
    message: Message,
}

/// How many bytes of an outcome come before those of the result: the task's number, whether it went
/// well, and the head of an object.
const OUTCOME_HEAD: usize = 8 + 1 + OBJECT_HEAD;

impl Outcome {
    fn new(message: Message) -> Self {
        let view = message.view();
        match view.head.split_first_chunk::<8>() {
            Some((number, [ok, ..])) => {
                let ok = *ok != 0 && !view.is_cut();
                Self { number: u64::from_le_bytes(*number), ok, message }
            }
            // No worker writes that: it is for no task, and costs those behind it nothing.
            _ => Self { number: u64::MAX, ok: false, message },
        }
    }
}

#[pymethods]
impl Outcome {
    #[getter]
    fn number<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        new_count(py, self.number)
    }

    /// Why what the worker told was not taken from the queue, if it was not.
    #[getter]
    fn lost(&self) -> Option<String> {
        let message = self.message.view();
        let len = message.len;
        message.is_cut().then(|| format!("no memory in this process for a result of {len} bytes"))
    }

    /// The result, or what the worker tells of the failure.
    fn load<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let message = self.message.view();
        let mut object = message.head.get(8 + 1..).unwrap_or_default();
        match message.rest(py) {
            // It is the bytes of the only object, whose kind is the first byte of its head.
            Some(rest) => {
                let kind = object.first().copied().unwrap_or(u8::MAX);
                decode(py, kind, rest.as_bytes(), Some(&rest))
            }
            None => split(py, &mut object),
        }
    }
}

/// The form of a pool's messages, which have several objects.
const SEVERAL: u8 = 255;

/// Nothing is called with one of our mutexes locked.
const NO_PANIC: &str = "nothing panics with this mutex locked";

fn until(block: &Truth, timeout: Option<f64>) -> Deadline {
    deadline(if block.0 { timeout } else { Some(0.0) })
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, **_kwds))]
    fn new(_args: &Bound<'_, PyTuple>, _kwds: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    #[pyo3(signature = (maxsize, name, *, joinable=false))]
    fn _make(&self, py: Python<'_>, maxsize: i64, name: &str, joinable: bool) -> PyResult<()> {
        prepare_queues(py)?;
        let most = u64::try_from(maxsize).ok().filter(|&most| most > 0);
        let make = if joinable { queue::Queue::joinable } else { queue::Queue::new };
        self.queue.set(crate::waiting::make(py, |arena| make(arena, name, most))?)
    }

    fn __getstate__(&self) -> PyResult<String> {
        self.handle()
    }

    fn __setstate__(&self, py: Python<'_>, state: &str) -> PyResult<()> {
        prepare_queues(py)?;
        self.queue.set(queue::Queue::open(handle(state)?).map_err(arena_error)?)
    }

    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.queue()?.handle().to_string())
    }

    #[getter]
    fn _maxsize(&self) -> PyResult<u64> {
        Ok(self.queue()?.most().unwrap_or(i32::MAX as u64))
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.closed.is_so()
    }

    #[pyo3(
        signature = (obj, block=Truth(true), timeout=None),
        text_signature = "($self, obj, block=True, timeout=None)"
    )]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let this = slf.get();
        this.open_still(slf)?;
        this.has_put.note_first();
        let mut pickled = false;
        let put = encode(obj, |kind, message| {
            pickled = true;
            this.put_parts(slf.py(), kind, &[message], || until(&block, timeout))
        });
        match put {
            Ok(_) => Ok(()),
            Err(error) if pickled => Err(error),
            Err(error) => hand_over(slf, obj, error),
        }
    }

    #[pyo3(
        signature = (block=Truth(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        this.open_still(slf)?;
        this.not_spoilt()?;
        let py = slf.py();
        let (number, object) = match this.kept.next() {
            None => {
                let mut buffer = BUFFER;
                let mut room = Room::new(&mut buffer, 0);
                this.get_message(py, &mut room, || until(&block, timeout), false, NoMemory::Leave)?;
                (room.number, this.open(py, room)?)
            }
            Some(Again::Message(message)) => (message.number, this.open_kept(py, message)?),
            Some(Again::Object(number, object)) => (number, object.into_bound(py)),
        };
        this.hand_out(py, number, object)
    }

    /// Puts all objects, in order; returns how many were put before a timeout. What this raises has
    /// that number as its attribute `put`.
    #[pyo3(signature = (objs, block=Truth(true), timeout=None), text_signature = "($self, objs, block=True, timeout=None)")]
    fn put_many<'py>(
        slf: &Bound<'py, Self>,
        objs: &Bound<'py, PyAny>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let mut put = 0;
        Self::put_all(slf, objs, || until(&block, timeout), &mut put)
            .and_then(|()| new_count(py, put as u64))
            .map_err(|error| with_put(py, error, put))
    }

    /// Gets up to `most` objects, waiting only for the first. If one can't be unpickled, those
    /// before it are returned, and the next call raises why. If this raises, no other object is
    /// lost.
    #[pyo3(signature = (most, block=Truth(true), timeout=None), text_signature = "($self, most, block=True, timeout=None)")]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        most: usize,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (this, py) = (slf.get(), slf.py());
        this.open_still(slf)?;
        this.not_spoilt()?;
        let mut objects = Vec::new();
        let got = this.get_objects(py, most, || until(&block, timeout), &mut objects);
        let list = got.and_then(|()| new_list(py, &objects));
        list.and_then(|list| py.check_signals().map(|()| list)).inspect_err(|_| {
            if !objects.is_empty() {
                this.kept.keep_objects(std::mem::take(&mut objects));
            }
        })
    }

    /// Puts a pool's task, as `join_task` gave it, and enters `job` under its number into `jobs`:
    /// without a place in between for a signal handler that takes the outcome.
    fn _put_task(
        &self,
        task: &[u8],
        jobs: &Bound<'_, PyDict>,
        job: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let number = self.put_parts(job.py(), SEVERAL, &[task], || None)?;
        jobs.set_item(new_count(job.py(), number)?, job)
    }

    /// Gets a pool's task as (number, bytes), or (number, MemoryError) if there is no memory for
    /// it; None for the end of all tasks. The number stands in this process's row from before the
    /// task is taken until `task_done`.
    fn _get_task<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let mut buffer = BUFFER;
        let mut room = Room::new(&mut buffer, 0);
        self.get_message(py, &mut room, || None, true, NoMemory::Cut)?;
        if room.kind != SEVERAL {
            return Ok(None);
        }
        let message = room.view();
        let task = if message.is_cut() {
            Err(no_memory(format_args!("a task of {} bytes", message.len)))
        } else {
            message.bytes(py)
        };
        let task = match task {
            Ok(task) => task.into_any(),
            Err(error) => error.into_value(py).into_bound(py).into_any(),
        };
        new_tuple(py, &mut [Some(new_count(py, room.number)?), Some(task)]).map(Some)
    }

    /// Puts a task's outcome: its number, whether it went well, its result or exception.
    fn _put_result(&self, number: u64, ok: bool, value: &Bound<'_, PyAny>) -> PyResult<()> {
        encode(value, |kind, bytes| {
            let head = object_head(kind, bytes.len())?;
            let message = [&number.to_le_bytes(), &[ok.into()][..], &head, bytes];
            self.put_parts(value.py(), SEVERAL, &message, || None).map(|_| ())
        })
    }

    /// Gets up to `most` tasks' outcomes, waiting only for the first. What there is no memory for
    /// is taken without its bytes.
    #[pyo3(signature = (most, timeout=None))]
    fn _get_results(
        &self,
        py: Python<'_>,
        most: usize,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        let mut buffer = BUFFER;
        // What was got is returned; an error shows itself again at the next call.
        while outcomes.len() < most {
            let mut room = Room::new(&mut buffer, OUTCOME_HEAD);
            if outcomes.is_empty() {
                let until = || deadline(timeout);
                self.get_message(py, &mut room, until, false, NoMemory::Cut)?;
            } else if outcomes.try_reserve(1).is_err()
                || !self.get_if_any(py, &mut room, NoMemory::Cut)?
            {
                break;
            }
            outcomes.push(Outcome::new(self.kept.own(room)));
        }
        Ok(outcomes)
    }

    /// Says that an object that was got has been dealt with.
    fn _task_done(&self) -> PyResult<()> {
        self.queue()?
            .task_done()
            .map_err(|_| PyValueError::new_err("task_done() called too many times"))
    }

    /// Waits until all objects that were put are done.
    fn _join(&self, py: Python<'_>) -> PyResult<()> {
        let (queue, waiting) = (self.queue()?, Waiting { interruptible: true, ..Waiting::FOREVER });
        loop {
            match py.detach(|| queue.join(waiting)) {
                Ok(()) => return Ok(()),
                Err(JoinError::Stopped(_)) => look_around(py)?,
                Err(lost) => return Err(OwnerDiedError::new_err(lost.to_string())),
            }
        }
    }

    /// How many objects were put into the queue so far.
    fn _put_count(&self) -> PyResult<u64> {
        Ok(self.queue()?.put_so_far())
    }

    /// How many objects were got from the queue so far.
    fn _got(&self) -> PyResult<u64> {
        Ok(self.queue()?.got())
    }

    fn qsize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        new_count(py, self.queue()?.len() + self.kept.len() as u64)
    }

    /// Whether there is no object; an error where the standard library's queue has closed its pipe:
    /// in a process that has put something and then closed the queue.
    fn empty(&self) -> PyResult<bool> {
        if self.closed.is_so() && self.has_put.is_so() {
            return Err(PyOSError::new_err("handle is closed"));
        }
        Ok(self.queue()?.is_empty() && self.kept.len() == 0)
    }

    fn full(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_full())
    }

    /// Says that this process uses the queue no more.
    fn close(&self) {
        self.closed.note();
    }
}
