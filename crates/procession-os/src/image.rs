//! A mark that lasts as long as a process has its memory: until it ends, by whatever cause, or
//! calls `execve(2)`. Others can ask for it at any time, from every PID namespace, and without
//! `/proc`.
//!
//! # How
//! A byte of a shared file is locked by an *open file description* (`F_OFD_SETLK`, `fcntl(2)`),
//! which has no descriptor but one mapping of a page. The kernel ends the lock with the last
//! reference to the description, so when the mapping goes: when the last thread has left the
//! memory, or another program takes its place. By then no thread can write to shared memory any
//! more. A forked child does not get the mapping (`MADV_DONTFORK`), and a program that closes
//! descriptors does not end it.
//!
//! The lock costs nothing while it is held. Its end is not announced: other processes have to ask.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::memory::SharedMemory;

fn lock(kind: libc::c_int, at: u64) -> libc::flock {
    // SAFETY: all zero is a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = at as libc::off_t;
    lock.l_len = 1;
    lock
}

/// Marks the byte `at` of the file, which may be far behind its end, for as long as this process
/// has its memory. There is no way to end it before. Async-signal-safe.
///
/// Another thread that forks at the same time would hand the mark on to its child.
///
/// # Errors
/// Without `/proc`, a descriptor, or room for one more mapping.
pub fn mark(memory: &SharedMemory, at: u64) -> io::Result<()> {
    let last = io::Error::last_os_error;
    let mut path = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0";
    let mut digits = [0u8; 10];
    let mut first = digits.len();
    let mut rest = memory.descriptor()?.as_raw_fd() as u32;
    while rest > 0 || first == digits.len() {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let name = &digits[first..];
    path[14..14 + name.len()].copy_from_slice(name);
    // SAFETY: the path is NUL-terminated; the descriptor is new, and owned from here on.
    let file = unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(last());
        }
        OwnedFd::from_raw_fd(fd)
    };
    if rustix::fs::fstat(&file)?.st_ino != memory.inode() {
        return Err(rustix::io::Errno::BADF.into());
    }
    let mut shared = lock(libc::F_RDLCK, at);
    // SAFETY: the descriptor is open, and the lock is of the kernel's form.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut shared) } != 0 {
        return Err(last());
    }
    // SAFETY: a fresh mapping of one page that can't be read or written; it is left as it is, for
    // the life of the process. Without the advice it must go.
    unsafe {
        let (len, none) = (4096, std::ptr::null_mut());
        let fd = file.as_raw_fd();
        let page = libc::mmap(none, len, libc::PROT_NONE, libc::MAP_SHARED, fd, 0);
        if page == libc::MAP_FAILED {
            return Err(last());
        }
        if libc::madvise(page, len, libc::MADV_DONTFORK) != 0 {
            let error = last();
            libc::munmap(page, len);
            return Err(error);
        }
    }
    Ok(())
}

/// Whether the process that has [marked](mark) the byte still has its memory.
///
/// # Errors
/// `EBADF` if this program has closed the memory's descriptor.
pub fn is_marked(memory: &SharedMemory, at: u64) -> io::Result<bool> {
    let fd = memory.descriptor()?;
    let mut asked = lock(libc::F_WRLCK, at);
    // SAFETY: the descriptor is open, and the kernel writes the lock that is in the way.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut asked) } {
        0 => Ok(libc::c_int::from(asked.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, Fork, exit_now, fork};
    use std::sync::atomic::{AtomicU64, Ordering};

    const FAR: u64 = 1 << 62;

    fn memory() -> &'static SharedMemory {
        Box::leak(Box::new(SharedMemory::create("image", 4096).unwrap()))
    }

    /// A child that has marked a byte, and goes on with `life`.
    fn marked(memory: &SharedMemory, at: u64, life: impl FnOnce()) -> u32 {
        let word: &AtomicU64 = memory.cell(0).unwrap();
        word.store(0, Ordering::SeqCst);
        // SAFETY: the child calls nothing that needs a lock of another thread of the harness.
        match unsafe { fork() }.unwrap() {
            Fork::Child => {
                word.store(1 + u64::from(mark(memory, at).is_err()), Ordering::SeqCst);
                life();
                exit_now(0)
            }
            Fork::Parent(pid) => {
                while word.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                assert_eq!(word.load(Ordering::SeqCst), 1);
                pid
            }
        }
    }

    fn pause() {
        std::thread::sleep(std::time::Duration::from_secs(600));
    }

    #[test]
    fn a_mark_ends_with_the_process() {
        let memory = memory();
        for at in [FAR, FAR + 1] {
            let pid = marked(memory, at, pause);
            assert!(is_marked(memory, at).unwrap() && !is_marked(memory, at + 1).unwrap());
            process::kill(pid, 9).unwrap();
            process::reap(pid).unwrap();
            assert!(!is_marked(memory, at).unwrap());
        }
    }

    #[test]
    fn a_mark_ends_with_the_program() {
        let memory = memory();
        let pid = marked(memory, FAR, || {
            let argv = [c"sleep".as_ptr(), c"600".as_ptr(), std::ptr::null()];
            // SAFETY: the array is NULL-terminated, as are its strings.
            unsafe { libc::execv(c"/bin/sleep".as_ptr(), argv.as_ptr()) };
        });
        while is_marked(memory, FAR).unwrap() {
            std::thread::yield_now();
        }
        process::kill(pid, 9).unwrap();
        process::reap(pid).unwrap();
    }

    #[test]
    fn a_mark_is_not_a_childs_and_no_descriptors() {
        let memory = memory();
        let word: &AtomicU64 = memory.cell(8).unwrap();
        let pid = marked(memory, FAR, || {
            // SAFETY: as above; the descriptors of this copy of the harness are closed for good.
            unsafe {
                if matches!(fork(), Ok(Fork::Child)) {
                    pause();
                }
                libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
            }
            word.store(1, Ordering::SeqCst);
            pause();
        });
        while word.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert!(is_marked(memory, FAR).unwrap());
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        process::kill(pid, 9).unwrap();
        process::reap(pid).unwrap();
        assert!(!is_marked(memory, FAR).unwrap(), "its child lives");
        process::kill(children.trim().parse().unwrap(), 9).unwrap();
    }
}
