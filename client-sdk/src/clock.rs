//! What time it is, by every clock there is. Owns how long ago something was where the machine may have slept meanwhile, or somebody
//! may have set a clock: what Hark remembers, and whether this process stood still. Waits and deadlines go by tokio's clock alone.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// One moment by three clocks. `monotonic` may stand while the machine sleeps; `wall` is set by people; `boot` does neither, and some
/// systems do not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) monotonic: Instant,
    boot: Option<Duration>,
    wall: SystemTime,
}

impl Moment {
    /// How long ago `earlier` was: the most that any of the clocks says, and nothing where they say that it is to come.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let monotonic = self.monotonic.saturating_duration_since(earlier.monotonic);
        let boot = match (self.boot, earlier.boot) {
            (Some(now), Some(then)) => now.saturating_sub(then),
            _ => Duration::ZERO,
        };
        let wall = self
            .wall
            .duration_since(earlier.wall)
            .unwrap_or(Duration::ZERO);
        monotonic.max(boot).max(wall)
    }
}

/// Where moments come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// In a test: the clock that the test moves.
    #[cfg(test)]
    given: Option<std::sync::Arc<std::sync::Mutex<Moment>>>,
}

impl Clock {
    pub(crate) fn now(&self) -> Moment {
        #[cfg(test)]
        if let Some(given) = &self.given {
            return *given
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        Moment {
            monotonic: Instant::now(),
            boot: since_boot(),
            wall: SystemTime::now(),
        }
    }
}

/// The clock that goes on while the machine sleeps.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_boot() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::Boottime)).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_boot() -> Option<Duration> {
    None
}

/// The moment after so long, or one that never comes: a time from outside may be too long for a clock.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    /// Longer than any process lives, and short enough for every clock.
    const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);
    now + wait.min(NEVER)
}

#[cfg(test)]
impl Clock {
    /// One that stands until [`advance`](Self::advance) moves it; all clones are the same clock.
    pub(crate) fn given() -> Self {
        let start = Moment {
            monotonic: Instant::now(),
            boot: None,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000),
        };
        Self {
            given: Some(std::sync::Arc::new(std::sync::Mutex::new(start))),
        }
    }

    /// Time passes: so long on the clock that nobody sets, so many milliseconds (perhaps back) on the one on the wall.
    pub(crate) fn advance(&self, monotonic: Duration, wall_ms: i64) {
        let mut moment = self.given.as_ref().expect("a given clock").lock().unwrap();
        moment.monotonic += monotonic;
        let wall = Duration::from_millis(wall_ms.unsigned_abs());
        match wall_ms < 0 {
            true => moment.wall -= wall,
            false => moment.wall += wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_clock_that_went_furthest_counts_and_going_back_does_not() {
        let clock = Clock::given();
        let start = clock.now();
        clock.advance(2 * SECOND, 2_000);
        assert_eq!(clock.now().since(start), 2 * SECOND);
        clock.advance(SECOND, -3_600_000); // somebody set it back
        assert_eq!(clock.now().since(start), 3 * SECOND);
        assert_eq!(start.since(clock.now()), Duration::from_secs(3_598)); // by the wall alone
        let before = clock.now();
        clock.advance(Duration::ZERO, 60_000); // it slept
        assert_eq!(clock.now().since(before), 60 * SECOND);
        clock.advance(Duration::ZERO, -1);
        assert_eq!(start.since(start), Duration::ZERO);
    }

    #[test]
    fn what_the_clock_of_the_boot_says_counts() {
        let start = Moment {
            boot: Some(SECOND),
            ..Clock::given().now()
        };
        let later = Moment {
            boot: Some(131 * SECOND),
            ..start
        };
        assert_eq!(later.since(start), 130 * SECOND);
        assert_eq!(start.since(later), Duration::ZERO);
        #[cfg(target_os = "linux")]
        assert!(Clock::default().now().boot.is_some());
    }

    #[test]
    fn no_wait_is_too_long() {
        let now = Instant::now();
        assert_eq!(after(now, SECOND), now + SECOND);
        assert!(after(after(now, Duration::MAX), Duration::MAX) > now + 1_000_000 * SECOND);
    }
}
