//! Values that all processes see: single ones, arrays, and blocks of bytes.
//!
//! No Rust reference to shared bytes is ever made, as another process may write them at any time:
//! everything goes in and out by copies. So what is copied must be a [`Pod`]: it has a fixed size,
//! and every pattern of bits is a value.

mod array;
mod block;
mod value;

pub use array::{Array, ArrayGuard};
pub use block::SharedBlock;
pub use bytemuck::Pod;
pub use value::{Value, ValueGuard};
