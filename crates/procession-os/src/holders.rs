//! Which processes have a file open or mapped (`/proc/PID/fd`, `/proc/PID/maps`).

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A file, by device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The number of the device.
    pub device: u64,
    /// The number of the inode.
    pub inode: u64,
}

/// The processes like this one (of the same user, with the same rights) that have the file open or
/// mapped, this one included. Others may not be looked into, and are left out, unless this process
/// is itself one that others may not look into (`PR_SET_DUMPABLE`, `prctl(2)`): then they count.
///
/// It looks at all processes, one after the other, which takes milliseconds; a process that is made
/// meanwhile may be missed.
///
/// # Errors
/// If `/proc` can't be read.
pub fn of(file: FileId) -> io::Result<Vec<u32>> {
    let me = fs::metadata("/proc/self")?.uid();
    // SAFETY: prctl has no preconditions.
    let hidden = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) } != 1;
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Those of other users can't be copies of this process that have done nothing yet.
        if entry.metadata().is_ok_and(|of| of.uid() == me) && has(pid, file, hidden) {
            holders.push(pid);
        }
    }
    Ok(holders)
}

fn has(pid: u32, file: FileId, unless_told: bool) -> bool {
    let has = |looked: io::Result<bool>| match looked {
        Ok(has) => has,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied && unless_told,
    };
    has(has_open(pid, file)) || has(has_mapped(pid, file))
}

fn has_open(pid: u32, file: FileId) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // Closed by now, if it can't be looked at.
        if let Ok(open) = fs::metadata(entry?.path())
            && open.ino() == file.inode
            && open.dev() == file.device
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the process has the file mapped.
///
/// # Errors
/// If there is no such process, or it may not be looked into.
pub fn has_mapped(pid: u32, file: FileId) -> io::Result<bool> {
    let inode = file.inode.to_string();
    // By its threads: the first may have left while others run, and has no memory any more then.
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let maps = match fs::read_to_string(thread?.path().join("maps")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // It has left by now.
            maps => maps.unwrap_or_default(),
        };
        // The fifth field; the device is that of a memfd's mount, which all memfds share.
        let inode_of = |line: &str| line.split_ascii_whitespace().nth(4) == Some(&*inode);
        if maps.is_empty() {
            continue;
        }
        return Ok(maps.lines().any(inode_of));
    }
    Ok(false)
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
        let holders = of(file).unwrap();
        assert!(holders.contains(&process::id()) && !holders.contains(&other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
        drop(memory);
        assert_eq!(of(file).unwrap(), []);
    }
}
