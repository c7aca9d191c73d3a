//! What the classes for objects in the arena have in common.
//!
//! An instance is empty until its class's `__init__` makes the object, or `__setstate__` opens it.
//! So classes may be derived from them as from any other, with an `__init__` of their own.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// What an instance is about, once it is made.
pub(crate) struct InitOnce<T>(OnceLock<T>);

impl<T> Default for InitOnce<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> InitOnce<T> {
    #[inline]
    pub(crate) fn get(&self) -> PyResult<&T> {
        self.0.get().ok_or_else(|| {
            PyRuntimeError::new_err("there is no object yet: its class's __init__ was not called")
        })
    }

    #[inline]
    pub(crate) fn get_if_set(&self) -> Option<&T> {
        self.0.get()
    }

    pub(crate) fn set(&self, made: T) -> PyResult<()> {
        self.0.set(made).map_err(|_| PyRuntimeError::new_err("__init__ was called before"))
    }
}
