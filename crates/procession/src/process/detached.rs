//! Children that have no handle any more, as it was dropped. Those that have ended are reaped
//! whenever this process starts a child, waits for one, or drops a handle.

use std::sync::{Mutex, PoisonError};

use super::handle::Child;

static DETACHED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Leaves a child to itself.
pub(super) fn leave(child: Child) {
    DETACHED.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    reap();
}

/// Reaps the children that have ended. A copy of the process only forgets them: they are not its
/// own.
pub(super) fn reap() {
    let mut children = DETACHED.lock().unwrap_or_else(PoisonError::into_inner);
    children.retain(Child::is_mine);
    let ended: Vec<Child> = children
        .extract_if(.., |child| {
            child.release_if_begun();
            child.has_ended()
        })
        .collect();
    drop(children);
    ended.into_iter().for_each(Child::reap);
}
