//! The one place where the broker reads the time of day, so that a test can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The time of day, in milliseconds since 1970-01-01T00:00Z. Cheap to clone; clones share a time that is set by hand.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `now_ms` until it is set.
    pub fn manual(now_ms: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(now_ms))))
    }

    /// Moves a manual clock, forwards or back. The machine's clock is not ours to move: nothing happens.
    pub fn set(&self, now_ms: u64) {
        if let Some(manual) = &self.0 {
            manual.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Milliseconds since 1970-01-01T00:00Z.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Some(manual) => manual.load(Ordering::Relaxed),
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| {
                    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
                }),
        }
    }
}
