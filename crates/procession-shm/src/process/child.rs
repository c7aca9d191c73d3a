//! A child, followed by the process that started it.
//!
//! # Invariant
//! A child's status is taken once, together with the task that it had not finished, and remembered:
//! every caller gets the same. Only after that is the child buried, which gives back what it held.
//! A forked copy of the process leaves the child to the original, and does not touch the mutex,
//! which another thread may have held when it was made.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process;
use procession_os::stat::{RunState, Stat};
use rustix::io::Errno;

use super::exit_report::ExitReport;
use super::states::{ProcessState, signal_tree, state_of};
use crate::arena::{Arena, Slot, family, is_founded};
use crate::wait::{BlockedOn, Deadline, Operation, Probe};

/// How long a wait for a child lasts before the waiter looks after other things.
const TICK: Duration = Duration::from_millis(500);

/// How long a wait for an exit report lasts before it is looked whether its sender is stopped.
const REPORT_TICK: Duration = Duration::from_millis(5);

const SIGKILL: i32 = 9;

/// A descriptor that is kept free for following a child that is to be started, so that the lack of
/// one is an error before there is a child.
#[derive(Debug)]
pub struct SpareDescriptor(#[expect(dead_code, reason = "held, and given up")] PidFd);

impl SpareDescriptor {
    /// Reserves a descriptor.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn reserve() -> io::Result<Self> {
        PidFd::open(process::id()).map(Self)
    }

    /// Gives the descriptor up for one by which a child is followed that has just been started.
    ///
    /// # Errors
    /// As [`Child::pidfd_of`].
    pub fn follow(self, pid: u32) -> io::Result<PidFd> {
        drop(self);
        Child::pidfd_of(pid)
    }
}

/// A child of this process: followed by pidfd and, if it is known, by its slot.
#[derive(Debug)]
pub struct Child {
    /// The process that follows it.
    parent: u32,
    pidfd: PidFd,
    slot: Option<Slot>,
    /// A slot that was reserved for what the child is to hold until it has opened it.
    shares: Option<Slot>,
    /// Where the child's parent tells how it ended, if that is not this process.
    report: Option<ExitReport>,
    end: Mutex<End>,
}

/// What is known of a child's end.
#[derive(Debug, Default)]
struct End {
    /// How it ended, and the task that it had not finished; once the status was taken.
    status: Option<(ExitStatus, Option<u64>)>,
    is_buried: bool,
}

impl Child {
    /// Opens the pidfd of a child that has just been started; ends the child if that can't be.
    ///
    /// # Errors
    /// As `pidfd_open(2)`.
    pub fn pidfd_of(pid: u32) -> io::Result<PidFd> {
        PidFd::open(pid).inspect_err(|_| {
            let _ = process::kill(pid, SIGKILL);
            let _ = process::reap(pid);
        })
    }

    /// Follows a child of this process.
    #[must_use]
    pub fn new(pidfd: PidFd, slot: Option<Slot>) -> Self {
        let (parent, end) = (process::id(), Mutex::default());
        Self { parent, pidfd, slot, shares: None, report: None, end }
    }

    /// Gives the slot `shares`, which was reserved for what the child is to open, back with the
    /// child.
    #[must_use]
    pub fn with_shares(self, shares: Slot) -> Self {
        Self { shares: Some(shares), ..self }
    }

    /// Has another process, which forked the child, tell how it ended.
    #[must_use]
    pub fn with_report(self, report: ExitReport) -> Self {
        Self { report: Some(report), ..self }
    }

    /// Says which slot the child has, where that was not known before.
    pub fn set_slot(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// The child's slot, if it is known.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// The child's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pidfd.pid()
    }

    /// Whether this process follows the child, and is not a copy of its follower.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.parent == process::id()
    }

    /// Whether the child has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.pidfd.has_ended()
    }

    /// How the child ended; `None` while it runs. The status is left to be taken.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn peek(&self) -> io::Result<Option<ExitStatus>> {
        self.pidfd.peek()
    }

    /// Sends a signal, by its number; nothing happens if the child has ended.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`, except `ESRCH`.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        match self.pidfd.signal(number) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(()),
            sent => sent,
        }
    }

    /// Sends a signal to the child and all that it started; see [`signal_tree`].
    ///
    /// # Errors
    /// As [`signal_tree`].
    pub fn signal_tree(&self, number: i32) -> io::Result<usize> {
        signal_tree(&self.pidfd, number)
    }

    /// What the child is doing at this instant.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        state_of(&self.pidfd, self.slot)
    }

    /// Waits until the child has ended and it is known how. Returns `true` then, and `false` if the
    /// deadline came first. Twice a second and after each signal handler `look_around` is called,
    /// whose error ends the wait.
    ///
    /// # Errors
    /// As `poll(2)`, except `EINTR`; what `look_around` returns.
    pub fn wait<E: From<io::Error>>(
        &self,
        deadline: Deadline,
        mut look_around: impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        let begun = Monotonic::now();
        match self.is_over_by(begun) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(false) if deadline.is_none_or(|deadline| deadline > begun) => {}
            over => return Ok(over?),
        }
        let arena = self.publish_wait();
        let over = loop {
            let tick = Monotonic::now().after(TICK);
            let until = deadline.map_or(tick, |deadline| deadline.min(tick));
            match self.is_over_by(until) {
                Ok(false) if deadline.is_none_or(|deadline| deadline > until) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                over => break over.map_err(E::from),
            }
            if let Err(error) = look_around() {
                break Err(error);
            }
        };
        if let Some(arena) = arena {
            arena.running();
        }
        over
    }

    /// Says in the process table that this process waits for the child.
    fn publish_wait(&self) -> Option<&'static Arena> {
        let arena = if is_founded() { family().ok()? } else { return None };
        let object = u32::from(self.slot?.index);
        arena.blocked(BlockedOn { object, operation: Operation::Join });
        Some(arena)
    }

    fn is_over_by(&self, deadline: Monotonic) -> io::Result<bool> {
        Ok(self.pidfd.ended_by(Some(deadline))?
            && match &self.report {
                Some(report) => self.is_reported_by(report, deadline)?,
                None => true,
            })
    }

    /// Whether it is told how the child, which has ended, did so. That comes in a moment, for which
    /// also a waiter waits whose deadline has passed, unless the sender is stopped.
    fn is_reported_by(&self, report: &ExitReport, deadline: Monotonic) -> io::Result<bool> {
        loop {
            let now = Monotonic::now();
            match report.comes_by(Some(now.after(REPORT_TICK))) {
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                told => return told,
            }
            let sender = Stat::of(self.pid()).and_then(|child| Stat::of(child.parent));
            if deadline <= now && sender.is_some_and(|stat| stat.state == RunState::Stopped) {
                return Ok(false);
            }
        }
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the status of the child, at the first call, and returns it, at each; `None` while the
    /// child runs, and in a copy of this process. What the child held is still there, until
    /// [`Self::bury`].
    ///
    /// Where another process or library has taken the status, which the kernel does not tell a
    /// second time, it is what the child itself said before it left.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn take_status(&self) -> io::Result<Option<ExitStatus>> {
        if !self.is_mine() {
            return Ok(None);
        }
        let mut end = self.end();
        if let Some((status, _)) = end.status {
            return Ok(Some(status));
        }
        let status = match self.report.as_ref().and_then(ExitReport::status) {
            Some(status) => status,
            None => match self.pidfd.reap()? {
                Some(status) => or_as_said(status, self.slot),
                None => return Ok(None),
            },
        };
        end.status = Some((status, self.written_task()));
        Ok(Some(status))
    }

    /// The task that the child has written down and not finished, by its number; also after its
    /// status was taken.
    #[must_use]
    pub fn task(&self) -> Option<u64> {
        match self.is_mine().then(|| self.end().status).flatten() {
            Some((_, task)) => task,
            None => self.written_task(),
        }
    }

    fn written_task(&self) -> Option<u64> {
        let slot = self.slot?;
        if is_founded() { family().ok()?.task_of(slot) } else { None }
    }

    /// Gives back what the child, which has ended, held; once.
    pub fn bury(&self) {
        if !self.is_mine() || std::mem::replace(&mut self.end().is_buried, true) || !is_founded() {
            return;
        }
        let Ok(arena) = family() else { return };
        match self.slot {
            Some(slot) => {
                arena.bury(slot);
            }
            None => {
                arena.bury_abandoned();
            }
        }
        if let Some(shares) = self.shares {
            arena.unreserve(shares);
        }
    }
}

/// The child's pidfd: readable when it has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The status, or if it is not known, what the child of a slot said as it left.
fn or_as_said(status: ExitStatus, slot: Option<Slot>) -> ExitStatus {
    let said = || family().ok()?.exit_code_of(slot?);
    match status {
        ExitStatus::Unknown => said().map_or(status, |code| ExitStatus::Exited(code.into())),
        known => known,
    }
}
