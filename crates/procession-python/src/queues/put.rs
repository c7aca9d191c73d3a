//! Putting objects into a queue.

use procession_shm::queue::{self, QueueError};
use procession_shm::wait::{Deadline, Wait, WaitError};
use pyo3::exceptions::{PyException, PyMemoryError};
use pyo3::prelude::*;

use super::{Queue, queue_failure};
use crate::message::{extend, new_count, no_memory};
use crate::pickling::{self, encode};
use crate::waiting::look_around;

impl Queue {
    /// Puts what needs no wait with the interpreter attached, which is what programs usually put.
    pub(super) fn put_parts(
        &self,
        py: Python<'_>,
        kind: u8,
        message: &[&[u8]],
        until: impl FnOnce() -> Deadline,
    ) -> PyResult<u64> {
        let queue = self.queue()?;
        // A signal handler that raises does so before the message is put. So if `put` raises, the
        // object was not put.
        py.check_signals()?;
        let len: usize = message.iter().map(|part| part.len()).sum();
        if queue.capacity().is_none() && len <= queue::INLINE_MAX {
            match queue.put_parts(kind, message, Wait::TRY) {
                // Another thread is at this end. That may last, if its process was stopped there.
                Err(QueueError::Wait(_)) => {}
                Err(error) => return Err(queue_failure(py, error, "Full")),
                Ok(number) => return Ok(number),
            }
        }
        let waiting = Wait { deadline: until(), interruptible: true };
        loop {
            let mut raised = None;
            // A long message takes time to copy.
            let mut copied = || {
                let handled = Python::attach(|py| py.check_signals());
                handled.map_err(|error| {
                    raised = Some(error);
                    WaitError::Interrupted
                })
            };
            match py.detach(|| queue.put_unless(kind, message, waiting, &mut copied)) {
                Ok(number) => return Ok(number),
                Err(QueueError::Wait(WaitError::Interrupted)) => match raised {
                    Some(error) => return Err(error),
                    None => look_around(py)?,
                },
                Err(error) => return Err(queue_failure(py, error, "Full")),
            }
        }
    }

    /// Puts all objects, and counts them in `put`.
    pub(super) fn put_all(
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
        let waiting = Wait { deadline: until(), interruptible: true };
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
                Err(QueueError::Wait(WaitError::Interrupted)) => look_around(py)?,
                Err(QueueError::Wait(WaitError::TimedOut)) if *put > 0 => break,
                Err(error) => return Err(queue_failure(py, error, "Full")),
            }
        }
        // Checked now, as the exception can say here how many were put.
        py.check_signals()
    }
}

/// An exception of `put_many`, with how many objects were put.
#[cold]
pub(super) fn with_put(py: Python<'_>, error: PyErr, put: usize) -> PyErr {
    // An exception without room for it is raised as it is.
    let count = new_count(py, put as u64);
    let _ = count.and_then(|count| error.value(py).setattr(pickling::put(py), count));
    error
}

/// Passes an object that can't be pickled to the queue's `_on_queue_feeder_error`, if a subclass
/// has overridden that, as the standard library's feeder thread does. Otherwise `put` raises the
/// error.
pub(super) fn hand_over(
    queue: &Bound<'_, Queue>,
    object: &Bound<'_, PyAny>,
    error: PyErr,
) -> PyResult<()> {
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
