//! What each process of the family is doing, for a process that looks from outside.
//!
//! A state is put together from the process table, which knows what a process waits for, and from
//! the kernel, which knows whether it runs, is stopped or is over. It is a look at a moving thing:
//! true at some instant of the look, and nothing to decide upon.

use std::{fmt, io};

use procession_os::clock::Monotonic;
use procession_os::pidfd::PidFd;
use procession_os::process;
use procession_os::stat::{RunState, Stat, on_processor};
use procession_os::tree::{self, Relative};

use crate::arena::{
    Arena, Handle, Kind, ProcessInfo, ProcessName, SleepsOn, Slot, family, is_founded,
};
use crate::wait::{Operation, Owner};

/// What a process is doing, in the words of the textbooks. (*New*, a process that is not started
/// yet, is known only to the program that will start it.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// It could run, and waits for a processor.
    Ready,
    /// It is on a processor.
    Running,
    /// It waits: for what is said here, or for something else that only the kernel knows (a file, a
    /// socket, a time).
    ///
    /// Of a process with several threads the first one counts. If that waits for something that is
    /// not the family's, what another thread waits for is told.
    Blocked(Option<Blocked>),
    /// A signal or a debugger has stopped it.
    Stopped,
    /// It is over, but its parent has not waited for it.
    Zombie,
    /// It is over, and nothing of it is left.
    Ended,
}

/// What a process waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What it does.
    pub operation: Operation,
    /// The object that it does it with: its handle, kind and name. None for a process that is
    /// joined.
    pub object: Option<(Handle, Kind, String)>,
    /// Since when it waits.
    pub since: Monotonic,
    /// The process that it waits for: the holder of the lock, or the process that is joined.
    pub on: Option<ProcessName>,
}

/// A process of the family, and where it stands in the tree of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its row in the process table.
    pub slot: Slot,
    /// Its number.
    pub pid: u32,
    /// The number of the process that started it, which may be over.
    pub parent: u32,
    /// How many of its ancestors are in the list: 0 for a root.
    pub depth: usize,
    /// Its name, at most 48 bytes of it.
    pub name: String,
    /// What it is doing.
    pub state: ProcessState,
    /// The task that it runs, as the pool numbers them.
    pub task: Option<u64>,
}

impl ProcessState {
    /// The state in one word, in small letters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Blocked(_) => "blocked",
            Self::Stopped => "stopped",
            Self::Zombie => "zombie",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Blocked(Some(blocked)) => write!(f, ": {blocked}"),
            _ => Ok(()),
        }
    }
}

/// As in `acquire Lock "accounts", held by 17 ("clerk"), for 1.5 s`.
impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if let Some((_, kind, name)) = &self.object {
            write!(f, " {kind} {name:?}")?;
        }
        if let Some(process) = &self.on {
            let held = if self.object.is_some() { ", held by" } else { "" };
            write!(f, "{held} {} ({:?})", process.pid, process.name)?;
        }
        write!(f, ", for {:.1} s", Monotonic::now().since(self.since).as_secs_f64())
    }
}

/// What a child is doing whose pidfd the caller has; its slot, if it is known, says what it waits
/// for. Works also for a child that is not, or not yet, of the family.
pub(super) fn state_of(child: &PidFd, slot: Option<Slot>) -> ProcessState {
    if child.has_ended() {
        return if child.is_reaped() { ProcessState::Ended } else { ProcessState::Zombie };
    }
    let arena = if is_founded() { family().ok() } else { None };
    let known = arena.and_then(|arena| {
        let slot = slot.or_else(|| arena.slot_of(child.pid()))?;
        let info = arena.process_info(slot.index)?;
        (info.slot == slot && info.pid == child.pid()).then_some((arena, info))
    });
    // It may end, and another get its number, while one looks; its descriptor tells.
    let state = match known {
        Some((arena, info)) => arena.state(&info, 0),
        None => state_in_kernel(child.pid(), 0).unwrap_or(ProcessState::Blocked(None)),
    };
    if child.has_ended() { state_of(child, None) } else { state }
}

/// Sends a signal to a process and its descendants, ancestors first; returns how many got it. Which
/// process started which is known from the kernel and from the process table, so a member of the
/// family whose parent has died is found as well.
///
/// # Errors
/// As [`procession_os::tree::signal_tree`].
pub fn signal_tree(root: &PidFd, signal: i32) -> io::Result<usize> {
    let arena = if is_founded() { family().ok() } else { None };
    tree::signal_tree(root, signal, || arena.map(Arena::relatives).unwrap_or_default())
}

/// A state as far as the kernel knows it; `None` for a process that waits for something, or whose
/// first thread does.
fn state_in_kernel(pid: u32, started: u64) -> Option<ProcessState> {
    let Some(stat) = Stat::of(pid).filter(|stat| started == 0 || stat.started == started) else {
        return Some(ProcessState::Ended);
    };
    match stat.state {
        RunState::Runnable if pid == process::id() || on_processor(pid) => {
            Some(ProcessState::Running)
        }
        RunState::Runnable => Some(ProcessState::Ready),
        RunState::Stopped => Some(ProcessState::Stopped),
        RunState::Dead => Some(ProcessState::Ended),
        // The first thread may have left, and others run: then its pidfd says that it goes on.
        RunState::Zombie if PidFd::open(pid).is_ok_and(|pidfd| !pidfd.has_ended()) => {
            on_processor(pid).then_some(ProcessState::Running)
        }
        RunState::Zombie => Some(ProcessState::Zombie),
        RunState::Sleeping if stat.threads > 1 && on_processor(pid) => Some(ProcessState::Running),
        RunState::Sleeping => None,
    }
}

impl Arena {
    /// What the process of a slot is doing.
    #[must_use]
    pub fn state_of(&self, slot: Slot) -> ProcessState {
        let info = self.process_info(slot.index).filter(|info| info.slot == slot);
        info.map_or(ProcessState::Ended, |info| self.state(&info, self.start_of(slot)))
    }

    /// All processes of the family with what they are doing: each before its children, children in
    /// the order of their slots.
    #[must_use]
    pub fn tree(&self) -> Vec<Member> {
        // Those that are being started have no number yet; of those that ended, zombies are there.
        let is_there = |info: &ProcessInfo| {
            let state = || self.state(info, self.start_of(info.slot));
            info.pid != 0 && (info.alive || state() != ProcessState::Ended)
        };
        let rows: Vec<_> = self.processes().into_iter().filter(is_there).collect();
        let child_of = |info: &ProcessInfo, parent: &ProcessInfo| {
            info.parent == parent.pid && info.slot != parent.slot
        };
        let mut left: Vec<bool> = vec![true; rows.len()];
        let mut tree = Vec::new();
        // Roots first; what then is left has parents in a circle, by numbers that came again.
        for roots in [true, false] {
            for (at, info) in rows.iter().enumerate() {
                if left[at] && !(roots && rows.iter().any(|other| child_of(info, other))) {
                    self.descend(&rows, at, 0, &mut left, &mut tree);
                }
            }
        }
        tree
    }

    fn descend(
        &self,
        rows: &[ProcessInfo],
        at: usize,
        depth: usize,
        left: &mut [bool],
        tree: &mut Vec<Member>,
    ) {
        left[at] = false;
        let info = &rows[at];
        tree.push(Member {
            slot: info.slot,
            pid: info.pid,
            parent: info.parent,
            depth,
            name: info.name.clone(),
            state: self.state_of(info.slot),
            task: info.task,
        });
        for (child, row) in rows.iter().enumerate() {
            if left[child] && row.parent == info.pid {
                self.descend(rows, child, depth + 1, left, tree);
            }
        }
    }

    /// The slot of the process with a number.
    #[must_use]
    pub fn slot_of(&self, pid: u32) -> Option<Slot> {
        (0..self.slots_used())
            .filter_map(|index| self.process_info(index))
            .find(|info| info.pid == pid && info.alive && !info.foreign)
            .map(|info| info.slot)
    }

    fn relatives(&self) -> Vec<Relative> {
        let relative = |info: ProcessInfo| {
            let started = match self.start_of(info.slot) {
                // Its parent has told its number, and it is about to say the rest itself.
                0 => Stat::of(info.pid).map_or(0, |stat| stat.started),
                started => started,
            };
            Relative { pid: info.pid, parent: info.parent, started }
        };
        // The numbers of another namespace are other processes' here.
        self.processes().into_iter().filter(|info| !info.foreign).map(relative).collect()
    }

    fn state(&self, info: &ProcessInfo, started: u64) -> ProcessState {
        if info.pid == 0 {
            return ProcessState::Ready;
        }
        if info.foreign {
            // The kernel can't be asked: it is what the process itself said last.
            let waits = info.blocked_on.map(|on| ProcessState::Blocked(self.blocked_on(on)));
            return match info.alive {
                true => waits.unwrap_or(ProcessState::Running),
                false => ProcessState::Ended,
            };
        }
        let in_kernel = state_in_kernel(info.pid, started);
        // A waiter wakes now and then to look, and waits nonetheless. But if another thread waits,
        // what the first does is what the process does.
        let first_waits = info.blocked_on.is_some_and(|on| on.thread == info.pid & 0x3f_ffff);
        match in_kernel {
            Some(ProcessState::Running | ProcessState::Ready)
                if first_waits && info.pid != process::id() => {}
            Some(state) => return state,
            None => {}
        }
        ProcessState::Blocked(info.blocked_on.and_then(|on| self.blocked_on(on)))
    }

    fn blocked_on(&self, on: SleepsOn) -> Option<Blocked> {
        let operation = Operation::from_number(on.operation)?;
        let (object, process) = match operation {
            Operation::Join => (
                None,
                self.process_info(u16::try_from(on.object).ok()?).map(|info| info.process_name()),
            ),
            Operation::Allocate => (None, None),
            _ => {
                let object = self.object_info(on.object)?;
                let holder = self.holder_of(&object.kind, on.object);
                (Some((object.handle, object.kind, object.name)), holder)
            }
        };
        Some(Blocked { operation, object, since: on.since, on: process })
    }

    /// The holder of a lock.
    fn holder_of(&self, kind: &Kind, index: u32) -> Option<ProcessName> {
        if !matches!(kind, Kind::Lock | Kind::RLock) {
            return None;
        }
        let owner = Owner::of_lock(self.first_word(index)?)?;
        self.process_of(owner)
    }
}
