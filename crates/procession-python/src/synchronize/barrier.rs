//! The barrier.

use std::num::NonZeroU32;

use procession_shm::sync::{self, Arrival, Outcome, Ticket};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::errors::{arena_error, handle};
use crate::waiting::{deadline, wait};

/// `threading.BrokenBarrierError`.
fn broken(py: Python<'_>) -> PyErr {
    static ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    match ERROR.import(py, "threading", "BrokenBarrierError") {
        Ok(class) => PyErr::from_type(class.clone(), ()),
        Err(error) => error,
    }
}

/// A point at which a number of parties wait for each other.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct Barrier {
    barrier: sync::Barrier,
}

impl Barrier {
    /// Ends the wait that began with a ticket.
    fn left(
        &self,
        py: Python<'_>,
        ticket: Ticket,
        end: PyResult<Option<Outcome>>,
    ) -> PyResult<u32> {
        self.barrier.leave(ticket);
        match end? {
            Some(Outcome::Passed) => Ok(ticket.index),
            _ => Err(broken(py)),
        }
    }
}

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (parties, *, name="", _handle=None))]
    fn new(py: Python<'_>, parties: i64, name: &str, _handle: Option<&str>) -> PyResult<Self> {
        let barrier = if let Some(text) = _handle {
            sync::Barrier::open(handle(text)?).map_err(arena_error)?
        } else {
            if parties < 1 {
                return Err(PyValueError::new_err("parties must be >= 1"));
            }
            let parties = u32::try_from(parties).ok().and_then(NonZeroU32::new);
            let parties = parties.unwrap_or(NonZeroU32::MAX);
            crate::waiting::make(py, |arena| sync::Barrier::new(arena, name, parties))?
        };
        Ok(Self { barrier })
    }

    #[getter]
    fn handle(&self) -> String {
        self.barrier.handle().to_string()
    }

    /// Waits for all parties; the last to come calls `action` before any goes on.
    #[pyo3(signature = (timeout=None, action=None))]
    fn wait(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        action: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u32> {
        let acts = action.is_some();
        let barrier = &self.barrier;
        let arrival = wait(py, None, |waiting| barrier.arrive(acts, waiting))?;
        match arrival {
            Some(Arrival::Completes(index)) => Ok(index),
            None | Some(Arrival::Broken) => Err(broken(py)),
            Some(Arrival::Early(ticket)) => {
                let end = wait(py, deadline(timeout), |waiting| barrier.wait(ticket, waiting));
                self.left(py, ticket, end)
            }
            Some(Arrival::Leader(ticket)) => {
                let acted = action.map_or(Ok(()), |action| action.call0().map(drop));
                let end = py.detach(|| match acted {
                    Ok(()) => Ok(Some(barrier.lead(ticket))),
                    Err(error) => {
                        barrier.fail(ticket);
                        Err(error)
                    }
                });
                self.left(py, ticket, end)
            }
        }
    }

    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.barrier.abort());
    }

    fn reset(&self, py: Python<'_>) {
        py.detach(|| self.barrier.reset());
    }

    /// How many wait for the others at this instant.
    fn waiting(&self) -> u32 {
        self.barrier.waiting()
    }

    fn broken(&self) -> bool {
        self.barrier.is_broken()
    }
}
