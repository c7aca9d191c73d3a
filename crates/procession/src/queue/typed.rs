//! The typed queue.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::panic::Location;
use std::time::Duration;

use procession_os::memory::SharedBytes;
use procession_shm::queue::MessageBuffer;
use procession_shm::wait::Wait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::blob::{self, Blob};
use super::{ByteQueue, GetError, POSTCARD, PutError, PutManyError};
use crate::arena::{self, Handle, Result};
use crate::codec::{
    DecodeError, decode, encode, extend, has_memory_for, travels_by_handle, with_buffer,
};
use crate::sync::waiting_for;

/// A queue of values of type `T`.
///
/// `put` takes a value or a reference to one: what travels is a copy. A clone is the same queue.
///
/// A `Queue<Vec<u8>>` is as fast as a [`ByteQueue`]: its bytes are copied once on either side. A
/// type of your own that has bytes is encoded byte by byte, unless it says that they are bytes, as
/// the types of the crate `serde_bytes` do.
///
/// A value is taken from the queue if there is memory for its message and for as many bytes again.
/// Beyond that, the type's `Deserialize` allocates memory as any Rust code does.
///
/// ```
/// use procession::{Queue, spawn};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let words = Queue::<String>::new()?;
///     let greet = |words: Queue<String>| words.put("hello".to_owned()).unwrap();
///     let child = spawn(greet, words.clone())?;
///     assert_eq!(words.get()?, "hello");
///     child.join()?;
///     Ok(())
/// }
/// ```
pub struct Queue<T> {
    pub(super) bytes: ByteQueue,
    values: PhantomData<fn(T) -> T>,
}

/// A value that needs no more bytes is encoded on the stack.
const SMALL: usize = 64;

impl<T> Queue<T> {
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
        Ok(Self::over(ByteQueue::named(name, capacity)?))
    }

    pub(super) fn over(bytes: ByteQueue) -> Self {
        Self { bytes, values: PhantomData }
    }

    /// The queue that a handle names. Whether its messages are of type `T` is only checked when
    /// they are got.
    ///
    /// # Errors
    /// If it is no more, is no queue, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { bytes: ByteQueue::open(handle)?, values: PhantomData })
    }

    /// The value that names the queue in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.bytes.handle()
    }

    /// How many messages are in the queue at this instant.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.len()
    }

    /// Whether there is no message in the queue at this instant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the queue holds as many messages as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.is_full()
    }
}

impl<T: Serialize + 'static> Queue<T> {
    /// Puts a value, waiting for room.
    ///
    /// # Errors
    /// [`PutError::Encode`] if it has no serialized form or there is no memory for that;
    /// [`PutError::Arena`]. Nothing was put then.
    #[inline]
    pub fn put(&self, value: impl Borrow<T>) -> Result<(), PutError> {
        self.put_waiting(value.borrow(), Wait::FOREVER)
    }

    /// Puts a value if there is room.
    ///
    /// # Errors
    /// [`PutError::Full`], and as [`Self::put`].
    pub fn try_put(&self, value: impl Borrow<T>) -> Result<(), PutError> {
        if self.is_full() {
            return Err(PutError::Full);
        }
        self.put_waiting(value.borrow(), Wait::TRY)
    }

    /// Puts a value, waiting for room no longer than `timeout`.
    ///
    /// # Errors
    /// [`PutError::Full`], and as [`Self::put`].
    pub fn put_timeout(&self, value: impl Borrow<T>, timeout: Duration) -> Result<(), PutError> {
        self.put_waiting(value.borrow(), waiting_for(timeout))
    }

    #[inline]
    fn put_waiting(&self, value: &T, waiting: Wait) -> Result<(), PutError> {
        if let Some(bytes) = blob::of(value) {
            let mut head = [0; blob::MAX_HEAD];
            let head = blob::head(bytes.len(), &mut head)?;
            return self.bytes.put_parts_waiting(POSTCARD, &[head, bytes], waiting);
        }
        let mut small = [0; SMALL];
        if let Ok(bytes) = postcard::to_slice(value, &mut small) {
            return self.bytes.put_waiting(POSTCARD, bytes, waiting);
        }
        self.put_buffered(value, waiting)
    }

    fn put_buffered(&self, value: &T, waiting: Wait) -> Result<(), PutError> {
        with_buffer(|buffer| {
            encode(value, buffer)?;
            self.bytes.put_waiting(POSTCARD, buffer, waiting)
        })
    }

    /// Puts values in a row, waiting for room: faster than one by one. Returns how many there were.
    ///
    /// # Errors
    /// [`PutManyError`], with how many were put before the one that could not be.
    pub fn put_many<V: Borrow<T>>(
        &self,
        values: impl IntoIterator<Item = V>,
    ) -> Result<usize, PutManyError> {
        /// How many are encoded before they are put.
        const RUN: usize = 256;
        let mut values = values.into_iter();
        let mut ends = Vec::with_capacity(RUN);
        let mut put = 0;
        loop {
            ends.clear();
            let run = with_buffer(|buffer| {
                let mut refused = None;
                for value in values.by_ref().take(RUN) {
                    let length = buffer.len();
                    if let Err(error) = blob::encode(value.borrow(), buffer) {
                        buffer.truncate(length);
                        refused = Some(error);
                        break;
                    }
                    ends.push(buffer.len());
                }
                let starts = std::iter::once(&0).chain(&ends);
                let messages = starts.zip(&ends).map(|(&start, &end)| &buffer[start..end]);
                let run = self.bytes.put_many(messages.map(|message| (POSTCARD, message)));
                match (run, refused) {
                    (Ok(run), None) => Ok(run),
                    (Ok(run), Some(error)) => {
                        Err(PutManyError { put: put + run, source: error.into() })
                    }
                    (Err(error), _) => {
                        Err(PutManyError { put: put + error.put, source: error.source })
                    }
                }
            })?;
            put += run;
            if run < RUN {
                return Ok(put);
            }
        }
    }
}

impl<T: DeserializeOwned + 'static> Queue<T> {
    /// Gets the oldest value, waiting for one.
    ///
    /// # Errors
    /// [`GetError::Decode`] and [`GetError::WrongKind`] for a message that is no `T`;
    /// [`GetError::NoMemory`], [`GetError::Arena`].
    #[inline]
    pub fn get(&self) -> Result<T, GetError> {
        self.receive(Wait::FOREVER)
    }

    /// Gets the oldest value if there is one.
    ///
    /// # Errors
    /// [`GetError::Empty`], and as [`Self::get`].
    #[inline]
    pub fn try_get(&self) -> Result<T, GetError> {
        if blob::is_one::<T>() {
            let mut blob = Blob::default();
            let kind = self.bytes.try_get_into(&mut blob)?;
            return blob.into_value(kind);
        }
        with_buffer(|buffer| {
            let kind = self.bytes.try_get_into(&mut Decodable(buffer))?;
            value_of(kind, buffer)
        })
    }

    /// Gets the oldest value, waiting for one no longer than `timeout`.
    ///
    /// # Errors
    /// [`GetError::Empty`], and as [`Self::get`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.receive(waiting_for(timeout))
    }

    #[inline]
    fn receive(&self, waiting: Wait) -> Result<T, GetError> {
        if blob::is_one::<T>() {
            let mut blob = Blob::default();
            let kind = self.bytes.get_into_waiting(&mut blob, waiting)?;
            return blob.into_value(kind);
        }
        with_buffer(|buffer| {
            let kind = self.bytes.get_into_waiting(&mut Decodable(buffer), waiting)?;
            value_of(kind, buffer)
        })
    }

    /// Gets up to `max` values, waiting only for the first.
    ///
    /// # Errors
    /// As [`Self::get`]. If a message is no `T`, the messages got before it are lost with it; if
    /// that can happen, get them one by one. Any other error after the first message is left to the
    /// next call.
    pub fn get_many(&self, max: usize) -> Result<Vec<T>, GetError> {
        let mut values = Vec::new();
        while values.len() < max && values.try_reserve(1).is_ok() {
            let value = if values.is_empty() { self.get() } else { self.try_get() };
            match value {
                Ok(value) => values.push(value),
                Err(error @ (GetError::Decode(_) | GetError::WrongKind { .. })) => {
                    return Err(error);
                }
                Err(error) if values.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(values)
    }

    /// The values as they come, waiting for each; the iterator has no end.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { queue: self }
    }

    /// The values that there are, until the queue is empty.
    #[must_use]
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter { queue: self }
    }
}

/// Takes a message only if there is memory for the value as well.
struct Decodable<'b>(&'b mut Vec<u8>);

impl MessageBuffer for Decodable<'_> {
    #[inline]
    fn make_room(&mut self, number: u64, len: usize) -> bool {
        self.0.make_room(number, len) && has_memory_for(len)
    }

    #[inline]
    fn fill(&mut self, bytes: SharedBytes<'_>) {
        self.0.fill(bytes);
    }
}

#[inline]
pub(super) fn value_of<T: DeserializeOwned>(kind: u8, bytes: &[u8]) -> Result<T, GetError> {
    if kind != POSTCARD {
        let mut message = Vec::new();
        extend(&mut message, bytes).map_err(|_| DecodeError::NoMemory { len: bytes.len() })?;
        return Err(GetError::WrongKind { kind, message });
    }
    Ok(decode(bytes)?)
}

/// The values of a queue as they come; see [`Queue::iter`].
#[derive(Debug)]
pub struct Iter<'q, T> {
    queue: &'q Queue<T>,
}

impl<T: DeserializeOwned + 'static> Iterator for Iter<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.queue.get())
    }
}

impl<'q, T: DeserializeOwned + 'static> IntoIterator for &'q Queue<T> {
    type Item = Result<T, GetError>;
    type IntoIter = Iter<'q, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The values that are in a queue; see [`Queue::try_iter`].
#[derive(Debug)]
pub struct TryIter<'q, T> {
    queue: &'q Queue<T>,
}

impl<T: DeserializeOwned + 'static> Iterator for TryIter<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.queue.try_get() {
            Err(GetError::Empty) => None,
            other => Some(other),
        }
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), values: PhantomData }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = arena::Name(self.handle());
        f.debug_struct("Queue").field("name", &name).field("len", &self.len()).finish()
    }
}

travels_by_handle!(Queue<T>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::BYTES;

    #[test]
    fn values_come_out_as_they_went_in() {
        let queue = Queue::new().unwrap();
        queue.put((1u64, "one".to_owned())).unwrap();
        queue.put(&(2, "two".to_owned())).unwrap();
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.get().unwrap(), (1, "one".to_owned()));
        assert_eq!(queue.try_get().unwrap(), (2, "two".to_owned()));
        assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        let short = Duration::from_millis(5);
        assert!(matches!(queue.get_timeout(short), Err(GetError::Empty)));
    }

    #[test]
    fn a_bounded_queue_refuses_when_it_is_full() {
        let queue = Queue::<u64>::bounded(2).unwrap();
        queue.put_many([1, 2]).unwrap();
        assert!(queue.is_full());
        assert!(matches!(queue.try_put(3), Err(PutError::Full)));
        assert!(matches!(queue.put_timeout(3, Duration::from_millis(5)), Err(PutError::Full)));
        assert_eq!(queue.get_many(10).unwrap(), [1, 2]);
    }

    #[test]
    fn many_values_keep_their_order() {
        let queue = Queue::<u64>::new().unwrap();
        assert_eq!(queue.put_many(0..1000u64).unwrap(), 1000);
        let all: Vec<u64> = queue.try_iter().map(Result::unwrap).collect();
        assert!(all.into_iter().eq(0..1000));
    }

    #[test]
    fn long_values_go_with_short_ones() {
        let queue = Queue::<String>::new().unwrap();
        let long = "x".repeat(100_000);
        queue.put_many([&"a".to_owned(), &long, &"b".to_owned()]).unwrap();
        assert_eq!(queue.get_many(3).unwrap(), ["a", &long, "b"]);
    }

    #[test]
    fn bytes_travel_as_those_of_any_other_type() {
        let blobs = Queue::<Vec<u8>>::new().unwrap();
        let structured = Queue::<(u8, String)>::open(blobs.handle()).unwrap();
        // A head of one, two and three bytes, inline and in a block.
        let lengths = [0, 1, 127, 128, 4093, 4094, 4095, 4096, 16383, 16384, 100_000];
        for len in lengths {
            let bytes: Vec<u8> = (0..len).map(|at: usize| at as u8).collect();
            blobs.put(&bytes).unwrap();
            let mut encoded = Vec::new();
            encode(&bytes, &mut encoded).unwrap();
            assert_eq!(blobs.bytes.get().unwrap().bytes, encoded, "as postcard encodes them");
            blobs.bytes.put(POSTCARD, &encoded).unwrap();
            assert_eq!(blobs.get().unwrap(), bytes);
            blobs.put_many([&bytes, &bytes]).unwrap();
            assert_eq!(blobs.get_many(9).unwrap(), [bytes.clone(), bytes]);
        }
        structured.put((7, "text".to_owned())).unwrap();
        assert!(matches!(blobs.try_get(), Err(GetError::Decode(_))));
        blobs.bytes.put(BYTES, &[3; 5000]).unwrap();
        let error = blobs.get().unwrap_err();
        assert!(matches!(error, GetError::WrongKind { message, .. } if message == [3; 5000]));
    }

    #[test]
    fn a_message_of_another_kind_is_given_back_in_the_error() {
        let queue = Queue::<u64>::new().unwrap();
        ByteQueue::open(queue.handle()).unwrap().put(BYTES, b"raw").unwrap();
        let error = queue.get().unwrap_err();
        assert!(
            matches!(error, GetError::WrongKind { kind: BYTES, ref message } if message == b"raw")
        );
    }

    #[test]
    fn a_queue_goes_through_a_queue() {
        let queues = Queue::<Queue<u64>>::new().unwrap();
        let inner = Queue::new().unwrap();
        queues.put(&inner).unwrap();
        queues.get().unwrap().put(7).unwrap();
        assert_eq!(inner.get().unwrap(), 7);
    }
}
