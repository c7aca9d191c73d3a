//! The atomics that the algorithms are written with: the standard ones, or under `cfg(model)` those
//! of a model checker, which tries the interleavings one by one.

#[cfg(not(model))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(model)]
pub(crate) use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(not(model))]
pub(crate) use std::hint::spin_loop;

#[cfg(model)]
pub(crate) use shuttle::hint::spin_loop;
