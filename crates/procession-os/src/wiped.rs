//! Words that are 0 in every new process. They keep what a process knows of itself and a copy of it
//! must find out again.
//!
//! The kernel wipes the page that they are in while it makes the copy (`MADV_WIPEONFORK`,
//! `madvise(2)`). So they are right whatever the copy runs first: a hook of another library, or any
//! code after a `clone(2)` that the C library does not know of. If the kernel refuses, the
//! [hook](crate::atfork) in the child wipes them.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// How many words there are.
pub const WORDS: usize = 255;

/// The words, and behind them this process's number.
struct Page([AtomicU64; WORDS + 1]);

impl Page {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS + 1])
    }
}

/// What is pointed to before the page has been made; nothing is written there.
static NONE_YET: Page = Page::new();
/// The page of a process on a kernel that wipes none.
static NOT_WIPED: Page = Page::new();

static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::from_ref(&NONE_YET).cast_mut());

#[inline]
fn now() -> &'static Page {
    // SAFETY: the pointer is to a static, or to a mapping of a page's size that stays.
    unsafe { &*PAGE.load(Ordering::Acquire) }
}

/// The page, made if there is none yet. Async-signal-safe.
fn page() -> &'static Page {
    let found = now();
    if !ptr::eq(found, &raw const NONE_YET) {
        return found;
    }
    let made = map();
    let page = made.unwrap_or(ptr::from_ref(&NOT_WIPED).cast_mut());
    let none = ptr::from_ref(&NONE_YET).cast_mut();
    if PAGE.compare_exchange(none, page, Ordering::AcqRel, Ordering::Acquire).is_err()
        && let Some(made) = made
    {
        // SAFETY: mapped just now, and nothing else has its address.
        let _ = unsafe { munmap(made.cast(), size_of::<Page>()) };
    }
    now()
}

fn map() -> Option<*mut Page> {
    let (size, access) = (size_of::<Page>(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a fresh mapping at an address of the kernel's choice; zeroed memory is valid atomics.
    unsafe {
        let page = mmap_anonymous(ptr::null_mut(), size, access, MapFlags::PRIVATE).ok()?;
        if madvise(page, size, Advice::LinuxWipeOnFork).is_err() {
            let _ = munmap(page, size);
            return None;
        }
        Some(page.cast())
    }
}

/// One of the words. The callers agree on which word is for what; the first is this module's own.
///
/// # Panics
/// If `index` is not from 1 to [`WORDS`] - 1.
#[must_use]
pub fn word(index: usize) -> &'static AtomicU64 {
    assert!((1..WORDS).contains(&index), "word {index} is taken, or there is none");
    &page().0[index]
}

/// This process's number, if the kernel wipes the page: 0 if it was not [kept](keep_process_id).
#[inline]
pub(crate) fn process_id() -> u32 {
    now().0[WORDS].load(Ordering::Relaxed) as u32
}

/// Keeps this process's number where the kernel wipes it from a copy of the process.
pub(crate) fn keep_process_id(id: u32) {
    let page = page();
    if !ptr::eq(page, &raw const NOT_WIPED) {
        page.0[WORDS].store(id.into(), Ordering::Relaxed);
    }
}

/// The number that marks a process in its own memory and in that of its copies: it differs from the
/// numbers of all processes that this one descends from. 0 if it has none yet.
#[inline]
pub(crate) fn stamp() -> u64 {
    now().0[0].load(Ordering::Relaxed)
}

/// The same, made if there is none yet; `in_copy` runs first in a copy of a process that had one.
pub(crate) fn make_stamp(in_copy: fn()) -> u64 {
    /// The last stamp that this process, or one that it descends from, has made.
    static LAST: AtomicU32 = AtomicU32::new(0);
    let word = &page().0[0];
    let known = word.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    if LAST.load(Ordering::Relaxed) != 0 {
        in_copy();
    }
    let stamp = u64::from(LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1)).max(1);
    let order = Ordering::Relaxed;
    word.compare_exchange(0, stamp, order, order).map_or_else(|other| other, |_| stamp)
}

/// In a child of a fork: wipes the words if the kernel has not.
pub(crate) fn wipe_in_child() {
    if ptr::eq(now(), &raw const NOT_WIPED) {
        NOT_WIPED.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn a_copy_of_the_process_finds_zeroes_and_its_own_number() {
        word(7).store(1, Ordering::Relaxed);
        assert_eq!(process::thread_id(), process::thread_id());
        assert_eq!(process::id(), std::process::id());
        // SAFETY: the child leaves at once. No hook runs in it.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if pid == 0 {
            let is_new = word(7).load(Ordering::Relaxed) == 0;
            process::exit_now(i32::from(!is_new || process::thread_id() != process::id()));
        }
        let mut status = 0;
        // SAFETY: it writes the status.
        unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) };
        assert_eq!(status, 0);
        assert_eq!(word(7).load(Ordering::Relaxed), 1);
    }
}
