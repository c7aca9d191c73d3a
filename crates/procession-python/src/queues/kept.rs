//! What a process got from a queue and keeps for its next get.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use procession_os::per_process::{PerProcess, generation};
use procession_shm::queue;
use pyo3::prelude::*;

use crate::message::{Message, Room, no_memory};

/// What this process got and could not return, oldest first: messages that could not be unpickled
/// for lack of memory, and objects that were not returned because a signal handler raised.
#[derive(Default)]
pub(super) struct Kept {
    /// How many there are. Only a hint, as a copy of the process keeps none.
    count: AtomicUsize,
    /// The [generation] of the process that has room for one more without an allocation; 0 if none
    /// has.
    ready_in: AtomicU32,
    inner: PerProcess<KeptMessages>,
}

#[derive(Default)]
struct KeptMessages {
    messages: Vec<Message>,
    /// Messages that have been unpickled, with their numbers.
    objects: VecDeque<(u64, Py<PyAny>)>,
    /// The buffer for the next message if there is no memory at all.
    reserve: Vec<u8>,
}

impl KeptMessages {
    fn len(&self) -> usize {
        self.messages.len() + self.objects.len()
    }
}

/// Something that was kept.
pub(super) enum Again {
    Message(Message),
    Object(u64, Py<PyAny>),
}

impl Kept {
    /// Makes room before a message is got, so that keeping it needs no memory later.
    #[inline]
    pub(super) fn prepare(&self) -> PyResult<()> {
        if self.ready_in.load(Ordering::Relaxed) == generation() {
            Ok(())
        } else {
            self.make_ready()
        }
    }

    #[cold]
    fn make_ready(&self) -> PyResult<()> {
        let made = self.with(|kept| {
            kept.messages.try_reserve(1)?;
            kept.objects.try_reserve(1)?;
            kept.reserve.try_reserve_exact(queue::INLINE_MAX)
        });
        made.map_err(|_| no_memory("a message"))?;
        self.ready_in.store(generation(), Ordering::Relaxed);
        Ok(())
    }

    /// Calls `work` with what this process keeps. In a copy of the process that is nothing that the
    /// original kept.
    fn with<T>(&self, work: impl FnOnce(&mut KeptMessages) -> T) -> T {
        self.inner.with(|kept| {
            let result = work(kept);
            self.count.store(kept.len(), Ordering::Relaxed);
            result
        })
    }

    pub(super) fn len(&self) -> usize {
        match self.count.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.with(|kept| kept.len()),
        }
    }

    #[inline]
    pub(super) fn next(&self) -> Option<Again> {
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
    pub(super) fn keep_objects(&self, objects: Vec<(u64, Py<PyAny>)>) {
        self.ready_in.store(0, Ordering::Relaxed);
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
        // After the release of the lock, as it may run any code.
        drop(lost);
    }

    /// As [`Self::keep_objects`], for one object, which needs no memory.
    #[cold]
    pub(super) fn keep_object(&self, number: u64, object: Py<PyAny>) {
        self.ready_in.store(0, Ordering::Relaxed);
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
    /// the message has only its first bytes. After [`Self::prepare`] that happens only if other
    /// threads fail at the same time.
    pub(super) fn own(&self, room: Room<'_>) -> Message {
        let mut head = Vec::new();
        let needed = room.view().head.len();
        if head.try_reserve_exact(needed).is_err() {
            self.ready_in.store(0, Ordering::Relaxed);
            head = self.with(|kept| std::mem::take(&mut kept.reserve));
        }
        room.into_message(head)
    }

    /// Keeps a message, in its place.
    pub(super) fn put_back(&self, message: Message) -> bool {
        self.ready_in.store(0, Ordering::Relaxed);
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
