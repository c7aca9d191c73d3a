//! What the kernel says of a process: its state, its parent, when it started (`/proc/PID/stat`,
//! `proc_pid_stat(5)`).

#![allow(unsafe_code)]

/// What the kernel has a process do. Of a process with several threads it is that of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// `R`: on a processor, or waiting for one; [`on_processor`] tells which.
    Runnable,
    /// `S`, `D` and their like: waiting for something.
    Sleeping,
    /// `T`, `t`: stopped by a signal, or by a debugger.
    Stopped,
    /// `Z`: over, and its parent has not asked for its status. Also a process whose first thread
    /// has left while others run.
    Zombie,
    /// `X`: about to vanish.
    Dead,
}

/// A look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it does.
    pub state: RunState,
    /// The number of its parent, or of who took it over when its parent ended.
    pub parent: u32,
    /// The number of its process group.
    pub group: u32,
    /// How many threads it has.
    pub threads: u32,
    /// When it started, in clock ticks since boot. Together with its number this names a process
    /// for good, as numbers come again.
    pub started: u64,
}

impl Stat {
    /// Looks at the process with this number; `None` if there is none.
    ///
    /// Allocates nothing, so that it may be called in a freshly forked child.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let mut text = [0; 1024];
        Self::parse(read(pid, &mut text)?)
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

/// Reads `/proc/PID/stat` into a buffer.
fn read(pid: u32, text: &mut [u8; 1024]) -> Option<&[u8]> {
    let mut path = [0u8; 32];
    let mut end = 0;
    let mut push = |bytes: &[u8]| {
        path[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    push(b"/proc/");
    let mut digits = [0u8; 10];
    let mut first = digits.len();
    let mut rest = pid;
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    push(&digits[first..]);
    push(b"/stat\0");

    // SAFETY: `path` is NUL-terminated; the descriptor is closed below; the buffer has its length.
    let read = unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return None;
        }
        let read = libc::read(fd, text.as_mut_ptr().cast(), text.len());
        libc::close(fd);
        read
    };
    text.get(..usize::try_from(read).ok()?)
}

/// All processes that this one can see, each with its number, one after the other: not a picture of
/// one moment.
pub fn all() -> impl Iterator<Item = (u32, Stat)> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, Stat::of(pid)?))
    })
}

/// Whether a process is on a processor at this moment: whether its clock goes.
///
/// The clock of a process (`clock_getcpuclockid(3)`) is brought up to date whenever it is read, and
/// anybody may read it.
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
        // SAFETY: it writes one timespec; a clock whose process is over is an error.
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
