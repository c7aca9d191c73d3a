//! A fork whose child its parent follows.
//!
//! A reservation is made, and left to its child, between the two handlers of one fork, which may be
//! nested: a handler of another library, or a signal's, may fork in between. A parent that wants to
//! follow the child says so before ([`FollowedFork`]), so that the child is followed from the
//! start. It learns of the reservation afterwards. If it made one fork meanwhile, there is one; if
//! hooks made others, the child's own row tells which is its.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::PidFd;
use procession_os::process;
use procession_os::process::Fork;

use super::error::{Error, Result};
use super::family::Arena;
use super::fork::{FOLLOWED, Followed, Reserved};
use super::registry::{arenas, unfollow};
use super::row::Slot;

/// A fork that the calling thread is about to make, and whose child it will follow: no other
/// process buries the child before its parent has read what it left.
///
/// The parent is to call [`Self::forked`] or [`Self::failed`]. A value that is dropped stands for a
/// fork of which the parent doesn't know whether it succeeded: no process follows the child then.
#[derive(Debug)]
#[must_use]
pub struct FollowedFork {
    /// The process that forks.
    parent: u32,
    /// What a fork around this one had noted.
    outer: Option<Followed>,
    /// It is the thread's.
    thread: PhantomData<*const ()>,
}

impl FollowedFork {
    /// From here to the end of this value, the children that the thread forks are its own to
    /// follow.
    pub fn begin() -> Self {
        let outer = FOLLOWED.replace(Some(Followed::NONE));
        Self { parent: process::id(), outer, thread: PhantomData }
    }

    pub(super) fn end(&mut self) -> Followed {
        if process::id() != self.parent {
            // A copy of the parent, on its way out.
            return Followed::NONE;
        }
        FOLLOWED.replace(self.outer.take()).unwrap_or(Followed::NONE)
    }

    /// The fork came about: tells the arenas the child's number. Returns the child's slot in the
    /// family's own arena; `None` for a child that was killed before its first step, where other
    /// forks were made meanwhile.
    ///
    /// # Errors
    /// [`Error::TooManyProcesses`] if the child has no row.
    pub fn forked(mut self, pid: u32) -> Result<Option<Slot>> {
        let forks = self.end();
        let mine = match forks.as_slice() {
            [] => return Ok(None),
            [only] => *only,
            several => match claimed(several, pid) {
                Some(mine) => mine,
                None => {
                    several.iter().for_each(unfollow);
                    return Ok(None);
                }
            },
        };
        for (at, arena) in arenas() {
            if let Some(slot) = mine[at] {
                arena.started(slot, pid);
            }
        }
        forks.as_slice().iter().filter(|other| **other != mine).for_each(unfollow);
        match arenas().next() {
            Some((at, arena)) if mine[at].is_none() => Err(arena.is_full()),
            Some((at, _)) => Ok(mine[at]),
            None => Ok(None),
        }
    }

    /// The number of a child that has come about though the call that made it returned an error, as
    /// soon as it claims its row; `None` if the thread made no fork, or others as well, so that it
    /// can't be told. Waits a second at the most, since a child that is killed before claims
    /// nothing.
    #[must_use]
    pub fn child_despite_error(self) -> Option<u32> {
        let only = FOLLOWED.with_borrow(|forks| match forks.as_ref()?.as_slice() {
            [only] => Some(*only),
            _ => None,
        })?;
        let deadline = Monotonic::now().after(Duration::from_secs(1));
        while Monotonic::now() < deadline {
            let pid = |(at, arena): (usize, &Arena)| only[at].map(|slot| arena.pid_of(slot));
            if let Some(pid) = arenas().filter_map(pid).find(|&pid| pid != 0) {
                return Some(pid);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        None
    }

    /// There is no child.
    pub fn failed(mut self) {
        let forks = self.end();
        if let [only] = forks.as_slice() {
            for (at, arena) in arenas() {
                if let Some(slot) = only[at] {
                    arena.unreserve(slot);
                }
            }
        } else {
            forks.as_slice().iter().for_each(unfollow);
        }
    }
}

impl Drop for FollowedFork {
    fn drop(&mut self) {
        self.end().as_slice().iter().for_each(unfollow);
    }
}

/// Which of several reservations the child `pid` has claimed; waits until it has, or is over.
pub(super) fn claimed(several: &[Reserved], pid: u32) -> Option<Reserved> {
    let pidfd = PidFd::open(pid).ok();
    let has = |reserved: &&Reserved| {
        arenas().any(|(at, arena)| reserved[at].is_some_and(|slot| arena.pid_of(slot) == pid))
    };
    loop {
        let over = pidfd.as_ref().is_none_or(PidFd::has_ended);
        if let Some(mine) = several.iter().find(has) {
            return Some(*mine);
        }
        if over {
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Which side of [`fork`] this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process, which has a row in every arena.
    Child,
    /// The caller: the number of its child, and its slot in the family's own arena.
    Parent(u32, Option<Slot>),
}

/// Makes a copy of this process, which the caller follows. Where the table has no row for it, the
/// copy leaves before it does anything.
///
/// # Errors
/// [`Error::TooManyProcesses`]; [`Error::Os`] as `fork(2)`.
///
/// # Safety
/// As [`process::fork`].
pub unsafe fn fork() -> Result<Forked> {
    let followed = FollowedFork::begin();
    // SAFETY: passed on to the caller.
    match unsafe { process::fork() } {
        Ok(Fork::Child) => {
            leave_without_row();
            Ok(Forked::Child)
        }
        Ok(Fork::Parent(pid)) => {
            let slot = followed.forked(pid).inspect_err(|_| {
                let _ = process::reap(pid);
            })?;
            Ok(Forked::Parent(pid, slot))
        }
        Err(source) => {
            followed.failed();
            Err(Error::Os { what: "fork", source })
        }
    }
}

/// Ends this process, a child that its parent follows, if it has no row in an arena of its family:
/// the parent is told the same by [`FollowedFork::forked`].
pub fn leave_without_row() {
    if arenas().next().is_some_and(|(_, arena)| !arena.is_member()) {
        process::exit_now(WITHOUT_ROW);
    }
}

/// `EX_OSERR` (`sysexits.h`).
const WITHOUT_ROW: i32 = 71;
