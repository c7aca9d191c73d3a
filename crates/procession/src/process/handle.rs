//! The parent's side of a child that runs.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_shm::process::Child as Followed;
use procession_shm::queue::Queue;
use procession_shm::wait::Deadline;
use serde::de::DeserializeOwned;

use super::detached;
use super::error::{JoinError, JoinTimeoutError, TryJoinError};
use super::report::Report;
use super::start_method::StartMethod;
use crate::arena::{self, ProcessState, Slot};
use crate::codec::{self, DecodeError, Named};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// A child process; [`join`](Self::join) returns its result.
///
/// If the handle is dropped, the child runs on, as with [`std::thread::JoinHandle`]. Its zombie is
/// reaped when this process next spawns, joins or drops a child, or else goes with this process.
pub struct JoinHandle<R> {
    /// There until it is joined or dropped.
    child: Option<Box<Child>>,
    result: PhantomData<fn() -> R>,
}

/// A child and what is kept for it.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    followed: Followed,
    outbox: Queue,
    /// The objects that the arguments name, until the child has opened them.
    named: Named,
    /// Its last report.
    report: Option<Report>,
    /// Whether it is this program started a second time, and not a copy of this process.
    respawned: bool,
}

impl Child {
    pub(super) fn new(
        name: String,
        pidfd: PidFd,
        slot: Option<Slot>,
        outbox: Queue,
        named: Named,
        method: StartMethod,
    ) -> Self {
        let followed = Followed::new(pidfd, slot);
        let respawned = method == StartMethod::Spawn;
        Self { name, followed, outbox, named, report: None, respawned }
    }

    fn os_error(&self, what: &'static str, source: io::Error) -> JoinError {
        JoinError::Os { what, pid: self.followed.pid(), name: self.name.clone(), source }
    }

    /// Reads what the child has said since the last time.
    fn listen(&mut self) -> arena::Result<()> {
        while let Some(report) = Report::receive(&self.outbox)? {
            if let Report::Began(slot) = report {
                self.followed.set_slot(slot);
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

    /// Drops what is kept for the child only until it has begun.
    pub(super) fn release_if_begun(&mut self) {
        if !self.named.is_empty() {
            // An error here is reported when the child is joined.
            let _ = self.listen();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.followed.has_ended()
    }

    /// Takes the status of the child, which has ended, and reads its report. What it held is still
    /// there.
    fn take_status(&mut self) -> Result<ExitStatus, JoinError> {
        let status = self.followed.take_status();
        let status = status.map_err(|source| self.os_error("taking the status of", source))?;
        self.listen().map_err(|source| {
            let (pid, name) = (self.followed.pid(), self.name.clone());
            JoinError::Arena { pid, name, source }
        })?;
        Ok(status.unwrap_or(ExitStatus::Unknown))
    }

    /// Takes the status of a child that has ended, drops it, and gives back what the child held.
    pub(super) fn reap(mut self) {
        let _ = self.take_status();
        self.followed.bury();
    }

    pub(super) fn is_mine(&self) -> bool {
        self.followed.is_mine()
    }

    fn result<R: DeserializeOwned>(&mut self) -> Result<R, JoinError> {
        let status = self.take_status()?;
        let (pid, name) = (self.followed.pid(), self.name.clone());
        Err(match (self.report.take(), status) {
            (Some(Report::Returned(bytes)), _) => match codec::decode(&bytes) {
                Ok(result) => return Ok(result),
                Err(source) => JoinError::Decode { pid, name, source },
            },
            (Some(Report::NoMemory(len)), _) => {
                JoinError::Decode { pid, name, source: DecodeError::NoMemory { len } }
            }
            (Some(Report::Panicked(location, message)), _) => {
                JoinError::Panicked { pid, name, message, location }
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
        self.followed.bury();
        result
    }

    /// Waits until the child has ended; says whether it has.
    fn wait(&self, deadline: Deadline) -> Result<bool, JoinError> {
        let ended = self.followed.wait(deadline, || {
            detached::reap();
            Ok(())
        });
        ended.map_err(|source| self.os_error("waiting for", source))
    }
}

impl<R> JoinHandle<R> {
    pub(super) fn of(child: Child) -> Self {
        Self { child: Some(Box::new(child)), result: PhantomData }
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("a handle has its child until it is consumed")
    }

    fn followed(&self) -> &Followed {
        &self.child().followed
    }

    /// The child's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.followed().pid()
    }

    /// The child's name: the [`Builder`](crate::Builder)'s, or the location of the spawn.
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
        self.followed().signal(SIGTERM)
    }

    /// Ends the child, by SIGKILL.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`; none if the child has ended by itself.
    pub fn kill(&self) -> io::Result<()> {
        self.followed().signal(SIGKILL)
    }

    /// Asks the child and all that it started, directly or not, to end, by SIGTERM; returns how
    /// many were asked. Each process is asked after the one that started it.
    ///
    /// Members of the family are found even if the process that started them has ended; other
    /// programs are not.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`, the first of them; all others were asked nonetheless.
    pub fn terminate_tree(&self) -> io::Result<usize> {
        self.followed().signal_tree(SIGTERM)
    }

    /// Ends the child and all that it started, directly or not, by SIGKILL, including those that
    /// are started meanwhile; returns how many there were. Otherwise as [`Self::terminate_tree`].
    ///
    /// # Errors
    /// As [`Self::terminate_tree`].
    pub fn kill_tree(&self) -> io::Result<usize> {
        self.followed().signal_tree(SIGKILL)
    }

    /// What the child is doing at this instant: it waits, with the object and the process that it
    /// waits for; it runs; or it has ended and is a zombie until it is joined.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        self.followed().state()
    }

    /// How the child ended; `None` while it runs. [`Self::join`] may still be called.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn exit_status(&self) -> io::Result<Option<ExitStatus>> {
        self.followed().peek()
    }
}

impl<R: DeserializeOwned> JoinHandle<R> {
    /// Waits until the child has ended, and returns what its function returned.
    ///
    /// An object that the result names is open from here on. If only the child held it, another
    /// process may find the child dead and free the object first. So return objects that were in
    /// the arguments.
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
        self.followed().as_fd()
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
