//! The list of sessions: all can be told when Hark is about to end. Owns who is there; when it happens is decided outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;

use super::Goodbye;
use super::ending::ANSWERS_WITHIN;

/// Who is connected, and stays: sessions, and readers that are served as long (event streams, long-polls).
#[derive(Debug, Default)]
pub struct Sessions(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    present: Slab<Arc<dyn Leave>>,
    closed: bool,
}

/// Somebody who is told when it is time to go.
pub trait Leave: std::fmt::Debug + Send + Sync {
    /// Says goodbye; once.
    fn leave(&self, goodbye: Goodbye);

    /// What the client was given has lain unacknowledged for too long: tells it that it lags, of each topic at most every 10 s. To
    /// be called again while that lasts, but not more often than every few seconds. Who has nothing to lag with says nothing.
    fn lag(&self) {}
}

/// A place in the list, held while its holder is there.
#[derive(Debug)]
pub struct Present {
    sessions: Arc<Sessions>,
    at: usize,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.sessions.lock().present.try_remove(self.at);
    }
}

impl Sessions {
    /// Enters somebody; `None` if Hark is about to end and takes no more.
    pub fn enter(self: &Arc<Self>, who: Arc<dyn Leave>) -> Option<Present> {
        let mut list = self.lock();
        let at = match list.closed {
            true => return None,
            false => list.present.insert(who),
        };
        Some(Present {
            sessions: self.clone(),
            at,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().present.len()
    }

    /// Takes no more, and tells those that are there; each when to come back: spread evenly over `spread_ms`.
    pub fn say_goodbye(&self, spread_ms: u64) {
        let mut list = self.lock();
        list.closed = true;
        let count = list.present.len().max(1) as u64;
        // Within the drain, and so that there is time left to hear the end.
        let answers_within = ANSWERS_WITHIN.min(Duration::from_millis(spread_ms / 2));
        for (at, (_, who)) in list.present.iter().enumerate() {
            let jitter_ms = rand::random_range(0..=spread_ms / count);
            who.leave(Goodbye {
                retry_after_ms: spread_ms * at as u64 / count + jitter_ms,
                answers_within,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
