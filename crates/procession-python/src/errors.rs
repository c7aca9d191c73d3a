//! The core's errors as Python exceptions.

use procession_shm::arena::{Error, Handle, ParseHandleError};
use pyo3::create_exception;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    procession,
    OwnerDiedError,
    PyRuntimeError,
    "The process that held the lock died with it. The lock is free again."
);
create_exception!(
    procession,
    StaleHandleError,
    PyValueError,
    "A handle names an object that has been freed."
);
create_exception!(
    procession,
    ArenaError,
    PyRuntimeError,
    "Shared memory can not do what was asked."
);

/// An arena error as an exception.
pub(crate) fn arena_error(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::OutOfMemory { .. } | Error::MachineFull { .. } => PyMemoryError::new_err(text),
        Error::Stale(_) => StaleHandleError::new_err(text),
        Error::WrongKind { .. } | Error::TooMany { .. } | Error::OutOfRange { .. } => {
            PyValueError::new_err(text)
        }
        Error::Os { source, .. } => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, text)),
            None => PyOSError::new_err(text),
        },
        _ => ArenaError::new_err(text),
    }
}

/// An error of the system as an exception, with its number.
pub(crate) fn os_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, text_of(&error))),
        None => error.into(),
    }
}

/// What the system says of an error, without the number that Rust adds.
pub(crate) fn text_of(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The handle that a text names.
pub(crate) fn handle(text: &str) -> PyResult<Handle> {
    text.parse().map_err(|error: ParseHandleError| PyValueError::new_err(error.to_string()))
}
