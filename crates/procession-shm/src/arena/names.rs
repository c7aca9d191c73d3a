//! Names for messages: of an object, and of the process that holds it or held it.

use super::Arena;
use super::handle::Handle;
use super::objects::Kind;
use super::processes::ProcessInfo;
use crate::wait::Owner;

/// A process of the family, by number and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessName {
    /// Its number.
    pub pid: u32,
    /// Its name, at most 48 bytes of it.
    pub name: String,
}

impl ProcessInfo {
    /// The process's number and name.
    pub(crate) fn process_name(&self) -> ProcessName {
        ProcessName { pid: self.pid, name: self.name.clone() }
    }
}

impl Arena {
    /// What the object of a handle is and what it is called; `None` if it is no more.
    ///
    /// It takes no lock and does not wait.
    #[must_use]
    pub fn name_of(&self, handle: Handle) -> Option<(Kind, String)> {
        let info = self.object_info(handle.index).filter(|info| info.handle == handle)?;
        Some((info.kind, info.name))
    }

    /// The process of an owner, living or dead; `None` if it was buried.
    ///
    /// It takes no lock and does not wait.
    #[must_use]
    pub fn process_of(&self, owner: Owner) -> Option<ProcessName> {
        let info = self.process_info(owner.slot())?;
        let same = Owner::process(info.slot.index, info.slot.generation)
            == Owner::process(owner.slot(), owner.generation());
        (same && info.pid != 0).then(|| info.process_name())
    }
}
