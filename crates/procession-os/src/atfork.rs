//! Code that runs at every `fork(3)` of this process, whichever code calls it.

#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;

/// What [`register`] has the C library call around each fork.
#[derive(Clone, Copy, Debug)]
pub struct Handlers {
    /// In the parent, before, on the thread that forks.
    pub before: fn(),
    /// In the parent, after, also when the fork failed.
    pub in_parent: fn(),
    /// In the child. Other threads are gone, and the locks that they held stay locked: only
    /// async-signal-safe work.
    pub in_child: fn(),
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

extern "C" fn before() {
    if let Some(handlers) = HANDLERS.get() {
        (handlers.before)();
    }
}

extern "C" fn in_parent() {
    if let Some(handlers) = HANDLERS.get() {
        (handlers.in_parent)();
    }
}

extern "C" fn in_child() {
    crate::wiped::wipe_in_child();
    crate::per_process::count_fork();
    if let Some(handlers) = HANDLERS.get() {
        (handlers.in_child)();
    }
}

/// Registers the handlers with `pthread_atfork(3)`, once for the process's life; later calls change
/// nothing.
///
/// # Errors
/// `ENOMEM`.
pub fn register(handlers: Handlers) -> io::Result<()> {
    if HANDLERS.set(handlers).is_err() {
        return Ok(());
    }
    // SAFETY: the three functions live as long as the program and don't unwind.
    match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
