//! `procession._native`: the arena's objects as Python classes.
//!
//! One file or folder for each Python module that it serves. Nothing is decided here: arguments are
//! converted, the interpreter is detached while something waits, errors become exceptions.

#![deny(unsafe_code)]

mod arena;
mod command;
mod errors;
mod init_once;
mod message;
mod pickling;
mod process;
mod queues;
mod sharedctypes;
mod synchronize;
mod truthy;
mod waiting;

#[pyo3::pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use crate::errors::{ArenaError, OwnerDiedError, StaleHandleError};

    #[pymodule_export]
    use crate::synchronize::{Barrier, Condition, Event, Lock, RLock, Semaphore};

    #[pymodule_export]
    use crate::queues::Queue;

    #[pymodule_export]
    use crate::queues::pool::{Outcome, join_task, peek_task, split_task};

    #[pymodule_export]
    use crate::sharedctypes::Block;

    #[pymodule_export]
    use crate::process::{
        Child, begin, bury, die_with, die_with_parent, drop_unopened, follow, fork,
        fork_for_another, inherit, is_process, leave_with, reserve, set_parent, start_program,
        take_over, task_done, tree, unreserve,
    };

    #[pymodule_export]
    use crate::pickling::{dumps, end_preparing};

    #[pymodule_export]
    use crate::arena::{check, found, memory, objects, processes};

    #[pymodule_export]
    use crate::command::parse_command;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        crate::errors::add_attributes(py)?;
        crate::synchronize::add_lock_calls(&py.get_type::<Lock>())?;
        // Signal handlers run between two of the interpreter's instructions, so a signal must end a
        // wait.
        procession_shm::arena::make_interruptibly();
        // Python's name for a process that is no child; children set their own names.
        procession_shm::arena::name_process("MainProcess");
        Ok(())
    }
}
