//! Arguments of which only the truth matters.

use pyo3::prelude::*;

/// An argument that is only asked whether it is true, as Python does.
pub(crate) struct Truthy(pub(crate) bool);

impl<'py> FromPyObject<'_, 'py> for Truthy {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        object.is_truthy().map(Self)
    }
}
