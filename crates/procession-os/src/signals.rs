//! Keeping signals off a few steps that a handler must not come in between.

#![allow(unsafe_code)]

use std::marker::PhantomData;

/// While it lives, no signal's handler runs on this thread (`pthread_sigmask(3)`).
#[derive(Debug)]
#[must_use]
pub struct Blocked {
    before: libc::sigset_t,
    /// It is the thread's.
    thread: PhantomData<*const ()>,
}

/// Blocks all signals of the calling thread. Async-signal-safe.
pub fn block() -> Blocked {
    // SAFETY: the sets are initialised whole, by zeroes and by the calls.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        Blocked { before, thread: PhantomData }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one that blocking returned.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}
