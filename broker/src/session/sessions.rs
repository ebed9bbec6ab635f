//! The list of sessions: all can be told when Hark is about to end, and those that have stalled are cut. Owns who is there; when
//! either happens is decided outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::Recipient;
use slab::Slab;

use super::Goodbye;
use super::stall::Watch;

/// Who is connected.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    present: Slab<Present>,
    closed: bool,
}

#[derive(Debug)]
struct Present {
    session: Recipient<Goodbye>,
    watch: Arc<Watch>,
}

impl Sessions {
    /// Enters a session; `None` if Hark is about to end and takes no more.
    pub(super) fn enter(&self, session: Recipient<Goodbye>, watch: Arc<Watch>) -> Option<usize> {
        let mut list = self.lock();
        match list.closed {
            true => None,
            false => Some(list.present.insert(Present { session, watch })),
        }
    }

    pub(super) fn leave(&self, listed_as: usize) {
        self.lock().present.try_remove(listed_as);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().present.len()
    }

    /// Takes no more sessions, and tells those that are there; each when to come back: spread evenly over `spread_ms`.
    #[allow(clippy::disallowed_methods)] // once in a session's life
    pub fn say_goodbye(&self, spread_ms: u64) {
        let mut list = self.lock();
        list.closed = true;
        let count = list.present.len().max(1) as u64;
        for (at, (_, Present { session, .. })) in list.present.iter().enumerate() {
            let jitter_ms = rand::random_range(0..=spread_ms / count);
            session.do_send(Goodbye {
                retry_after_ms: spread_ms * at as u64 / count + jitter_ms,
            });
        }
    }

    /// Cuts the connections that have taken next to nothing for too long. To be called every few seconds.
    pub fn end_stalled(&self) {
        let ended = self
            .lock()
            .present
            .iter()
            .filter(|(_, present)| present.watch.end_if_overdue())
            .count();
        if ended > 0 {
            tracing::info!(
                sessions = ended,
                "ended: they took less than a page within the stall timeout"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
