//! Many values that all processes see, with a lock.

use std::collections::TryReserveError;
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;

use serde::{Deserialize, Serialize};

use super::Pod;
use super::value::Parts;
use crate::arena::{self, Error, Hidden, Name, Result};
use crate::sync::{LockGuard, OwnedResult};

/// An array of fixed length that all processes see, and the lock under which they read and change
/// it.
///
/// ```
/// use procession::{Array, spawn};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let squares = Array::from_slice(&[1u32, 2, 3])?;
///     let child = spawn(
///         |squares: Array<u32>| {
///             let mut guard = squares.lock().unwrap();
///             (0..guard.len()).for_each(|at| drop(guard.update(at, |n| n * n)));
///         },
///         squares.clone(),
///     )?;
///     child.join()?;
///     assert_eq!(squares.lock().unwrap().to_vec(), [1, 4, 9]);
///     Ok(())
/// }
/// ```
///
/// ```compile_fail,E0277
/// let names = procession::Array::from_slice(&["a reference means nothing in another process"]);
/// ```
#[derive(Serialize, Deserialize)]
#[serde(bound = "", try_from = "Parts", into = "Parts")]
pub struct Array<T: Pod> {
    parts: Parts,
    values: PhantomData<fn(T) -> T>,
}

/// The array, for as long as its lock is held.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ArrayGuard<'l, T: Pod> {
    array: &'l Array<T>,
    _lock: LockGuard<'l>,
}

impl<T: Pod> Array<T> {
    const SIZE: u64 = {
        assert!(size_of::<T>() > 0, "an array of values without a size has no length");
        size_of::<T>() as u64
    };

    /// An array of `len` values with all bits zero, named after the location of the call.
    ///
    /// # Errors
    /// If the arena or the machine has no memory for it.
    #[track_caller]
    pub fn zeroed(len: usize) -> Result<Self> {
        let name = arena::caller_name(Location::caller());
        let block = super::SharedBlock::named(&name, (len as u64).saturating_mul(Self::SIZE))?;
        let parts = Parts { lock: crate::Lock::named(&name)?, block };
        Ok(Self { parts, values: PhantomData })
    }

    /// An array of these values, named after the location of the call.
    ///
    /// # Errors
    /// As [`Self::zeroed`].
    #[track_caller]
    pub fn from_slice(values: &[T]) -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), values)
    }

    /// An array of these values with a name, for inspection of the family.
    ///
    /// # Errors
    /// As [`Self::zeroed`].
    pub fn named(name: &str, values: &[T]) -> Result<Self> {
        let _ = Self::SIZE;
        let parts = Parts::new(name, bytemuck::cast_slice(values))?;
        Ok(Self { parts, values: PhantomData })
    }

    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.parts.block.size() / Self::SIZE) as usize
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`OwnerDied`](crate::sync::OwnerDied), with the guard.
    pub fn lock(&self) -> OwnedResult<ArrayGuard<'_, T>> {
        self.parts.lock(|lock| ArrayGuard { array: self, _lock: lock })
    }

    /// Where `len` values from `at` on begin.
    fn offset(&self, at: usize, len: usize) -> u64 {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(inside, "values {at}..+{len} of an array of {}", self.len());
        at as u64 * Self::SIZE
    }
}

impl<T: Pod> ArrayGuard<'_, T> {
    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.array.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.array.is_empty()
    }

    /// The value at an index.
    ///
    /// # Panics
    /// If there is none, as a slice does.
    #[must_use]
    pub fn load(&self, at: usize) -> T {
        self.array.parts.load(self.array.offset(at, 1))
    }

    /// Writes the value at an index.
    ///
    /// # Panics
    /// If there is none, as a slice does.
    pub fn store(&mut self, at: usize, value: T) {
        self.array.parts.store(self.array.offset(at, 1), &value);
    }

    /// Changes the value at an index; returns what it is now.
    ///
    /// # Panics
    /// If there is none, as a slice does.
    pub fn update(&mut self, at: usize, change: impl FnOnce(T) -> T) -> T {
        let value = change(self.load(at));
        self.store(at, value);
        value
    }

    /// Copies values out, from an index on.
    ///
    /// # Panics
    /// If there are fewer, as a slice does.
    pub fn copy_to_slice(&self, at: usize, into: &mut [T]) {
        let offset = self.array.offset(at, into.len());
        let read = self.array.parts.block.read(offset, bytemuck::cast_slice_mut(into));
        read.expect("the values lie in their block");
    }

    /// Copies values in, from an index on.
    ///
    /// # Panics
    /// If there are fewer, as a slice does.
    pub fn copy_from_slice(&mut self, at: usize, from: &[T]) {
        let offset = self.array.offset(at, from.len());
        let written = self.array.parts.block.write(offset, bytemuck::cast_slice(from));
        written.expect("the values lie in their block");
    }

    /// A copy of all values. Without memory for it the process ends, as with [`slice::to_vec`].
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        let mut values = vec![T::zeroed(); self.len()];
        self.copy_to_slice(0, &mut values);
        values
    }

    /// As [`Self::to_vec`], for an array that may not fit into this process's memory.
    ///
    /// # Errors
    /// [`TryReserveError`] if it is.
    pub fn try_to_vec(&self) -> Result<Vec<T>, TryReserveError> {
        let mut values = Vec::new();
        values.try_reserve_exact(self.len())?;
        values.resize(self.len(), T::zeroed());
        self.copy_to_slice(0, &mut values);
        Ok(values)
    }
}

/// Does not show the values, as that would take the lock.
impl<T: Pod> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.parts.debug("Array", f);
        text.field("len", &self.len()).field("data", &Hidden).finish()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayGuard")
            .field("name", &Name(self.array.parts.block.handle()))
            .field("data", &self.to_vec())
            .finish()
    }
}

impl<T: Pod> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), values: PhantomData }
    }
}

impl<T: Pod> From<Array<T>> for Parts {
    fn from(array: Array<T>) -> Self {
        array.parts
    }
}

impl<T: Pod> TryFrom<Parts> for Array<T> {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        if !parts.block.size().is_multiple_of(Self::SIZE) {
            return Err(Error::WrongSize { expected: Self::SIZE, found: parts.block.size() });
        }
        Ok(Self { parts, values: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_in_and_out_by_copies() {
        let array = Array::<f64>::zeroed(4).unwrap();
        let mut guard = array.lock().unwrap();
        guard.copy_from_slice(1, &[1.5, 2.5]);
        guard.store(3, 9.0);
        assert_eq!(guard.update(3, |x| x + 1.0), 10.0);
        assert_eq!(guard.to_vec(), [0.0, 1.5, 2.5, 10.0]);
        assert_eq!(guard.try_to_vec().unwrap(), guard.to_vec());
        assert_eq!(guard.load(2), 2.5);
        drop(guard);
        assert!(Array::<u8>::from_slice(&[]).unwrap().is_empty());
    }

    #[test]
    #[should_panic(expected = "values 3..+2 of an array of 4")]
    fn what_lies_outside_is_refused() {
        let array = Array::<u16>::zeroed(4).unwrap();
        array.lock().unwrap().copy_from_slice(3, &[1, 2]);
    }
}
