//! Messages between processes on sockets that keep them apart.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Waits for the next message and copies as many of its bytes as there is room for; returns how
/// many, 0 at the end. The message stays in the socket, for the next call or another process.
///
/// # Errors
/// As `recv(2)`, except `EINTR`: then it waits on.
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(&socket, &mut *buffer, RecvFlags::PEEK) {
            Ok((copied, _)) => return Ok(copied),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
