//! `procession._native`: the arena's objects as Python classes.
//!
//! One file for each Python module that it serves. Nothing is decided here: arguments are
//! converted, the interpreter is detached while something waits, errors become exceptions.

#![deny(unsafe_code)]

mod arena;
mod command;
mod errors;
mod message;
mod objects;
mod pickling;
mod process;
mod queues;
mod sharedctypes;
mod synchronize;
mod waiting;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    errors::add_to(module)?;
    module.add_class::<synchronize::Lock>()?;
    synchronize::lock_calls::add_to(&py.get_type::<synchronize::Lock>())?;
    module.add_class::<synchronize::RLock>()?;
    module.add_class::<synchronize::Semaphore>()?;
    module.add_class::<synchronize::Event>()?;
    module.add_class::<synchronize::Condition>()?;
    module.add_class::<synchronize::Barrier>()?;
    module.add_class::<queues::Queue>()?;
    module.add_class::<queues::Outcome>()?;
    module.add_class::<sharedctypes::Block>()?;
    // Handlers of signals run between two of the interpreter's instructions, so waits must come
    // back.
    procession_shm::arena::make_interruptibly();
    // As Python calls the process that is no child; the others say how they are called.
    procession_shm::arena::name_process("MainProcess");
    module.add_class::<process::Child>()?;
    module.add_function(wrap_pyfunction!(process::fork, module)?)?;
    module.add_function(wrap_pyfunction!(process::reserve, module)?)?;
    module.add_function(wrap_pyfunction!(process::unreserve, module)?)?;
    module.add_function(wrap_pyfunction!(process::start_program, module)?)?;
    module.add_function(wrap_pyfunction!(process::follow, module)?)?;
    module.add_function(wrap_pyfunction!(process::inherit, module)?)?;
    module.add_function(wrap_pyfunction!(process::take_over, module)?)?;
    module.add_function(wrap_pyfunction!(process::drop_unopened, module)?)?;
    module.add_function(wrap_pyfunction!(process::fork_for_another, module)?)?;
    module.add_function(wrap_pyfunction!(process::bury, module)?)?;
    module.add_function(wrap_pyfunction!(process::begin, module)?)?;
    module.add_function(wrap_pyfunction!(process::die_with_parent, module)?)?;
    module.add_function(wrap_pyfunction!(process::die_with, module)?)?;
    module.add_function(wrap_pyfunction!(process::set_parent, module)?)?;
    module.add_function(wrap_pyfunction!(process::leave_with, module)?)?;
    module.add_function(wrap_pyfunction!(process::task_done, module)?)?;
    module.add_function(wrap_pyfunction!(process::tree, module)?)?;
    module.add_function(wrap_pyfunction!(queues::join_task, module)?)?;
    module.add_function(wrap_pyfunction!(queues::split_task, module)?)?;
    module.add_function(wrap_pyfunction!(queues::peek_task, module)?)?;
    module.add_function(wrap_pyfunction!(pickling::dumps, module)?)?;
    module.add_function(wrap_pyfunction!(pickling::end_preparing, module)?)?;
    module.add_function(wrap_pyfunction!(arena::found, module)?)?;
    module.add_function(wrap_pyfunction!(arena::processes, module)?)?;
    module.add_function(wrap_pyfunction!(arena::objects, module)?)?;
    module.add_function(wrap_pyfunction!(arena::memory, module)?)?;
    module.add_function(wrap_pyfunction!(arena::check, module)?)?;
    module.add_function(wrap_pyfunction!(command::parse_command, module)?)?;
    Ok(())
}
