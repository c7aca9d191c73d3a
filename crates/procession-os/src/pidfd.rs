//! Following a process by a descriptor that never means another process (`pidfd_open(2)`).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::clock::Monotonic;
use crate::poll::is_readable_by;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It left with this status, 0 to 255.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
    /// It is over, and other code took the status (`ECHILD` from `waitid(2)`).
    Unknown,
}

/// A process, followed by descriptor. The descriptor is readable once the process has ended.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: u32,
}

impl PidFd {
    /// Begins to follow the process with this number.
    ///
    /// # Errors
    /// `ESRCH` if there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        Ok(Self { fd: pidfd_open(number, PidfdFlags::empty())?, pid })
    }

    /// The number that the process has, or had: once its status was taken, another process may have
    /// the number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Follows the process with this number, by a descriptor of it that was opened elsewhere.
    #[must_use]
    pub fn from_fd(pid: u32, fd: OwnedFd) -> Self {
        Self { fd, pid }
    }

    /// Waits until the process has ended, at the longest until `deadline`; says whether it has.
    ///
    /// # Errors
    /// `EINTR` if a signal handler ran.
    pub fn ended_by(&self, deadline: Option<Monotonic>) -> io::Result<bool> {
        is_readable_by(&self.fd, deadline)
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended_by(Some(Monotonic::now())).unwrap_or(false)
    }

    /// Whether the process has ended and its status was taken, so that not even a zombie is left.
    #[must_use]
    pub fn is_reaped(&self) -> bool {
        let (fd, none) = (self.fd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: signal 0 is not delivered. It only asks whether the process exists, and a zombie
        // does (`pidfd_send_signal(2)`).
        let asked = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, 0, none, 0) };
        asked != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
    }

    /// Takes the status of a child that has ended; `None` while it runs. If other code has taken
    /// it, or is to, the descriptor is asked, which Linux answers since 6.15.
    ///
    /// # Errors
    /// As `waitid(2)`, except `ECHILD`, which is [`ExitStatus::Unknown`] once the process is over.
    pub fn reap(&self) -> io::Result<Option<ExitStatus>> {
        self.status(WaitIdOptions::empty())
    }

    /// Looks at the status of a child that has ended, and leaves it to be taken; `None` while it
    /// runs.
    ///
    /// # Errors
    /// As [`Self::reap`].
    pub fn peek(&self) -> io::Result<Option<ExitStatus>> {
        self.status(WaitIdOptions::NOWAIT)
    }

    fn status(&self, how: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | how;
        match waitid(WaitId::PidFd(self.fd.as_fd()), options) {
            Ok(None) => Ok(None),
            Ok(Some(status)) => {
                Ok(Some(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => ExitStatus::Exited(code),
                    (None, Some(signal)) => ExitStatus::Signaled(signal),
                    (None, None) => ExitStatus::Unknown,
                }))
            }
            Err(Errno::CHILD) if self.has_ended() => {
                Ok(Some(exit::of_reaped(&self.fd).unwrap_or(ExitStatus::Unknown)))
            }
            Err(Errno::CHILD) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// Sends a signal, by its number.
    ///
    /// # Errors
    /// `ESRCH` if the process has ended and was reaped, `EPERM`, `EINVAL` for a number that is no
    /// signal.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(number).ok_or(Errno::INVAL)?;
        Ok(pidfd_send_signal(&self.fd, signal)?)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.fd
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a process ended, if it is reaped already (`PIDFD_GET_INFO`, `linux/pidfd.h`).
#[allow(unsafe_code)]
mod exit {
    use super::{AsFd, ExitStatus};
    use std::os::fd::{AsRawFd, OwnedFd};

    /// The kernel's `struct pidfd_info` in its first form, of 64 bytes.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        control_group: u64,
        numbers: [u32; 11],
        exit_code: i32,
    }

    const WITH_EXIT: u64 = 1 << 3;

    pub(super) fn of_reaped(fd: &OwnedFd) -> Option<ExitStatus> {
        let mut info = Info { mask: WITH_EXIT, ..Info::default() };
        let request = libc::_IOWR::<Info>(0xFF, 11);
        // SAFETY: the kernel writes at the most as many bytes as the request's number says.
        let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut info) };
        if answer != 0 || info.mask & WITH_EXIT == 0 {
            return None;
        }
        let status = info.exit_code;
        Some(match libc::WIFSIGNALED(status) {
            true => ExitStatus::Signaled(libc::WTERMSIG(status)),
            false => ExitStatus::Exited(libc::WEXITSTATUS(status)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped by its pidfd")]
    fn a_child_is_followed_to_its_end() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        assert!(!pidfd.has_ended());
        assert_eq!(pidfd.reap().unwrap(), None);
        pidfd.signal(15).unwrap();
        assert!(pidfd.ended_by(None).unwrap());
        assert_eq!(pidfd.peek().unwrap(), Some(ExitStatus::Signaled(15)));
        assert!(!pidfd.is_reaped());
        assert_eq!(pidfd.reap().unwrap(), Some(ExitStatus::Signaled(15)));
        assert!(pidfd.is_reaped());
        let again = pidfd.reap().unwrap().unwrap();
        assert!(matches!(again, ExitStatus::Signaled(15) | ExitStatus::Unknown), "{again:?}");
    }

    #[test]
    fn a_status_that_someone_else_took_is_known_where_the_kernel_tells() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        child.wait().unwrap();
        let status = pidfd.reap().unwrap().unwrap();
        assert!(matches!(status, ExitStatus::Exited(7) | ExitStatus::Unknown), "{status:?}");
    }

    #[test]
    fn a_number_without_a_process_is_refused() {
        assert!(PidFd::open(0).is_err());
        assert!(PidFd::open(u32::MAX).is_err());
    }
}
