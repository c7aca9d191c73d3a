//! Starting this same program anew, with chosen descriptors (`posix_spawn(3)`).

#![allow(unsafe_code)]

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// Starts `/proc/self/exe` with this process's arguments and an environment; the descriptor `inherit`
/// is kept open in it under the number `as_number`. Gives the child's number.
///
/// The path of the running executable is used rather than its name, so that it is the same build
/// even if the file was replaced or deleted meanwhile.
///
/// # Errors
/// As `posix_spawn(3)`; `EINVAL` for a NUL byte in a variable.
pub fn respawn(
    environment: &[(OsString, OsString)],
    inherit: BorrowedFd<'_>,
    as_number: i32,
) -> io::Result<u32> {
    let program = c"/proc/self/exe";
    let arguments = std::env::args_os()
        .map(|argument| CString::new(argument.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    let environment = environment
        .iter()
        .map(|(name, value)| {
            let mut entry = name.as_bytes().to_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            CString::new(entry)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let argv = pointers(&arguments);
    let envp = pointers(&environment);

    let mut pid = 0;
    // SAFETY: the arrays are NULL-terminated and outlive the call; the file actions are initialised
    // before use and destroyed after; dup2 onto another number clears CLOEXEC in the child alone.
    let error = unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        libc::posix_spawn_file_actions_adddup2(&mut actions, inherit.as_raw_fd(), as_number);
        let error = libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            &actions,
            ptr::null(),
            argv.as_ptr().cast(),
            envp.as_ptr().cast(),
        );
        libc::posix_spawn_file_actions_destroy(&mut actions);
        error
    };
    match error {
        0 => Ok(pid as u32),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Takes over a descriptor that the parent left open under a number, `CLOEXEC` from now on.
///
/// # Errors
/// `EBADF` if there is none.
pub fn inherited(number: i32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: fcntl has no preconditions and fails on a number that is no descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the caller's protocol left for this call alone.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}
