//! Looking at the family: `procession.arena`.

use procession_shm::arena::{self as shm, Arena, arena_of, family};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{arena_error, handle};

/// Makes the family's arena if this process has none yet.
#[pyfunction]
pub(crate) fn found() -> PyResult<()> {
    family().map(|_| ()).map_err(arena_error)
}

fn of(object: Option<&str>) -> PyResult<&'static Arena> {
    match object {
        None => family().map_err(arena_error),
        Some(text) => arena_of(handle(text)?).map_err(arena_error),
    }
}

/// What is known of each process of the family, as a list of dictionaries.
#[pyfunction]
pub(crate) fn processes(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    of(None)?
        .processes()
        .into_iter()
        .map(|process| {
            let row = PyDict::new(py);
            row.set_item("slot", process.slot.index)?;
            row.set_item("pid", process.pid)?;
            row.set_item("parent", process.parent)?;
            row.set_item("name", process.name)?;
            row.set_item("alive", process.alive)?;
            row.set_item("task", process.task)?;
            row.set_item("blocked_on", process.blocked_on.map(|on| on.object))?;
            Ok(row)
        })
        .collect()
}

/// What is known of each object of the family, as a list of dictionaries.
#[pyfunction]
pub(crate) fn objects(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    of(None)?
        .objects()
        .into_iter()
        .map(|object| {
            let row = PyDict::new(py);
            row.set_item("handle", object.handle.to_string())?;
            row.set_item("kind", object.kind.to_string())?;
            row.set_item("name", object.name)?;
            row.set_item("creator", object.creator)?;
            row.set_item("holders", object.holders)?;
            Ok(row)
        })
        .collect()
}

/// Bytes of the arena: its capacity, those used by blocks, those kept warm, those resident.
#[pyfunction]
pub(crate) fn memory(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let arena = of(None)?;
    let (used, warm) = arena.heap_use();
    let row = PyDict::new(py);
    row.set_item("capacity", arena.capacity())?;
    row.set_item("used", used)?;
    row.set_item("warm", warm)?;
    row.set_item("resident", arena.resident().map_err(arena_error)?)?;
    Ok(row)
}

/// Buries the dead processes that no parent follows, then checks that the arena is not damaged.
#[pyfunction]
pub(crate) fn check(py: Python<'_>) -> PyResult<()> {
    let arena = of(None)?;
    py.detach(|| {
        arena.bury_abandoned();
        arena.check()
    })
    .map_err(arena_error)
}

pub(crate) fn own() -> PyResult<&'static shm::Arena> {
    of(None)
}
