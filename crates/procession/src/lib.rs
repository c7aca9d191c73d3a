//! Programs of several processes that cannot hang because one of them died.
//!
//! It reads like [`std::thread`] and [`std::sync`], across processes: [`spawn`] runs a function in
//! a process of its own and returns a [`JoinHandle`]; [`Queue`], [`Lock`], [`Semaphore`] and
//! [`Event`] live in memory that all processes of a family share, and survive the SIGKILL of any of
//! them.
//!
//! ```
//! use procession::{Queue, spawn};
//!
//! fn square(numbers: Queue<u64>, squares: Queue<u64>) -> u64 {
//!     let mut done = 0;
//!     loop {
//!         match numbers.get().unwrap() {
//!             0 => return done,
//!             number => squares.put(number * number).unwrap(),
//!         }
//!         done += 1;
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     procession::init(); // first in main
//!
//!     let (numbers, squares) = (Queue::new()?, Queue::new()?);
//!     let work = (numbers.clone(), squares.clone());
//!     let worker = spawn(|(numbers, squares)| square(numbers, squares), work)?;
//!     numbers.put_many([3, 4, 0])?;
//!
//!     assert_eq!(worker.join()?, 2);
//!     assert_eq!((squares.get()?, squares.get()?), (9, 16));
//!     Ok(())
//! }
//! ```
//!
//! # Families
//! A root process and all that it started are a *family* and share one [`arena`]. The arena is
//! memory without a name, so there is nothing to clean up, and nothing is left behind when the last
//! process of the family ends, by whatever cause. A process that was started otherwise joins with
//! [`arena::attach`].
//!
//! # Handles
//! Every shared object has a [`Handle`], a small value that names it. The objects serialize as
//! their handles, so they travel in a process's arguments and through queues. An object lives while
//! some process has it open. [`spawn`] keeps what the arguments name until the child has opened it;
//! a message in a queue does not, so keep an object that you send until it has been received.
//!
//! # Statics
//! If this process has one thread, a child is a copy of it, with the statics as they are now.
//! Otherwise the program is started a second time for the child, with the statics of its start. See
//! [`StartMethod`], and choose with [`Builder::start_method`] or [`set_start_method`].
//!
//! # When a process dies with a lock
//! The next thread to take it gets the guard in an [`OwnerDied`](sync::OwnerDied). It puts in order
//! what the lock protects, or returns with `?`, which releases the lock.
//!
//! # In tests
//! A test that spawns is a `#[procession::test]`, see [`macro@test`]. With an asynchronous runtime,
//! `main` is a `#[procession::main]`, see [`macro@main`].
//!
//! # What does not compile
//! A guard is no value to be sent: what it means is true only in its own process.
//!
//! ```compile_fail,E0277
//! # use procession::{Lock, Queue};
//! let (lock, queue) = (Lock::new().unwrap(), Queue::new().unwrap());
//! queue.put(lock.lock().unwrap()).unwrap();
//! ```
//!
//! ```compile_fail,E0277
//! # use procession::{Lock, sync::LockGuard, spawn};
//! let lock: &'static Lock = Box::leak(Box::new(Lock::new().unwrap()));
//! spawn(|guard: LockGuard<'static>| drop(guard), lock.lock().unwrap()).unwrap();
//! ```
//!
//! Neither can any other value without a serialized form be sent:
//!
//! ```compile_fail,E0277
//! # use procession::Queue;
//! let queue = Queue::new().unwrap();
//! queue.put(std::thread::spawn(|| ())).unwrap();
//! ```
//!
//! ```compile_fail,E0277
//! # use procession::spawn;
//! spawn(|pointer: *const u8| drop(pointer), std::ptr::null()).unwrap();
//! ```
//!
//! What a function needs must be in its arguments, as its closure can't capture anything:
//!
//! ```compile_fail,E0308
//! # use procession::spawn;
//! let factor = 7;
//! spawn(|number: u64| number * factor, 6).unwrap();
//! ```
//!
//! # What this crate does not do
//! It moves values, not references: what goes to another process is serialized (by `serde` and
//! `postcard`). It does not start programs ([`std::process::Command`] does), and it runs on Linux.

#![deny(unsafe_code)]
#![allow(clippy::needless_doctest_main, reason = "the examples show where in main init() goes")]

pub mod arena;
pub mod memory;
pub mod process;
pub mod queue;
pub mod sync;

mod codec;

pub use arena::Handle;
pub use codec::{DecodeError, EncodeError};
pub use memory::{Array, SharedBlock, Value};
pub use process::{
    Builder, JoinError, JoinHandle, SpawnError, StartMethod, init, set_start_method, spawn,
    start_method,
};
pub use queue::{ByteQueue, JoinableQueue, Queue};
pub use sync::{Barrier, Condition, Event, Lock, RLock, Semaphore};

/// Calls [`init`] first in `main`.
///
/// ```
/// #[procession::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     assert_eq!(procession::spawn(|n: u64| n + 1, 41)?.join()?, 42);
///     Ok(())
/// }
/// ```
///
/// With an asynchronous runtime it goes *above* the runtime's attribute, since a child is to be
/// taken over before there are threads:
///
/// ```
/// #[procession::main]
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let child = procession::spawn(|n: u64| n + 1, 41)?;
///     // `join` blocks its thread, so it is called on one that may block.
///     let joined = tokio::task::spawn_blocking(move || child.join()).await?;
///     assert_eq!(joined?, 42);
///     Ok(())
/// }
/// ```
///
/// The function that a child runs is called without the runtime, and may make one of its own.
///
/// ```compile_fail
/// #[procession::main]
/// async fn main() {} // there is no runtime
/// ```
#[cfg(feature = "macros")]
pub use procession_macros::main;

/// A test that may [`spawn`], as `#[test]` otherwise: under `cargo test`, `cargo nextest` and other
/// harnesses alike.
///
/// ```
/// # mod tests {
/// #[procession::test]
/// fn a_child_squares() -> Result<(), Box<dyn std::error::Error>> {
///     assert_eq!(procession::spawn(|n: u64| n * n, 7)?.join()?, 49);
///     Ok(())
/// }
/// # }
/// ```
///
/// A test runs in a thread of its harness, so its children are by [`StartMethod::Spawn`]: they find
/// the statics of a fresh program, not what the test has put there. They are taken over before the
/// program's `main`, so neither the harness nor any other test runs in them, and what they print
/// goes to the output of the test's process.
///
/// `#[should_panic]`, `#[ignore]` and a result to be returned are as with `#[test]`. Attributes
/// that make a test by themselves go below it:
///
/// ```
/// # mod tests {
/// #[procession::test]
/// #[tokio::test]
/// async fn a_child_squares() {
///     let child = procession::spawn(|n: u64| n * n, 7).unwrap();
///     let joined = tokio::task::spawn_blocking(move || child.join()).await.unwrap();
///     assert_eq!(joined.unwrap(), 49);
/// }
/// # }
/// ```
///
/// Once such a test has begun, all other tests of its process can spawn too. Don't rely on it: run
/// by itself, or under nextest, a plain `#[test]` that spawns fails.
///
/// [`init`] can't be used in a test, as it can't be first in `main` there: it panics and says so. A
/// test without a harness (`harness = false`) is a program with a `main`, and needs [`init`] there
/// as every program does.
#[cfg(feature = "macros")]
pub use procession_macros::test;

/// The README's Rust examples, run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
