//! `procession.queues`: messages between processes.

mod decoding;
mod get;
mod kept;
pub(crate) mod pool;
mod put;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use procession_os::per_process::PerProcess;
use procession_shm::queue::{self, QueueError, QueueJoinError};
use procession_shm::wait::{Deadline, Wait};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyGenericAlias, PyList, PyTuple, PyType};

use crate::errors::{OwnerDiedError, arena_error, handle};
use crate::init_once::InitOnce;
use crate::message::{BUFFER, Room, memory_error, new_count, new_list};
use crate::pickling::{encode, prepare_queues, queue_error};
use crate::truthy::Truthy;
use crate::waiting::{deadline, look_around};
use get::NoMemory;
use kept::{Again, Kept};
use pool::Outcome;
use put::{hand_over, with_put};

/// A fact that holds in this process, and not in processes forked from it.
#[derive(Default)]
struct InProcess {
    /// The process's number; 0 if the fact holds in no process.
    pid: AtomicU32,
}

impl InProcess {
    fn note(&self) {
        self.pid.store(std::process::id(), Ordering::Relaxed);
    }

    /// As [`Self::note`], if the fact was noted in no process yet: usually without a system call,
    /// for `put`.
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
    queue: InitOnce<queue::Queue>,
    closed: InProcess,
    /// Whether something was put.
    has_put: InProcess,
    kept: Kept,
    /// Whether to look at `spoilt`. Only a hint, as a copy of the process has no such error.
    is_spoilt: AtomicBool,
    /// Why the message behind the last that `get_many` returned could not be unpickled.
    spoilt: PerProcess<Option<PyErr>>,
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

    /// Raises, once, the error that the last `get_many` of this process left.
    #[inline]
    fn not_spoilt(&self) -> PyResult<()> {
        if self.is_spoilt.load(Ordering::Relaxed) { self.raise_spoilt() } else { Ok(()) }
    }

    #[cold]
    fn raise_spoilt(&self) -> PyResult<()> {
        let error = self.spoilt.with(|spoilt| {
            self.is_spoilt.store(false, Ordering::Relaxed);
            spoilt.take()
        });
        error.map_or(Ok(()), Err)
    }

    /// Leaves an error to be raised by the next get.
    #[cold]
    fn spoil(&self, error: PyErr) {
        // An earlier error is dropped after the release of the lock, as a drop may run any code.
        drop(self.spoilt.with(|spoilt| {
            self.is_spoilt.store(true, Ordering::Relaxed);
            spoilt.replace(error)
        }));
    }
}

/// A queue's error as a Python exception; if the wait ended first, the named class of `queue`.
fn queue_failure(py: Python<'_>, error: QueueError, waited: &str) -> PyErr {
    match error {
        QueueError::Wait(_) => queue_error(py, waited),
        QueueError::Arena(error) => arena_error(error),
        QueueError::NoMemory { .. } => memory_error(format_args!("{error}")),
    }
}

fn until(block: &Truthy, timeout: Option<f64>) -> Deadline {
    deadline(if block.0 { timeout } else { Some(0.0) })
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, **_kwds))]
    fn new(_args: &Bound<'_, PyTuple>, _kwds: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    /// `Queue[int]`, an annotation: nothing looks at the argument.
    #[classmethod]
    fn __class_getitem__<'py>(
        class: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(class.py(), class, item)
    }

    #[pyo3(signature = (maxsize, name, *, joinable=false))]
    fn _make(&self, py: Python<'_>, maxsize: i64, name: &str, joinable: bool) -> PyResult<()> {
        prepare_queues(py)?;
        let capacity = u64::try_from(maxsize).ok().filter(|&max| max > 0);
        let make = if joinable { queue::Queue::joinable } else { queue::Queue::new };
        self.queue.set(crate::waiting::make(py, |arena| make(arena, name, capacity))?)
    }

    fn __getstate__(&self) -> PyResult<String> {
        self.handle()
    }

    fn __setstate__(&self, py: Python<'_>, state: &str) -> PyResult<()> {
        prepare_queues(py)?;
        self.queue.set(queue::Queue::open(handle(state)?).map_err(arena_error)?)
    }

    /// What names the queue in other processes, as text; it is valid while some process has the
    /// queue open.
    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.queue()?.handle().to_string())
    }

    #[getter]
    fn _maxsize(&self) -> PyResult<u64> {
        Ok(self.queue()?.capacity().unwrap_or(i32::MAX as u64))
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.closed.is_so()
    }

    /// Put an object in the queue. It is pickled at once, and in the queue when this returns.
    ///
    /// Parameters
    /// ----------
    /// obj
    ///     Something that pickle can carry.
    /// block : bool
    ///     Whether to wait for a free place if the queue is full.
    /// timeout : float, optional
    ///     The seconds to wait at most; without it there is no limit.
    ///
    /// Raises
    /// ------
    /// queue.Full
    ///     If the queue is full and does not get a free place in time.
    /// ValueError
    ///     If this process has closed the queue.
    /// MemoryError
    ///     If there is no memory for the object.
    #[pyo3(
        signature = (obj, block=Truthy(true), timeout=None),
        text_signature = "($self, obj, block=True, timeout=None)"
    )]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        block: Truthy,
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

    /// Remove the oldest object and return it.
    ///
    /// Parameters
    /// ----------
    /// block : bool
    ///     Whether to wait for an object if the queue is empty.
    /// timeout : float, optional
    ///     The seconds to wait at most; without it there is no limit.
    ///
    /// Raises
    /// ------
    /// queue.Empty
    ///     If the queue is empty and no object comes in time.
    /// ValueError
    ///     If this process has closed the queue.
    /// MemoryError
    ///     If this process has no memory for the object, which is not lost.
    #[pyo3(
        signature = (block=Truthy(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        block: Truthy,
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

    /// Put objects in the queue, in their order.
    ///
    /// Parameters
    /// ----------
    /// objs : iterable
    ///     Objects that pickle can carry.
    /// block : bool
    ///     Whether to wait for free places if the queue is full.
    /// timeout : float, optional
    ///     The seconds to wait at most, for all of them; without it there is no limit.
    ///
    /// Returns
    /// -------
    /// int
    ///     How many were put: fewer than there are if the queue stayed full.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     If this process has closed the queue.
    /// MemoryError
    ///     If there is no memory for an object.
    ///
    /// What this raises has the attribute `put`: how many objects were put.
    #[pyo3(
        signature = (objs, block=Truthy(true), timeout=None),
        text_signature = "($self, objs, block=True, timeout=None)"
    )]
    fn put_many<'py>(
        slf: &Bound<'py, Self>,
        objs: &Bound<'py, PyAny>,
        block: Truthy,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let mut put = 0;
        Self::put_all(slf, objs, || until(&block, timeout), &mut put)
            .and_then(|()| new_count(py, put as u64))
            .map_err(|error| with_put(py, error, put))
    }

    /// Remove the oldest objects and return them, waiting only for the first.
    ///
    /// If one can't be unpickled, those before it are returned, and the next call raises the
    /// reason. If this raises, no other object is lost.
    ///
    /// Parameters
    /// ----------
    /// max_count : int
    ///     How many to return at most.
    /// block : bool
    ///     Whether to wait for an object if the queue is empty.
    /// timeout : float, optional
    ///     The seconds to wait at most; without it there is no limit.
    ///
    /// Returns
    /// -------
    /// list
    ///     The objects, the oldest first.
    ///
    /// Raises
    /// ------
    /// queue.Empty
    ///     If the queue is empty and no object comes in time.
    /// ValueError
    ///     If this process has closed the queue.
    /// MemoryError
    ///     If this process has no memory for an object, which is not lost.
    #[pyo3(
        signature = (max_count, block=Truthy(true), timeout=None),
        text_signature = "($self, max_count, block=True, timeout=None)"
    )]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        max_count: usize,
        block: Truthy,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (this, py) = (slf.get(), slf.py());
        this.open_still(slf)?;
        this.not_spoilt()?;
        let mut objects = Vec::new();
        let got = this.get_objects(py, max_count, || until(&block, timeout), &mut objects);
        let list = got.and_then(|()| new_list(py, &objects));
        list.and_then(|list| py.check_signals().map(|()| list)).inspect_err(|_| {
            if !objects.is_empty() {
                this.kept.keep_objects(std::mem::take(&mut objects));
            }
        })
    }

    /// Puts a pool's task, as `join_task` returned it, and enters `job` under its number into
    /// `jobs`. No signal handler can run between the two and take the outcome.
    fn _put_task(
        &self,
        task: &[u8],
        jobs: &Bound<'_, PyDict>,
        job: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        pool::put_task(self, task, jobs, job)
    }

    /// Gets a pool's task as (number, bytes), or (number, MemoryError) if there is no memory for
    /// it; None for the end of all tasks. The number is in this process's row of the process table
    /// from before the task is taken until `task_done`.
    fn _get_task<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        pool::get_task(self, py)
    }

    /// Puts a task's outcome: its number, whether it went well, its result or exception.
    fn _put_result(&self, number: u64, ok: bool, value: &Bound<'_, PyAny>) -> PyResult<()> {
        pool::put_result(self, number, ok, value)
    }

    /// Gets up to `max` tasks' outcomes, waiting only for the first. What there is no memory for is
    /// taken without its bytes.
    #[pyo3(signature = (max, timeout=None))]
    fn _get_results(
        &self,
        py: Python<'_>,
        max: usize,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Outcome>> {
        pool::get_results(self, py, max, timeout)
    }

    /// Says that an object that was got has been dealt with.
    fn _task_done(&self) -> PyResult<()> {
        self.queue()?
            .task_done()
            .map_err(|_| PyValueError::new_err("task_done() called too many times"))
    }

    /// Waits until all objects that were put are done.
    fn _join(&self, py: Python<'_>) -> PyResult<()> {
        let (queue, waiting) = (self.queue()?, Wait { interruptible: true, ..Wait::FOREVER });
        loop {
            match py.detach(|| queue.join(waiting)) {
                Ok(()) => return Ok(()),
                Err(QueueJoinError::Wait(_)) => look_around(py)?,
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

    /// Return the number of objects in the queue, which is exact at the instant.
    fn qsize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        new_count(py, self.queue()?.len() + self.kept.len() as u64)
    }

    /// Return whether there is no object in the queue.
    ///
    /// Raises
    /// ------
    /// OSError
    ///     If this process has put an object in the queue and then closed it.
    fn empty(&self) -> PyResult<bool> {
        if self.closed.is_so() && self.has_put.is_so() {
            return Err(PyOSError::new_err("handle is closed"));
        }
        Ok(self.queue()?.is_empty() && self.kept.len() == 0)
    }

    /// Return whether the queue has as many objects as it may hold.
    fn full(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_full())
    }

    /// Say that this process does not use the queue any more: `put` and `get` raise `ValueError`.
    fn close(&self) {
        self.closed.note();
    }
}
