//! Deletes topics, and takes away bit by bit what is left of them. Owns the order of what is written for it: whatever of it a
//! crash leaves behind, either the topic is still there, whole, or its name has another epoch.

use std::collections::VecDeque;

use hark_protocol::TopicName;

use super::layout::TopicId;
use super::meta::{Deletions, Identity, Ids, Meta, MetaError, Numbers};
use super::open_topic::deleted_before;
use super::retention::Oldest;
use super::scan::{is_damage, span};
use super::writer::{Answer, Slot, Writer};
use crate::message_log::{Done, Lately, LogError, OpenedTopic};

/// How many keys are taken away between two commits at most.
const TAKE_STEP: usize = 256;

/// Topics whose records are still there, though nobody can find them.
pub(super) type Garbage = VecDeque<TopicId>;

impl Writer {
    pub(super) fn delete(&mut self, name: &TopicName, generation: u64, done: Done<OpenedTopic>) {
        let accepted = self.store.check_open();
        if let Err(e) = accepted.and_then(|()| self.check_descriptors()) {
            return done(Err(e));
        }
        let id = match self.state.topics.get(name) {
            Some(Slot::Open(topic)) if topic.generation == generation => topic.id,
            Some(Slot::Open(_) | Slot::Opening(_)) | None => {
                return done(Err(LogError::StaleGeneration));
            }
        };
        let deletions = match id {
            Some(id) => self.write_deletion(name, id).map(Some),
            None => self.store.meta.deletions(name),
        };
        let deletions = match deletions {
            Ok(deletions) => deletions,
            Err(e) => {
                let reason = format!("a write failed: {e}");
                self.store.close(&reason);
                return done(Err(LogError::Closed(reason)));
            }
        };
        self.state.generation += 1;
        let generation = self.state.generation;
        let Some(Slot::Open(topic)) = self.state.topics.get_mut(name) else {
            return done(Err(LogError::StaleGeneration));
        };
        topic.generation = generation;
        if id.is_some() {
            self.state.rounds.count(name, topic.numbers.bytes, 0);
            topic.id = None;
            topic.identity = Identity::unused(&self.store.directory(), deletions.as_ref());
            topic.numbers = Numbers::default();
            topic.since_checkpoint.clear();
            topic.bytes_since_checkpoint = 0;
            topic.marks_written = 0;
            topic.oldest = Oldest::NotLookedAt;
        }
        let opened = OpenedTopic {
            generation,
            epoch: topic.identity.epoch(),
            lineage: topic.identity.lineage(),
            deleted: deleted_before(&topic.identity, deletions.as_ref()),
            first: topic.numbers.first,
            head: topic.numbers.head,
            producers: Vec::new(),
            keys: Vec::new(),
            lately: Lately::default(),
        };
        self.state.commit.wrote |= id.is_some();
        self.state.commit.answers.push(Answer::Opened {
            done,
            opened,
            wrote: id.is_some(),
        });
    }

    /// Writes that the topic is deleted, in an order of which a crash may leave any beginning.
    fn write_deletion(&mut self, name: &TopicName, id: TopicId) -> Result<Deletions, MetaError> {
        let meta = &self.store.meta;
        let directory = self.store.directory();
        let identity = meta
            .identity(name)?
            .unwrap_or_else(|| Identity::unused(&directory, None));
        let now_ms = self.store.clock.now_ms();
        let before = meta.deletions(name)?;
        let deletions = Deletions::add(before, identity.epoch(), &directory, now_ms);
        // First of all the name's next epoch: without it the deleted one could be given out again.
        meta.set_deletions(name, &deletions)?;
        self.throw_away(name, id)?;
        Ok(deletions)
    }

    /// Takes the name from a topic, whose records are then garbage. The name's next epoch must have been written.
    pub(super) fn throw_away(&mut self, name: &TopicName, id: TopicId) -> Result<(), MetaError> {
        let meta = &self.store.meta;
        meta.add_garbage(id, name)?;
        let ids = Ids {
            next: self.ids.next,
            topics: self.ids.topics.saturating_sub(1),
        };
        meta.set_ids(ids)?;
        meta.remove_identity(name)?;
        meta.remove_numbers(id)?;
        self.ids = ids;
        self.state.garbage.push_back(id);
        Ok(())
    }

    /// Takes away what is left of deleted topics, as much as may be between two commits.
    pub(super) fn take_garbage(&mut self) {
        if self.store.is_closed() {
            return;
        }
        let Some(&id) = self.state.garbage.front() else {
            return;
        };
        match self.take_some(id) {
            Ok(true) => drop(self.state.garbage.pop_front()),
            Ok(false) => {}
            Err(MetaError::Sled(e)) if is_damage(&e) => {
                tracing::error!(error = %e, "records of a deleted topic cannot be read, and stay");
                self.state.garbage.pop_front();
            }
            Err(e) => self.check(Err(e)),
        }
    }

    /// Says whether nothing is left.
    fn take_some(&self, id: TopicId) -> Result<bool, MetaError> {
        let records = &self.store.records;
        let keys = records.range(span(id, 0, u64::MAX)).keys().take(TAKE_STEP);
        let keys = keys.collect::<sled::Result<Vec<_>>>()?;
        for key in &keys {
            records.remove(key)?;
        }
        let rest = TAKE_STEP - keys.len();
        if rest == 0 || self.store.meta.remove_marks(id, rest)? == rest {
            return Ok(false);
        }
        self.store.meta.remove_losses(id)?;
        self.store.meta.remove_garbage(id)?;
        Ok(true)
    }
}

/// Finishes, when a directory is opened, the deletions that a crash has interrupted. Gives what is still to be taken away.
pub(super) fn finish_deletions(meta: &Meta, ids: &mut Ids) -> Result<Garbage, MetaError> {
    let mut garbage = Garbage::new();
    let mut interrupted = false;
    for found in meta.garbage() {
        let (id, name) = found?;
        if meta
            .identity(&name)?
            .is_some_and(|identity| identity.id() == id)
        {
            meta.remove_identity(&name)?;
            interrupted = true;
        }
        meta.remove_numbers(id)?;
        garbage.push_back(id);
    }
    if interrupted {
        // Whether the topic was still counted nothing says.
        ids.topics = meta.count_identities()?;
        meta.set_ids(*ids)?;
    }
    // Of a deletion that had hardly begun: the topic is there, and what says otherwise must not be believed later.
    for found in meta.all_deletions() {
        let (name, mut deletions) = found?;
        if let Some(identity) = meta.identity(&name)?
            && deletions.take_back(identity.epoch())
        {
            meta.set_deletions(&name, &deletions)?;
        }
    }
    Ok(garbage)
}
