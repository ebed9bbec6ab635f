//! The one place where the broker reads the time of day, so that a test can move it; and where a clock that jumps is found out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A clock that gains more than this on the time that has really passed was set, and did not just run fast.
const STEP_MS: u64 = 60 * 1000;
/// A step forward is believed when nobody has taken it back for so long.
const BELIEVED_AFTER_MS: u64 = 60 * 60 * 1000;

/// The time of day, in milliseconds since 1970-01-01T00:00Z. Cheap to clone; clones share what they know.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    manual: Option<Mutex<Manual>>,
    settled: Mutex<Settled>,
}

/// A time that is set by hand.
#[derive(Debug)]
struct Manual {
    now_ms: u64,
    passed_ms: u64,
}

/// The time that is believed, and what it is counted from.
#[derive(Debug)]
struct Settled {
    now_ms: u64,
    passed_ms: u64,
    /// When (in time that has passed) the clock was first seen to be ahead of what is believed.
    ahead_since_ms: Option<u64>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(None)
    }

    /// A clock that stands at `now_ms` until it is set.
    pub fn manual(now_ms: u64) -> Self {
        Self::new(Some(Manual {
            now_ms,
            passed_ms: now_ms,
        }))
    }

    /// When something happened that bears this stamp, in [`Self::passed_ms`]; a stamp that is yet to come is taken for now.
    pub fn passed_at_ms(&self, stamp_ms: u64) -> u64 {
        let age_ms = self.settled_ms().saturating_sub(stamp_ms);
        self.passed_ms().saturating_sub(age_ms)
    }

    fn new(manual: Option<Manual>) -> Self {
        let inner = Inner {
            manual: manual.map(Mutex::new),
            settled: Mutex::new(Settled {
                now_ms: 0,
                passed_ms: 0,
                ahead_since_ms: None,
            }),
        };
        let clock = Self(Arc::new(inner));
        {
            let mut settled = lock(&clock.0.settled);
            settled.now_ms = clock.now_ms();
            settled.passed_ms = clock.passed_ms();
        }
        clock
    }

    /// Moves a manual clock: forwards, time passes; back, somebody has set it. The machine's clock is not ours to move: nothing
    /// happens.
    pub fn set(&self, now_ms: u64) {
        if let Some(manual) = &self.0.manual {
            let mut manual = lock(manual);
            manual.passed_ms += now_ms.saturating_sub(manual.now_ms);
            manual.now_ms = now_ms;
        }
    }

    /// Moves a manual clock as somebody who sets it does: no time passes.
    pub fn step(&self, now_ms: u64) {
        if let Some(manual) = &self.0.manual {
            lock(manual).now_ms = now_ms;
        }
    }

    /// Milliseconds since 1970-01-01T00:00Z, as the clock shows them: for stamps.
    pub fn now_ms(&self) -> u64 {
        match &self.0.manual {
            Some(manual) => lock(manual).now_ms,
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| {
                    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
                }),
        }
    }

    /// The time of day as far as it can be believed, for whoever forgets or deletes what is old: a clock that somebody sets a
    /// year ahead must not cost a year's messages. After a step forward this goes on from before it until the clock has kept
    /// its word for an hour; a step back is followed at once, since it makes nothing older.
    pub fn settled_ms(&self) -> u64 {
        let (now_ms, passed_ms) = (self.now_ms(), self.passed_ms());
        let mut settled = lock(&self.0.settled);
        let passed = passed_ms.saturating_sub(settled.passed_ms);
        settled.passed_ms = settled.passed_ms.max(passed_ms);
        let expected = settled.now_ms.saturating_add(passed);
        if now_ms <= expected.saturating_add(STEP_MS) {
            settled.now_ms = now_ms;
            settled.ahead_since_ms = None;
            return now_ms;
        }
        let since_ms = match settled.ahead_since_ms {
            Some(since_ms) => since_ms,
            None => {
                tracing::warn!(
                    by_ms = now_ms - expected,
                    "the clock was set forward: nothing is taken for older than before until it has kept to it for an hour"
                );
                settled.ahead_since_ms = Some(passed_ms);
                passed_ms
            }
        };
        if passed_ms.saturating_sub(since_ms) >= BELIEVED_AFTER_MS {
            settled.now_ms = now_ms;
            settled.ahead_since_ms = None;
            return now_ms;
        }
        settled.now_ms = expected;
        expected
    }

    /// Milliseconds that have passed since some point, whatever the clock shows. Counts while the machine sleeps.
    pub fn passed_ms(&self) -> u64 {
        match &self.0.manual {
            Some(manual) => lock(manual).passed_ms,
            None => {
                #[cfg(target_os = "linux")]
                let passed = clock_gettime(ClockId::Boottime);
                #[cfg(not(target_os = "linux"))]
                let passed = clock_gettime(ClockId::Monotonic);
                let seconds = u64::try_from(passed.tv_sec).unwrap_or(0);
                seconds * 1000 + u64::try_from(passed.tv_nsec / 1_000_000).unwrap_or(0)
            }
        }
    }
}

/// Nothing panics under these locks, and what they guard is whole after each step: poison does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 60 * 60 * 1000;
    const YEAR_MS: u64 = 365 * 24 * HOUR_MS;

    fn pass(clock: &Clock, ms: u64) {
        clock.set(clock.now_ms() + ms);
    }

    #[test]
    fn time_that_passes_is_believed() {
        let clock = Clock::manual(1_000_000);
        pass(&clock, 24 * 30 * HOUR_MS);
        assert_eq!(clock.settled_ms(), clock.now_ms());
        // A clock that runs a little fast, or is put right by a little, is no clock that was set.
        clock.step(clock.now_ms() + STEP_MS);
        assert_eq!(clock.settled_ms(), clock.now_ms());
    }

    #[test]
    fn a_step_forward_is_believed_after_an_hour() {
        let clock = Clock::manual(1_000_000);
        clock.step(1_000_000 + YEAR_MS);
        assert_eq!(clock.settled_ms(), 1_000_000);
        pass(&clock, HOUR_MS / 2);
        assert_eq!(clock.settled_ms(), 1_000_000 + 1_800_000);
        pass(&clock, HOUR_MS / 2);
        assert_eq!(clock.settled_ms(), clock.now_ms());
    }

    #[test]
    fn a_step_that_is_taken_back_costs_nothing() {
        let clock = Clock::manual(1_000_000);
        clock.step(1_000_000 + YEAR_MS);
        assert_eq!(clock.settled_ms(), 1_000_000);
        clock.step(1_000_000);
        pass(&clock, 2 * HOUR_MS);
        assert_eq!(clock.settled_ms(), clock.now_ms());
    }

    #[test]
    fn a_step_back_is_followed() {
        let clock = Clock::manual(YEAR_MS);
        clock.step(1_000);
        assert_eq!(clock.settled_ms(), 1_000);
    }
}
