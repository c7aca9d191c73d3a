//! What a child tells its parent, by a queue that the parent made for this child only.

use std::string::FromUtf8Error;

use procession_shm::queue::{Queue, QueueError};
use procession_shm::wait::Wait;

use crate::arena::{self, Slot};

/// A message of the child. The first is `Began` or `NotBegun`; after `Began` comes one of the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The child has opened all that the arguments name, and is about to call the function.
    Began(Slot),
    /// The child could not begin; why.
    NotBegun(String),
    /// The function returned; the result's bytes.
    Returned(Vec<u8>),
    /// The function panicked; the panic's location and text.
    Panicked(String, String),
    /// The function returned, but its result could not be sent; why.
    Unsent(String),
    /// There is a report of so many bytes, and this process has no memory for it. It is not taken.
    NoMemory(usize),
}

const BEGAN: u8 = 1;
const NOT_BEGUN: u8 = 2;
const RETURNED: u8 = 3;
const PANICKED: u8 = 4;
const UNSENT: u8 = 5;

impl Report {
    pub(super) fn send(&self, outbox: &Queue) -> arena::Result<()> {
        let (slot, panic);
        let (kind, bytes) = match self {
            Self::Began(begun) => {
                let [low, high] = begun.index.to_le_bytes();
                let [a, b, c, d] = begun.generation.to_le_bytes();
                slot = [low, high, a, b, c, d];
                (BEGAN, &slot[..])
            }
            Self::NotBegun(why) => (NOT_BEGUN, why.as_bytes()),
            Self::Returned(result) => (RETURNED, &result[..]),
            Self::Panicked(location, text) => {
                panic = format!("{location}\n{text}");
                (PANICKED, panic.as_bytes())
            }
            Self::Unsent(why) => (UNSENT, why.as_bytes()),
            Self::NoMemory(_) => unreachable!("no child sends that"),
        };
        match outbox.put(kind, bytes, Wait::FOREVER) {
            Ok(_) => Ok(()),
            Err(QueueError::Arena(error)) => Err(error),
            Err(QueueError::Wait(_) | QueueError::NoMemory { .. }) => {
                unreachable!("a queue without a bound is never full, and nothing is got")
            }
        }
    }

    /// The next report, if there is one.
    pub(super) fn receive(outbox: &Queue) -> arena::Result<Option<Self>> {
        if outbox.is_empty() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        match outbox.get(&mut bytes, Wait::TRY) {
            Ok((kind, _)) => Self::from_message(kind, bytes).map(Some),
            Err(QueueError::Arena(error)) => Err(error),
            Err(QueueError::Wait(_)) => Ok(None),
            Err(QueueError::NoMemory { len, .. }) => Ok(Some(Self::NoMemory(len))),
        }
    }

    fn from_message(kind: u8, bytes: Vec<u8>) -> arena::Result<Self> {
        let lossy = |error: FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
        let text = |bytes| String::from_utf8(bytes).unwrap_or_else(lossy);
        Ok(match (kind, &bytes[..]) {
            (BEGAN, &[low, high, a, b, c, d]) => Self::Began(Slot {
                index: u16::from_le_bytes([low, high]),
                generation: u32::from_le_bytes([a, b, c, d]),
            }),
            (NOT_BEGUN, _) => Self::NotBegun(text(bytes)),
            (RETURNED, _) => Self::Returned(bytes),
            (PANICKED, _) => {
                let text = text(bytes);
                let (location, text) = text.split_once('\n').unwrap_or(("", &text));
                Self::Panicked(location.to_owned(), text.to_owned())
            }
            (UNSENT, _) => Self::Unsent(text(bytes)),
            _ => return Err(arena::Error::Corrupt("a child's report is of an unknown kind")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_report_arrives_as_it_was_sent() {
        let outbox = Queue::new(arena::family().unwrap(), "", None).unwrap();
        let reports = [
            Report::Began(Slot { index: 513, generation: 0x0102_0304 }),
            Report::NotBegun("why".to_owned()),
            Report::Returned(vec![0; 10_000]),
            Report::Panicked("location".to_owned(), "two\nlines".to_owned()),
            Report::Unsent("why".to_owned()),
        ];
        for report in &reports {
            report.send(&outbox).unwrap();
        }
        for report in reports {
            assert_eq!(Report::receive(&outbox).unwrap(), Some(report));
        }
        assert_eq!(Report::receive(&outbox).unwrap(), None);
    }

    #[test]
    fn what_no_child_says_is_refused() {
        assert!(Report::from_message(BEGAN, vec![1]).is_err());
        assert!(Report::from_message(99, Vec::new()).is_err());
    }
}
