//! Names for messages: of an object, and of the process that holds it or held it.

use super::Arena;
use super::handle::Handle;
use super::objects::Kind;
use super::states::ProcessName;
use crate::wait::Owner;

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
        (same && info.pid != 0).then_some(ProcessName { pid: info.pid, name: info.name })
    }
}
