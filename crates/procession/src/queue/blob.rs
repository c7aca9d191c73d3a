//! The bytes of a `Queue<Vec<u8>>`, which do not go through the encoder.
//!
//! `serde` sees a `Vec<u8>` as a sequence of numbers, and would carry it over byte by byte. A
//! message is the same either way: the length as `postcard` writes numbers (seven bits a byte),
//! then the bytes.

use std::any::{Any, TypeId};

use procession_os::memory::SharedBytes;
use procession_shm::queue::MessageBuffer;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::typed::value_of;
use super::{GetError, POSTCARD};
use crate::codec::{self, DecodeError, EncodeError};

/// The most bytes that a length has.
pub(super) const MAX_HEAD: usize = 10;

/// Whether values of a type are bytes.
#[inline]
pub(super) fn is_one<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<Vec<u8>>()
}

/// The bytes that a value is, if it is only bytes.
#[inline]
pub(super) fn of<T: 'static>(value: &T) -> Option<&[u8]> {
    (value as &dyn Any).downcast_ref::<Vec<u8>>().map(Vec::as_slice)
}

/// What comes before so many bytes.
#[inline]
pub(super) fn head(len: usize, into: &mut [u8; MAX_HEAD]) -> Result<&[u8], EncodeError> {
    postcard::to_slice(&len, into).map(|head| &*head).map_err(EncodeError::Format)
}

/// As [`codec::encode`].
#[inline]
pub(super) fn encode<T: Serialize + 'static>(
    value: &T,
    into: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let Some(bytes) = of(value) else { return codec::encode(value, into) };
    let mut length = [0; MAX_HEAD];
    codec::extend(into, head(bytes.len(), &mut length)?)?;
    codec::extend(into, bytes)
}

/// A message that is got as one, or for one.
#[derive(Default)]
pub(super) struct Blob {
    head: [u8; MAX_HEAD],
    head_len: usize,
    body: Vec<u8>,
}

/// How many bytes the head has of a message of `len`; 0 if it can't have one.
fn head_len(len: usize) -> usize {
    let fits = |head: &usize| {
        let body = len.checked_sub(*head);
        body.is_some_and(|body| {
            (usize::BITS - body.leading_zeros()).div_ceil(7).max(1) as usize == *head
        })
    };
    (1..=MAX_HEAD).find(fits).unwrap_or(0)
}

impl MessageBuffer for Blob {
    fn make_room(&mut self, _number: u64, len: usize) -> bool {
        self.head_len = head_len(len);
        self.body.try_reserve_exact(len - self.head_len).is_ok()
    }

    fn fill(&mut self, bytes: SharedBytes<'_>) {
        let (head, body) = bytes.split_at(self.head_len);
        head.read(&mut self.head[..self.head_len]);
        self.body.fill(body);
    }
}

impl Blob {
    /// The bytes, as the type that the caller knows them to be.
    #[inline]
    pub(super) fn into_value<T: DeserializeOwned + 'static>(self, kind: u8) -> Result<T, GetError> {
        let head = &self.head[..self.head_len];
        let is_one = kind == POSTCARD && postcard::from_bytes(head).ok() == Some(self.body.len());
        let mut body = Some(self.body);
        if is_one
            && let Some(value) = (&mut body as &mut dyn Any).downcast_mut::<Option<T>>()
            && let Some(value) = value.take()
        {
            return Ok(value);
        }
        let body = body.unwrap_or_default();
        let mut whole = Vec::new();
        let no_memory = |_| DecodeError::NoMemory { len: head.len() + body.len() };
        codec::extend(&mut whole, head).map_err(no_memory)?;
        codec::extend(&mut whole, &body).map_err(no_memory)?;
        value_of(kind, &whole)
    }
}
