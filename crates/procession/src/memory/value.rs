//! One value that all processes see, with a lock.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;

use serde::{Deserialize, Serialize};

use super::{Pod, SharedBlock};
use crate::arena::{self, Error, HeldBy, Hidden, Name, Result};
use crate::sync::{Lock, LockGuard, OwnedResult, OwnerDied};

/// A value that all processes see, and the lock under which they read and change it.
///
/// ```
/// use procession::{Value, spawn};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let total = Value::new(0u64)?;
///     let add = |total: Value<u64>| (0..1000).for_each(|_| drop(total.update(|n| n + 1)));
///     let children = [spawn(add, total.clone())?, spawn(add, total.clone())?];
///     for child in children {
///         child.join()?;
///     }
///     assert_eq!(total.load().unwrap(), 2000);
///     Ok(())
/// }
/// ```
///
/// When a process dies with the lock, the next holder is told, and has the guard nonetheless:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let total = procession::Value::new(0u64)?;
/// let mut guard = total.lock().unwrap_or_else(|died| died.into_guard());
/// guard.store(0);
/// # Ok(())
/// # }
/// ```
///
/// A type without a fixed size, or for which some bits are invalid, can't be such a value:
///
/// ```compile_fail,E0277
/// let text = procession::Value::new(String::new());
/// ```
///
/// ```compile_fail,E0277
/// let flag = procession::Value::new(true); // bits other than 0 and 1 are no bool
/// ```
#[derive(Serialize, Deserialize)]
#[serde(bound = "", try_from = "Parts", into = "Parts")]
pub struct Value<T: Pod> {
    parts: Parts,
    value: PhantomData<fn(T) -> T>,
}

/// The lock and the bytes: what travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Parts {
    pub(super) lock: Lock,
    pub(super) block: SharedBlock,
}

impl Parts {
    pub(super) fn new(name: &str, bytes: &[u8]) -> Result<Self> {
        let block = SharedBlock::named(name, bytes.len() as u64)?;
        block.write(0, bytes)?;
        Ok(Self { lock: Lock::named(name)?, block })
    }

    /// Takes the lock, and makes a guard of the value from the lock's guard.
    pub(super) fn lock<'l, G>(&'l self, guard: impl FnOnce(LockGuard<'l>) -> G) -> OwnedResult<G> {
        match self.lock.lock() {
            Ok(lock) => Ok(guard(lock)),
            Err(died) => Err(died.map(guard)),
        }
    }

    /// The beginning of a `Debug` text: the name, and the holder of the lock.
    pub(super) fn debug<'f, 'b>(
        &self,
        of: &str,
        f: &'f mut fmt::Formatter<'b>,
    ) -> fmt::DebugStruct<'f, 'b> {
        let mut text = f.debug_struct(of);
        text.field("name", &Name(self.block.handle()))
            .field("held_by", &HeldBy(self.lock.handle(), self.lock.owner()));
        text
    }

    /// The value in the bytes from `at` on; the caller has checked that they are in the block.
    pub(super) fn load<T: Pod>(&self, at: u64) -> T {
        let mut value = T::zeroed();
        let read = self.block.read(at, bytemuck::bytes_of_mut(&mut value));
        read.expect("the value lies in its block");
        value
    }

    pub(super) fn store<T: Pod>(&self, at: u64, value: &T) {
        let written = self.block.write(at, bytemuck::bytes_of(value));
        written.expect("the value lies in its block");
    }
}

/// The value, for as long as its lock is held.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ValueGuard<'l, T: Pod> {
    parts: &'l Parts,
    _lock: LockGuard<'l>,
    value: PhantomData<fn(T) -> T>,
}

impl<T: Pod> Value<T> {
    /// A value named after the location of the call.
    ///
    /// # Errors
    /// If the arena or the machine has no memory for it.
    #[track_caller]
    pub fn new(value: T) -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), value)
    }

    /// A value with a name, for inspection of the family.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn named(name: &str, value: T) -> Result<Self> {
        let parts = Parts::new(name, bytemuck::bytes_of(&value))?;
        Ok(Self { parts, value: PhantomData })
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard.
    pub fn lock(&self) -> OwnedResult<ValueGuard<'_, T>> {
        let parts = &self.parts;
        parts.lock(|lock| ValueGuard { parts, _lock: lock, value: PhantomData })
    }

    /// The value, read under the lock.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard.
    pub fn load(&self) -> Result<T, OwnerDied<ValueGuard<'_, T>>> {
        Ok(self.lock()?.load())
    }

    /// Writes the value under the lock.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard; nothing was written.
    pub fn store(&self, value: T) -> Result<(), OwnerDied<ValueGuard<'_, T>>> {
        self.lock()?.store(value);
        Ok(())
    }

    /// Changes the value under the lock; returns what it is now.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard; nothing was changed.
    pub fn update(&self, change: impl FnOnce(T) -> T) -> Result<T, OwnerDied<ValueGuard<'_, T>>> {
        Ok(self.lock()?.update(change))
    }
}

impl<T: Pod> ValueGuard<'_, T> {
    /// The value.
    #[must_use]
    pub fn load(&self) -> T {
        self.parts.load(0)
    }

    /// Writes the value. A process that is killed here may have written a part of it.
    pub fn store(&mut self, value: T) {
        self.parts.store(0, &value);
    }

    /// Changes the value; returns what it is now.
    pub fn update(&mut self, change: impl FnOnce(T) -> T) -> T {
        let value = change(self.load());
        self.store(value);
        value
    }
}

/// Does not show the value, as that would take the lock.
impl<T: Pod> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.debug("Value", f).field("data", &Hidden).finish()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueGuard")
            .field("name", &Name(self.parts.block.handle()))
            .field("data", &self.load())
            .finish()
    }
}

impl<T: Pod> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), value: PhantomData }
    }
}

impl<T: Pod> From<Value<T>> for Parts {
    fn from(value: Value<T>) -> Self {
        value.parts
    }
}

impl<T: Pod> TryFrom<Parts> for Value<T> {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        if parts.block.size() != size_of::<T>() as u64 {
            let (expected, found) = (size_of::<T>() as u64, parts.block.size());
            return Err(Error::WrongSize { expected, found });
        }
        Ok(Self { parts, value: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_changed_under_its_lock() {
        let value = Value::new([1u32, 2]).unwrap();
        assert_eq!(value.load().unwrap(), [1, 2]);
        let mut guard = value.lock().unwrap();
        assert_eq!(guard.update(|[a, b]| [b, a]), [2, 1]);
        drop(guard);
        value.store([7, 8]).unwrap();
        assert_eq!(value.update(|[a, b]| [a + 1, b]).unwrap(), [8, 8]);
    }

    #[test]
    fn a_value_of_another_size_is_refused() {
        let value = Value::new(1u32).unwrap();
        let text = serde_json::to_string(&value).unwrap();
        assert_eq!(serde_json::from_str::<Value<u32>>(&text).unwrap().load().unwrap(), 1);
        assert!(serde_json::from_str::<Value<u64>>(&text).is_err());
    }
}
