//! What is remembered of producers and message keys, in all topics together: how many bytes that is, who holds them, and who is to
//! forget when it is too much. Owns the sums; leaves to the holders what they forget.
//!
//! Counting is two additions. Only near the bound somebody looks over all holders, once for each round: those that hold most are told
//! to come down to one level, and while they have not answered, or a moment ago could not, nobody looks again.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::Message;
use slab::Slab;

use crate::clock::Clock;

/// Whoever was heard within this time is not forgotten for want of room in all topics together.
pub const YOUNG_MS: u64 = 10 * 60 * 1000;
/// Holders are told to forget a little before the bound is reached: this fraction of it.
const SLACK: usize = 16;
/// After a round that did not bring enough, the next begins so much later.
const AGAIN_AFTER_MS: u64 = 1000;

/// The bytes that all topics together remember. Clones share them.
#[derive(Debug, Clone)]
pub struct Remembered(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    clock: Clock,
    holders: Mutex<Slab<Arc<Holder>>>,
    /// Holders that have been told to forget and have not answered.
    asked: AtomicUsize,
    /// No round begins before; 0: the last one brought enough.
    not_before_ms: AtomicU64,
}

/// One that holds some of them.
struct Holder {
    bytes: AtomicUsize,
    /// What it could not come below when it was last told; 0: it could do as it was told.
    floor_bytes: AtomicUsize,
    tell: Box<dyn Fn(Forget) + Send + Sync>,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Order: come down to so many bytes, or as far as may be. Dropping it is the answer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Forget {
    /// What the holder may keep.
    pub level_bytes: usize,
    holder: Arc<Holder>,
    /// Ends behind the drop of this.
    _round: Round,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let left = self.holder.bytes.load(Ordering::Relaxed);
        let floor = if left > self.level_bytes { left } else { 0 };
        self.holder.floor_bytes.store(floor, Ordering::Relaxed);
    }
}

/// A part of a round that is under way. The last to end says when the next may begin.
#[derive(Debug)]
struct Round(Remembered);

impl Round {
    fn part_of(remembered: &Remembered) -> Self {
        remembered.0.asked.fetch_add(1, Ordering::AcqRel);
        Self(remembered.clone())
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let inner = &self.0.0;
        let enough = inner.used_bytes.load(Ordering::Relaxed) <= inner.soft_limit_bytes();
        let not_before_ms = match enough {
            true => 0,
            false => inner.clock.passed_ms() + AGAIN_AFTER_MS,
        };
        inner.not_before_ms.store(not_before_ms, Ordering::Release);
        inner.asked.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What one holder has of them. Given back when dropped.
#[derive(Debug)]
pub struct Share {
    remembered: Remembered,
    at: usize,
    holder: Arc<Holder>,
}

impl Remembered {
    /// Nothing yet; at most `limit_bytes`.
    pub fn new(limit_bytes: usize, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            limit_bytes,
            used_bytes: AtomicUsize::new(0),
            clock,
            holders: Mutex::default(),
            asked: AtomicUsize::new(0),
            not_before_ms: AtomicU64::new(0),
        }))
    }

    /// Enters a holder, which is told by `tell` what to forget, maybe within one of its own calls. It has to answer, and not at once
    /// by calling this.
    pub fn enter(&self, tell: impl Fn(Forget) + Send + Sync + 'static) -> Share {
        let holder = Arc::new(Holder {
            bytes: AtomicUsize::new(0),
            floor_bytes: AtomicUsize::new(0),
            tell: Box::new(tell),
        });
        let at = self.0.holders().insert(holder.clone());
        Share {
            remembered: self.clone(),
            at,
            holder,
        }
    }

    /// How many bytes there are just now.
    pub fn used(&self) -> usize {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    /// Whether there is room for somebody new. Where there is not, everybody is young, or the next round finds more.
    pub fn has_room(&self) -> bool {
        self.used() < self.0.limit_bytes
    }

    /// Begins a round, if it is time for one.
    pub fn keep_within_limit(&self) {
        let inner = &*self.0;
        let used = self.used();
        if used <= inner.soft_limit_bytes()
            || inner.asked.load(Ordering::Acquire) > 0
            || inner.clock.passed_ms() < inner.not_before_ms.load(Ordering::Acquire)
        {
            return;
        }
        // Whoever comes second finds that it is done.
        let Ok(holders) = inner.holders.try_lock() else {
            return;
        };
        let round = Round::part_of(self);
        let all: Vec<Arc<Holder>> = holders.iter().map(|(_, holder)| holder.clone()).collect();
        drop(holders);
        let sizes: Vec<(usize, usize)> = all.iter().map(|holder| holder.size()).collect();
        // A little more than has to be, so that not every newcomer begins a round.
        let target = inner.soft_limit_bytes() - inner.soft_limit_bytes() / SLACK;
        let level_bytes = level(&sizes, used.saturating_sub(target));
        for (holder, (bytes, _)) in all.into_iter().zip(sizes) {
            if bytes > level_bytes {
                let forget = Forget {
                    level_bytes,
                    holder: holder.clone(),
                    _round: Round::part_of(self),
                };
                (holder.tell)(forget);
            }
        }
        drop(round);
    }
}

impl Inner {
    fn soft_limit_bytes(&self) -> usize {
        self.limit_bytes - self.limit_bytes / SLACK
    }

    fn holders(&self) -> MutexGuard<'_, Slab<Arc<Holder>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    fn size(&self) -> (usize, usize) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        (bytes, self.floor_bytes.load(Ordering::Relaxed).min(bytes))
    }
}

impl Share {
    /// So much more is remembered.
    pub fn add(&self, bytes: usize) {
        self.holder.bytes.fetch_add(bytes, Ordering::Relaxed);
        let used = &self.remembered.0.used_bytes;
        used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much is forgotten.
    pub fn give_back(&self, bytes: usize) {
        self.holder.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let used = &self.remembered.0.used_bytes;
        used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.holder.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let held = self.bytes();
        self.give_back(held);
        let mut holders = self.remembered.0.holders();
        holders.remove(self.at);
        if holders.capacity() > 1024 && holders.len() < holders.capacity() / 8 {
            holders.shrink_to_fit();
        }
    }
}

/// The level to which those above it have to come down so that `need` bytes are given; nobody comes below its floor. Where that is not
/// enough, the floors may have sunk since: then those that hold most try again.
fn level(sizes: &[(usize, usize)], need: usize) -> usize {
    let given = |level: usize, heeds_floors: bool| {
        let above = |&(bytes, floor): &(usize, usize)| match heeds_floors {
            true => bytes.saturating_sub(level.max(floor)),
            false => bytes.saturating_sub(level),
        };
        sizes.iter().map(above).sum::<usize>()
    };
    let heeds_floors = given(0, true) >= need;
    let largest = sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
    let (mut enough, mut too_high) = (0, largest + 1);
    while too_high - enough > 1 {
        let middle = enough + (too_high - enough) / 2;
        match given(middle, heeds_floors) >= need {
            true => enough = middle,
            false => too_high = middle,
        }
    }
    enough
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_brings_what_is_needed_from_the_largest() {
        for (sizes, need, expected) in [
            (vec![(10, 0), (20, 0), (30, 0)], 10, 20),
            (vec![(10, 0), (20, 0), (30, 0)], 20, 15),
            (vec![(10, 0), (20, 0), (30, 0)], 60, 0),
            (vec![(10, 0), (20, 0), (30, 0)], 100, 0),
            // The largest cannot give: the next does.
            (vec![(10, 0), (20, 0), (30, 30)], 10, 10),
            (vec![(10, 0), (20, 0), (30, 25)], 5, 25),
            // Nobody could, a while ago: the largest tries again, and the small ones are left alone.
            (vec![(10, 10), (20, 20), (30, 30)], 10, 20),
            (vec![], 5, 0),
        ] {
            assert_eq!(level(&sizes, need), expected, "{sizes:?}, {need}");
        }
    }

    /// Holders that keep what they were told.
    struct Told(Arc<Mutex<Vec<Forget>>>);

    impl Told {
        fn holder(remembered: &Remembered, bytes: usize) -> (Self, Share) {
            let told: Arc<Mutex<Vec<Forget>>> = Arc::default();
            let told_too = told.clone();
            let share = remembered.enter(move |forget| told_too.lock().unwrap().push(forget));
            share.add(bytes);
            (Self(told), share)
        }

        fn take(&self) -> Option<Forget> {
            self.0.lock().unwrap().pop()
        }
    }

    #[test]
    fn those_that_hold_most_are_told_once_a_round() {
        let clock = Clock::manual(1_000_000);
        let remembered = Remembered::new(1600, clock.clone());
        let (small, _share) = Told::holder(&remembered, 300);
        let (large, large_share) = Told::holder(&remembered, 1200);
        remembered.keep_within_limit();
        assert!(large.take().is_none(), "there is room: {remembered:?}");

        large_share.add(50);
        remembered.keep_within_limit();
        remembered.keep_within_limit();
        let forget = large.take().unwrap();
        assert!(large.take().is_none() && small.take().is_none());
        assert_eq!(forget.level_bytes, 1200 + 50 - (1550 - (1500 - 1500 / 16)));
        large_share.give_back(1250 - forget.level_bytes);
        drop(forget);
        assert_eq!(remembered.used(), 1500 - 1500 / 16);

        // It brought enough, so the next round begins as soon as there has to be one.
        large_share.add(200);
        remembered.keep_within_limit();
        let forget = large.take().unwrap();
        drop(forget);
        // This time it could not: the next round is a moment later, and then the other one has its turn.
        assert!(!remembered.has_room());
        remembered.keep_within_limit();
        assert!(large.take().is_none() && small.take().is_none());
        large_share.give_back(50);
        clock.set(1_000_000 + AGAIN_AFTER_MS);
        remembered.keep_within_limit();
        assert!(large.take().is_some() && small.take().is_some());

        drop(large_share);
        assert_eq!(remembered.used(), 300);
        assert!(remembered.has_room());
    }
}
