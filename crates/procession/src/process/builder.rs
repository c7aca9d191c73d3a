//! Starting a child.

#![allow(unsafe_code)]

use std::io::Write;
use std::os::fd::AsFd;

use procession_os::pidfd::PidFd;
use procession_os::process::{self, Fork};
use procession_shm::arena::forked;
use procession_shm::queue::Queue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::child::{self, called_anew};
use super::detached;
use super::error::SpawnError;
use super::handle::{Child, JoinHandle, SIGKILL};
use super::order::{self, Order};
use super::program::{Build, Place};
use crate::arena::{self, Slot};
use crate::codec::{self, Named};

/// How a child comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartMethod {
    /// A copy of this process, which must have one thread (`fork(2)`). Fast.
    Fork,
    /// This program started anew; [`init`](super::init) must come first in its main.
    Spawn,
}

/// Runs `function` with `arguments` in a process of its own.
///
/// Closures that capture nothing are functions too. What the function needs comes in by the
/// arguments, which are serialized, and goes out by the result.
///
/// # Errors
/// [`SpawnError`]. Nothing was started then.
///
/// ```
/// fn main() {
///     procession::init();
///     let child = procession::spawn(|(a, b): (u64, u64)| a * b, (6, 7)).unwrap();
///     assert_eq!(child.join().unwrap(), 42);
/// }
/// ```
#[track_caller]
pub fn spawn<A, R>(function: fn(A) -> R, arguments: A) -> Result<JoinHandle<R>, SpawnError>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    Builder::new().spawn(function, arguments)
}

/// A child to be started, with what can be chosen about it.
///
/// ```
/// use procession::Builder;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let child = Builder::new().name("adder").daemon(true).spawn(|n: u64| n + 1, 1)?;
///     assert_eq!(child.name(), "adder");
///     assert_eq!(child.join()?, 2);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    name: Option<String>,
    daemon: bool,
    method: Option<StartMethod>,
}

impl Builder {
    /// A child named after the place of the spawn, which lives on when its parent ends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What it is called in the family's process table (48 bytes of it) and in errors.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it dies with this process, by whatever this one ends: SIGKILL, too.
    #[must_use]
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    /// How it comes to be. If this isn't said: by fork if this process has one thread.
    #[must_use]
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = Some(method);
        self
    }

    /// Starts the child; see [`spawn`].
    ///
    /// # Errors
    /// As [`spawn`].
    #[track_caller]
    pub fn spawn<A, R>(
        self,
        function: fn(A) -> R,
        arguments: A,
    ) -> Result<JoinHandle<R>, SpawnError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        detached::reap();
        let name = self.name.unwrap_or_else(|| arena::place(std::panic::Location::caller()));
        let one_thread = process::is_single_threaded();
        let method = self.method.unwrap_or(match one_thread {
            true => StartMethod::Fork,
            false => StartMethod::Spawn,
        });
        let arena = arena::family()?;
        let outbox = Queue::new(arena, &name, None)?;
        // So that there is a descriptor left to follow the child by.
        let spare = arena.as_fd().try_clone_to_owned();
        let spare = spare.map_err(|source| SpawnError::Os { what: "a descriptor", source })?;
        let (bytes, mut named) = codec::encode_holding(&arguments)?;
        let (pid, slot) = match method {
            StartMethod::Fork if !one_thread => return Err(SpawnError::Threads),
            StartMethod::Fork => {
                // SAFETY: this is the process's one thread.
                let (pid, slot) =
                    unsafe { fork(&name, self.daemon, || child::run(function, &bytes, &outbox)) }?;
                // The child has a share in all that is open here.
                named = Named::new();
                (pid, slot)
            }
            StartMethod::Spawn => {
                if !child::is_initialized() {
                    return Err(SpawnError::NotInitialized);
                }
                let order = Order {
                    build: Build::of_this_program().map_err(|source| SpawnError::Os {
                        what: "looking at /proc/self/exe",
                        source,
                    })?,
                    entry: Place::of(called_anew::<A, R>).ok_or(SpawnError::NotInProgram)?,
                    function: Place::of(function).ok_or(SpawnError::NotInProgram)?,
                    name: name.clone(),
                    outbox: outbox.handle().to_bytes(),
                    parent: process::id(),
                    daemon: self.daemon,
                    by_main_thread: process::is_main_thread(),
                };
                let block = order.write(&bytes)?;
                let pid = order::start(&block)?;
                named.push(Box::new(block));
                (pid, None)
            }
        };
        drop(spare);
        let pidfd = PidFd::open(pid).map_err(|source| {
            let _ = process::kill(pid, SIGKILL);
            SpawnError::Os { what: "following the child", source }
        })?;
        Ok(JoinHandle::of(Child::new(pid, name, pidfd, slot, outbox, named)))
    }
}

/// Forks; the child runs `work` and leaves with the status that it gives.
///
/// # Safety
/// As [`process::fork`]: this process has one thread.
unsafe fn fork(
    name: &str,
    daemon: bool,
    work: impl FnOnce() -> i32,
) -> Result<(u32, Option<Slot>), SpawnError> {
    // What is in the buffer would be printed by both.
    let _ = std::io::stdout().flush();
    let parent = process::id();
    let by_main_thread = process::is_main_thread();
    // SAFETY: passed on to the caller.
    match unsafe { process::fork() } {
        Ok(Fork::Child) => {
            if let Ok(arena) = arena::family() {
                arena.set_name(name);
            }
            if daemon && let Err(error) = process::die_with_parent(parent, by_main_thread) {
                eprintln!("procession: {name} would outlive its parent: {error}");
                process::exit_now(child::FAILED);
            }
            process::exit_now(work())
        }
        Ok(Fork::Parent(pid)) => Ok((pid, forked(Some(pid)))),
        Err(source) => {
            forked(None);
            Err(SpawnError::Os { what: "fork", source })
        }
    }
}
