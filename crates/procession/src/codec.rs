//! Values as bytes (`postcard`), and shared objects among them as their handles.
//!
//! An error that is reported through `serde` keeps no cause, and a serializer knows nothing of
//! where the bytes go. So two facts are passed by this thread's [`Context`]: why an object could
//! not be opened, and which objects were named in what was just encoded.

use std::any::Any;
use std::cell::{Cell, RefCell};

use postcard::ser_flavors::Flavor;
use procession_os::memory::make_room;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::arena::{self, Handle};

/// A buffer larger than this is not kept for the next message.
const KEPT_MAX: usize = 4 << 20;

/// For a decoded value of fewer bytes, memory is not checked.
const SMALL: usize = 64 << 10;

/// A value could not be turned into bytes.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Its type does not allow it.
    #[error("the value can't be serialized: {0}")]
    Format(#[source] postcard::Error),
    /// This process has no memory for its bytes.
    #[error("no memory in this process for the bytes of a value, which are more than {len}")]
    NoMemory {
        /// For how many there was.
        len: usize,
    },
}

/// Bytes could not be turned into a value.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are not a serialized value of the expected type: sender and receiver disagree on it.
    #[error("the bytes are no {expected}: {source}")]
    Format {
        /// The type that was expected.
        expected: &'static str,
        /// What `postcard` found.
        source: postcard::Error,
    },
    /// They name a shared object that can't be opened.
    #[error("the value names a shared object that can't be opened: {0}")]
    Object(#[source] arena::Error),
    /// This process has no memory for them.
    #[error("no memory in this process for a value of {len} bytes")]
    NoMemory {
        /// How many there are.
        len: usize,
    },
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static CONTEXT: Context = const {
        Context { named: RefCell::new(None), refused: Cell::new(None) }
    };
}

struct Context {
    /// The objects named by what is being encoded, if the caller wants them kept.
    named: RefCell<Option<Named>>,
    /// Why the object named by what is being decoded could not be opened.
    refused: Cell<Option<arena::Error>>,
}

/// Objects that stay open for as long as this lives.
pub(crate) type Named = Vec<Box<dyn Any + Send + Sync>>;

struct Append<'b>(&'b mut Vec<u8>);

const NO_MEMORY: postcard::Error = postcard::Error::SerializeBufferFull;

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.0.len() == self.0.capacity() {
            make_room(self.0, 1).map_err(|_| NO_MEMORY)?;
        }
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        make_room(self.0, bytes.len()).map_err(|_| NO_MEMORY)?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Lends this thread's buffer, empty. A nested call gets another one.
#[inline]
pub(crate) fn with_buffer<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = BUFFER.take();
    buffer.clear();
    let outcome = work(&mut buffer);
    if buffer.capacity() <= KEPT_MAX {
        BUFFER.set(buffer);
    }
    outcome
}

/// Appends a value's bytes.
#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    into: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let encoded = postcard::serialize_with_flavor(value, Append(into));
    encoded.map_err(|error| match error {
        NO_MEMORY => EncodeError::NoMemory { len: into.len() },
        error => EncodeError::Format(error),
    })
}

/// A value's bytes, and the objects that they name.
pub(crate) fn encode_holding<T: Serialize>(value: &T) -> Result<(Vec<u8>, Named), EncodeError> {
    let outer = CONTEXT.with(|context| context.named.replace(Some(Vec::new())));
    let mut bytes = Vec::new();
    let encoded = encode(value, &mut bytes);
    let named = CONTEXT.with(|context| context.named.replace(outer));
    encoded.map(|()| (bytes, named.unwrap_or_default()))
}

/// Appends bytes.
#[inline]
pub(crate) fn extend(into: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    make_room(into, bytes.len()).map_err(|_| EncodeError::NoMemory { len: into.len() })?;
    into.extend_from_slice(bytes);
    Ok(())
}

/// Whether this process has memory for a value that is made of so many bytes. How much the value
/// takes depends on its type; for text and bytes it is as much again.
#[inline]
pub(crate) fn has_memory_for(len: usize) -> bool {
    len < SMALL || {
        let mut value = Vec::<u8>::new();
        let reserved = value.try_reserve_exact(len);
        // What is not used could be left out.
        std::hint::black_box(&mut value);
        reserved.is_ok()
    }
}

/// The value that bytes stand for.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if !has_memory_for(bytes.len()) {
        return Err(DecodeError::NoMemory { len: bytes.len() });
    }
    postcard::from_bytes(bytes).map_err(|source| refusal::<T>(source))
}

#[cold]
fn refusal<T>(source: postcard::Error) -> DecodeError {
    match CONTEXT.with(|context| context.refused.take()) {
        Some(error) => DecodeError::Object(error),
        None => DecodeError::Format { expected: std::any::type_name::<T>(), source },
    }
}

/// A shared object that travels as its handle.
pub(crate) trait ByHandle: Clone + Send + Sync + 'static {
    fn name(&self) -> Handle;
    fn open_named(handle: Handle) -> arena::Result<Self>;

    fn serialize_handle<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        CONTEXT.with(|context| {
            if let Some(named) = context.named.borrow_mut().as_mut() {
                named.push(Box::new(self.clone()));
            }
        });
        if serializer.is_human_readable() {
            serializer.collect_str(&self.name())
        } else {
            self.name().to_bytes().serialize(serializer)
        }
    }

    fn deserialize_handle<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let handle = if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)?
        } else {
            Handle::from_bytes(<[u8; 16]>::deserialize(deserializer)?)
        };
        Self::open_named(handle).map_err(|error| {
            let text = D::Error::custom(&error);
            CONTEXT.with(|context| context.refused.set(Some(error)));
            text
        })
    }
}

/// Implements `Serialize` and `Deserialize` for a type by its `handle` and `open`.
macro_rules! travels_by_handle {
    ($type:ident $(<$parameter:ident>)?) => {
        impl$(<$parameter: 'static>)? $crate::codec::ByHandle for $type$(<$parameter>)? {
            fn name(&self) -> $crate::arena::Handle {
                self.handle()
            }

            fn open_named(handle: $crate::arena::Handle) -> $crate::arena::Result<Self> {
                Self::open(handle)
            }
        }

        impl$(<$parameter: 'static>)? serde::Serialize for $type$(<$parameter>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::codec::ByHandle::serialize_handle(self, serializer)
            }
        }

        impl<'de $(, $parameter: 'static)?> serde::Deserialize<'de> for $type$(<$parameter>)? {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                $crate::codec::ByHandle::deserialize_handle(deserializer)
            }
        }
    };
}
pub(crate) use travels_by_handle;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lock, Queue};

    #[test]
    fn what_was_encoded_can_be_decoded() {
        let value = (7u64, "text".to_owned(), vec![Some(1.5f64), None]);
        let mut bytes = Vec::new();
        encode(&value, &mut bytes).unwrap();
        assert_eq!(decode::<(u64, String, Vec<Option<f64>>)>(&bytes).unwrap(), value);
    }

    #[test]
    fn bytes_of_another_type_are_refused_by_its_name() {
        let error = decode::<String>(&[9, 1]).unwrap_err();
        assert!(error.to_string().contains("String"), "{error}");
    }

    #[test]
    fn a_handle_to_nothing_is_refused_with_the_reason() {
        let queue = Queue::<u64>::new().unwrap();
        let mut bytes = Vec::new();
        encode(&queue, &mut bytes).unwrap();
        drop(queue);
        let error = decode::<Queue<u64>>(&bytes).unwrap_err();
        assert!(matches!(error, DecodeError::Object(arena::Error::Stale { .. })), "{error:?}");
    }

    #[test]
    fn named_objects_are_kept() {
        let lock = Lock::new().unwrap();
        let (bytes, named) = encode_holding(&lock).unwrap();
        drop(lock);
        assert!(decode::<Lock>(&bytes).is_ok());
        drop(named);
        assert!(decode::<Lock>(&bytes).is_err());
    }
}
