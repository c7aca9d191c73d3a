//! Getting messages from a queue, and the objects that they are.

use procession_shm::queue::QueueError;
use procession_shm::wait::{Deadline, Wait, WaitError};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use super::decoding::NoObject;
use super::kept::Again;
use super::{Queue, queue_failure};
use crate::errors::arena_error;
use crate::message::{BUFFER, Room, no_memory};
use crate::waiting::look_around;

/// A longer message is copied with the interpreter detached.
const LONG: usize = 64 << 10;

/// What happens to a message if there is no memory for it.
#[derive(Clone, Copy)]
pub(super) enum NoMemory {
    /// It stays in the queue.
    Leave,
    /// It is taken without what is behind its head.
    Cut,
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

impl Queue {
    pub(super) fn get_message(
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
        let waiting = Wait { deadline: until(), interruptible: true };
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
                Err(QueueError::Wait(WaitError::Interrupted)) => look_around(py)?,
                Err(error) => return Err(queue_failure(py, error, "Empty")),
            }
        }
    }

    /// As [`Self::get_message`], without waiting; returns whether there was a message. An error is
    /// not reported: it comes again at the next call.
    pub(super) fn get_if_any(
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

    /// Returns an object that was got. If a signal came meanwhile, its handler runs here, where the
    /// object can be kept: if `get` raises, no message is lost.
    #[inline]
    pub(super) fn hand_out<'py>(
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

    /// Takes and opens the messages that there are, up to `max`, waiting only for the first. If
    /// this fails, the objects in `objects` are to be kept.
    pub(super) fn get_objects(
        &self,
        py: Python<'_>,
        max: usize,
        until: impl Fn() -> Deadline,
        objects: &mut Vec<(u64, Py<PyAny>)>,
    ) -> PyResult<()> {
        let mut buffer = BUFFER;
        while objects.len() < max {
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
                    self.spoil(error);
                    return Ok(());
                }
                // What ends a program is not kept for a later get.
                Err(why) => return Err(why.into()),
            }
        }
        Ok(())
    }
}
