//! `procession.queues`: messages between processes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use procession_shm::arena::Kind;
use procession_shm::queue::{self, JoinError, QueueError};
use procession_shm::wait::{Deadline, Stopped, Waiting};
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::errors::{OwnerDiedError, arena_error, handle, opening};
use crate::objects::{Made, Truth};
use crate::pickling::{append, decode, encode, peek, queue_error, split};
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
    /// Why the message behind the last that `get_many` gave could not be unpickled. Used with the
    /// interpreter attached and left before anything else runs, so no fork finds it locked.
    spoilt: Mutex<Option<PyErr>>,
}

/// The parts of a task: the pickled function, the arguments, the keywords.
type TaskParts<'py> = (Bound<'py, PyBytes>, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

/// A pool's task: its number and its bytes.
type Task<'py> = (u64, Bound<'py, PyBytes>);

/// What a wait for a message gave.
type Got = Result<(u8, u64, Vec<u8>), QueueError>;

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
        self.spoilt.lock().expect(NO_PANIC).take().map_or(Ok(()), Err)
    }

    /// Puts what needs no wait with the interpreter attached, which is most of what there is.
    fn put_bytes(
        &self,
        py: Python<'_>,
        kind: u8,
        message: &[u8],
        until: impl FnOnce() -> Deadline,
    ) -> PyResult<u64> {
        let queue = self.queue()?;
        if queue.most().is_none() && message.len() <= queue::INLINE_MOST {
            match queue.put(kind, message, Waiting::NOT) {
                // Somebody is at this end: that may last, if it was stopped there.
                Err(QueueError::Stopped(_)) => {}
                Err(QueueError::Arena(error)) => return Err(arena_error(error)),
                Ok(number) => return Ok(number),
            }
        }
        let waiting = Waiting { deadline: until(), interruptible: true };
        loop {
            match py.detach(|| queue.put(kind, message, waiting)) {
                Ok(number) => return Ok(number),
                Err(QueueError::Stopped(Stopped::TimedOut)) => return Err(queue_error(py, "Full")),
                Err(QueueError::Stopped(Stopped::Interrupted)) => look_around(py)?,
                Err(QueueError::Arena(error)) => return Err(arena_error(error)),
            }
        }
    }

    fn get_message(
        &self,
        py: Python<'_>,
        until: impl FnOnce() -> Deadline,
        claims: bool,
    ) -> PyResult<(u8, u64, Vec<u8>)> {
        let queue = self.queue()?;
        let mut message = Vec::new();
        let claim =
            if claims { Some(crate::arena::own()?.task().map_err(arena_error)?) } else { None };
        if let Some((kind, number)) = queue.get_at_once(&mut message, claim).map_err(arena_error)? {
            return Ok((kind, number, message));
        }
        let waiting = Waiting { deadline: until(), interruptible: true };
        loop {
            let got: Got = py.detach(|| {
                let mut message = Vec::new();
                let (kind, number) = match claim {
                    Some(claim) => queue.get_claiming(&mut message, claim, waiting)?,
                    None => queue.get(&mut message, waiting)?,
                };
                Ok((kind, number, message))
            });
            match got {
                Ok(got) => return Ok(got),
                Err(QueueError::Stopped(Stopped::TimedOut)) => {
                    return Err(queue_error(py, "Empty"));
                }
                Err(QueueError::Stopped(Stopped::Interrupted)) => look_around(py)?,
                Err(QueueError::Arena(error)) => return Err(arena_error(error)),
            }
        }
    }
}

/// Gives an object that can't be pickled to the queue's `_on_queue_feeder_error`, as the standard library's
/// feeder thread does, if a subclass has made that its own; else that is the error of `put`.
fn hand_over(queue: &Bound<'_, Queue>, object: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let (py, name) = (queue.py(), "_on_queue_feeder_error");
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
    let mut message = Vec::with_capacity(128);
    append(args, &mut message)?;
    if kwds.len()? > 0 {
        append(kwds, &mut message)?;
    } else {
        append(&py.None().into_bound(py), &mut message)?;
    }
    message.extend_from_slice(func.as_bytes());
    Ok(PyBytes::new(py, &message))
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
    Ok((PyBytes::new(py, rest), args, (!kwds.is_none()).then_some(kwds)))
}

/// The parts of a task, of which those that are pickled are left as they are: the pickled function; for
/// the arguments and the keywords, whether they are pickled, and they or their bytes.
#[pyfunction]
pub(crate) fn peek_task<'py>(
    py: Python<'py>,
    task: &Bound<'py, PyBytes>,
) -> PyResult<(Bound<'py, PyBytes>, Peeked<'py>, Peeked<'py>)> {
    let mut rest = task.as_bytes();
    let (args, kwds) = (peek(py, &mut rest)?, peek(py, &mut rest)?);
    Ok((PyBytes::new(py, rest), args, kwds))
}

type Peeked<'py> = (bool, Bound<'py, PyAny>);

/// What became of a task. It stays bytes until the caller that waits for it calls `load`, which may
/// run any code: what that raises concerns no other task.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct Outcome {
    #[pyo3(get)]
    number: u64,
    #[pyo3(get)]
    ok: bool,
    message: Vec<u8>,
}

impl Outcome {
    /// How many bytes the number and `ok` have.
    const HEAD: usize = 9;

    fn new(message: Vec<u8>) -> Self {
        match message.split_first_chunk::<8>() {
            Some((number, [ok, ..])) => {
                Self { number: u64::from_le_bytes(*number), ok: *ok != 0, message }
            }
            // No worker writes that: it is for no task, and costs those behind it nothing.
            _ => Self { number: u64::MAX, ok: false, message },
        }
    }
}

#[pymethods]
impl Outcome {
    /// The result, or what the worker tells of the failure.
    fn load<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        split(py, &mut self.message.get(Self::HEAD..).unwrap_or_default())
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
        let most = u64::try_from(maxsize).ok().filter(|&most| most > 0);
        let make = if joinable { queue::Queue::joinable } else { queue::Queue::new };
        self.queue.set(crate::waiting::make(py, |arena| make(arena, name, most))?)
    }

    fn __getstate__(&self) -> PyResult<String> {
        self.handle()
    }

    fn __setstate__(&self, state: &str) -> PyResult<()> {
        self.queue.set(queue::Queue::open(handle(state)?).map_err(opening(Kind::Queue))?)
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

    #[pyo3(signature = (obj, block=Truth(true), timeout=None), text_signature = "($self, obj, block=True, timeout=None)")]
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
            this.put_bytes(slf.py(), kind, message, || until(&block, timeout))
        });
        match put {
            Ok(_) => Ok(()),
            Err(error) if pickled => Err(error),
            Err(error) => hand_over(slf, obj, error),
        }
    }

    #[pyo3(signature = (block=Truth(true), timeout=None), text_signature = "($self, block=True, timeout=None)")]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        this.open_still(slf)?;
        this.not_spoilt()?;
        let (kind, _, message) = this.get_message(slf.py(), || until(&block, timeout), false)?;
        decode(slf.py(), kind, &message)
    }

    /// Puts all objects, in order; gives how many were put before a timeout.
    #[pyo3(signature = (objs, block=Truth(true), timeout=None), text_signature = "($self, objs, block=True, timeout=None)")]
    fn put_many(
        slf: &Bound<'_, Self>,
        objs: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let this = slf.get();
        this.open_still(slf)?;
        this.has_put.note_first();
        let mut messages = Vec::new();
        for object in objs.try_iter()? {
            messages.push(encode(&object?, |kind, bytes| Ok((kind, bytes.to_vec())))?);
        }
        let waiting = Waiting { deadline: until(&block, timeout), interruptible: true };
        let queue = this.queue()?;
        let mut put = 0;
        while put < messages.len() {
            let rest = messages[put..].iter().map(|(kind, bytes)| (*kind, bytes.as_slice()));
            match slf.py().detach(|| queue.put_many(rest, waiting)) {
                Ok(run) => put += run,
                Err(QueueError::Stopped(Stopped::Interrupted)) => look_around(slf.py())?,
                Err(QueueError::Stopped(Stopped::TimedOut)) if put > 0 => break,
                Err(QueueError::Stopped(Stopped::TimedOut)) => {
                    return Err(queue_error(slf.py(), "Full"));
                }
                Err(QueueError::Arena(error)) => return Err(arena_error(error)),
            }
        }
        Ok(put)
    }

    /// Gets up to `most` objects, waiting for the first alone. If one can't be unpickled, those before
    /// it are given, and the next call raises why.
    #[pyo3(signature = (most, block=Truth(true), timeout=None), text_signature = "($self, most, block=True, timeout=None)")]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        most: usize,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let this = slf.get();
        this.open_still(slf)?;
        this.not_spoilt()?;
        let py = slf.py();
        let mut objects = Vec::new();
        let mut message = Vec::new();
        while objects.len() < most {
            let (kind, bytes) = if objects.is_empty() {
                let (kind, _, bytes) = this.get_message(py, || until(&block, timeout), false)?;
                (kind, bytes)
            } else {
                message.clear();
                match this.queue()?.get_at_once(&mut message, None) {
                    Ok(Some((kind, _))) => (kind, std::mem::take(&mut message)),
                    // What was got is given; an error shows itself again at the next call.
                    Ok(None) | Err(_) => break,
                }
            };
            match decode(py, kind, &bytes) {
                Ok(object) => objects.push(object),
                Err(error)
                    if objects.is_empty() || error.is_instance_of::<PyKeyboardInterrupt>(py) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    *this.spoilt.lock().expect(NO_PANIC) = Some(error);
                    break;
                }
            }
        }
        Ok(objects)
    }

    /// Puts a pool's task, as `join_task` gave it, and enters `job` under its number into `jobs`: without
    /// a place in between for a signal handler that takes the outcome.
    fn _put_task(
        &self,
        task: &[u8],
        jobs: &Bound<'_, PyDict>,
        job: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        jobs.set_item(self.put_bytes(job.py(), SEVERAL, task, || None)?, job)
    }

    /// Gets a pool's task as (number, bytes); None for the end of all tasks. The number stands in this process's row from before the task is taken until `task_done`.
    fn _get_task<'py>(&self, py: Python<'py>) -> PyResult<Option<Task<'py>>> {
        let (kind, number, message) = self.get_message(py, || None, true)?;
        if kind != SEVERAL {
            return Ok(None);
        }
        Ok(Some((number, PyBytes::new(py, &message))))
    }

    /// Puts a task's outcome: its number, whether it went well, its result or exception.
    fn _put_result(&self, number: u64, ok: bool, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut message = Vec::with_capacity(64);
        message.extend_from_slice(&number.to_le_bytes());
        message.push(ok.into());
        append(value, &mut message)?;
        self.put_bytes(value.py(), SEVERAL, &message, || None).map(|_| ())
    }

    /// Gets up to `most` tasks' outcomes, waiting only for the first.
    #[pyo3(signature = (most, timeout=None))]
    fn _get_results(
        &self,
        py: Python<'_>,
        most: usize,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Outcome>> {
        let mut outcomes = vec![Outcome::new(self.get_message(py, || deadline(timeout), false)?.2)];
        let mut message = Vec::new();
        // What was got is returned; an error shows itself again at the next call.
        while outcomes.len() < most
            && matches!(self.queue()?.get_at_once(&mut message, None), Ok(Some(_)))
        {
            outcomes.push(Outcome::new(std::mem::take(&mut message)));
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

    fn qsize(&self) -> PyResult<u64> {
        Ok(self.queue()?.len())
    }

    /// Whether there is no object; an error where the standard library's queue has closed its pipe: in
    /// a process that has put something and then closed the queue.
    fn empty(&self) -> PyResult<bool> {
        if self.closed.is_so() && self.has_put.is_so() {
            return Err(PyOSError::new_err("handle is closed"));
        }
        Ok(self.queue()?.is_empty())
    }

    fn full(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_full())
    }

    /// Says that this process uses the queue no more.
    fn close(&self) {
        self.closed.note();
    }
}
