//! The protocol of a pool: tasks and outcomes, each a message of several objects.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::Queue;
use super::get::NoMemory;
use crate::message::{
    BUFFER, Message, Room, join_bytes, new_bytes, new_count, new_tuple, no_memory,
};
use crate::pickling::{OBJECT_HEAD, decode, encode, object_head, peek, split};
use crate::waiting::deadline;

/// The form of a pool's messages, which have several objects.
const SEVERAL: u8 = 255;

/// The parts of a task: the pickled function, the arguments, the keywords.
type TaskParts<'py> = (Bound<'py, PyBytes>, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

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

/// The parts of a task that `_get_task` returned: the pickled function, the arguments, the
/// keywords.
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

/// The parts of a task, without unpickling: the pickled function; for the arguments and for the
/// keywords, whether they are pickled, and the objects or the pickled bytes.
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
            // No worker writes that. It is for no task, and does not affect the messages behind it.
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

    /// Why the worker's bytes were not taken from the queue; `None` if they were.
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
            // It is the bytes of the only object; the first byte of the head is the object's kind.
            Some(rest) => {
                let kind = object.first().copied().unwrap_or(u8::MAX);
                decode(py, kind, rest.as_bytes(), Some(&rest))
            }
            None => split(py, &mut object),
        }
    }
}

/// Puts a task, as [`join_task`] returned it, and enters `job` under its number into `jobs`. No
/// signal handler can run between the two and take the outcome.
pub(super) fn put_task(
    queue: &Queue,
    task: &[u8],
    jobs: &Bound<'_, PyDict>,
    job: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let number = queue.put_parts(job.py(), SEVERAL, &[task], || None)?;
    jobs.set_item(new_count(job.py(), number)?, job)
}

/// Gets a task as (number, bytes), or (number, `MemoryError`) if there is no memory for it; `None`
/// for the end of all tasks.
pub(super) fn get_task<'py>(
    queue: &Queue,
    py: Python<'py>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let mut buffer = BUFFER;
    let mut room = Room::new(&mut buffer, 0);
    queue.get_message(py, &mut room, || None, true, NoMemory::Cut)?;
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
pub(super) fn put_result(
    queue: &Queue,
    number: u64,
    ok: bool,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    encode(value, |kind, bytes| {
        let head = object_head(kind, bytes.len())?;
        let message = [&number.to_le_bytes(), &[ok.into()][..], &head, bytes];
        queue.put_parts(value.py(), SEVERAL, &message, || None).map(|_| ())
    })
}

/// Gets up to `max` tasks' outcomes, waiting only for the first.
pub(super) fn get_results(
    queue: &Queue,
    py: Python<'_>,
    max: usize,
    timeout: Option<f64>,
) -> PyResult<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut buffer = BUFFER;
    // The outcomes so far are returned; an error is raised again at the next call.
    while outcomes.len() < max {
        let mut room = Room::new(&mut buffer, OUTCOME_HEAD);
        if outcomes.is_empty() {
            let until = || deadline(timeout);
            queue.get_message(py, &mut room, until, false, NoMemory::Cut)?;
        } else if outcomes.try_reserve(1).is_err()
            || !queue.get_if_any(py, &mut room, NoMemory::Cut)?
        {
            break;
        }
        outcomes.push(Outcome::new(queue.kept.own(room)));
    }
    Ok(outcomes)
}
