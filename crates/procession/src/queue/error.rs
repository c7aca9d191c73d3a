//! Why a message was not put or got.

use procession_shm::queue::QueueError;

use crate::arena;
use crate::codec::{DecodeError, EncodeError};

/// A message was not put.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The queue holds as many messages as it may, and did so for as long as the caller waited.
    #[error("the queue is full")]
    Full,
    /// The value has no serialized form.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Shared memory failed; mostly there is none left.
    #[error(transparent)]
    Arena(#[from] arena::Error),
}

/// Not all messages were put.
#[derive(Debug, thiserror::Error)]
#[error("after {put} messages were put: {source}")]
pub struct PutManyError {
    /// How many were.
    pub put: usize,
    /// Why the next was not.
    pub source: PutError,
}

/// No message was got.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The queue held no message for as long as the caller waited.
    #[error("the queue is empty")]
    Empty,
    /// The message is not a value of the queue's type. It has been taken from the queue.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The message was put by something else than a [`Queue`](super::Queue). It has been taken from
    /// the queue, and is here.
    #[error("a message of kind {kind} was got, expected kind {}", super::POSTCARD)]
    WrongKind {
        /// What it said it is.
        kind: u8,
        /// The message.
        message: Vec<u8>,
    },
    /// Shared memory failed.
    #[error(transparent)]
    Arena(#[from] arena::Error),
}

/// Processes died with tasks of a [`JoinableQueue`](super::JoinableQueue) that they had got and not called
/// done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("processes died with {count} of the tasks, which nobody will do now")]
pub struct TasksLost {
    /// How many.
    pub count: u64,
}

impl From<QueueError> for PutError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Stopped(_) => Self::Full,
            QueueError::Arena(error) => Self::Arena(error),
        }
    }
}

impl From<QueueError> for GetError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Stopped(_) => Self::Empty,
            QueueError::Arena(error) => Self::Arena(error),
        }
    }
}
