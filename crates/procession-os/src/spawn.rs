//! Starting a program with chosen descriptors (`posix_spawn(3)`): any program, or this same one
//! again.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// The number of the first descriptor that is passed on by [`start`]: the one after the standard
/// streams.
pub const FIRST_PASSED: RawFd = 3;

/// Starts a program; returns its number. It has the standard streams of this process, and `pass`
/// (numbers of descriptors in this process) under the numbers from [`FIRST_PASSED`] on, in this
/// order. All other descriptors are closed in it, also those that are not `CLOEXEC`. Without
/// `environment` it has this process's.
///
/// # Errors
/// As `posix_spawn(3)`: `ENOENT`, `EACCES` for the program; `EBADF`, `EMFILE` for a descriptor.
pub fn start(
    program: &CStr,
    arguments: &[&CStr],
    environment: Option<&[&CStr]>,
    pass: &[RawFd],
) -> io::Result<u32> {
    let after = FIRST_PASSED + i32::try_from(pass.len()).map_err(|_| rustix::io::Errno::MFILE)?;
    // The copies have numbers above the final ones, so that none is overwritten before it is moved.
    let copies = pass.iter().map(|&fd| copy_from(fd, after)).collect::<Result<Vec<_>, _>>()?;
    let moves: Vec<_> = copies.iter().map(AsRawFd::as_raw_fd).zip(FIRST_PASSED..).collect();
    posix_spawn(program, arguments, environment, &moves, Some(after))
}

/// Starts `/proc/self/exe` with this process's arguments and an environment; the descriptor
/// `inherit` is kept open in it under the number `as_number`, beside those that are not `CLOEXEC`.
/// Returns the child's number.
///
/// The path of the running executable is used rather than its name, so that it is the same build
/// even if the file was replaced or deleted meanwhile.
///
/// # Errors
/// As `posix_spawn(3)`; `EINVAL` for a NUL byte in a variable.
pub fn respawn(
    environment: &[(OsString, OsString)],
    inherit: BorrowedFd<'_>,
    as_number: RawFd,
) -> io::Result<u32> {
    let arguments = std::env::args_os()
        .map(|argument| CString::new(argument.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    let environment = environment
        .iter()
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<Vec<_>, _>>()?;
    let arguments: Vec<&CStr> = arguments.iter().map(CString::as_c_str).collect();
    let environment: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
    let moves = [(inherit.as_raw_fd(), as_number)];
    posix_spawn(c"/proc/self/exe", &arguments, Some(&environment), &moves, None)
}

/// Starts a program in which each descriptor of `moves` is open under the number beside it; with
/// `close_from`, all from this number on are closed after that.
fn posix_spawn(
    program: &CStr,
    arguments: &[&CStr],
    environment: Option<&[&CStr]>,
    moves: &[(RawFd, RawFd)],
    close_from: Option<RawFd>,
) -> io::Result<u32> {
    let argv = pointers(arguments);
    let envp = environment.map(pointers);
    let mut pid = 0;
    // SAFETY: the arrays are NULL-terminated and outlive the call; `environ` is read as any exec
    // reads it; the file actions are initialised before use and destroyed after. dup2 clears
    // CLOEXEC on the number that it makes, in the child only.
    let error = unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        for &(fd, number) in moves {
            libc::posix_spawn_file_actions_adddup2(&mut actions, fd, number);
        }
        if let Some(number) = close_from {
            libc::posix_spawn_file_actions_addclosefrom_np(&mut actions, number);
        }
        let error = libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            &actions,
            ptr::null(),
            argv.as_ptr().cast(),
            envp.as_ref().map_or(environ.cast_const().cast(), |envp| envp.as_ptr().cast()),
        );
        libc::posix_spawn_file_actions_destroy(&mut actions);
        error
    };
    match error {
        0 => Ok(pid as u32),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Takes over a descriptor that the parent left open under a number, `CLOEXEC` from now on.
///
/// # Errors
/// `EBADF` if there is none.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl has no preconditions and fails on a number that is no descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the caller's protocol left for this call only.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A copy of a descriptor, with a number from `min` on.
fn copy_from(fd: RawFd, min: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl fails on a number that is no descriptor; what it returns is new.
    unsafe {
        match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, min) {
            -1 => Err(io::Error::last_os_error()),
            copy => Ok(OwnedFd::from_raw_fd(copy)),
        }
    }
}

fn pointers(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidfd::{ExitStatus, PidFd};

    fn ended(pid: u32) -> ExitStatus {
        let child = PidFd::open(pid).unwrap();
        child.ended_by(None).unwrap();
        child.reap().unwrap().unwrap()
    }

    #[test]
    fn a_program_has_what_is_passed_and_nothing_else() {
        let files: Vec<_> = (0..3).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // In the wrong order, and one of them twice.
        let pass = [&files[2], &files[0], &files[0], &files[1]].map(AsRawFd::as_raw_fd);
        let script = c"test -e /proc/self/fd/3 -a -e /proc/self/fd/6 -a ! -e /proc/self/fd/7";
        let pid = start(c"/bin/sh", &[c"sh", c"-c", script], None, &pass).unwrap();
        assert_eq!(ended(pid), ExitStatus::Exited(0));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = start(c"/nowhere/at/all", &[c"all"], None, &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = start(c"/bin/true", &[c"true"], None, &[-1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn the_environment_is_the_one_given() {
        let script = c"test \"$COLOUR\" = blue && test -z \"$HOME\"";
        let environment: &[&CStr] = &[c"COLOUR=blue", c"PATH=/bin:/usr/bin"];
        let pid = start(c"/bin/sh", &[c"sh", c"-c", script], Some(environment), &[]).unwrap();
        assert_eq!(ended(pid), ExitStatus::Exited(0));
    }
}
