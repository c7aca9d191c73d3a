//! Signals to a process and all that it started, directly or not.
//!
//! # How
//! A process is a descendant if its parent is the root or a descendant. There are two sources for
//! that: `/proc`, and what the caller knows of which process started which. When a parent dies,
//! `/proc` names another parent for its children, so orphans are found by the caller's knowledge
//! only. Each process is named by number *and* start time, and signalled by a pidfd. The start time
//! is checked after the pidfd was opened, so another process that got the same number is not hit.
//!
//! A process to which SIGKILL was sent forks no more: `fork(2)` looks for the signal under the lock
//! under which it makes the child visible. But the process may have forked between the search and
//! the signal. So its children are searched once more right after the signal, before it has had the
//! time to leave, and all is repeated until nothing new is found. No process is stopped meanwhile.
//!
//! A process escapes if its parent had ended before and the caller does not know it. Any such
//! search misses it.

use std::fs;
use std::io;
use std::time::Duration;

use crate::pidfd::PidFd;
use crate::process;
use crate::stat::{self, Stat};

const SIGKILL: i32 = 9;
/// How often the search for processes that were started meanwhile is repeated. After SIGKILL a
/// process starts no more of them, but they can outrun the search for a while. After another signal
/// it may go on starting some.
const ROUNDS: usize = 3;
const ROUNDS_OF_SIGKILL: usize = 1000;
/// The wait for a process that is about to take its first step.
const BIRTH: Duration = Duration::from_millis(50);

/// What the caller knows of a process: which process started it, even if that one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relative {
    /// Its number; 0 if it is just being started, and will soon be known by it.
    pub pid: u32,
    /// The number of the process that started it.
    pub parent: u32,
    /// When it started ([`Stat::started`]).
    pub started: u64,
}

/// Sends a signal to a process and its descendants, ancestors first, this process last if it is one
/// of them; returns how many got it. None do if the process has ended and been reaped.
///
/// # Errors
/// The first that a signal met (`EPERM`); all others got it nonetheless. `EINVAL` for a number that
/// is no signal.
pub fn signal_tree(
    root: &PidFd,
    signal: i32,
    mut relatives: impl FnMut() -> Vec<Relative>,
) -> io::Result<usize> {
    let Some(stat) = Stat::of(root.pid()).filter(|_| !root.is_reaped()) else { return Ok(0) };
    let mut hunt = Hunt { signal, known: Vec::new(), signalled: 0, error: None };
    hunt.add(root.pid(), stat.started);
    let mut rounds = if signal == SIGKILL { ROUNDS_OF_SIGKILL } else { ROUNDS };
    let mut patience = BIRTH.as_millis();
    while rounds > 0 {
        let relatives = relatives();
        hunt.look(&relatives);
        if hunt.signal() {
            // They may have started others since the last search.
            rounds -= 1;
            continue;
        }
        let birth = relatives.iter().any(|child| child.pid == 0 && hunt.knows(child.parent));
        if !birth || patience == 0 {
            break;
        }
        patience -= 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    hunt.signal_self();
    hunt.error.map_or(Ok(hunt.signalled), Err)
}

struct Known {
    pid: u32,
    started: u64,
    done: bool,
}

struct Hunt {
    signal: i32,
    known: Vec<Known>,
    signalled: usize,
    error: Option<io::Error>,
}

impl Hunt {
    fn knows(&self, pid: u32) -> bool {
        self.known.iter().any(|known| known.pid == pid)
    }

    fn add(&mut self, pid: u32, started: u64) {
        if !self.known.iter().any(|known| known.pid == pid && known.started == started) {
            self.known.push(Known { pid, started, done: false });
        }
    }

    /// Adds the descendants that there are.
    fn look(&mut self, relatives: &[Relative]) {
        let there: Vec<(u32, Stat)> = stat::all().collect();
        let in_kernel = there.iter().map(|&(pid, stat)| Relative {
            pid,
            parent: stat.parent,
            started: stat.started,
        });
        let all: Vec<Relative> = in_kernel.chain(relatives.iter().copied()).collect();
        // A number that was used again since is another process's.
        let same = |known: &Known| {
            let now = there.iter().find(|(pid, _)| *pid == known.pid);
            now.is_none_or(|(_, stat)| stat.started == known.started)
        };
        let mut at = 0;
        // `known` grows during this loop, by the children of those that were added.
        while let Some(parent) = self.known.get(at) {
            at += 1;
            if !same(parent) {
                continue;
            }
            let (number, begun) = (parent.pid, parent.started);
            for child in &all {
                if child.parent == number && child.pid != 0 && child.started >= begun {
                    self.add(child.pid, child.started);
                }
            }
        }
    }

    /// Signals all that have not been signalled, and the processes that they have started since the
    /// last search; says whether there were any.
    fn signal(&mut self) -> bool {
        let mut any = false;
        let mut at = 0;
        while let Some(known) = self.known.get_mut(at) {
            at += 1;
            if known.done || known.pid == process::id() {
                continue;
            }
            known.done = true;
            let (pid, started) = (known.pid, known.started);
            let Ok(pidfd) = PidFd::open(pid) else { continue };
            let is_it = || Stat::of(pid).is_some_and(|stat| stat.started == started);
            if pidfd.has_ended() || !is_it() {
                continue;
            }
            self.send(&pidfd);
            any = true;
            for child in children_of(pid) {
                // It may have another parent by now: this one is ending.
                if let Some(stat) = Stat::of(child).filter(|stat| stat.started >= started) {
                    self.add(child, stat.started);
                }
            }
        }
        any
    }

    fn send(&mut self, pidfd: &PidFd) {
        match pidfd.signal(self.signal) {
            Ok(()) => self.signalled += 1,
            // It ended by itself meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }

    fn signal_self(&mut self) {
        if self.knows(process::id())
            && let Ok(pidfd) = PidFd::open(process::id())
        {
            self.send(&pidfd);
        }
    }
}

/// The children of a process at this moment, of each of its threads (`proc_tid_children(5)`). Empty
/// where the kernel doesn't tell.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().flat_map(str::parse).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    /// A shell with two children of its own; returns their numbers too.
    fn shell() -> (std::process::Child, Vec<u32>) {
        let script = "sleep 1000 & echo $!; (sleep 1000 & echo $!; wait) & echo $!; wait";
        let mut shell =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let pids = lines.take(3).map(|line| line.unwrap().parse().unwrap()).collect();
        (shell, pids)
    }

    #[test]
    fn descendants_go_along_and_others_stay() {
        let (mut shell_of_mine, pids) = shell();
        let (mut other, others) = shell();
        let root = PidFd::open(shell_of_mine.id()).unwrap();
        assert_eq!(signal_tree(&root, SIGKILL, Vec::new).unwrap(), 4);
        shell_of_mine.wait().unwrap();
        for pid in pids {
            while process::is_alive(pid, 0) {
                std::thread::yield_now();
            }
        }
        assert!(others.iter().all(|&pid| process::is_alive(pid, 0)));
        assert_eq!(signal_tree(&root, SIGKILL, Vec::new).unwrap(), 0, "it is over and reaped");
        signal_tree(&PidFd::open(other.id()).unwrap(), SIGKILL, Vec::new).unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn an_orphan_is_found_by_who_knows_it() {
        let mut parent = Command::new("sleep").arg("1000").spawn().unwrap();
        // Stands for a process that has another parent in /proc by now.
        let mut orphan = Command::new("sleep").arg("1000").spawn().unwrap();
        let root = PidFd::open(parent.id()).unwrap();
        let started = Stat::of(orphan.id()).unwrap().started;
        let child = Relative { pid: orphan.id(), parent: parent.id(), started };
        let (before, after) = (started - 1, started + 1);
        for wrong in [Relative { started: after, ..child }, Relative { started: before, ..child }] {
            signal_tree(&root, 18, || vec![wrong]).unwrap();
        }
        assert_eq!(signal_tree(&root, SIGKILL, || vec![child]).unwrap(), 2);
        parent.wait().unwrap();
        orphan.wait().unwrap();
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let root = PidFd::open(child.id()).unwrap();
        assert!(signal_tree(&root, 1000, Vec::new).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
