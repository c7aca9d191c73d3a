//! A lock's `acquire`, `release`, `__enter__` and `__exit__` as bare functions of the interpreter's
//! calling convention.
//!
//! Programs make these calls most often, and each is a single atomic instruction; a generated
//! wrapper costs as much again. All other cases go to the wrapped methods `_acquire` and
//! `_release`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::raw::c_int;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::Lock;

/// A table that the interpreter reads for as long as it lives.
struct Methods([ffi::PyMethodDef; 4]);

// SAFETY: the table is never written.
unsafe impl Sync for Methods {}

const fn method(
    name: &'static CStr,
    meth: ffi::PyMethodDefPointer,
    flags: c_int,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: meth,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

const ACQUIRE: &CStr = c"acquire($self, block=True, timeout=None)
--

Acquire the lock.

Parameters
----------
block : bool
    Whether to wait if another thread or this one holds it.
timeout : float, optional
    The seconds to wait at most; without it there is no limit.

Returns
-------
bool
    Whether the lock was acquired.

Raises
------
procession.OwnerDiedError
    If the process that held the lock has died. The lock is free again; no other waiter is told.";

const RELEASE: &CStr = c"release($self)
--

Release the lock. Any thread of any process may do so.

Raises
------
ValueError
    If the lock is free.";

const ENTER: &CStr = c"__enter__($self)
--

Acquire the lock, as `acquire` does.";

const EXIT: &CStr = c"__exit__($self, _type=None, _value=None, _traceback=None)
--

Release the lock, as `release` does.";

static METHODS: Methods = Methods([
    method(
        c"acquire",
        ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: acquire },
        ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ACQUIRE,
    ),
    method(c"release", ffi::PyMethodDefPointer { PyCFunction: release }, ffi::METH_NOARGS, RELEASE),
    method(c"__enter__", ffi::PyMethodDefPointer { PyCFunction: enter }, ffi::METH_NOARGS, ENTER),
    method(
        c"__exit__",
        ffi::PyMethodDefPointer { PyCFunctionFast: exit },
        ffi::METH_FASTCALL,
        EXIT,
    ),
]);

/// Adds the four methods to the class.
pub(crate) fn add_to(class: &Bound<'_, PyType>) -> PyResult<()> {
    for definition in &METHODS.0 {
        // SAFETY: the definition is static and well-formed, the class is a type object; a method
        // descriptor checks at each call that it is called on an instance of the class.
        let descriptor = unsafe {
            let definition = ptr::from_ref(definition).cast_mut();
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            Bound::from_owned_ptr_or_err(class.py(), descriptor)?
        };
        // SAFETY: the name is a static, NUL-terminated text.
        let name = unsafe { CStr::from_ptr(definition.ml_name) };
        class.setattr(name.to_str().unwrap_or_default(), descriptor)?;
    }
    Ok(())
}

/// # Safety
/// The interpreter is attached, and `slf` is a [`Lock`].
unsafe fn lock(slf: &*mut ffi::PyObject) -> &Lock {
    // SAFETY: by the contract; the caller of the method holds a reference to `slf` meanwhile.
    unsafe {
        let py = Python::assume_attached();
        Bound::ref_from_ptr(py, slf).cast_unchecked::<Lock>().get()
    }
}

/// # Safety
/// The interpreter is attached, the arguments are those of a vectorcall.
unsafe fn call_wrapped(
    slf: *mut ffi::PyObject,
    name: &CStr,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: by the contract; a null result has the exception set, and is passed on.
    unsafe {
        let method = ffi::PyObject_GetAttrString(slf, name.as_ptr());
        if method.is_null() {
            return method;
        }
        let result = ffi::PyObject_Vectorcall(method, args, nargs as usize, names);
        ffi::Py_DecRef(method);
        result
    }
}

unsafe extern "C" fn acquire(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter on a Lock.
    unsafe {
        if nargs == 0 && names.is_null() && lock(&slf).try_acquire() {
            return ffi::Py_NewRef(ffi::Py_True());
        }
        call_wrapped(slf, c"_acquire", args, nargs, names)
    }
}

unsafe extern "C" fn enter(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as for `acquire`.
    unsafe { acquire(slf, ptr::null(), 0, ptr::null_mut()) }
}

unsafe extern "C" fn release(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter on a Lock.
    unsafe {
        if lock(&slf).release() {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        call_wrapped(slf, c"_release", ptr::null(), 0, ptr::null_mut())
    }
}

unsafe extern "C" fn exit(
    slf: *mut ffi::PyObject,
    _: *mut *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for `release`.
    unsafe { release(slf, ptr::null_mut()) }
}
