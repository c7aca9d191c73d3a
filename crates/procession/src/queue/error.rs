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
    /// Shared memory failed; usually there is none left.
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
    /// The message was not put by a [`Queue`](super::Queue). It has been taken from the queue, and
    /// is here.
    #[error("a message of kind {kind} was got, expected kind {}", super::POSTCARD)]
    WrongKind {
        /// What it said it is.
        kind: u8,
        /// The message.
        message: Vec<u8>,
    },
    /// This process has no memory for the message. The message is still in the queue: another
    /// consumer may get it, or this one later.
    #[error("no memory in this process for a message of {len} bytes, which is still in the queue")]
    NoMemory {
        /// How many bytes the message has.
        len: usize,
    },
    /// Shared memory failed.
    #[error(transparent)]
    Arena(#[from] arena::Error),
}

/// Tasks of a [`JoinableQueue`](super::JoinableQueue) are lost, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TasksLostError {
    /// Processes died with tasks that they had got and not called done. Exactly one joiner is told;
    /// the tasks count as done from then on.
    #[error("processes died with {count} of the tasks, which no process will do now")]
    Certainly {
        /// How many.
        count: u64,
    },
    /// A process that had got tasks died, and some tasks were called done by other processes than
    /// their receivers. So it can't be known whether the dead process's tasks were done. Nothing
    /// has changed. Each joiner is told as long as tasks are open; a program that knows which tasks
    /// no process will do calls `task_done` for them.
    #[error(
        "a process that had got tasks died: up to {max} tasks may be lost (tasks were called done \
         by other processes than had got them, so it can't be known; call task_done() for those \
         that are open and that no process will do)"
    )]
    Perhaps {
        /// How many at the most.
        max: u64,
    },
}

impl From<QueueError> for PutError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Wait(_) => Self::Full,
            QueueError::NoMemory { len, .. } => Self::Encode(EncodeError::NoMemory { len }),
            QueueError::Arena(error) => Self::Arena(error),
        }
    }
}

impl From<QueueError> for GetError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Wait(_) => Self::Empty,
            QueueError::NoMemory { len, .. } => Self::NoMemory { len },
            QueueError::Arena(error) => Self::Arena(error),
        }
    }
}
