//! How a process ended, told by its parent to another process.

use std::io;
use std::os::fd::OwnedFd;

use procession_os::clock::Monotonic;
use procession_os::pidfd::ExitStatus;
use procession_os::poll::is_readable_by;
use procession_os::socket::peek;

/// A socket from which a process's exit code comes: one message of four bytes, negative for a
/// signal.
#[derive(Debug)]
pub struct ExitReport(OwnedFd);

impl ExitReport {
    /// Reads from a socket that keeps messages apart.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Waits until the exit code is there, or it is certain that it does not come. Returns `true`
    /// then, and `false` if the deadline came first.
    ///
    /// # Errors
    /// As `poll(2)`, also `EINTR`.
    pub(super) fn comes_by(&self, deadline: Option<Monotonic>) -> io::Result<bool> {
        is_readable_by(&self.0, deadline)
    }

    /// Waits for the exit code; `None` if it does not come, since its sender died. Returns the same
    /// at each call.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        let mut code = [0; 4];
        match peek(&self.0, &mut code) {
            Ok(4) => Some(match i32::from_ne_bytes(code) {
                code if code < 0 => ExitStatus::Signaled(-code),
                code => ExitStatus::Exited(code),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_code_is_told_to_everyone_who_asks() {
        let (ours, theirs) = pair();
        send(&theirs, &(-9i32).to_ne_bytes(), SendFlags::empty()).unwrap();
        drop(theirs);
        let report = ExitReport::from_fd(ours);
        let killed = Some(ExitStatus::Signaled(9));
        assert_eq!((report.status(), report.status()), (killed, killed));
    }

    #[test]
    fn a_sender_that_died_tells_nothing() {
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(ExitReport::from_fd(ours).status(), None);
    }

    #[test]
    fn a_message_that_is_too_short_tells_nothing() {
        let (ours, theirs) = pair();
        send(&theirs, &[7], SendFlags::empty()).unwrap();
        assert_eq!(ExitReport::from_fd(ours).status(), None);
    }
}
