//! What the writer and the readers share: the trees, and what is known of them while the log is open. Owns no thread and
//! decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::layout::TopicId;
use super::meta::{Directory, Meta};
use crate::clock::Clock;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) records: sled::Tree,
    pub(super) meta: Meta,
    /// As of the last open: it does not change while the log is open.
    pub(super) directory: Directory,
    pub(super) clock: Clock,
    closed: Arc<OnceLock<String>>,
    /// The committed heads of topics whose numbers in `meta` are further than what is synced.
    committed: Mutex<HashMap<TopicId, u64>>,
}

impl Store {
    pub(super) fn new(
        records: sled::Tree,
        meta: Meta,
        directory: Directory,
        clock: Clock,
        closed: Arc<OnceLock<String>>,
    ) -> Self {
        Self {
            records,
            meta,
            directory,
            clock,
            closed,
            committed: Mutex::default(),
        }
    }

    /// Why the log is closed for writing, if it is.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.get().map(String::as_str)
    }

    /// Closes the log for writing until the next start. The first reason stays.
    pub(super) fn close(&self, reason: String) {
        if self.closed.set(reason.clone()).is_ok() {
            tracing::error!(%reason, "the log is closed for writing until the next start");
        }
    }

    /// The committed head of a topic whose numbers say `head`.
    pub(super) fn committed_head(&self, topic: TopicId, head: u64) -> u64 {
        self.committed()
            .get(&topic)
            .map_or(head, |&committed| head.min(committed))
    }

    /// A commit begins that moves these heads.
    pub(super) fn begin_commit(&self, heads: impl Iterator<Item = (TopicId, u64)>) {
        self.committed().extend(heads);
    }

    /// The commit is synced.
    pub(super) fn end_commit(&self) {
        self.committed().clear();
    }

    fn committed(&self) -> MutexGuard<'_, HashMap<TopicId, u64>> {
        self.committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an error of sled says, for people.
pub(super) fn plainly(e: &sled::Error) -> String {
    match e {
        // sled keeps an error as its debugging text, and the kind.
        sled::Error::Io(e) if e.raw_os_error().is_none() => e.kind().to_string(),
        sled::Error::Io(e) => e.to_string(),
        sled::Error::Corruption { .. } => {
            "what lies on the disk is not what was written".to_owned()
        }
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_) => e.to_string(),
    }
}
