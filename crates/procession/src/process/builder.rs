//! Starting a child.

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use procession_os::parent_death::die_with_parent;
use procession_os::process;
use procession_shm::arena::Forked;
use procession_shm::process::SpareDescriptor;
use procession_shm::queue::Queue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::child::{self, respawned};
use super::child_env::{ChildEnv, enter_directory};
use super::detached;
use super::error::{SpawnError, SpawnErrorKind};
use super::handle::{Child, JoinHandle};
use super::init::entrance;
use super::payload::{self, Payload};
use super::program::{Build, FnOffset};
use super::report::Report;
use super::start_method::{StartMethod, start_method, to_number};
use crate::arena::{self, Slot};
use crate::codec::{self, Named};

/// Runs `function` with `arguments` in a process of its own.
///
/// Closures that capture nothing are functions too. What the function needs comes in by the
/// arguments, and what it makes goes out by the result; both are serialized.
///
/// What the function finds in the program's *statics* depends on the start method. Unless one was
/// [chosen](super::set_start_method), it depends on the threads of this process. With one thread,
/// the child is a copy of this process and has the statics as they are now. With several, the child
/// is the program started a second time and has the statics of its start. See [`StartMethod`].
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
    die_with_parent: bool,
    method: Option<StartMethod>,
    env: ChildEnv,
}

impl Builder {
    /// A child that is named after the location of the spawn and lives on when its parent ends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its name in the family's process table (48 bytes of it) and in errors.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it dies with this process, whatever ends this one, SIGKILL included.
    #[must_use]
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    /// Whether it dies with this process, without being a daemon.
    #[must_use]
    pub fn die_with_parent(mut self, dies: bool) -> Self {
        self.die_with_parent = dies;
        self
    }

    /// Sets a variable in its environment, which otherwise is this process's.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.changes.insert(name.into(), Some(value.into()));
        self
    }

    /// Takes a variable out of its environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.changes.insert(name.into(), None);
        self
    }

    /// Starts it with an empty environment, except for variables that are set after this call.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env.clear = true;
        self.env.changes.clear();
        self
    }

    /// The directory that it begins in, if not this process's. If the child can't go there, its
    /// join says so ([`JoinError::NotBegun`](super::JoinError::NotBegun)).
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.env.directory = Some(directory.into());
        self
    }

    /// How it is started, and so whether it finds the program's statics as they are here now or as
    /// at the program's start: see [`StartMethod`]. The default is what
    /// [`set_start_method`](super::set_start_method) has chosen. If nothing was chosen, it is a
    /// fork if this process has one thread, and the program started a second time otherwise.
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
        let here = std::panic::Location::caller();
        let name = self.name.clone().unwrap_or_else(|| arena::caller_name_of_child(here));
        let started = self.start(name.clone(), function, arguments);
        started.map_err(|why| SpawnError::new(&name, why))
    }

    fn start<A, R>(
        self,
        name: String,
        function: fn(A) -> R,
        arguments: A,
    ) -> Result<JoinHandle<R>, SpawnErrorKind>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        detached::reap();
        let checked = self.env.check();
        checked.map_err(|source| SpawnErrorKind::Os { what: "the environment", source })?;
        let bound = self.daemon || self.die_with_parent;
        let one_thread = process::is_single_threaded();
        let method = self.method.or_else(start_method).unwrap_or(match one_thread {
            true => StartMethod::Fork,
            false => StartMethod::Spawn,
        });
        let arena = arena::family()?;
        let outbox = Queue::new(arena, &name, None)?;
        let spare = SpareDescriptor::reserve();
        let spare = spare.map_err(|source| SpawnErrorKind::Os { what: "a descriptor", source })?;
        let (bytes, mut named) = codec::encode_holding(&arguments)?;
        let (pid, slot) = match method {
            StartMethod::Fork if !one_thread => return Err(SpawnErrorKind::Threads),
            StartMethod::Fork => {
                let env = &self.env;
                let run = || {
                    // SAFETY: the copy of a process with one thread has one.
                    unsafe { env.enter_environment() };
                    if let Err(why) = enter_directory(env.directory.as_ref()) {
                        let _ = Report::NotBegun(why).send(&outbox);
                        return child::FAILED;
                    }
                    child::run(function, &bytes, &outbox)
                };
                // SAFETY: this is the process's only thread.
                let (pid, slot) = unsafe { fork(&name, bound, run) }?;
                // The child has a share in all that is open here.
                named = Named::new();
                (pid, slot)
            }
            StartMethod::Spawn => {
                let entrance = entrance().ok_or(SpawnErrorKind::NotInitialized)?;
                let payload = Payload {
                    build: Build::of_this_program().map_err(|source| SpawnErrorKind::Os {
                        what: "looking at /proc/self/exe",
                        source,
                    })?,
                    entry: FnOffset::of(respawned::<A, R>).ok_or(SpawnErrorKind::NotInProgram)?,
                    function: FnOffset::of(function).ok_or(SpawnErrorKind::NotInProgram)?,
                    name: name.clone(),
                    outbox: outbox.handle().to_bytes(),
                    parent: process::id(),
                    bound,
                    by_main_thread: process::is_main_thread(),
                    directory: self.env.directory.clone(),
                    start_method: to_number(start_method()),
                };
                let block = payload.write(&bytes)?;
                let pid = payload::start(&block, entrance, &self.env)?;
                named.push(Box::new(block));
                (pid, None)
            }
        };
        let pidfd = spare
            .follow(pid)
            .map_err(|source| SpawnErrorKind::Os { what: "following the child", source })?;
        Ok(JoinHandle::of(Child::new(name, pidfd, slot, outbox, named, method)))
    }
}

/// Forks; the child runs `work` and exits with the status that `work` returns.
///
/// # Safety
/// As [`process::fork`]: this process has one thread.
unsafe fn fork(
    name: &str,
    bound: bool,
    work: impl FnOnce() -> i32,
) -> Result<(u32, Option<Slot>), SpawnErrorKind> {
    // Otherwise both would print what is in the buffer.
    let _ = std::io::stdout().flush();
    let parent = process::id();
    let by_main_thread = process::is_main_thread();
    // SAFETY: passed on to the caller.
    match unsafe { procession_shm::arena::fork() } {
        Ok(Forked::Child) => {
            if let Ok(arena) = arena::family() {
                arena.set_name(name);
            }
            if bound && let Err(error) = die_with_parent(parent, by_main_thread) {
                eprintln!("procession: {name} would outlive its parent: {error}");
                process::exit_now(child::FAILED);
            }
            process::exit_now(work())
        }
        Ok(Forked::Parent(pid, slot)) => Ok((pid, slot)),
        Err(arena::Error::Os { what, source }) => Err(SpawnErrorKind::Os { what, source }),
        Err(error) => Err(error.into()),
    }
}
