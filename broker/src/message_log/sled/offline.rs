//! A log that is read while no broker runs: a copy of it, opened as it was found, without drawing an epoch or putting anything right.
//! Owns the way around what cannot be read; what is made of the records is in `verify` and here, for export.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hark_protocol::{Epoch, GapReason, Idempotency, Record, TopicName};
use tempfile::TempDir;

use super::copy::{Copying, copied_blobs, copy};
use super::directory::{DirectoryLock, quietly};
use super::layout::TopicId;
use super::load::load;
use super::meta::{Directory, Identity, MetaError};
use super::open::{self, OpenError};
use super::scan::Scan;
use super::store::{Store, plainly};
use super::stored::Body;
use crate::clock::Clock;

/// What sled keeps in memory. Everything is read once, in order.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// A log as it was when it was opened, whatever becomes of it since.
pub struct OfflineLog {
    pub(super) store: Store,
    pub(super) commits: u64,
    pub(super) answered: u64,
    pub(super) next_id: u64,
    /// Topics whose deletion was not finished: they are there no more.
    deleted: HashSet<TopicId>,
    /// What it would write to must outlive the trees.
    _db: sled::Db,
    _lock: DirectoryLock,
    /// What sled may still open by its name. Goes last.
    _blobs: Option<TempDir>,
}

impl std::fmt::Debug for OfflineLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfflineLog").finish_non_exhaustive()
    }
}

/// Something that is to be exported.
#[derive(Debug)]
pub enum Exported<'a> {
    /// A record.
    Record {
        /// Its topic's sequence.
        epoch: Epoch,
        /// The record, with its identity.
        record: &'a Record,
        /// How it is known again.
        idempotency: &'a Idempotency,
    },
    /// Offsets that cannot be had.
    Gap {
        /// Why.
        reason: GapReason,
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
}

impl OfflineLog {
    /// The same, in the system's folder for such things and without a word.
    #[cfg(test)]
    pub(super) fn open_quietly(dir: &Path) -> Result<Self, OpenError> {
        Self::open(dir, &std::env::temp_dir(), |_| ())
    }

    /// Opens the log in `dir`, which must be there and may be read-only, by a copy in `temp_dir` of which `tell` is told before it is made.
    pub fn open(
        dir: &Path,
        temp_dir: &Path,
        tell: impl FnOnce(Copying<'_>),
    ) -> Result<Self, OpenError> {
        open::check_is_there(dir)?;
        let copy = copy(dir, temp_dir, tell)?;
        let found = open::open_as_found(copy.path(), CACHE_BYTES);
        let found = found.map_err(|e| e.of_original(dir))?;
        // All else is open: it goes now, so that nothing is left behind if this process is killed.
        let blobs = copied_blobs(&copy).then_some(copy);
        let directory = found.directory.unwrap_or_else(Directory::new);
        let garbage = || {
            let ids = found.meta.garbage().map(|found| found.map(|(id, _)| id));
            Ok(ids.collect::<Result<HashSet<_>, MetaError>>()?)
        };
        let deleted = quietly(garbage).map_err(|fault| OpenError::Damaged {
            dir: dir.to_owned(),
            what: fault.to_string(),
        })?;
        let store = Store::new(
            found.records,
            found.meta,
            directory,
            Clock::system(),
            Arc::default(),
        );
        Ok(Self {
            store,
            commits: found.commits,
            answered: found.answered,
            next_id: found.ids.next,
            deleted,
            _db: found.db,
            _lock: found.lock,
            _blobs: blobs,
        })
    }

    /// The topics by name. What cannot be read of them is an error in its place.
    pub fn topics(&self) -> impl Iterator<Item = Result<TopicName, String>> {
        let identities = self.identities();
        identities.map(|found| found.map(|(name, _)| name).map_err(|e| e.to_string()))
    }

    /// Ends with the first error of reading, behind which nothing can be found.
    pub(super) fn identities(
        &self,
    ) -> impl Iterator<Item = Result<(TopicName, Identity), MetaError>> {
        let mut found = self.store.meta.identities("", None);
        let mut unreadable = false;
        let found = std::iter::from_fn(move || {
            let next = (!unreadable).then(|| found.next()).flatten();
            unreadable |= matches!(next, Some(Err(MetaError::Sled(_))));
            next
        });
        found.filter(|found| match found {
            Ok((_, identity)) => !self.deleted.contains(&identity.id()),
            Err(_) => true,
        })
    }

    /// Gives out a topic's records and its holes, in order, until `sink` breaks off. Errors say what could not be read.
    pub fn export(
        &self,
        topic: &TopicName,
        mut sink: impl FnMut(Exported<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, String> {
        let work = || Ok(self.walk(topic, &mut sink));
        quietly(work).unwrap_or_else(|fault| Err(fault.to_string()))
    }

    fn walk(
        &self,
        topic: &TopicName,
        sink: &mut impl FnMut(Exported<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, String> {
        let unreadable = |e: sled::Error| plainly(&e);
        let identity = self.store.meta.identity(topic).map_err(|e| e.to_string())?;
        let Some(mut identity) = identity else {
            return Ok(ControlFlow::Continue(()));
        };
        let id = identity.id();
        let stored = self.store.meta.numbers(id).map_err(|e| e.to_string())?;
        let numbers = load(&self.store, topic).map_err(|e| e.to_string())?.numbers;
        // Of the cuts that were noticed already: what is here belongs to this epoch.
        identity.see_cuts(&self.store.directory(), numbers.head);
        let epoch = identity.epoch();
        let mut next = numbers.first;
        let gap = |from: u64, to: u64, sink: &mut dyn FnMut(Exported<'_>) -> ControlFlow<()>| {
            let reason = GapReason::Lost;
            match from <= to {
                true => sink(Exported::Gap { reason, from, to }),
                false => ControlFlow::Continue(()),
            }
        };
        let mut scan =
            Scan::new(&self.store.records, id, next, numbers.head).map_err(unreadable)?;
        while let Some(value) = scan.next_value().map_err(unreadable)? {
            let mut body = Body::new(value.body);
            for offset in value.base..=value.end.min(numbers.head) {
                let Ok((message, identity, idempotency)) = body.next_record() else {
                    break;
                };
                if offset < next {
                    continue;
                }
                if gap(next, offset - 1, sink).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                next = offset + 1;
                let record = Record {
                    offset,
                    prev: None,
                    time_ms: value.time_ms,
                    identity,
                    message,
                };
                let exported = Exported::Record {
                    epoch,
                    record: &record,
                    idempotency: &idempotency,
                };
                if sink(exported).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(gap(next, numbers.head.max(stored.head), sink))
    }
}
