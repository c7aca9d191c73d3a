//! `procession.sharedctypes`: shared bytes behind ctypes objects.

#![allow(unsafe_code)]

use std::ffi::c_int;

use procession_shm::memory::SharedBlock;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::{arena_error, handle};

/// Shared bytes, zero at first, as a writable buffer.
#[pyclass(subclass, frozen, module = "procession._native")]
pub(crate) struct Block {
    block: SharedBlock,
}

#[pymethods]
impl Block {
    #[new]
    #[pyo3(signature = (size, *, name=""))]
    fn new(py: Python<'_>, size: u64, name: &str) -> PyResult<Self> {
        let made = crate::waiting::make(py, |arena| SharedBlock::new(arena, name, size));
        Ok(Self { block: made? })
    }

    /// Return the block that a handle names.
    ///
    /// Raises
    /// ------
    /// procession.StaleHandleError
    ///     If the block has been freed.
    #[classmethod]
    fn open(_class: &Bound<'_, PyType>, text: &str) -> PyResult<Self> {
        Ok(Self { block: SharedBlock::open(handle(text)?).map_err(arena_error)? })
    }

    /// What names the block in other processes, as text; it is valid while some process has the
    /// block open.
    #[getter]
    fn handle(&self) -> String {
        self.block.handle().to_string()
    }

    fn __len__(&self) -> usize {
        self.block.size() as usize
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.get_type().getattr("open")?, (slf.get().handle(),)))
    }

    /// # Safety
    /// Called by the interpreter, with a view to fill.
    unsafe fn __getbuffer__(
        slf: &Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let block = &slf.get().block;
        let address = block.address().map_err(arena_error)?;
        // SAFETY: the bytes are in the mapping, which stays for the process's life; the view holds
        // a reference to this object, which keeps the block open. Python's buffers, unlike Rust's
        // references, may be written by others at any time.
        let filled = unsafe {
            let len = block.size() as ffi::Py_ssize_t;
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), address.as_ptr().cast(), len, 0, flags)
        };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::take(slf.py()).unwrap_or_else(|| PyBufferError::new_err("no buffer")))
        }
    }
}
