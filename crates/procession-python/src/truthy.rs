//! Arguments that only count as true or false.

use pyo3::prelude::*;

/// Whether an argument is true, by Python's rules.
pub(crate) struct Truthy(pub(crate) bool);

impl<'py> FromPyObject<'_, 'py> for Truthy {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        object.is_truthy().map(Self)
    }
}
