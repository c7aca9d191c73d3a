//! Points in time on the monotonic clock, comparable between the processes of one machine.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A point on `CLOCK_MONOTONIC`, in nanoseconds since an unspecified start (`clock_gettime(2)`).
///
/// Unlike [`std::time::Instant`] it is a plain number, so one process may read what another wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// The point `nanos` nanoseconds after the clock's start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The point `span` later; the last point that can be represented if that overflows.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long it is from `earlier` to this point; zero if it lies before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn timespec(self) -> Timespec {
        // i64 seconds hold any u64 of nanoseconds.
        Timespec {
            tv_sec: (self.0 / 1_000_000_000) as i64,
            tv_nsec: (self.0 % 1_000_000_000) as i64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_too_long_to_add_ends_at_the_end_of_time() {
        assert_eq!(Monotonic::now().after(Duration::MAX).as_nanos(), u64::MAX);
    }

    #[test]
    fn time_goes_on() {
        let before = Monotonic::now();
        assert!(Monotonic::now() >= before);
        assert_eq!(before.since(before.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
