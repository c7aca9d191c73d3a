//! Sleeping on a word of shared memory (`futex(2)`), in its shared form only.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};

use crate::clock::Monotonic;

const ANY: NonZeroU32 = NonZeroU32::MAX;

/// Why [`wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// Woken, or woken without a reason (`futex(2)` allows spurious wakes).
    Woken,
    /// The word no longer held the expected value, so there was nothing to wait for.
    Changed,
    /// The deadline passed.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleeps while `word` holds `expected`, but not past `deadline`.
pub fn wait(word: &AtomicU32, expected: u32, deadline: Option<Monotonic>) -> Wakeup {
    let timeout = deadline.map(Monotonic::timespec);
    // FUTEX_WAIT_BITSET takes an absolute time, so a restarted wait does not become longer.
    match futex::wait_bitset(word, Flags::empty(), expected, timeout.as_ref(), ANY) {
        Ok(()) => Wakeup::Woken,
        Err(Errno::AGAIN) => Wakeup::Changed,
        Err(Errno::TIMEDOUT) => Wakeup::TimedOut,
        Err(Errno::INTR) => Wakeup::Interrupted,
        // The only other errors are a bad address or flag, which a reference to an aligned word
        // excludes.
        Err(other) => unreachable!("futex wait on a valid word: {other}"),
    }
}

/// How many words a thread can sleep on at once (`FUTEX_WAITV_MAX`, `linux/futex.h`).
pub const MAX_WORDS: usize = 128;

/// As [`wait`], on any of several words, [`MAX_WORDS`] of them at the most; where the kernel has no
/// such call (before Linux 5.16, or in a container that forbids it), on the first only.
pub fn wait_any<'a>(
    first: (&'a AtomicU32, u32),
    others: impl Iterator<Item = (&'a AtomicU32, u32)>,
    deadline: Option<Monotonic>,
) -> Wakeup {
    static MISSING: AtomicBool = AtomicBool::new(false);
    let mut waiters = [(); MAX_WORDS].map(|()| Wait::new());
    let mut len = 0;
    for (waiter, (word, expected)) in waiters.iter_mut().zip(std::iter::once(first).chain(others)) {
        waiter.val = expected.into();
        waiter.uaddr = WaitPtr::new(word.as_ptr().cast());
        waiter.flags = WaitFlags::SIZE_U32;
        len += 1;
    }
    if len == 1 || MISSING.load(Ordering::Relaxed) {
        return wait(first.0, first.1, deadline);
    }
    let timeout = deadline.map(Monotonic::timespec);
    let flags = WaitvFlags::empty();
    match futex::waitv(&waiters[..len], flags, timeout.as_ref(), ClockId::Monotonic) {
        Ok(_) => Wakeup::Woken,
        Err(Errno::AGAIN) => Wakeup::Changed,
        Err(Errno::TIMEDOUT) => Wakeup::TimedOut,
        Err(Errno::INTR) => Wakeup::Interrupted,
        // For want of memory, this once.
        Err(Errno::NOMEM) => wait(first.0, first.1, deadline),
        Err(_) => {
            MISSING.store(true, Ordering::Relaxed);
            wait(first.0, first.1, deadline)
        }
    }
}

/// Wakes up to `count` sleepers on `word`; says how many there were.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    futex::wake(word, Flags::empty(), count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_changed_word_is_not_slept_on() {
        assert_eq!(wait(&AtomicU32::new(1), 0, None), Wakeup::Changed);
    }

    #[test]
    fn a_sleep_on_several_words_ends_with_any() {
        let words: &'static [AtomicU32; 2] = Box::leak(Box::default());
        let either = |expected| {
            let soon = Monotonic::now().after(Duration::from_secs(60));
            wait_any((&words[0], 0), [(&words[1], expected)].into_iter(), Some(soon))
        };
        for word in words {
            let waker = std::thread::spawn(move || {
                while wake(word, 1) == 0 {
                    std::thread::yield_now();
                }
            });
            assert_eq!(either(0), Wakeup::Woken);
            waker.join().unwrap();
        }
        assert_eq!(either(1), Wakeup::Changed);
    }

    #[test]
    fn a_deadline_ends_the_sleep() {
        let soon = Monotonic::now().after(Duration::from_millis(2));
        assert_eq!(wait(&AtomicU32::new(0), 0, Some(soon)), Wakeup::TimedOut);
        assert!(Monotonic::now() >= soon);
    }
}
