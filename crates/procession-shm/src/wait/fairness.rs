//! How a lock that is released is kept for its waiters for a time.
//!
//! A lock that its holder takes again as soon as it is released is never free when a woken waiter
//! arrives. So a waiter that has slept and waited for [`PATIENCE`] *asks* for turns, in a word
//! beside the lock's. From then on a release *keeps* the lock for the waiters that sleep:
//!
//! ```text
//! owned by A ── release, none asked ───▶ free ── any thread ───────────────────▶ owned by B
//!      └─────── release, one asked ────▶ kept since T ── a waiter that slept ──▶ owned by B
//!                                                └── any thread, after KEPT_FOR ─▶ owned by B
//! ```
//!
//! # Invariant
//! *Kept* stands in the owner's bits, with the time. So it is one store with the release, and it
//! ends with the store that takes the lock. A lock can't be kept and owned at once, and death
//! leaves one or the other.
//!
//! # Rules
//! - A kept lock excludes a thread only for a time, as an owner would. Whether two threads are
//!   inside is decided by the same compare-exchanges as without it.
//! - The lock is kept for *any* waiter that slept, not for the one that asked: a release wakes the
//!   waiter that has slept the longest. A waiter that is killed, or leaves at its deadline or for a
//!   signal, sleeps no more and is not woken. If no other sleeps, the wake reaches no thread, and
//!   the lock is free at once. What remains is a waiter that is stopped, or killed after its wake:
//!   others go on after [`KEPT_FOR`].
//! - The lock is kept until every waiter that slept at the last asking has had it. The first taker
//!   that came later ends that. If only the release after the asking kept it, the waiter that asked
//!   could lose each time: it sleeps behind the others again, and is woken by the release of a
//!   waiter for which the lock was kept, and the greedy holder spins until that release.
//! - A kept lock lies idle for the time of a wake. So over time it is kept at most once in
//!   [`PACE`]. Turns that are longer than that go round in the order of sleeping; shorter ones are
//!   taken by faster threads in between.
//! - What was asked is a hint, so its accesses need no order. If a release does not see it yet, the
//!   next one does, since the waiter goes on asking. If the waiter is gone, one release wakes a
//!   thread that it need not have woken. So a waiter that leaves takes nothing back.
//! - A release that keeps the lock wakes a sleeper also if `WOKEN` says that one is on its way,
//!   because that one may be asleep for its millisecond. The wake may end just that sleep.

use std::time::Duration;

use procession_os::clock::Monotonic;

use super::owner::{KEPT, THREAD_BITS, TIME, is_kept};

/// A unit of that time, as a power of two in nanoseconds: 131 µs, so it comes round in two years.
const UNIT_BITS: u32 = 17;

/// How long a released lock is kept for a waiter: a wake takes 25 to 50 µs, and more if all
/// processors are busy.
const KEPT_FOR: Duration = Duration::from_millis(5);

/// How long a waiter leaves the lock to faster threads before it asks for turns.
const PATIENCE: Duration = Duration::from_millis(2);

pub(super) fn patience_is_over(since: Monotonic) -> bool {
    let waited = Monotonic::now().since(since);
    #[cfg(model)]
    let waited = waited + super::model::none_or(PATIENCE);
    waited >= PATIENCE
}

/// How often a release keeps the lock, over time: a wake that others wait for is a tenth of that.
const PACE: Duration = Duration::from_micros(500);

/// How many in a row may keep it, if it has not been kept for a while: then all waiters have a
/// turn.
const BURST: u32 = 64;

/// What waiters have asked for: when one of them did so last, and how far the releases that kept
/// the lock are ahead of [`PACE`] (as a time: Generic Cell Rate Algorithm, ITU-T I.371). Both are
/// on a clock that goes round in eight seconds; what is misjudged then costs or gains a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked(pub(super) u32);

impl Asked {
    pub(super) const NOTHING: Self = Self(0);
    const PACE: u16 = (PACE.as_nanos() >> UNIT_BITS) as u16 + 1;
    const BURST: u16 = Self::PACE * BURST as u16;

    fn now() -> u16 {
        (Monotonic::now().as_nanos() >> UNIT_BITS) as u16
    }

    fn new(asked: u16, paid: u16) -> Self {
        Self(u32::from(asked.max(1)) << 16 | u32::from(paid))
    }

    /// Until when what was kept is made up for, from now on; a time long ago looks like a late one.
    fn ahead(self) -> u16 {
        let ahead = (self.0 as u16).wrapping_sub(Self::now());
        if ahead > Self::BURST + Self::PACE { 0 } else { ahead }
    }

    /// With a waiter asking now.
    pub(super) fn again(self) -> Self {
        let now = Self::now();
        let ahead = if self == Self::NOTHING { 0 } else { self.ahead() };
        Self::new(now, now.wrapping_add(ahead))
    }

    /// With one more release that has kept the lock.
    pub(super) fn kept(self) -> Self {
        Self::new((self.0 >> 16) as u16, Self::now().wrapping_add(self.ahead() + Self::PACE))
    }

    /// Whether a release is to keep the lock.
    pub(super) fn is_due(self) -> bool {
        if self == Self::NOTHING {
            return false;
        }
        let ahead = u64::from(self.ahead());
        #[cfg(model)]
        let ahead = ahead + super::model::none_or(Duration::from_secs(1)).as_secs() * 1000;
        ahead <= Self::BURST.into()
    }

    /// Whether a waiter that waits since then did so already at the last asking.
    pub(super) fn covers(self, since: Monotonic) -> bool {
        let ago = u64::from(Self::now().wrapping_sub((self.0 >> 16) as u16));
        #[cfg(model)]
        let ago = ago + super::model::none_or(Duration::from_secs(1)).as_secs() * 1000;
        Monotonic::now().since(since).as_nanos() as u64 >> UNIT_BITS >= ago
    }
}

/// The word of a lock that is kept from now on.
pub(super) fn kept_since_now() -> u64 {
    #[cfg(not(model))]
    let units = Monotonic::now().as_nanos() >> UNIT_BITS;
    #[cfg(model)]
    let units = super::model::moment();
    KEPT | (units << THREAD_BITS) & TIME
}

/// How much longer a lock is kept, if it is.
pub(super) fn kept_for(word: u64) -> Option<Duration> {
    if !is_kept(word) {
        return None;
    }
    // What lies in the future, as seen from another time namespace, is over as well.
    #[cfg(not(model))]
    let units = (kept_since_now().wrapping_sub(word) & TIME) >> THREAD_BITS;
    #[cfg(model)]
    let units = super::model::time_since();
    let left = KEPT_FOR.saturating_sub(Duration::from_nanos(units << UNIT_BITS));
    (!left.is_zero()).then_some(left)
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::super::owner::{FLAGS, Owner};
    use super::*;

    #[test]
    fn a_kept_lock_has_no_owner_and_is_free_in_the_end() {
        let now = kept_since_now();
        assert_eq!(Owner::of_lock(now | FLAGS), None);
        assert!(kept_for(now | FLAGS).is_some_and(|left| left <= KEPT_FOR));
        // The last of them is in the future.
        for ago in [39, 1000, (TIME >> THREAD_BITS) - 100] {
            let since = KEPT | now.wrapping_sub(ago << THREAD_BITS) & TIME;
            assert_eq!((kept_for(since), Owner::of_lock(since)), (None, None), "{ago}");
        }
        let last = Owner::new(Owner::SLOTS, Owner::GENERATIONS, 1);
        assert_eq!((kept_for(last.word()), Owner::of_lock(last.word())), (None, Some(last)));
    }

    #[test]
    fn a_burst_of_releases_may_keep_the_lock_and_then_one_at_a_time() {
        let mut asked = Asked::NOTHING;
        assert!(!asked.is_due());
        asked = asked.again();
        let mut kept = 0;
        while asked.is_due() {
            asked = asked.kept();
            kept += 1;
        }
        assert!(kept > BURST, "{kept}");
        // Asking again changes nothing of that; a long time does, and one that looks like the
        // future.
        assert!(!asked.again().is_due());
        for ago in [Asked::BURST, 0x7fff, 0x8000, 0xf000] {
            let past = Asked::new(1, Asked::now().wrapping_sub(ago));
            assert!(past.is_due() && past.kept().is_due(), "{ago}");
        }
    }

    #[test]
    fn asking_is_for_those_that_wait_already() {
        let now = Monotonic::now().as_nanos();
        let ago = |units: u64| Monotonic::from_nanos(now - (units << UNIT_BITS));
        let asked = Asked::new(Asked::now().wrapping_sub(100), 0);
        assert!(asked.covers(ago(1000)) && asked.covers(ago(110)));
        assert!(!asked.covers(Monotonic::now()));
        assert!(asked.covers(Monotonic::from_nanos(0)));
    }
}
