//! How a process ended, told by the one that is its parent to one that is not.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::clock::Monotonic;
use crate::readable::is_readable_by;

/// A socket from which a process's exit code comes: one message of four bytes, negative for a signal.
#[derive(Debug)]
pub struct Report(OwnedFd);

impl Report {
    /// Reads from a socket that keeps messages apart.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Waits until the exit code is there, or it is certain that it does not come; gives whether that is
    /// so, or the deadline came first.
    ///
    /// # Errors
    /// As `poll(2)`, also `EINTR`.
    pub fn comes_by(&self, deadline: Option<Monotonic>) -> io::Result<bool> {
        is_readable_by(&self.0, deadline)
    }

    /// Waits for the exit code; `None` if it does not come, since its sender died. Gives the same to
    /// everyone who asks.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        let mut code = [0u8; 4];
        loop {
            // SAFETY: the buffer has its length. The message is left for others to read.
            let read = unsafe {
                libc::recv(self.0.as_raw_fd(), code.as_mut_ptr().cast(), code.len(), libc::MSG_PEEK)
            };
            match read {
                4 => return Some(i32::from_ne_bytes(code)),
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return None,
            }
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
        let report = Report::from_fd(ours);
        assert_eq!((report.exit_code(), report.exit_code()), (Some(-9), Some(-9)));
    }

    #[test]
    fn a_sender_that_died_tells_nothing() {
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(Report::from_fd(ours).exit_code(), None);
    }
}
