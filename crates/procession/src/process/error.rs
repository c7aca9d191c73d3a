//! Why a child was not started, or ended without a result.

use std::{fmt, io};

use super::JoinHandle;
use crate::arena;
use crate::codec::{DecodeError, EncodeError};

/// A child was not started. The text says which, and why. So does the `Debug` text, which is shown
/// by `unwrap` and for an error that `main` returns.
#[derive(thiserror::Error)]
#[error("child {name:?} was not started: {kind}")]
pub struct SpawnError {
    name: String,
    #[source]
    kind: SpawnErrorKind,
}

impl SpawnError {
    pub(super) fn new(name: &str, kind: SpawnErrorKind) -> Self {
        Self { name: name.to_owned(), kind }
    }

    /// The name that the child was to have: the [`Builder`](crate::Builder)'s, or the location of
    /// the spawn.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why it was not started.
    #[must_use]
    pub fn kind(&self) -> &SpawnErrorKind {
        &self.kind
    }
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnErrorKind {
    /// The program has to be started a second time, but [`init`](crate::init) was not called, so the
    /// child could not be taken over.
    #[error(
        "it would be this program started a second time (as was chosen, or because a process with \
         several threads can't be forked), but procession::init(), which takes over in the child, \
         was never called: call it first in main, or write #[procession::main] above main; in a \
         test write #[procession::test] for #[test]"
    )]
    NotInitialized,
    /// A fork was asked for, but the process has more than one thread.
    #[error(
        "this process has several threads, so a forked child may hang on the locks that they hold: \
         don't choose the start method Fork, or spawn before the first thread"
    )]
    Threads,
    /// The function is in a shared library, where another process doesn't find it.
    #[error(
        "the function is not in the program itself but in a shared library, so a child that is not \
         forked can't find it: spawn a function of the program that calls it"
    )]
    NotInProgram,
    /// The arguments have no serialized form.
    #[error("its arguments: {0}")]
    Encode(#[from] EncodeError),
    /// Shared memory failed.
    #[error(transparent)]
    Arena(#[from] arena::Error),
    /// The kernel refused.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A child ended without a result. The text says which, how, and what can be done. So does the
/// `Debug` text, which is shown by `unwrap` and for an error that `main` returns.
#[derive(thiserror::Error)]
pub enum JoinError {
    /// A signal ended it.
    #[error("child {name:?} (process {pid}) was ended by {}", Signal(*signal))]
    Signaled {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// The signal's number.
        signal: i32,
    },
    /// It exited by itself (`std::process::exit`) before the function returned.
    #[error(
        "child {name:?} (process {pid}) left with status {code} before its function returned, so \
         there is no result: return from the function instead of leaving"
    )]
    Exited {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// The status, 0 to 255.
        code: i32,
    },
    /// The function panicked.
    #[error("child {name:?} (process {pid}) panicked at {location}: {message}")]
    Panicked {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// The panic's text.
        message: String,
        /// Where in the program: file, line and column, as in `src/main.rs:7:5`.
        location: String,
    },
    /// It did not call the function: [`init`](crate::init) was not first in its `main`, it runs
    /// another build, its directory is gone, or its arguments can't be read.
    #[error("child {name:?} (process {pid}) could not begin: {reason}")]
    NotBegun {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// What it said.
        reason: String,
    },
    /// The function returned, but its result could not be sent.
    #[error(
        "child {name:?} (process {pid}) could not send its result: {reason} (a result must \
         serialize, and fit shared memory)"
    )]
    Unsent {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// What it said.
        reason: String,
    },
    /// The result can't be read.
    #[error("the result of child {name:?} (process {pid}): {source}")]
    Decode {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// Why.
        source: DecodeError,
    },
    /// It ended without a result, and other code in this program took its status (a `wait` for any
    /// child), or SIGCHLD is ignored.
    #[error(
        "child {name:?} (process {pid}) ended without a result, and something else took its exit \
         status: don't wait for any child (waitpid(-1)), nor ignore SIGCHLD"
    )]
    StatusTaken {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// Shared memory failed.
    #[error("the report of child {name:?} (process {pid}): {source}")]
    Arena {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// Why.
        source: arena::Error,
    },
    /// The kernel refused.
    #[error("{what} child {name:?} (process {pid}): {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The child's number.
        pid: u32,
        /// The child's name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl JoinError {
    /// The child's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().0
    }

    /// The child's name: the [`Builder`](crate::Builder)'s, or the location of the spawn.
    #[must_use]
    pub fn name(&self) -> &str {
        self.child().1
    }

    fn child(&self) -> (u32, &str) {
        match self {
            Self::Signaled { pid, name, .. }
            | Self::Exited { pid, name, .. }
            | Self::Panicked { pid, name, .. }
            | Self::NotBegun { pid, name, .. }
            | Self::Unsent { pid, name, .. }
            | Self::Decode { pid, name, .. }
            | Self::StatusTaken { pid, name }
            | Self::Arena { pid, name, .. }
            | Self::Os { pid, name, .. } => (*pid, name),
        }
    }
}

/// [`JoinHandle::try_join`] returned no result.
#[derive(thiserror::Error)]
pub enum TryJoinError<R> {
    /// The child still runs. Here is its handle.
    #[error("child {:?} (process {}) still runs", .0.name(), .0.pid())]
    Running(JoinHandle<R>),
    /// It ended without a result.
    #[error(transparent)]
    Failed(#[from] JoinError),
}

/// [`JoinHandle::join_timeout`] returned no result.
#[derive(thiserror::Error)]
pub enum JoinTimeoutError<R> {
    /// The child still runs. Here is its handle.
    #[error("child {:?} (process {}) still runs", .0.name(), .0.pid())]
    TimedOut(JoinHandle<R>),
    /// It ended without a result.
    #[error(transparent)]
    Failed(#[from] JoinError),
}

impl fmt::Debug for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpawnError({self})")
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

// Not derived, as that would require it of the result's type, though there is no result.

impl<R> fmt::Debug for TryJoinError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(child) => f.debug_tuple("Running").field(child).finish(),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl<R> fmt::Debug for JoinTimeoutError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(child) => f.debug_tuple("TimedOut").field(child).finish(),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

/// A signal by number and, if it often ends processes, by name (`signal(7)`, numbers as on all of
/// Linux but MIPS, SPARC and PA-RISC), and what to look at.
struct Signal(i32);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crash = ": it crashed, what it wrote to stderr or a debugger may say where";
        let (name, hint) = match self.0 {
            1 => ("SIGHUP", ""),
            2 => ("SIGINT", ""),
            3 => ("SIGQUIT", ""),
            4 => ("SIGILL", crash),
            6 => ("SIGABRT", crash),
            7 => ("SIGBUS", crash),
            8 => ("SIGFPE", crash),
            9 => ("SIGKILL", ": unless it was sent, the kernel had too little memory (see dmesg)"),
            11 => ("SIGSEGV", crash),
            13 => ("SIGPIPE", ""),
            14 => ("SIGALRM", ""),
            15 => ("SIGTERM", ""),
            number => return write!(f, "signal {number}"),
        };
        write!(f, "signal {} ({name}){hint}", self.0)
    }
}
