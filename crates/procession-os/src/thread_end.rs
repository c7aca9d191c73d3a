//! Code that runs when a thread ends while its process goes on (`pthread_key_create(3)`).
//!
//! `thread_local!` destructors are not enough: the C library also runs those of the thread that
//! calls `exit(3)`, when the process is still there.

#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

static AT_END: OnceLock<fn()> = OnceLock::new();

/// The key plus 1; 0 before there is one. It is no lock, as a forked child could find a lock taken.
static KEY: AtomicU32 = AtomicU32::new(0);

extern "C" fn end(_value: *mut libc::c_void) {
    if let Some(at_end) = AT_END.get() {
        at_end();
    }
}

/// Registers what is to run at the end of the threads that [ask for it](at_this_end), once for the
/// process's life; later calls change nothing.
pub fn register(at_end: fn()) {
    if AT_END.set(at_end).is_ok() {
        let mut key = 0;
        // SAFETY: the key is written to; the destructor lives as long as the program.
        if unsafe { libc::pthread_key_create(&raw mut key, Some(end)) } == 0 {
            KEY.store(key + 1, Ordering::Release);
        }
    }
}

/// Makes the registered code run when the calling thread ends. Returns whether it will.
pub fn at_this_end() -> bool {
    let Some(key) = KEY.load(Ordering::Acquire).checked_sub(1) else { return false };
    // SAFETY: the key was made; any pointer that is not NULL will do as its value.
    unsafe { libc::pthread_setspecific(key, std::ptr::from_ref(&KEY).cast()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_at_the_end_of_the_threads_that_asked() {
        static ENDED: AtomicU32 = AtomicU32::new(0);
        register(|| {
            ENDED.fetch_add(1, Ordering::SeqCst);
        });
        std::thread::spawn(|| assert!(at_this_end())).join().unwrap();
        assert_eq!(ENDED.load(Ordering::SeqCst), 1);
        std::thread::spawn(|| ()).join().unwrap();
        assert_eq!(ENDED.load(Ordering::SeqCst), 1);
    }
}
