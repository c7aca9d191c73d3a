//! The allocator: extents of 64 KiB units, and slabs of smaller blocks in them.
//!
//! # What is true and what is derived
//! The truth is one word for each extent (in the unit words, at its first unit) and one for each
//! block of a slab (in the slab's head): its state, length, owner and, in a word beside it, its
//! generation. A change of state is one store to that word. Free lists, footers and counts are
//! derived from the words: a process that finds that another died with the heap's lock derives them
//! again (`Arena::rebuild`) and goes on.
//!
//! A block comes from free to in use, and back, under the heap's lock. All other changes are one
//! compare-exchange by the block's owner: between processes and objects, and into a process's
//! [cache](caches) and out of it.
//!
//! Splitting writes the rest's word first, at which no process looks as long as the extent before
//! it covers it, then shortens that extent with the store that takes it. Freeing is one store, and
//! joining another that lengthens the first of two. The frontier (`units_used`) moves after the
//! word behind it is written.
//!
//! # Owners
//! A block belongs to a process while it is filled or read (`Process`), and to an object once it is
//! part of it (`Object`). A process's blocks are freed when it is buried; an object's when it ends.
//! The generation tells a block from all others that were or will be at the same place: what was
//! written down about one never comes to mean another.
//!
//! # Freeing
//! A process that frees a block first makes it its own, or one that it keeps, with one
//! compare-exchange. So of all that try, one frees it, and its burial does so if it dies. The rest
//! can be put off, so freeing never waits for the heap's lock for longer than 20 ms.
//!
//! # Memory
//! Memory is taken from the machine (`SharedMemory::reserve`) before a block is handed out, so that
//! a machine without memory is an error here and not SIGBUS later. Touching memory for the first
//! time costs four to five times what touching it again does, so what falls free stays *warm*,
//! within bounds:
//!
//! - never more than [`WARM_MAX`]: what is freed beyond that goes back to the machine at once;
//! - of what was warm and was not taken for a second ([`IDLE`]), all but [`WARM_FLOOR`] goes back
//!   as soon as any process of the family uses the heap, forks, or looks again at what it waits
//!   for.
//!
//! Beside that there are at most: an empty slab (one unit) for each of the eight classes, and in
//! each process's cache 255 KiB (or the slabs that these blocks lie in). The heap's lock is not
//! held while memory is reserved or given back.
//!
//! # A process that is stopped with the heap's lock
//! Small blocks come from the process's cache without the lock. An allocation that needs it waits
//! as long as its caller's [`Wait`](crate::wait::Wait) allows, which is until a signal where an
//! object is made. Freeing, the end of an object and burials are put off. So what remains is that
//! memory beyond the caches is not to be had until that process goes on or is killed.
//!
//! The lock is held for some hundred nanoseconds, except by a walk over the whole heap: the end of
//! a queue, the burial of a process that died in the middle of something, memory that is short,
//! `Arena::check`.

mod allocate;
mod block;
mod caches;
mod check;
mod cut;
mod extents;
mod free;
mod lock;
mod owners;
mod slabs;
pub(super) mod state;
mod words;

pub use allocate::make_interruptibly;
pub(crate) use block::{Block, BlockOwner};
pub(super) use extents::Effort;
pub use state::{IDLE, WARM_FLOOR, WARM_MAX};

#[cfg(test)]
mod tests;
