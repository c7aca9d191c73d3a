//! Messages between shared memory and Python objects.
//!
//! # Invariant
//! A message is taken from its queue only when there is memory for its bytes, so a process without
//! memory leaves it in the queue. No memory is allocated while an end of the queue is locked, as
//! that may need the interpreter. If there is no room for a message, it stays in the queue, room is
//! made, and the message is tried again. A short message goes into a buffer that exists before; a
//! long one is copied from shared memory right into the `bytes` object that is unpickled or
//! returned.

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::fmt::{self, Write as _};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use procession_os::memory::{SharedBytes, make_room};
use procession_shm::queue::{INLINE_MAX, MessageBuffer};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::pickling::{PICKLE, decode};

/// A bytes object that is not complete, so that no other code has it yet.
struct Blank {
    object: Py<PyBytes>,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes belong to the object; this owns it and has the only reference.
unsafe impl Send for Blank {}
// SAFETY: as above; by a shared reference they are only read.
unsafe impl Sync for Blank {}

impl Blank {
    fn new(py: Python<'_>, len: usize) -> PyResult<Self> {
        let size = ffi::Py_ssize_t::try_from(len).map_err(|_| PyMemoryError::new_err(()))?;
        // SAFETY: without a source the call makes an object with bytes that are to be written.
        let object = unsafe {
            let object = ffi::PyBytes_FromStringAndSize(ptr::null(), size);
            Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked::<PyBytes>()
        };
        // SAFETY: it is a bytes object.
        let at = unsafe { ffi::PyBytes_AsString(object.as_ptr()) };
        let at = NonNull::new(at.cast()).expect("a bytes object has an address");
        Ok(Self { object: object.unbind(), at, len })
    }

    fn fill(&mut self, bytes: SharedBytes<'_>) {
        // SAFETY: so many bytes lie in the object, which no other code reads or writes.
        let into = unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast(), self.len) };
        bytes.copy_to(into);
    }
}

/// A new bytes object; `MemoryError` where there is no memory for it.
pub(crate) fn new_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    join_bytes(py, &[bytes])
}

/// A new bytes object of several parts; `MemoryError` where there is no memory for it.
pub(crate) fn join_bytes<'py>(py: Python<'py>, parts: &[&[u8]]) -> PyResult<Bound<'py, PyBytes>> {
    let blank = Blank::new(py, parts.iter().map(|part| part.len()).sum())?;
    let mut at = 0;
    for part in parts {
        // SAFETY: the object has room for all parts, and no other code reads or writes it.
        unsafe { ptr::copy_nonoverlapping(part.as_ptr(), blank.at.as_ptr().add(at), part.len()) };
        at += part.len();
    }
    Ok(blank.object.into_bound(py))
}

/// The error for something that there is no memory for.
#[cold]
pub(crate) fn no_memory(what: impl fmt::Display) -> PyErr {
    memory_error(format_args!("no memory in this process for {what}"))
}

/// A `MemoryError` with a text.
#[cold]
pub(crate) fn memory_error(text: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: the interpreter has had the class since its start.
    raised(unsafe { ffi::PyExc_MemoryError }, text)
}

/// A `ValueError` with a text; a `MemoryError` if there is no memory for that.
#[cold]
pub(crate) fn value_error(text: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: as above.
    raised(unsafe { ffi::PyExc_ValueError }, text)
}

/// An exception that is made at once, with a text on the stack. `PyErr::new_err` allocates memory
/// through Rust, and ends the process if there is none.
fn raised(class: *mut ffi::PyObject, text: fmt::Arguments<'_>) -> PyErr {
    let mut short = ShortText { bytes: [0; ShortText::SIZE], len: 0 };
    // This can't fail: what does not fit is left out.
    let _ = short.write_fmt(text);
    Python::attach(|py| {
        // SAFETY: the class is one of exceptions, and the text ends with a zero. Afterwards an
        // exception is set: the interpreter has one ready in case there is no memory.
        unsafe { ffi::PyErr_SetString(class, short.bytes.as_ptr().cast::<c_char>()) };
        PyErr::fetch(py)
    })
}

/// The beginning of a text, with zeros behind it.
struct ShortText {
    bytes: [u8; Self::SIZE],
    len: usize,
}

impl ShortText {
    const SIZE: usize = 256;
}

impl fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Self::SIZE - 1 - self.len;
        let fits = (0..=room.min(text.len())).rfind(|&len| text.is_char_boundary(len)).unwrap_or(0);
        self.bytes[self.len..self.len + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

/// A new int; `MemoryError` where there is no memory for it.
pub(crate) fn new_int(py: Python<'_>, value: i64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the call returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(value)) }
}

/// A new int that can't be negative; `MemoryError` where there is no memory for it.
pub(crate) fn new_count(py: Python<'_>, value: u64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: as above.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromUnsignedLongLong(value)) }
}

/// A new tuple of objects, all of them `Some`; `MemoryError` where there is no memory for it.
pub(crate) fn new_tuple<'py>(
    py: Python<'py>,
    items: &mut [Option<Bound<'py, PyAny>>],
) -> PyResult<Bound<'py, PyTuple>> {
    // SAFETY: the call returns a new reference, or null with an exception set.
    let tuple = unsafe {
        let tuple = ffi::PyTuple_New(items.len() as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, tuple)?.cast_into_unchecked::<PyTuple>()
    };
    for (index, item) in items.iter_mut().enumerate() {
        let item = item.take().expect("the caller has filled it").into_ptr();
        // SAFETY: the item exists and is empty, no other code has the tuple, and the call takes
        // over the reference.
        unsafe { ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index as ffi::Py_ssize_t, item) };
    }
    Ok(tuple)
}

/// A new list of objects, which stay where they are if there is no memory for it.
pub(crate) fn new_list<'py>(
    py: Python<'py>,
    objects: &[(u64, Py<PyAny>)],
) -> PyResult<Bound<'py, PyList>> {
    // SAFETY: the call returns a new reference, or null with an exception set.
    let list = unsafe {
        let list = ffi::PyList_New(objects.len() as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, list)?.cast_into_unchecked::<PyList>()
    };
    for (index, (_, object)) in objects.iter().enumerate() {
        let object = object.clone_ref(py).into_ptr();
        // SAFETY: the item exists and is empty, no other code has the list, and the call takes over
        // the reference.
        unsafe { ffi::PyList_SET_ITEM(list.as_ptr(), index as ffi::Py_ssize_t, object) };
    }
    Ok(list)
}

/// Appends bytes; their number comes from outside.
pub(crate) fn extend(message: &mut Vec<u8>, bytes: &[u8]) -> PyResult<()> {
    let len = bytes.len();
    make_room(message, len).map_err(|_| no_memory(format_args!("a copy of {len} bytes")))?;
    message.extend_from_slice(bytes);
    Ok(())
}

/// Where the bytes of a short message go.
pub(crate) type Buffer = [MaybeUninit<u8>; INLINE_MAX];

pub(crate) const BUFFER: Buffer = [MaybeUninit::uninit(); INLINE_MAX];

/// Room for a message, and after that the message.
///
/// A short one costs no allocation: the buffer is the caller's, on the stack.
pub(crate) struct Room<'b> {
    pub(crate) kind: u8,
    pub(crate) number: u64,
    len: usize,
    /// All of a short message, the first bytes of a long one.
    buffer: &'b mut Buffer,
    /// How many bytes of the buffer are filled.
    filled: usize,
    /// The bytes of a long message behind the head.
    rest: Option<Blank>,
    /// How many bytes the head of a long message has.
    head_len: usize,
    /// The message that may be taken without room for its rest.
    cut: Option<u64>,
}

impl<'b> Room<'b> {
    /// Room for a short message; of a long one `head_len` bytes go to its head.
    #[inline]
    pub(crate) fn new(buffer: &'b mut Buffer, head_len: usize) -> Self {
        Self { kind: 0, number: 0, len: 0, buffer, filled: 0, rest: None, head_len, cut: None }
    }

    /// Makes room for a long message of `len` bytes.
    pub(crate) fn enlarge(&mut self, py: Python<'_>, len: usize) -> PyResult<()> {
        self.rest = None;
        let rest = Blank::new(py, len.saturating_sub(self.head_len));
        self.rest = Some(rest.map_err(|_| {
            no_memory(format_args!("a message of {len} bytes, which is still in the queue"))
        })?);
        Ok(())
    }

    /// Allows the message with a number to be taken without its rest, for which there is no memory.
    pub(crate) fn cut(&mut self, number: u64) {
        self.rest = None;
        self.cut = Some(number);
    }

    /// Says what was got.
    #[inline]
    pub(crate) fn received(&mut self, (kind, number): (u8, u64)) {
        (self.kind, self.number) = (kind, number);
    }

    /// The message that was got.
    #[inline]
    pub(crate) fn view(&self) -> View<'_> {
        // SAFETY: so many bytes were filled.
        let head = unsafe { std::slice::from_raw_parts(self.buffer.as_ptr().cast(), self.filled) };
        // There may be room left that was made for another message.
        let rest = self.rest.as_ref().filter(|_| self.len > INLINE_MAX);
        View { kind: self.kind, len: self.len, head, rest }
    }

    /// The message, with `head` for the bytes in the buffer; cut, if that has no room for them.
    pub(crate) fn into_message(self, mut head: Vec<u8>) -> Message {
        let filled = self.view().head;
        let is_whole = head.capacity() >= filled.len();
        head.extend_from_slice(if is_whole { filled } else { &filled[..filled.len().min(32)] });
        let (len, rest) = if is_whole { (self.len, self.rest) } else { (usize::MAX, None) };
        Message { kind: self.kind, number: self.number, tries: 0, len, head, rest }
    }
}

impl MessageBuffer for Room<'_> {
    #[inline]
    fn make_room(&mut self, number: u64, len: usize) -> bool {
        let rest = self.rest.as_ref();
        len <= INLINE_MAX
            || self.cut == Some(number)
            || rest.is_some_and(|rest| rest.len + self.head_len == len)
    }

    #[inline]
    fn fill(&mut self, bytes: SharedBytes<'_>) {
        self.len = bytes.len();
        let short = self.len <= INLINE_MAX;
        self.filled = if short { self.len } else { self.head_len };
        let (head, rest) = bytes.split_at(self.filled);
        head.copy_to(&mut self.buffer[..self.filled]);
        if let Some(into) = self.rest.as_mut().filter(|_| !short) {
            into.fill(rest);
        }
    }
}

/// A message that was got and is kept.
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) number: u64,
    /// How often there was no memory for what it becomes.
    pub(crate) tries: u32,
    len: usize,
    head: Vec<u8>,
    rest: Option<Blank>,
}

impl Message {
    pub(crate) fn view(&self) -> View<'_> {
        View { kind: self.kind, len: self.len, head: &self.head, rest: self.rest.as_ref() }
    }
}

/// A look at a message that was got.
#[derive(Clone, Copy)]
pub(crate) struct View<'m> {
    kind: u8,
    /// How many bytes the message has.
    pub(crate) len: usize,
    /// The bytes of a short message, or the first of a long one.
    pub(crate) head: &'m [u8],
    rest: Option<&'m Blank>,
}

impl View<'_> {
    /// Whether its rest was left out.
    pub(crate) fn is_cut(&self) -> bool {
        self.len > INLINE_MAX && self.rest.is_none()
    }

    /// Whether it was pickled, so that reading it may run any code.
    pub(crate) fn is_pickled(&self) -> bool {
        self.kind == PICKLE
    }

    /// The bytes of a long message behind its head.
    pub(crate) fn rest<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.rest.map(|rest| rest.object.bind(py).clone())
    }

    /// All bytes, of a message without a head of its own.
    pub(crate) fn bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.rest(py).map_or_else(|| new_bytes(py, self.head), Ok)
    }

    /// The object that it is.
    #[inline]
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.rest(py) {
            Some(rest) => decode(py, self.kind, rest.as_bytes(), Some(&rest)),
            None => decode(py, self.kind, self.head, None),
        }
    }
}
