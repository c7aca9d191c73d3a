//! The value that names an object and can travel between processes.

use std::fmt;
use std::str::FromStr;

/// Names an object of a family: which arena, which row of its object table, and which of the
/// objects that had the row.
///
/// It is a plain value. An object lives while some process has it *open*; a handle does not keep
/// it. A handle to an object that has been freed is refused ([`super::Error::Stale`]), it never
/// comes to mean another one. It prints as, and parses from, `procession:FAMILY:INDEX:GENERATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// The family's random number.
    pub family: u64,
    /// The row in the object table.
    pub index: u32,
    /// Which of the objects that had the row.
    pub generation: u32,
}

impl Handle {
    /// The handle as sixteen bytes, little-endian: family, index, generation.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.family.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.index.to_le_bytes());
        bytes[12..].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// The handle that [`Self::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [family, rest] = [&bytes[..8], &bytes[8..]];
        Self {
            family: u64::from_le_bytes(family.try_into().expect("eight bytes")),
            index: u32::from_le_bytes(rest[..4].try_into().expect("four bytes")),
            generation: u32::from_le_bytes(rest[4..].try_into().expect("four bytes")),
        }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "procession:{:016x}:{}:{}", self.family, self.index, self.generation)
    }
}

/// A text that is no handle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no handle: expected procession:FAMILY:INDEX:GENERATION")]
pub struct ParseHandleError(String);

impl FromStr for Handle {
    type Err = ParseHandleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.strip_prefix("procession:")?.split(':');
            let family = u64::from_str_radix(parts.next()?, 16).ok()?;
            let index = parts.next()?.parse().ok()?;
            let generation = parts.next()?.parse().ok()?;
            parts.next().is_none().then_some(Self { family, index, generation })
        };
        parse().ok_or_else(|| ParseHandleError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_survives_text_and_bytes() {
        let handle = Handle { family: 0xfeed_0000_0000_0001, index: 7, generation: u32::MAX };
        assert_eq!(handle.to_string().parse(), Ok(handle));
        assert_eq!(Handle::from_bytes(handle.to_bytes()), handle);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "procession:", "procession:1:2", "procession:1:2:3:4", "procession:x:1:1"]
        {
            assert!(text.parse::<Handle>().is_err(), "{text}");
        }
    }
}
