//! The parent's side of a child that runs.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process;
use procession_shm::queue::Queue;
use serde::de::DeserializeOwned;

use super::detached;
use super::error::{JoinError, JoinTimeoutError, TryJoinError};
use super::report::Report;
use super::start_method::StartMethod;
use crate::arena::{self, ProcessState, Slot};
use crate::codec::{self, DecodeError, Named};
use crate::sync::remember;

pub(super) const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// After what time who joins a child looks after those that nobody will join.
const TICK: Duration = Duration::from_millis(500);

/// A child process: its result is got by [`join`](Self::join).
///
/// Dropping it leaves the child to itself, as with [`std::thread::JoinHandle`]. Its zombie goes when
/// this process next spawns, joins or drops a child; if it does nothing of that, with this process.
pub struct JoinHandle<R> {
    /// There until it is joined or dropped.
    child: Option<Box<Child>>,
    result: PhantomData<fn() -> R>,
}

/// A child and what is kept for it.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    name: String,
    pidfd: PidFd,
    /// Its slot, as far as that is known.
    slot: Option<Slot>,
    outbox: Queue,
    /// What the arguments name, until the child has it open.
    named: Named,
    /// The last that it said.
    report: Option<Report>,
    /// Whether it is this program started a second time, and not a copy of this process.
    respawned: bool,
    /// Whose child it is: a copy of this process must leave it alone.
    parent: u32,
}

impl Child {
    pub(super) fn new(
        pid: u32,
        name: String,
        pidfd: PidFd,
        slot: Option<Slot>,
        outbox: Queue,
        named: Named,
        method: StartMethod,
    ) -> Self {
        let respawned = method == StartMethod::Spawn;
        let parent = process::id();
        Self { pid, name, pidfd, slot, outbox, named, report: None, respawned, parent }
    }

    /// Reads what the child has said since the last time.
    fn listen(&mut self) -> arena::Result<()> {
        while let Some(report) = Report::receive(&self.outbox)? {
            if let Report::Began(slot) = report {
                self.slot = Some(slot);
                self.named.clear();
            }
            let is_left = matches!(report, Report::NoMemory(_));
            self.report = Some(report);
            if is_left {
                break;
            }
        }
        Ok(())
    }

    /// Lets go of what is kept for the child only until it has begun.
    pub(super) fn release_if_begun(&mut self) {
        if !self.named.is_empty() {
            // What can't be read now shows when it is joined.
            let _ = self.listen();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.pidfd.has_ended()
    }

    /// Takes the status of the child, which has ended, and reads its last words. What it held is
    /// still there.
    fn take_status(&mut self) -> Result<ExitStatus, JoinError> {
        let (pid, name) = (self.pid, &self.name);
        let status = self.pidfd.reap().map_err(|source| JoinError::Os {
            what: "taking the status of",
            pid,
            name: name.clone(),
            source,
        })?;
        let listened = self.listen();
        listened.map_err(|source| JoinError::Arena { pid, name: self.name.clone(), source })?;
        Ok(status.unwrap_or(ExitStatus::Unknown))
    }

    /// Gives back what the child, which has ended, held.
    fn bury(&self) {
        if let Ok(arena) = arena::family() {
            match self.slot {
                Some(slot) => {
                    remember(slot, self.pid, &self.name);
                    arena.bury(slot);
                }
                None => {
                    arena.bury_abandoned();
                }
            }
        }
    }

    /// Takes the status of a child that has ended, for nobody, and gives back what it held.
    pub(super) fn reap(mut self) {
        let _ = self.take_status();
        self.bury();
    }

    pub(super) fn is_mine(&self) -> bool {
        self.parent == process::id()
    }

    fn result<R: DeserializeOwned>(&mut self) -> Result<R, JoinError> {
        let status = self.take_status()?;
        let (pid, name) = (self.pid, self.name.clone());
        Err(match (self.report.take(), status) {
            (Some(Report::Returned(bytes)), _) => match codec::decode(&bytes) {
                Ok(result) => return Ok(result),
                Err(source) => JoinError::Decode { pid, name, source },
            },
            (Some(Report::NoMemory(len)), _) => {
                JoinError::Decode { pid, name, source: DecodeError::NoMemory { len } }
            }
            (Some(Report::Panicked(place, message)), _) => {
                JoinError::Panicked { pid, name, message, place }
            }
            (Some(Report::NotBegun(reason)), _) => JoinError::NotBegun { pid, name, reason },
            (Some(Report::Unsent(reason)), _) => JoinError::Unsent { pid, name, reason },
            (_, ExitStatus::Signaled(signal)) => JoinError::Signaled { pid, name, signal },
            (None, ExitStatus::Exited(code)) if self.respawned => {
                let reason = format!(
                    "it left with status {code} and never came to procession::init(), which must \
                     be first in main"
                );
                JoinError::NotBegun { pid, name, reason }
            }
            (_, ExitStatus::Exited(code)) => JoinError::Exited { pid, name, code },
            (_, ExitStatus::Unknown) => JoinError::StatusTaken { pid, name },
        })
    }

    fn join<R: DeserializeOwned>(mut self) -> Result<R, JoinError> {
        // The result may name objects that only the child held: they are opened before its burial.
        let result = self.result();
        self.bury();
        result
    }

    /// Waits until the child has ended; says whether it has.
    fn wait(&self, deadline: Option<Monotonic>) -> Result<bool, JoinError> {
        loop {
            let tick = Monotonic::now().after(TICK);
            let until = deadline.map_or(tick, |deadline| deadline.min(tick));
            match self.pidfd.ended_by(Some(until)) {
                Ok(false) if deadline.is_none_or(|deadline| deadline > until) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let (pid, name) = (self.pid, self.name.clone());
                    return Err(JoinError::Os { what: "waiting for", pid, name, source });
                }
                Ok(ended) => return Ok(ended),
            }
            detached::reap();
        }
    }
}

impl<R> JoinHandle<R> {
    pub(super) fn of(child: Child) -> Self {
        Self { child: Some(Box::new(child)), result: PhantomData }
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("a handle has its child until it is consumed")
    }

    /// The child's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().pid
    }

    /// The child's name: the [`Builder`](crate::Builder)'s, or the place of the spawn.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.child().name
    }

    /// Whether the child has ended, so that [`Self::join`] will not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.child().has_ended()
    }

    /// Asks the child to end, by SIGTERM.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`; none if the child has ended by itself.
    pub fn terminate(&self) -> io::Result<()> {
        self.child().pidfd.signal(SIGTERM)
    }

    /// Ends the child, by SIGKILL.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`; none if the child has ended by itself.
    pub fn kill(&self) -> io::Result<()> {
        self.child().pidfd.signal(SIGKILL)
    }

    /// Asks the child and all that it started, directly or not, to end, by SIGTERM; gives how many
    /// were asked. Each is asked after who started it.
    ///
    /// Members of the family are found also if who started them has ended; other programs are not.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`, the first of them; all others were asked nonetheless.
    pub fn terminate_tree(&self) -> io::Result<usize> {
        arena::signal_tree(&self.child().pidfd, SIGTERM)
    }

    /// Ends the child and all that it started, directly or not, by SIGKILL, those that are started
    /// meanwhile included; gives how many there were. Otherwise as [`Self::terminate_tree`].
    ///
    /// # Errors
    /// As [`Self::terminate_tree`].
    pub fn kill_tree(&self) -> io::Result<usize> {
        arena::signal_tree(&self.child().pidfd, SIGKILL)
    }

    /// What the child is doing at this instant: that it waits, and for what and whom, that it runs,
    /// or that it has ended and is a zombie until it is joined.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        arena::state_of(&self.child().pidfd, self.child().slot)
    }

    /// How the child ended; `None` while it runs. [`Self::join`] may still be called.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn exit_status(&self) -> io::Result<Option<ExitStatus>> {
        self.child().pidfd.peek()
    }
}

impl<R: DeserializeOwned> JoinHandle<R> {
    /// Waits until the child has ended, and gives what its function returned.
    ///
    /// An object that the result names is open from here on. If the child alone held it, somebody
    /// else may find the child dead and free it first: return what was in the arguments.
    ///
    /// # Errors
    /// [`JoinError`] says how it ended instead.
    pub fn join(mut self) -> Result<R, JoinError> {
        self.child().wait(None)?;
        self.child.take().expect("a handle has its child until it is consumed").join()
    }

    /// As [`Self::join`] if the child has ended; does not wait.
    ///
    /// # Errors
    /// [`TryJoinError::Running`] has the handle; [`TryJoinError::Failed`] says how the child ended
    /// instead.
    pub fn try_join(mut self) -> Result<R, TryJoinError<R>> {
        if !self.is_finished() {
            return Err(TryJoinError::Running(self));
        }
        let child = self.child.take().expect("a handle has its child until it is consumed");
        Ok(child.join()?)
    }

    /// As [`Self::join`], but waits no longer than `timeout`.
    ///
    /// # Errors
    /// [`JoinTimeoutError::TimedOut`] has the handle; [`JoinTimeoutError::Failed`] says how the
    /// child ended instead.
    pub fn join_timeout(mut self, timeout: Duration) -> Result<R, JoinTimeoutError<R>> {
        if !self.child().wait(Some(Monotonic::now().after(timeout)))? {
            return Err(JoinTimeoutError::TimedOut(self));
        }
        let child = self.child.take().expect("a handle has its child until it is consumed");
        Ok(child.join()?)
    }
}

impl<R> AsFd for JoinHandle<R> {
    /// The child's pidfd (`pidfd_open(2)`): readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child().pidfd.as_fd()
    }
}

impl<R> Drop for JoinHandle<R> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            detached::leave(*child);
        }
    }
}

impl<R> fmt::Debug for JoinHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("pid", &self.pid())
            .field("name", &self.name())
            .field("finished", &self.is_finished())
            .finish()
    }
}
