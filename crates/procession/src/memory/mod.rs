//! Values that all processes see: single ones, arrays, and blocks of bytes.
//!
//! No Rust reference to shared bytes is ever made, as another process may write them at any time:
//! everything goes in and out by copies. What is copied must therefore be a [`Pod`]: of a fixed
//! size, any bits of which are a value.

mod array;
mod block;
mod value;

pub use array::{Array, ArrayGuard};
pub use block::SharedBlock;
pub use bytemuck::Pod;
pub use value::{Value, ValueGuard};
