//! Python objects as messages: the plain ones by hand, the others by pickle.
//!
//! A message's kind says how its bytes are meant. [`BYTES`] messages are the bytes themselves,
//! which is what programs in other languages read and write; the kinds below are only Python's.

use std::sync::atomic::{AtomicUsize, Ordering};

use procession_shm::queue::kind::BYTES;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::message::{extend, new_bytes, new_int, new_tuple, no_memory, value_error};

pub(crate) const PICKLE: u8 = 0;
const NONE: u8 = 1;
const TRUE: u8 = 2;
const FALSE: u8 = 3;
const INT: u8 = 4;
const STR: u8 = 6;
const FLOAT: u8 = 7;
/// A tuple of plain objects: each with its kind, its length in four bytes, and its bytes.
const TUPLE: u8 = 8;
const TUPLE_MAX: usize = 8;

// Names of attributes.
macro_rules! names {
    ($($function:ident: $name:literal),*) => {$(
        pub(crate) fn $function(py: Python<'_>) -> &Bound<'_, PyString> {
            intern!(py, $name)
        }
    )*};
}

names!(
    extra_reducers: "_extra_reducers",
    dispatch_table: "dispatch_table",
    dump: "dump",
    getvalue: "getvalue",
    put: "put"
);

struct Pickle {
    bytes_io: Py<PyAny>,
    pickler: Py<PyAny>,
    dumps: Py<PyAny>,
    loads: Py<PyAny>,
    copyreg_table: Py<PyDict>,
    forking_pickler: Py<PyAny>,
}

fn pickle(py: Python<'_>) -> PyResult<&'static Pickle> {
    static PICKLE: PyOnceLock<Pickle> = PyOnceLock::new();
    if let Some(pickle) = PICKLE.get(py) {
        return Ok(pickle);
    }
    let _preparing = Preparing::begin();
    let pickle = py.import("pickle")?;
    let copyreg = py.import("copyreg")?;
    let reduction = py.import("multiprocessing.reduction")?;
    let found = Pickle {
        bytes_io: py.import("io")?.getattr("BytesIO")?.unbind(),
        pickler: pickle.getattr("Pickler")?.unbind(),
        dumps: pickle.getattr("dumps")?.unbind(),
        loads: pickle.getattr("loads")?.unbind(),
        copyreg_table: copyreg.getattr("dispatch_table")?.cast_into::<PyDict>()?.unbind(),
        forking_pickler: reduction.getattr("ForkingPickler")?.unbind(),
    };
    // They are made once, and the process ends if there is no memory for them at that time.
    for name in [extra_reducers, dispatch_table, dump, getvalue, put] {
        name(py);
    }
    // All was made before the lock is taken, so no other thread's fork can find it taken for long.
    Ok(PICKLE.get_or_init(py, || found))
}

/// How many threads look up what this module needs.
static PREPARING: AtomicUsize = AtomicUsize::new(0);

struct Preparing;

impl Preparing {
    fn begin() -> Self {
        PREPARING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        PREPARING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks up what this module needs from the interpreter. It is called before a fork of ours, so
/// that the child need not do it, and with each queue, while there is memory.
pub(crate) fn prepare_pickling(py: Python<'_>) -> PyResult<()> {
    pickle(py).map(|_| ())
}

/// Called before any other fork: waits for a thread that is in the middle of the look-up, as the
/// child would not have that thread. It does nothing else, since what a signal handler raises here
/// is lost.
#[pyfunction]
pub(crate) fn end_preparing(py: Python<'_>) -> PyResult<()> {
    if PREPARING.load(Ordering::Relaxed) == 0 { Ok(()) } else { prepare_pickling(py) }
}

/// Pickles as `multiprocessing.reduction.ForkingPickler` does, with the reducers registered there.
///
/// The C pickler is used as it is; its dispatch table is a plain dictionary, made for each call
/// from the two registries, which is faster than looking through both in Python for each object.
#[pyfunction]
pub(crate) fn dumps<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = object.py();
    let pickle = pickle(py)?;
    if is_plain(object, &mut { PLAIN_MAX }) {
        return Ok(pickle.dumps.bind(py).call1((object,))?.cast_into::<PyBytes>()?);
    }
    let reducers = pickle.forking_pickler.bind(py).getattr(extra_reducers(py))?;
    let table = pickle.copyreg_table.bind(py).copy()?;
    table.update(reducers.cast::<PyDict>()?.as_mapping())?;
    let buffer = pickle.bytes_io.bind(py).call0()?;
    let pickler = pickle.pickler.bind(py).call1((&buffer,))?;
    pickler.setattr(dispatch_table(py), table)?;
    pickler.call_method1(dump(py), (object,))?;
    Ok(buffer.call_method0(getvalue(py))?.cast_into::<PyBytes>()?)
}

/// How many objects are checked at most; with more, an object counts as not plain.
const PLAIN_MAX: u32 = 64;

/// Whether an object is made of built-in types only, for which no reducer can be registered.
fn is_plain(object: &Bound<'_, PyAny>, left: &mut u32) -> bool {
    if *left == 0 {
        return false;
    }
    *left -= 1;
    object.is_none()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBool>()
        || object
            .cast_exact::<PyTuple>()
            .is_ok_and(|items| items.iter().all(|item| is_plain(&item, left)))
        || object
            .cast_exact::<PyList>()
            .is_ok_and(|items| items.iter().all(|item| is_plain(&item, left)))
        || object.cast_exact::<PyDict>().is_ok_and(|items| {
            items.iter().all(|(key, value)| is_plain(&key, left) && is_plain(&value, left))
        })
}

/// Calls `put` with the kind and bytes of the message that an object is.
pub(crate) fn encode<T>(
    object: &Bound<'_, PyAny>,
    put: impl FnOnce(u8, &[u8]) -> PyResult<T>,
) -> PyResult<T> {
    if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        return put(BYTES, bytes.as_bytes());
    }
    if let Ok(int) = object.cast_exact::<PyInt>() {
        if let Some(value) = small_int(int) {
            return put(INT, &value.to_le_bytes());
        }
    } else if let Ok(text) = object.cast_exact::<PyString>() {
        // Text with lone surrogates has no UTF-8; pickle knows how to carry it.
        if let Ok(text) = text.to_str() {
            return put(STR, text.as_bytes());
        }
    } else if object.is_none() {
        return put(NONE, &[]);
    } else if let Ok(truth) = object.cast_exact::<PyBool>() {
        return put(if truth.is_true() { TRUE } else { FALSE }, &[]);
    } else if let Ok(float) = object.cast_exact::<PyFloat>() {
        return put(FLOAT, &float.value().to_le_bytes());
    } else if let Ok(tuple) = object.cast_exact::<PyTuple>()
        && tuple.len() <= TUPLE_MAX
        && tuple.iter().all(|item| is_scalar(&item))
    {
        let mut bytes = Vec::new();
        bytes.try_reserve(64).map_err(|_| no_memory("a copy of a tuple"))?;
        for item in tuple.iter() {
            append(&item, &mut bytes)?;
        }
        return put(TUPLE, &bytes);
    }
    put(PICKLE, dumps(object)?.as_bytes())
}

/// Whether copies of an object can't be told from it, so that pickle's memo makes no difference.
fn is_scalar(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyInt>()
        || object.is_none()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBool>()
}

fn small_int(int: &Bound<'_, PyInt>) -> Option<i64> {
    let mut overflow = 0;
    #[allow(unsafe_code)]
    // SAFETY: the object is an int, so the call can't fail otherwise than by overflow, which it
    // reports without an exception.
    let value = unsafe { pyo3::ffi::PyLong_AsLongLongAndOverflow(int.as_ptr(), &raw mut overflow) };
    (overflow == 0).then_some(value)
}

/// Appends an object to a message that has several.
fn append(object: &Bound<'_, PyAny>, message: &mut Vec<u8>) -> PyResult<()> {
    encode(object, |kind, bytes| {
        extend(message, &object_head(kind, bytes.len())?)?;
        extend(message, bytes)
    })
}

/// How many bytes there are before those of an object in a message that has several.
pub(crate) const OBJECT_HEAD: usize = 5;

/// What is before an object's bytes in a message that has several: its kind, and their number.
pub(crate) fn object_head(kind: u8, len: usize) -> PyResult<[u8; OBJECT_HEAD]> {
    let len = u32::try_from(len)
        .map_err(|_| value_error(format_args!("an argument or result of more than 4 GiB")))?;
    let [a, b, c, d] = len.to_le_bytes();
    Ok([kind, a, b, c, d])
}

/// Takes the next object off a message that has several: its kind and bytes.
fn split_bytes<'m>(message: &mut &'m [u8]) -> PyResult<(u8, &'m [u8])> {
    let short = || value_error(format_args!("a message ends within an object"));
    let (&[kind, a, b, c, d], rest) =
        message.split_first_chunk::<OBJECT_HEAD>().ok_or_else(short)?;
    let len = u32::from_le_bytes([a, b, c, d]);
    let (bytes, rest) = rest.split_at_checked(len as usize).ok_or_else(short)?;
    *message = rest;
    Ok((kind, bytes))
}

/// Takes the next object off a message that has several.
pub(crate) fn split<'py>(py: Python<'py>, message: &mut &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let (kind, bytes) = split_bytes(message)?;
    decode(py, kind, bytes, None)
}

/// As [`split`], but a pickled object is left as it is: whether it is, and the object or its bytes.
pub(crate) fn peek<'py>(
    py: Python<'py>,
    message: &mut &[u8],
) -> PyResult<(bool, Bound<'py, PyAny>)> {
    let (kind, bytes) = split_bytes(message)?;
    let pickled = kind == PICKLE;
    Ok((pickled, decode(py, if pickled { BYTES } else { kind }, bytes, None)?))
}

/// Unpickles a message; as a function without arguments.
pub(crate) fn unpickling<'py>(
    py: Python<'py>,
    bytes: &Bound<'py, PyBytes>,
) -> PyResult<Bound<'py, PyAny>> {
    py.import("functools")?.getattr("partial")?.call1((pickle(py)?.loads.bind(py), bytes))
}

/// The object that a message is; `whole` has the same bytes, if they are an object already.
///
/// Nothing here panics where there is no memory: that is `MemoryError`.
pub(crate) fn decode<'py>(
    py: Python<'py>,
    kind: u8,
    bytes: &[u8],
    whole: Option<&Bound<'py, PyBytes>>,
) -> PyResult<Bound<'py, PyAny>> {
    let whole = || whole.map_or_else(|| new_bytes(py, bytes), |whole| Ok(whole.clone()));
    let eight = || {
        <[u8; 8]>::try_from(bytes)
            .map_err(|_| value_error(format_args!("a number of {} bytes", bytes.len())))
    };
    match kind {
        PICKLE => pickle(py)?.loads.bind(py).call1((whole()?,)),
        NONE => Ok(py.None().into_bound(py)),
        TRUE | FALSE => Ok(PyBool::new(py, kind == TRUE).to_owned().into_any()),
        INT => new_int(py, i64::from_le_bytes(eight()?)),
        BYTES => Ok(whole()?.into_any()),
        STR => new_str(py, bytes),
        FLOAT => new_float(py, f64::from_le_bytes(eight()?)),
        TUPLE => {
            let (mut rest, mut items, mut len) = (bytes, [const { None }; TUPLE_MAX], 0);
            while !rest.is_empty() {
                let (kind, bytes) = split_bytes(&mut rest)?;
                if len == TUPLE_MAX || kind == TUPLE {
                    return Err(value_error(format_args!("a tuple that is none of plain objects")));
                }
                items[len] = Some(decode(py, kind, bytes, None)?);
                len += 1;
            }
            Ok(new_tuple(py, &mut items[..len])?.into_any())
        }
        other => Err(value_error(format_args!(
            "a message of kind {other}, which Python does not know (was it put by another program?)"
        ))),
    }
}

#[allow(unsafe_code)]
fn new_float(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the call returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyFloat_FromDouble(value)) }
}

#[allow(unsafe_code)]
fn new_str<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|_| value_error(format_args!("a text that is not UTF-8")))?;
    // SAFETY: the call reads so many bytes of UTF-8, and returns a new reference, or null with an
    // exception set.
    unsafe {
        let size = text.len() as ffi::Py_ssize_t;
        let object = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), size);
        Bound::from_owned_ptr_or_err(py, object)
    }
}

struct QueueErrors {
    empty: Py<PyAny>,
    full: Py<PyAny>,
}

/// Looks up the exceptions of the module `queue`, which a program without queues need not import.
fn queue_errors(py: Python<'_>) -> PyResult<&'static QueueErrors> {
    static QUEUE_ERRORS: PyOnceLock<QueueErrors> = PyOnceLock::new();
    if let Some(errors) = QUEUE_ERRORS.get(py) {
        return Ok(errors);
    }
    let queue = py.import("queue")?;
    let (empty, full) = (queue.getattr("Empty")?.unbind(), queue.getattr("Full")?.unbind());
    Ok(QUEUE_ERRORS.get_or_init(py, || QueueErrors { empty, full }))
}

/// As [`prepare_pickling`], for a queue.
pub(crate) fn prepare_queues(py: Python<'_>) -> PyResult<()> {
    queue_errors(py)?;
    prepare_pickling(py)
}

/// An exception of the module `queue`, `Full` or `Empty`.
pub(crate) fn queue_error(py: Python<'_>, name: &str) -> PyErr {
    let class =
        queue_errors(py).map(|found| if name == "Full" { &found.full } else { &found.empty });
    match class.and_then(|class| class.bind(py).call0()) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}
