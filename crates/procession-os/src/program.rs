//! Starting a program with chosen descriptors and no others (`posix_spawn(3)`).

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// The number of the first descriptor that is passed on: what follows the standard streams.
pub const FIRST_PASSED: i32 = 3;

/// Starts a program; gives its number. It has the standard streams of this process, and `pass` under
/// the numbers from [`FIRST_PASSED`] on, in the order given here by their numbers in this process. All other descriptors are closed in it, also those
/// that are not `CLOEXEC`. Without `environment` it has this process's.
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
    // Copies beyond the numbers that they will have, so that none is overwritten before its turn.
    let copies = pass.iter().map(|&fd| copy_from(fd, after)).collect::<Result<Vec<_>, _>>()?;
    let argv = pointers(arguments);
    let envp = environment.map(pointers);
    let mut pid = 0;
    // SAFETY: the arrays are NULL-terminated and outlive the call; `environ` is read as any exec
    // reads it; the file actions are initialised before use and destroyed after. dup2 clears CLOEXEC
    // on the number that it makes, in the child alone.
    let error = unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        for (copy, number) in copies.iter().zip(FIRST_PASSED..) {
            libc::posix_spawn_file_actions_adddup2(&mut actions, copy.as_raw_fd(), number);
        }
        libc::posix_spawn_file_actions_addclosefrom_np(&mut actions, after);
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

/// A copy of a descriptor, with a number from `least` on.
fn copy_from(fd: RawFd, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl fails on a number that is no descriptor; what it gives is new.
    unsafe {
        match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) {
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
