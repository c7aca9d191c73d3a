//! Messages between processes: [`Queue`] of typed values, [`JoinableQueue`] of tasks that can be
//! waited for, and [`ByteQueue`] of bytes.
//!
//! A message is in the queue when `put` returns, whatever happens to its sender then. Each message
//! goes to one receiver. The messages of one sender arrive in the order in which it put them. There
//! is no thread and no pipe behind a queue: `put` writes into shared memory and `get` reads from
//! it.

mod blob;
mod bytes;
mod error;
mod joinable;
mod typed;

pub use bytes::{ByteQueue, Message};
pub use error::{GetError, PutError, PutManyError, TasksLostError};
pub use joinable::JoinableQueue;
pub use procession_shm::queue::TaskDoneError;
pub use procession_shm::queue::kind::{BYTES, POSTCARD};
pub use typed::{Iter, Queue, TryIter};
