//! Which processes have a file open or mapped (`/proc/PID/fd`, `/proc/PID/maps`).
//!
//! It allocates nothing, since it may be part of a fork in a signal's handler.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, openat, statat};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::stat;

/// A file, by device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The number of the device.
    pub device: u64,
    /// The number of the inode.
    pub inode: u64,
}

/// Whether `is_meant` holds of any of the processes like this one (of the same user, with the same
/// rights) that have the file open or mapped, this one included. Other processes may not be
/// inspected, and are left out. But if this process itself may not be inspected
/// (`PR_SET_DUMPABLE`, `prctl(2)`), they count.
///
/// It looks at all processes, one after the other, which takes milliseconds; a process that is made
/// meanwhile may be missed.
///
/// # Errors
/// If `/proc` can't be read, or is that of another PID namespace.
pub fn any(file: FileId, is_meant: impl Fn(u32) -> bool) -> io::Result<bool> {
    check_numbers()?;
    let all = directory(CWD, c"/proc")?;
    let me = statat(&all, c"self", AtFlags::empty())?.st_uid;
    // SAFETY: prctl has no preconditions.
    let hidden = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) } != 1;
    any_in(&all, |name| {
        let Some(pid) = number(name) else { return Ok(false) };
        // Those of other users can't be copies of this process that have done nothing yet.
        let is_mine = statat(&all, name, AtFlags::empty()).is_ok_and(|of| of.st_uid == me);
        Ok(is_mine && is_meant(pid) && has(&all, name, file, hidden))
    })
}

/// Refuses a `/proc` in which numbers mean other processes. Allocates nothing.
fn check_numbers() -> io::Result<()> {
    stat::numbers_are_ours().then_some(()).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn has(all: &OwnedFd, name: &CStr, file: FileId, unless_told: bool) -> bool {
    let Ok(process) = directory(all.as_fd(), name) else { return false };
    let has = |looked: io::Result<bool>| match looked {
        Ok(has) => has,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied && unless_told,
    };
    has(has_open(&process, file)) || has(maps(&process, file))
}

fn has_open(process: &OwnedFd, file: FileId) -> io::Result<bool> {
    let open = directory(process.as_fd(), c"fd")?;
    any_in(&open, |name| {
        // Closed by now, if it can't be looked at.
        Ok(statat(&open, name, AtFlags::empty())
            .is_ok_and(|open| open.st_ino == file.inode && open.st_dev == file.device))
    })
}

/// Whether the process has the file mapped.
///
/// # Errors
/// If there is no such process, it may not be inspected, or `/proc` is that of another PID
/// namespace.
pub fn has_mapped(pid: u32, file: FileId) -> io::Result<bool> {
    check_numbers()?;
    let name = DecInt::new(pid);
    maps(&directory(directory(CWD, c"/proc")?.as_fd(), name.as_c_str())?, file)
}

fn maps(process: &OwnedFd, file: FileId) -> io::Result<bool> {
    // By its threads: the first may have left while others run, and then it has no memory any more.
    let threads = directory(process.as_fd(), c"task")?;
    let mut found = false;
    any_in(&threads, |name| {
        if number(name).is_none() {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = directory(threads.as_fd(), name)
            .and_then(|thread| Ok(openat(thread, c"maps", flags, Mode::empty())?));
        let maps = match opened {
            Ok(maps) => maps,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // It has left by now.
            Err(_) => return Ok(false),
        };
        match maps_inode(&maps, file.inode) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Ok(Some(has)) => {
                found = has;
                Ok(true)
            }
            _ => Ok(false),
        }
    })?;
    Ok(found)
}

/// Whether a list of mappings has one of the file with this inode, by the fifth field of its lines;
/// the device is that of a memfd's mount, which all memfds share. `None` if it is empty.
fn maps_inode(maps: &OwnedFd, inode: u64) -> io::Result<Option<bool>> {
    let mut text = [0; 2048];
    let (mut field, mut value, mut is_empty) = (0, None, true);
    loop {
        let read = match rustix::io::read(maps, &mut text) {
            Ok(0) => return Ok((!is_empty).then_some(false)),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        is_empty = false;
        for &byte in &text[..read] {
            match byte {
                b' ' | b'\n' => {
                    // A field may have several spaces behind it.
                    if let Some(value) = value.take() {
                        if field == 4 && value == inode {
                            return Ok(Some(true));
                        }
                        field += 1;
                    }
                    if byte == b'\n' {
                        field = 0;
                    }
                }
                digit => {
                    let digit = u64::from(digit.wrapping_sub(b'0'));
                    value = Some(value.unwrap_or(0).wrapping_mul(10).wrapping_add(digit));
                }
            }
        }
    }
}

fn directory(at: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// Whether `is_it` holds of any of a directory's entries.
fn any_in(
    directory: &OwnedFd,
    mut is_it: impl FnMut(&CStr) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        if is_it(entry?.file_name())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number that an entry's name is.
fn number(name: &CStr) -> Option<u32> {
    std::str::from_utf8(name.to_bytes()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SharedMemory;
    use crate::process;

    #[test]
    fn who_has_memory_open_or_mapped_is_found() {
        let memory = SharedMemory::create("holders", 4096).unwrap();
        let file = memory.file_id().unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let holds = |pid| any(file, |holder| holder == pid).unwrap();
        assert!(holds(process::id()) && !holds(other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(has_mapped(process::id(), file).unwrap());
        drop(memory);
        assert!(!any(file, |_| true).unwrap());
    }
}
