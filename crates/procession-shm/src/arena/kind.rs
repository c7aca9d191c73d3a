//! What an object is, and how a message names one.

use std::fmt;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::sync::Lock`].
    Lock = 1,
    /// [`crate::sync::RLock`].
    RLock = 2,
    /// [`crate::sync::Semaphore`].
    Semaphore = 3,
    /// [`crate::sync::Event`].
    Event = 4,
    /// [`crate::queue::Queue`].
    Queue = 5,
    /// [`crate::memory::SharedBlock`].
    Block = 6,
    /// [`crate::sync::Condition`].
    Condition = 7,
    /// [`crate::sync::Barrier`].
    Barrier = 8,
}

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        use Kind::{Barrier, Block, Condition, Event, Lock, Queue, RLock, Semaphore};
        [Lock, RLock, Semaphore, Event, Queue, Block, Condition, Barrier]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lock => "Lock",
            Self::RLock => "RLock",
            Self::Semaphore => "Semaphore",
            Self::Event => "Event",
            Self::Queue => "Queue",
            Self::Block => "Block",
            Self::Condition => "Condition",
            Self::Barrier => "Barrier",
        })
    }
}

/// An object in a message: its kind, and its name if it has one that is known.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a>(pub Kind, pub Option<&'a str>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(name) if !name.is_empty() => write!(f, "{} {name:?}", self.0),
            _ => self.0.fmt(f),
        }
    }
}
