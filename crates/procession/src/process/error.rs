//! Why a child was not started, or ended without a result.

use std::io;

use super::JoinHandle;
use crate::arena;
use crate::codec::{DecodeError, EncodeError};

/// A child was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program has to be started anew, and nothing in it would take over there.
    #[error(
        "procession::init() was never called: call it first in main, where a child that is started \
         anew takes over (this process has several threads, so it can't be forked)"
    )]
    NotInitialized,
    /// A fork was asked for, of a process with more than one thread.
    #[error(
        "this process has several threads, so a fork of it may hang on what they have locked: let \
         the start method be chosen, or spawn before the first thread"
    )]
    Threads,
    /// The function is in a shared library, where another process doesn't find it.
    #[error(
        "the function is not in the program itself, so a child that is started anew can't find it"
    )]
    NotInProgram,
    /// The arguments have no serialized form.
    #[error("the arguments: {0}")]
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

/// A child ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A signal ended it.
    #[error("process {pid} was ended by signal {signal}{}", name_of(*signal))]
    Signaled {
        /// Its number.
        pid: u32,
        /// The signal's number.
        signal: i32,
    },
    /// It left by itself (`std::process::exit`) before the function returned.
    #[error("process {pid} left with status {code} before its function returned")]
    Exited {
        /// Its number.
        pid: u32,
        /// The status, 0 to 255.
        code: i32,
    },
    /// The function panicked.
    #[error("process {pid} panicked at {place}: {message}")]
    Panicked {
        /// Its number.
        pid: u32,
        /// The panic's text.
        message: String,
        /// Where in the program: file, line and column, as in `src/main.rs:7:5`.
        place: String,
    },
    /// It could not call the function: another build, or arguments that can't be read.
    #[error("process {pid} could not begin: {reason}")]
    NotBegun {
        /// Its number.
        pid: u32,
        /// What it said.
        reason: String,
    },
    /// The function returned, but its result could not be sent.
    #[error("process {pid} could not send its result: {reason}")]
    Unsent {
        /// Its number.
        pid: u32,
        /// What it said.
        reason: String,
    },
    /// The result can't be read.
    #[error("the result of process {pid}: {source}")]
    Decode {
        /// Its number.
        pid: u32,
        /// Why.
        source: DecodeError,
    },
    /// It ended without a result, and something else in this program took its status (a `wait` for
    /// any child, or SIGCHLD being ignored).
    #[error("process {pid} ended without a result, and something else took its exit status")]
    StatusTaken {
        /// Its number.
        pid: u32,
    },
    /// Shared memory failed.
    #[error(transparent)]
    Arena(#[from] arena::Error),
    /// The kernel refused.
    #[error("{what} process {pid}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The child's number.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// [`JoinHandle::try_join`] gave no result.
#[derive(Debug, thiserror::Error)]
pub enum TryJoinError<R> {
    /// The child still runs. Here is its handle.
    #[error("process {} still runs", .0.pid())]
    Running(JoinHandle<R>),
    /// It ended without a result.
    #[error(transparent)]
    Failed(#[from] JoinError),
}

/// [`JoinHandle::join_timeout`] gave no result.
#[derive(Debug, thiserror::Error)]
pub enum JoinTimeoutError<R> {
    /// The child still runs. Here is its handle.
    #[error("process {} still runs", .0.pid())]
    TimedOut(JoinHandle<R>),
    /// It ended without a result.
    #[error(transparent)]
    Failed(#[from] JoinError),
}

/// The names of the signals that end processes most often (`signal(7)`, numbers as on all of Linux
/// but MIPS, SPARC and PA-RISC).
fn name_of(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        14 => " (SIGALRM)",
        15 => " (SIGTERM)",
        _ => "",
    }
}
