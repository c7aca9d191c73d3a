//! The untyped queue.

use std::fmt;
use std::num::NonZeroU64;
use std::panic::Location;
use std::time::Duration;

use procession_shm::queue::{self, MessageBuffer};
use procession_shm::wait::Wait;

use super::{GetError, PutError, PutManyError};
use crate::arena::{self, Handle, Name, Result};
use crate::codec::travels_by_handle;
use crate::sync::waiting_for;

/// A queue of bytes, each message with a *kind*: a number that says what they are.
///
/// It is the form in which programs in other languages see every queue. Plain bytes are of the kind
/// [`BYTES`](super::BYTES).
///
/// ```
/// use procession::{ByteQueue, queue::BYTES};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = ByteQueue::new()?;
/// queue.put(BYTES, b"hello")?;
/// let message = queue.get()?;
/// assert_eq!((message.kind, &message.bytes[..]), (BYTES, &b"hello"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ByteQueue {
    pub(super) inner: queue::Queue,
}

/// What a [`ByteQueue`] carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What the bytes are.
    pub kind: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl ByteQueue {
    /// A queue without a bound, named after the location of the call.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn new() -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), None)
    }

    /// A queue that holds at most `capacity` messages, at least one.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn bounded(capacity: u64) -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), NonZeroU64::new(capacity.max(1)))
    }

    /// A queue with a name for inspection of the family, and at most `capacity` messages.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn named(name: &str, capacity: Option<NonZeroU64>) -> Result<Self> {
        let capacity = capacity.map(NonZeroU64::get);
        Ok(Self { inner: queue::Queue::new(arena::family()?, name, capacity)? })
    }

    /// The queue that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no queue, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: queue::Queue::open(handle)? })
    }

    /// The value that names the queue in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// How many messages are in the queue at this instant.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.inner.len()
    }

    /// Whether there is no message in the queue at this instant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Whether the queue holds as many messages as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.inner.is_full()
    }

    /// Puts a message, waiting for room.
    ///
    /// # Errors
    /// [`PutError::Arena`].
    #[inline]
    pub fn put(&self, kind: u8, bytes: &[u8]) -> Result<(), PutError> {
        self.put_waiting(kind, bytes, Wait::FOREVER)
    }

    /// Puts a message if there is room.
    ///
    /// # Errors
    /// [`PutError::Full`], [`PutError::Arena`].
    pub fn try_put(&self, kind: u8, bytes: &[u8]) -> Result<(), PutError> {
        if self.is_full() {
            return Err(PutError::Full);
        }
        self.put_waiting(kind, bytes, Wait::TRY)
    }

    /// Puts a message, waiting for room no longer than `timeout`.
    ///
    /// # Errors
    /// As [`Self::try_put`].
    pub fn put_timeout(&self, kind: u8, bytes: &[u8], timeout: Duration) -> Result<(), PutError> {
        self.put_waiting(kind, bytes, waiting_for(timeout))
    }

    /// Puts messages in a row, waiting for room.
    ///
    /// # Errors
    /// [`PutManyError`], with how many were put.
    pub fn put_many<'m>(
        &self,
        messages: impl IntoIterator<Item = (u8, &'m [u8])>,
    ) -> Result<usize, PutManyError> {
        let mut messages = messages.into_iter().peekable();
        let mut put = 0;
        while messages.peek().is_some() {
            let some = self.inner.put_from(&mut messages, Wait::FOREVER);
            put += some.map_err(|error| PutManyError { put, source: error.into() })?;
        }
        Ok(put)
    }

    #[inline]
    pub(super) fn put_waiting(
        &self,
        kind: u8,
        bytes: &[u8],
        waiting: Wait,
    ) -> Result<(), PutError> {
        self.put_parts_waiting(kind, &[bytes], waiting)
    }

    #[inline]
    pub(super) fn put_parts_waiting(
        &self,
        kind: u8,
        parts: &[&[u8]],
        waiting: Wait,
    ) -> Result<(), PutError> {
        self.inner.put_parts(kind, parts, waiting)?;
        Ok(())
    }

    /// Gets the oldest message, waiting for one.
    ///
    /// # Errors
    /// [`GetError::NoMemory`], [`GetError::Arena`].
    pub fn get(&self) -> Result<Message, GetError> {
        self.get_waiting(Wait::FOREVER)
    }

    /// Gets the oldest message if there is one.
    ///
    /// # Errors
    /// [`GetError::Empty`], [`GetError::NoMemory`], [`GetError::Arena`].
    pub fn try_get(&self) -> Result<Message, GetError> {
        let mut bytes = Vec::new();
        let kind = self.try_get_into(&mut bytes)?;
        Ok(Message { kind, bytes })
    }

    /// Gets the oldest message, waiting for one no longer than `timeout`.
    ///
    /// # Errors
    /// As [`Self::try_get`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<Message, GetError> {
        self.get_waiting(waiting_for(timeout))
    }

    fn get_waiting(&self, waiting: Wait) -> Result<Message, GetError> {
        let mut bytes = Vec::new();
        let kind = self.get_into_waiting(&mut bytes, waiting)?;
        Ok(Message { kind, bytes })
    }

    /// Gets the oldest message, waiting for one: appends its bytes to `into` and returns its kind.
    /// One buffer can be used again and again.
    ///
    /// # Errors
    /// [`GetError::NoMemory`], [`GetError::Arena`].
    #[inline]
    pub fn get_into(&self, into: &mut Vec<u8>) -> Result<u8, GetError> {
        self.get_into_waiting(into, Wait::FOREVER)
    }

    #[inline]
    pub(super) fn get_into_waiting(
        &self,
        into: &mut impl MessageBuffer,
        waiting: Wait,
    ) -> Result<u8, GetError> {
        let (kind, _) = self.inner.get(into, waiting)?;
        Ok(kind)
    }

    #[inline]
    pub(super) fn try_get_into(&self, into: &mut impl MessageBuffer) -> Result<u8, GetError> {
        let (kind, _) = self.inner.try_get(into, None)?.ok_or(GetError::Empty)?;
        Ok(kind)
    }

    /// Gets up to `max` messages, waiting only for the first; calls `each` with kind and bytes.
    /// Returns how many there were. An error after the first message is left to the next call.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_many(&self, max: usize, each: impl FnMut(u8, &[u8])) -> Result<usize, GetError> {
        Ok(self.inner.get_many(max, each, Wait::FOREVER)?)
    }
}

impl fmt::Debug for ByteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name(self.handle());
        f.debug_struct("ByteQueue").field("name", &name).field("len", &self.len()).finish()
    }
}

travels_by_handle!(ByteQueue);
