//! What the kernel says of a process: its state, its parent, when it started (`/proc/PID/stat`,
//! `proc_pid_stat(5)`).
//!
//! A process is named by its number. `/proc` may be that of another PID namespace than this
//! process's own, as in a container that shares it with its host; there the same number means
//! another process. So `/proc` is used only if it [numbers processes as this one
//! does](numbers_are_ours); otherwise nothing is known of any process.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::path::DecInt;

use crate::process;

/// What a process is doing, as the kernel says; if it has several threads, what the first is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// `R`: on a processor, or waiting for one; [`on_processor`] tells which.
    Runnable,
    /// `S`, `D` and their like: waiting for something.
    Sleeping,
    /// `T`, `t`: stopped by a signal, or by a debugger.
    Stopped,
    /// `Z`: over, and its parent has not asked for its status. Also if the first thread of the
    /// process has left while others run.
    Zombie,
    /// `X`: about to vanish.
    Dead,
}

/// A look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it does.
    pub state: RunState,
    /// The number of its parent, or of the process that took it over when its parent ended.
    pub parent: u32,
    /// The number of its process group.
    pub group: u32,
    /// How many threads it has.
    pub threads: u32,
    /// When it started, in clock ticks since boot. Numbers are used again, but number and start
    /// time together name only one process.
    pub started: u64,
}

impl Stat {
    /// Looks at the process with this number; `None` if there is none, or `/proc` is that of
    /// another PID namespace.
    ///
    /// Allocates nothing, so that it may be called in a freshly forked child.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Self::by_number(pid)?;
        numbers_are_ours().then_some(stat)
    }

    /// Looks at this process, in the numbers of whichever PID namespace `/proc` is of.
    ///
    /// Allocates nothing, so that it may be called in a freshly forked child.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let mut text = [0; 1024];
        Self::parse(read(c"/proc/self/stat", &mut text)?)
    }

    fn by_number(pid: u32) -> Option<Self> {
        let (mut path, mut text) = ([0u8; 32], [0; 1024]);
        Self::parse(read(path_of_stat(pid, &mut path)?, &mut text)?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The second field is the command in parentheses, which may itself hold spaces and
        // parentheses. The third is the state.
        let after = text.iter().rposition(|&byte| byte == b')')? + 2;
        let mut fields = text.get(after..)?.split(|&byte| byte == b' ');
        let state = match fields.next()? {
            b"R" => RunState::Runnable,
            b"T" | b"t" => RunState::Stopped,
            b"Z" => RunState::Zombie,
            b"X" | b"x" => RunState::Dead,
            _ => RunState::Sleeping,
        };
        let parent = number(fields.next()?)? as u32;
        let group = number(fields.next()?)? as u32;
        let threads = number(fields.nth(14)?)? as u32;
        let started = number(fields.nth(1)?)?;
        Some(Self { state, parent, group, threads, started })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |n, &b| {
        b.is_ascii_digit().then(|| n.wrapping_mul(10).wrapping_add(u64::from(b - b'0')))
    })
}

/// The process for which the NSpid line was read and says that `/proc` is of its namespace; 0 if
/// the line was not read yet.
static OURS: AtomicU32 = AtomicU32::new(0);

/// Forgets what a forked child has not inherited.
pub(crate) fn forget_after_fork() {
    OURS.store(0, Ordering::Relaxed);
}

/// Whether a number means the same process in `/proc` and for this process: whether `/proc` is that
/// of this process's PID namespace (`pid_namespaces(7)`). Async-signal-safe.
#[must_use]
pub fn numbers_are_ours() -> bool {
    // A copy forgets first what it has inherited.
    let _ = process::thread_id();
    let me = process::id();
    // Asked each time, as another /proc may be mounted at any moment. It is the number in the
    // namespace of /proc.
    let mut link = [0u8; 16];
    // SAFETY: the path is NUL-terminated, and the buffer has its length.
    let len =
        unsafe { libc::readlink(c"/proc/self".as_ptr(), link.as_mut_ptr().cast(), link.len()) };
    let number = usize::try_from(len).ok().and_then(|len| number(link.get(..len)?));
    if number != Some(me.into()) {
        return false;
    }
    // The number may be the same in both by chance.
    if OURS.load(Ordering::Relaxed) != me {
        if numbers_of_this_process() != Some(1) {
            return false;
        }
        OURS.store(me, Ordering::Relaxed);
    }
    true
}

/// In how many PID namespaces this process has a number, from that of `/proc` to its own (`NSpid`
/// in `/proc/self/status`).
fn numbers_of_this_process() -> Option<usize> {
    const NAME: &[u8] = b"\nNSpid:";
    let file = open(c"/proc/self/status")?;
    let (mut matched, mut numbers) = (0, 0);
    let mut chunk = [0u8; 512];
    loop {
        let read = file.read(&mut chunk)?;
        if read.is_empty() {
            return None;
        }
        for &byte in read {
            if matched < NAME.len() {
                matched = if byte == NAME[matched] { matched + 1 } else { (byte == b'\n').into() };
            } else if byte == b'\t' {
                numbers += 1;
            } else if byte == b'\n' {
                return Some(numbers);
            }
        }
    }
}

fn path_of_stat(pid: u32, path: &mut [u8; 32]) -> Option<&CStr> {
    let number = DecInt::new(pid);
    let mut len = 0;
    for part in [b"/proc/", number.as_bytes(), b"/stat\0"] {
        path.get_mut(len..len + part.len())?.copy_from_slice(part);
        len += part.len();
    }
    CStr::from_bytes_with_nul(&path[..len]).ok()
}

/// A file of `/proc`, opened without allocating anything.
struct ProcFile(libc::c_int);

fn open(path: &CStr) -> Option<ProcFile> {
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    (fd >= 0).then_some(ProcFile(fd))
}

impl ProcFile {
    fn read<'a>(&self, into: &'a mut [u8]) -> Option<&'a [u8]> {
        // SAFETY: the descriptor is open, and the buffer has its length.
        let read = unsafe { libc::read(self.0, into.as_mut_ptr().cast(), into.len()) };
        into.get(..usize::try_from(read).ok()?)
    }
}

impl Drop for ProcFile {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        unsafe { libc::close(self.0) };
    }
}

/// Reads a file of `/proc` into a buffer.
fn read<'a>(path: &CStr, text: &'a mut [u8; 1024]) -> Option<&'a [u8]> {
    open(path)?.read(text)
}

/// All processes that this one can see, each with its number. They are read one after the other, so
/// the result is not of one moment. None if `/proc` is that of another PID namespace.
pub fn all() -> impl Iterator<Item = (u32, Stat)> {
    let entries = numbers_are_ours().then(|| std::fs::read_dir("/proc"));
    entries.into_iter().flatten().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, Stat::by_number(pid)?))
    })
}

/// Whether a process is on a processor at this moment: whether its CPU clock advances.
///
/// The clock of a process (`clock_getcpuclockid(3)`) is brought up to date whenever it is read, and
/// every process may read it.
#[must_use]
pub fn on_processor(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    let mut clock = 0;
    // SAFETY: it writes one clock's number.
    if unsafe { libc::clock_getcpuclockid(pid, &mut clock) } != 0 {
        return false;
    }
    let read = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it writes one timespec; the clock of a process that is over is an error.
        let outcome = unsafe { libc::clock_gettime(clock, &mut time) };
        (outcome == 0).then_some((time.tv_sec, time.tv_nsec))
    };
    let first = read();
    first.is_some() && (0..4).any(|_| read().is_some_and(|now| Some(now) != first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn this_process_is_on_a_processor() {
        let stat = Stat::of(process::id()).unwrap();
        assert_eq!(stat.parent, process::parent_id());
        assert!(stat.threads >= 1);
        assert!(on_processor(process::id()));
        assert!(all().any(|(pid, seen)| pid == process::id() && seen.started == stat.started));
    }

    #[test]
    fn a_sleeper_is_on_none() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let state = || Stat::of(pid).map(|stat| stat.state);
        while state() != Some(RunState::Sleeping) || on_processor(pid) {
            std::thread::yield_now();
        }
        process::kill(pid, 19).unwrap();
        while state() != Some(RunState::Stopped) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        while state() != Some(RunState::Zombie) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(state(), None);
        assert!(!on_processor(pid));
    }

    #[test]
    fn a_command_may_look_like_the_rest_of_the_line() {
        let line = b"7 (a) R 1 (b) S 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 2 20 2100 22\n";
        let stat =
            Stat { state: RunState::Sleeping, parent: 3, group: 4, threads: 2, started: 2100 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse(b"7 (a"), None);
        assert_eq!(Stat::parse(b""), None);
    }
}
