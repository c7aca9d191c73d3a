//! Names for messages: of an object, and of a process that holds it or held it.
//!
//! Errors are about what has gone: an object that was freed, a process that died and was buried. So
//! the tables keep names until a row is taken for the next, and each name goes with the generation
//! that it is of: what can't be told is left out, and no name is ever that of another.

use std::sync::Mutex;

use super::family::Arena;
use super::handle::Handle;
use super::kind::Kind;
use super::processes::ProcessName;
use super::row::{NAME_WORDS, NameBytes, Slot};
use super::text::text_of;
use crate::wait::Owner;

impl Arena {
    /// What the object of a handle is and what it is called. That is known also of one that has
    /// been freed, until another takes its row: `None` from then on.
    ///
    /// It takes no lock and does not wait.
    #[must_use]
    pub fn name_of(&self, handle: Handle) -> Option<(Kind, String)> {
        let is_of_this_family = handle.family == self.family();
        is_of_this_family.then(|| self.object_name(handle.index, handle.generation))?
    }

    /// The process of an owner, living or dead; its name is empty if that is not known. `None` if
    /// it was buried, another has its row, and it is not among the last that this process has
    /// buried.
    ///
    /// It takes no lock and does not wait.
    #[must_use]
    pub fn process_of(&self, owner: Owner) -> Option<ProcessName> {
        let slot = Slot { index: owner.slot(), generation: owner.generation() };
        let in_table = self.process_name(slot);
        match in_table {
            Some(known) if !known.name.is_empty() => Some(known),
            in_table => buried(self.family(), slot).or(in_table),
        }
    }
}

/// How many of the processes that this one has buried it remembers.
const REMEMBERED: usize = 64;

/// A process that this one has buried: its family, slot, number and name.
#[derive(Clone, Copy)]
struct Buried {
    family: u64,
    slot: Slot,
    pid: u32,
    name: NameBytes,
}

/// The last buried processes, and where the next one goes. Each has memory of its own: a burial may
/// be in a signal's handler, where nothing may be allocated.
struct LastBuried {
    processes: [Buried; REMEMBERED],
    next: usize,
}

const NO_PROCESS: Buried =
    Buried { family: 0, slot: Slot { index: 0, generation: 0 }, pid: 0, name: [0; NAME_WORDS * 8] };

/// The processes that this one buried last, whose rows may have others by now: its children, most
/// of all. It is only tried, since in the copy of a process whose thread had it no thread releases
/// it.
static BURIED: Mutex<LastBuried> =
    Mutex::new(LastBuried { processes: [NO_PROCESS; REMEMBERED], next: 0 });

/// Remembers which process had a slot that is about to be freed: a lock that it held may be found
/// later.
pub(super) fn remember(family: u64, slot: Slot, pid: u32, name: NameBytes) {
    if let Ok(mut buried) = BURIED.try_lock() {
        let next = buried.next % REMEMBERED;
        buried.processes[next] = Buried { family, slot, pid, name };
        buried.next = next + 1;
    }
}

pub(super) fn buried(family: u64, slot: Slot) -> Option<ProcessName> {
    let buried = BURIED.try_lock().ok()?;
    let is_it = |buried: &&Buried| (buried.family, buried.slot) == (family, slot);
    let found = buried.processes.iter().find(is_it)?;
    Some(ProcessName { pid: found.pid, name: text_of(&found.name) })
}
