//! Waiting until a descriptor has something to read.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::Monotonic;

/// Waits until there is something to read, or the end of the file. Returns `true` then, and `false`
/// if the deadline came first; `None` is no deadline.
///
/// # Errors
/// As `poll(2)`, also `EINTR`.
pub fn is_readable_by(fd: impl AsFd, deadline: Option<Monotonic>) -> io::Result<bool> {
    let timeout = deadline.map(|deadline| {
        let left = deadline.since(Monotonic::now());
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
    });
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    Ok(poll(&mut fds, timeout.as_ref())? > 0)
}
