//! Children whose handles were dropped: reaped as soon as somebody comes along.

use std::sync::{Mutex, PoisonError};

use super::handle::Child;

static DETACHED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Leaves a child to itself.
pub(super) fn leave(child: Child) {
    DETACHED.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    reap();
}

/// Reaps those that have ended. In a copy of the process that they are children of, forgets them.
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
