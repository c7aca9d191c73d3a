//! Received messages as objects; and what happens to a message that can't be unpickled.

use procession_shm::queue;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use super::Queue;
use crate::message::{Message, Room, View, no_memory};
use crate::pickling::unpickling;

/// How many gets try to unpickle a message if the failure is not the message's fault. Without a
/// limit, a message that always fails so would keep the messages behind it from being received.
const MAX_TRIES: u32 = 10;

/// Why a message has no object.
pub(super) enum NoObject {
    /// It is the message's fault; the message is used up.
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

impl Queue {
    /// The object that a message is; the message is kept if that is not its own fault.
    #[inline]
    pub(super) fn open<'py>(
        &self,
        py: Python<'py>,
        room: Room<'_>,
    ) -> Result<Bound<'py, PyAny>, NoObject> {
        match object_of(py, &room.view()) {
            Ok(object) => Ok(object),
            Err(NoObject::Unreadable(error)) => Err(NoObject::Unreadable(error)),
            Err(why) => Err(self.keep_for_later(py, self.kept.own(room), why)),
        }
    }

    /// As [`Self::open`], for a message that was kept.
    #[cold]
    pub(super) fn open_kept<'py>(
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

    /// Keeps a message, unless it was tried too often; returns what is raised.
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
}

/// The object that a message is, or why it is none.
#[inline]
fn object_of<'py>(py: Python<'py>, message: &View<'_>) -> Result<Bound<'py, PyAny>, NoObject> {
    if message.len > queue::INLINE_MAX {
        // A signal may have come during the copy. Its handler runs now, so that it does not
        // interrupt the unpickling.
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
    // Only unpickling runs Python code, and so signal handlers.
    if message.is_pickled() {
        match comes_from_a_handler(py, message, &error) {
            Ok(false) => {}
            Ok(true) => return NoObject::Disturbed(error),
            // For example an exception of another signal's handler.
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
