//! What the writer and the readers share: the trees, and what is known of them while the log is open. Owns no thread and
//! decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::layout::TopicId;
use super::meta::{Directory, Meta};
use super::rows::Records;
use crate::clock::Clock;
use crate::message_log::{Health, LogError};

/// How many warnings are kept for whoever asks how the log is doing, and logged.
const MAX_WARNINGS: usize = 16;
/// A commit that takes longer than this is told to whoever asks how the log is doing.
const STALLED_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Store {
    pub(super) records: Records,
    pub(super) meta: Meta,
    pub(super) clock: Clock,
    /// Changed by the writer alone.
    directory: Mutex<Arc<Directory>>,
    condition: Arc<Condition>,
    /// The committed heads of topics whose numbers in `meta` are further than what is synced.
    committed: Mutex<HashMap<TopicId, u64>>,
}

/// How the log is doing. Outlives the store: it is asked when the log has been shut down too.
#[derive(Debug, Default)]
pub(super) struct Condition(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    closed: Option<String>,
    /// Why there is too little room on the disk, if so.
    low: Option<String>,
    /// What the system lacks, if that keeps the log from writing.
    lacking: Option<String>,
    /// When the commit under way began.
    committing: Option<Instant>,
    warnings: Vec<String>,
}

impl State {
    /// Says so where a commit does not come to its end: nobody else would, since whoever publishes only waits.
    fn stalled(&self) -> Option<String> {
        let time = self.committing?.elapsed();
        let seconds = time.as_secs();
        (time >= STALLED_AFTER).then(|| {
            format!("a commit has been under way for {seconds} s: the disk does not answer; if it stays so, restart the broker")
        })
    }
}

impl Condition {
    /// Closes the log for writing until the next start. The first reason stays. Says whether this is it.
    pub(super) fn close(&self, reason: &str) -> bool {
        let mut state = self.lock();
        let is_first = state.closed.is_none();
        state.closed.get_or_insert_with(|| reason.to_owned());
        is_first
    }

    pub(super) fn closed(&self) -> Option<String> {
        self.lock().closed.clone()
    }

    pub(super) fn set_low(&self, low: Option<String>) {
        self.lock().low = low;
    }

    pub(super) fn set_lacking(&self, lacking: Option<String>) {
        self.lock().lacking = lacking;
    }

    /// A commit begins now, or is over.
    pub(super) fn set_committing(&self, since: Option<Instant>) {
        self.lock().committing = since;
    }

    pub(super) fn warn(&self, warning: String) {
        let mut state = self.lock();
        // Whoever asks for the same again and again is told, and the log is not.
        if state.warnings.contains(&warning) || state.warnings.len() > MAX_WARNINGS {
            return;
        }
        let warning = match state.warnings.len() < MAX_WARNINGS {
            true => warning,
            false => "there is more damage than is told here; `hark log verify` tells all of it"
                .to_owned(),
        };
        tracing::error!("{warning}");
        state.warnings.push(warning);
    }

    pub(super) fn health(&self) -> Health {
        let state = self.lock();
        Health {
            refuses_writes: [&state.closed, &state.lacking, &state.low]
                .into_iter()
                .find_map(Clone::clone)
                .or_else(|| state.stalled()),
            warnings: state.warnings.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    pub(super) fn new(
        records: Records,
        meta: Meta,
        directory: Directory,
        clock: Clock,
        condition: Arc<Condition>,
    ) -> Self {
        Self {
            records,
            meta,
            clock,
            directory: Mutex::new(Arc::new(directory)),
            condition,
            committed: Mutex::default(),
        }
    }

    /// What is known of the directory.
    pub(super) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.lock_directory())
    }

    pub(super) fn set_directory(&self, directory: Directory) {
        *self.lock_directory() = Arc::new(directory);
    }

    fn lock_directory(&self) -> MutexGuard<'_, Arc<Directory>> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what would be written, once the log is closed for writing.
    pub(super) fn check_open(&self) -> Result<(), LogError> {
        match self.condition.closed() {
            Some(reason) => Err(LogError::Closed(reason)),
            None => Ok(()),
        }
    }

    /// Whether the log is closed for writing.
    pub(super) fn is_closed(&self) -> bool {
        self.condition.lock().closed.is_some()
    }

    /// Closes the log for writing until the next start. The first reason stays. Where it is damage, the reason says what to do: a write
    /// needs old pages too, and the next start would meet the same.
    pub(super) fn close(&self, reason: &str) {
        let reason = match reason.ends_with(DAMAGE) {
            true => format!(
                "{reason}; stop the broker and let `hark log recover` salvage what can be read"
            ),
            false => reason.to_owned(),
        };
        if self.condition.close(&reason) {
            tracing::error!(%reason, "the log is closed for writing until the next start");
        }
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.condition
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

/// What damage is called, for people.
const DAMAGE: &str = "what lies on the disk is not what was written";

/// What an error of sled says, for people.
pub(super) fn plainly(e: &sled::Error) -> String {
    match e {
        // sled keeps an error as its debugging text, and the kind.
        sled::Error::Io(e) if e.raw_os_error().is_none() => e.kind().to_string(),
        sled::Error::Io(e) => e.to_string(),
        sled::Error::Corruption { .. } => DAMAGE.to_owned(),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_) => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_does_not_come_to_its_end_is_told() {
        let condition = Condition::default();
        let says = || condition.health().refuses_writes;
        condition.set_committing(Some(Instant::now()));
        assert_eq!(says(), None);
        condition.set_committing(Instant::now().checked_sub(STALLED_AFTER));
        assert!(says().unwrap().contains("the disk does not answer"));
        condition.set_committing(None);
        assert_eq!(says(), None);
    }
}
