//! A word of shared memory that the kernel marks when the thread that watches over it is gone, by
//! whatever cause: it left, was killed, or its process called `execve(2)`.
//!
//! # How
//! The kernel has a list of *robust futexes* for each thread (`get_robust_list(2)`), of which the C
//! library makes the head. When the thread goes, the kernel walks the list; a word in it that holds
//! the thread's number gets the bit `FUTEX_OWNER_DIED`, and one sleeper on it is woken. So a death
//! is found by one load, without a descriptor or a look at `/proc`, and from every PID namespace.
//!
//! The list's links lie beside the word, as the C library's lie in a robust mutex, because the
//! distance between the two is the same for all entries of a list. They are in shared memory, and
//! are followed only by the kernel, in a process that ends: it reads no more than 2048 of them, and
//! ignores words without the thread's number.
//!
//! # What it is not
//! The mark speaks of one *thread*. A thread that ends while its process goes on must
//! [release](LifeWord::release) the word first, so that another can watch. And other threads of the
//! process may take some more steps after the mark, until the kernel has stopped them: before
//! anything is taken from the process, its end has to be [confirmed](LifeWord::confirm).

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::memory::Shared;
use crate::process;

/// `FUTEX_WAITERS`, `FUTEX_OWNER_DIED`, `FUTEX_TID_MASK` (`linux/futex.h`).
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const THREAD: u32 = 0x3fff_ffff;

/// What stands for the thread once a process has checked that the watched process is over.
const CONFIRMED: u32 = OWNER_DIED | THREAD;

/// What a word says of the process that has a thread watching over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// No thread watches: it must be found out in another way.
    Unwatched,
    /// The thread runs, and so does the process.
    Runs,
    /// The thread is gone: the process is ending, has ended, or runs another program.
    Gone,
    /// The process is over, or runs another program: this has been checked.
    Confirmed,
}

/// The word as it was at some instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed(u32);

impl Observed {
    /// What the word said.
    #[inline]
    #[must_use]
    pub fn sign(self) -> Sign {
        match self.0 & !WAITERS {
            0 => Sign::Unwatched,
            CONFIRMED => Sign::Confirmed,
            word if word & OWNER_DIED != 0 => Sign::Gone,
            _ => Sign::Runs,
        }
    }
}

/// The word and its links. All zero is a word that no thread watches.
#[repr(C)]
#[derive(Debug, Default)]
pub struct LifeWord {
    word: AtomicU32,
    /// The thread that watches, or watched last: the kernel's mark takes its number off the word.
    thread: AtomicU32,
    unused: [AtomicU64; 2],
    /// The address of the previous link, which only the C library writes.
    previous: AtomicU64,
    /// The address of the next link.
    next: AtomicU64,
}

// SAFETY: only atomics.
unsafe impl Shared for LifeWord {}

/// The kernel's `struct robust_list_head`.
#[repr(C)]
struct Head {
    first: *mut u64,
    offset: libc::c_long,
    pending: *mut u64,
}

/// From a link to its word.
const OFFSET: libc::c_long = std::mem::offset_of!(LifeWord, word) as libc::c_long
    - std::mem::offset_of!(LifeWord, next) as libc::c_long;

/// The head of the calling thread's list, if its entries look like a [`LifeWord`].
fn head() -> Option<*mut Head> {
    let mut head: *mut Head = std::ptr::null_mut();
    let mut len: libc::size_t = 0;
    // SAFETY: the kernel writes one pointer and one length.
    let asked = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    if asked != 0 || head.is_null() || len != size_of::<Head>() {
        return None;
    }
    // SAFETY: the head that a thread has registered is valid for as long as the thread runs.
    (unsafe { (*head).offset } == OFFSET).then_some(head)
}

impl LifeWord {
    /// Makes the calling thread watch over the word; no thread may watch it yet. Returns whether
    /// the thread watches: without the kernel's or the C library's list no thread can.
    /// Async-signal-safe.
    ///
    /// The word must lie in memory that stays mapped for the thread's life, hence `'static`.
    pub fn watch(&'static self) -> bool {
        let Some(head) = head() else { return false };
        let me = process::thread_id() & THREAD;
        if self.word.compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return self.is_mine();
        }
        self.thread.store(me, Ordering::SeqCst);
        let link = self.next.as_ptr();
        // SAFETY: the list belongs to this thread, so no other changes it, and the kernel reads it
        // when the thread ends. Its first entry is the head itself or an entry of the C library's
        // kind; both have the address of the previous link just before their own link. The last
        // store puts the whole entry into the list.
        unsafe {
            let first = (*head).first;
            let before_first = (first as usize & !1).wrapping_sub(8) as *mut u64;
            before_first.write(link as u64);
            self.previous.store(head as u64, Ordering::Relaxed);
            self.next.store(first as u64, Ordering::Relaxed);
            (&raw mut (*head).first).write_volatile(link);
        }
        true
    }

    /// The number of the thread that watches, or watched last, in its own PID namespace.
    #[must_use]
    pub fn thread(&self) -> u32 {
        self.thread.load(Ordering::SeqCst)
    }

    fn is_mine(&self) -> bool {
        self.word.load(Ordering::SeqCst) & THREAD == process::thread_id() & THREAD
    }

    /// Ends the watch of the calling thread, which is about to end though its process goes on. Its
    /// list keeps the entry, which the kernel ignores from now on. Sleepers are woken: nothing else
    /// would wake them from then on.
    pub fn release(&self) {
        let me = process::thread_id() & THREAD;
        let order = Ordering::SeqCst;
        let released = self.word.fetch_update(order, order, |word| {
            (word & THREAD == me && word & OWNER_DIED == 0).then_some(0)
        });
        self.wake_those_of(released.unwrap_or(0));
    }

    /// Wakes the sleepers on the word; `before` is its value before it was changed.
    fn wake_those_of(&self, before: u32) {
        if before & WAITERS != 0 {
            crate::futex::wake(&self.word, i32::MAX as u32);
        }
    }

    /// Resets the word, for its next process: no thread watches it.
    pub fn clear(&self) {
        self.word.store(0, Ordering::SeqCst);
    }

    /// The word at this instant.
    #[inline]
    #[must_use]
    pub fn observe(&self) -> Observed {
        Observed(self.word.load(Ordering::SeqCst))
    }

    /// What the word says.
    #[inline]
    #[must_use]
    pub fn sign(&self) -> Sign {
        self.observe().sign()
    }

    /// Says that the process is over, so that no other process has to check. `seen` is the word
    /// as it was at the check. Does nothing if the word has changed since, as it does for the next
    /// process that uses it.
    pub fn confirm(&self, seen: Observed) {
        let order = Ordering::SeqCst;
        let changed = self.word.compare_exchange(seen.0, CONFIRMED, order, Ordering::Relaxed);
        self.wake_those_of(changed.unwrap_or(0));
    }

    /// Says that the thread is gone and its process goes on without a watch. `seen` is the word
    /// as it was at the check. Wakes as [`Self::release`].
    pub fn give_up(&self, seen: Observed) {
        let order = Ordering::SeqCst;
        let changed = self.word.compare_exchange(seen.0, 0, order, Ordering::Relaxed);
        self.wake_those_of(changed.unwrap_or(0));
    }

    /// The word, with the mark that it has a sleeper, and its value then: to sleep on until the
    /// thread is gone. `None` if it is gone already, or no thread watches.
    #[must_use]
    pub fn sleep_on(&self) -> Option<(&AtomicU32, u32)> {
        let order = Ordering::SeqCst;
        let marked = self.word.fetch_update(order, order, |word| {
            (word != 0 && word & OWNER_DIED == 0).then_some(word | WAITERS)
        });
        marked.ok().map(|word| (&self.word, word | WAITERS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SharedMemory;
    use crate::process::{Fork, exit_now, fork, kill_self};

    fn word() -> &'static LifeWord {
        let memory = Box::leak(Box::new(SharedMemory::create("life", 4096).unwrap()));
        memory.cell(0).unwrap()
    }

    fn in_child(life: impl FnOnce()) -> u32 {
        // SAFETY: the child calls nothing that needs a lock of another thread of the harness.
        match unsafe { fork() }.unwrap() {
            Fork::Child => {
                life();
                exit_now(0)
            }
            Fork::Parent(pid) => pid,
        }
    }

    #[test]
    fn the_end_of_a_process_is_marked_however_it_ends() {
        let word = word();
        for kills in [true, false] {
            word.clear();
            let pid = in_child(|| {
                assert!(word.watch() && word.sign() == Sign::Runs);
                if kills {
                    kill_self();
                }
            });
            process::reap(pid).unwrap();
            assert_eq!(word.sign(), Sign::Gone);
        }
        let seen = word.observe();
        word.confirm(seen);
        assert_eq!(word.sign(), Sign::Confirmed);
        word.clear();
        word.confirm(seen);
        assert_eq!(word.sign(), Sign::Unwatched, "that is another process's word by now");
    }

    #[test]
    fn a_program_in_place_of_the_process_is_marked() {
        let word = word();
        let pid = in_child(|| {
            word.watch();
            let argv = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
            // SAFETY: the array is NULL-terminated, as are its strings.
            unsafe { libc::execv(c"/bin/sleep".as_ptr(), argv.as_ptr()) };
        });
        while word.sign() != Sign::Gone {
            std::thread::yield_now();
        }
        process::kill(pid, 9).unwrap();
        process::reap(pid).unwrap();
    }

    #[test]
    fn a_thread_that_releases_the_word_leaves_it_to_others() {
        let word = word();
        std::thread::spawn(move || {
            assert!(word.watch());
            assert!(word.watch(), "the second time changes nothing");
            word.release();
        })
        .join()
        .unwrap();
        assert_eq!(word.sign(), Sign::Unwatched);
        std::thread::spawn(move || assert!(word.watch())).join().unwrap();
        // The kernel marks it before it says that the thread is over.
        assert_eq!(word.sign(), Sign::Gone);
    }

    #[test]
    fn several_words_of_a_thread_are_marked_beside_the_c_librarys() {
        let (one, two) = (word(), word());
        let pid = in_child(|| {
            // SAFETY: the attributes and mutexes are initialised before use, and stay where they
            // are.
            unsafe {
                let mut attributes: libc::pthread_mutexattr_t = std::mem::zeroed();
                libc::pthread_mutexattr_init(&mut attributes);
                libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST);
                let mut mutexes: [libc::pthread_mutex_t; 2] = std::mem::zeroed();
                for mutex in &mut mutexes {
                    libc::pthread_mutex_init(mutex, &attributes);
                }
                libc::pthread_mutex_lock(&mut mutexes[0]);
                one.watch();
                libc::pthread_mutex_lock(&mut mutexes[1]);
                two.watch();
                for mutex in &mut mutexes {
                    libc::pthread_mutex_unlock(mutex);
                }
            }
            kill_self();
        });
        process::reap(pid).unwrap();
        assert_eq!((one.sign(), two.sign()), (Sign::Gone, Sign::Gone));
    }

    #[test]
    fn a_sleeper_is_woken_when_the_watch_ends() {
        let word = word();
        let (watches, may_end) = (&*Box::leak(Box::default()), &*Box::leak(Box::default()));
        let watcher = std::thread::spawn(move || {
            assert!(word.watch());
            AtomicU32::store(watches, 1, Ordering::SeqCst);
            while AtomicU32::load(may_end, Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            word.release();
        });
        while watches.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let (slept_on, value) = word.sleep_on().unwrap();
        may_end.store(1, Ordering::SeqCst);
        while crate::futex::wait(slept_on, value, None) == crate::futex::Wakeup::Interrupted {}
        watcher.join().unwrap();
        assert_eq!(word.sign(), Sign::Unwatched);
    }

    #[test]
    fn a_sleeper_is_woken_by_the_end() {
        let word = word();
        let pid = in_child(|| {
            word.watch();
            std::thread::sleep(std::time::Duration::from_millis(50));
            kill_self();
        });
        while word.sign() == Sign::Unwatched {
            std::thread::yield_now();
        }
        while let Some((word, value)) = word.sleep_on() {
            crate::futex::wait(word, value, None);
        }
        assert_eq!(word.sign(), Sign::Gone);
        process::reap(pid).unwrap();
    }
}
