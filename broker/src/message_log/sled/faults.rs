//! Faults that a test can order. Nothing orders them otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A switch to make the next sync fail. Cheap to clone; clones share the switch.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fail_next_sync: AtomicBool,
}

impl Faults {
    /// Makes the next sync fail, as a disk that gives up does.
    pub fn fail_next_sync(&self) {
        self.0.fail_next_sync.store(true, Ordering::Release);
    }

    pub(super) fn sync_fails_now(&self) -> bool {
        self.0.fail_next_sync.swap(false, Ordering::AcqRel)
    }
}
