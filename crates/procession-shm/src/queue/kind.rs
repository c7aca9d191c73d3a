//! The kinds of messages: how the bytes of one are meant.
//!
//! To a queue a kind is a number that travels with the bytes. The numbers are in one place because
//! they are shared by all programs of a family, in whatever language:
//!
//! | kind | what the bytes are | written by |
//! | --- | --- | --- |
//! | [`BYTES`] | themselves | all |
//! | 0 to 4, 6 to 8 | a Python object (`procession-python/src/pickling.rs`) | Python |
//! | [`POSTCARD`] | a value in `postcard`'s format | Rust |
//! | 255 | several objects: a pool's task or outcome (`queues/pool.rs` of the binding) | Python |

/// The kind of a message that is plain bytes, which programs in all languages read and write.
pub const BYTES: u8 = 5;

/// The kind of a message that is a value in `postcard`'s format, as a queue of typed values in Rust
/// puts it.
pub const POSTCARD: u8 = 32;
