//! Opens and closes topics: draws a generation, has a reader look at the topic, and puts right what it found.

use hark_protocol::TopicName;

use super::load::Loaded;
use super::meta::{Deletions, Identity};
use super::reader::Job;
use super::retention::Oldest;
use super::writer::{Answer, OpenTopic, Opening, Slot, Writer};
use crate::message_log::{Done, LogError, NewsSink, OpenedTopic, give_back};
use hark_protocol::Epoch;

/// How many topics the readers look at for the writer at most; beyond it an open is answered with `Busy`.
const MAX_OPENING: usize = 16 * 1024;

impl Writer {
    pub(super) fn open(&mut self, name: TopicName, news: NewsSink, done: Done<OpenedTopic>) {
        self.open_for(name, news, done, false);
    }

    /// `tended`: the log opens the topic itself, to trim it.
    pub(super) fn open_for(
        &mut self,
        name: TopicName,
        news: NewsSink,
        done: Done<OpenedTopic>,
        tended: bool,
    ) {
        if self.state.opening >= MAX_OPENING {
            return done(Err(LogError::Busy));
        }
        self.state.generation += 1;
        let generation = self.state.generation;
        // From here on nothing is written to the topic until `loaded`, and what was written the reader sees.
        self.leave(&name);
        let load = Job::Load {
            topic: name.clone(),
            generation,
        };
        if self.jobs.push_anyway(load).is_err() {
            return done(Err(LogError::Closed("it is being shut down".into())));
        }
        self.state.opening += 1;
        self.state.rounds.tending += usize::from(tended);
        self.state.topics.insert(
            name,
            Slot::Opening(Opening {
                generation,
                news,
                done,
                tended,
            }),
        );
    }

    /// A reader has looked at the topic.
    pub(super) fn loaded(
        &mut self,
        name: TopicName,
        generation: u64,
        found: Result<Box<Loaded>, LogError>,
    ) {
        self.state.opening -= 1;
        let is_awaited =
            |slot: &Slot| matches!(slot, Slot::Opening(o) if o.generation == generation);
        if !self.state.topics.get(&name).is_some_and(is_awaited) {
            return;
        }
        let Some(Slot::Opening(Opening {
            news, done, tended, ..
        })) = self.state.topics.remove(&name)
        else {
            return;
        };
        let prepared = found.and_then(|mut loaded| {
            let wrote = self.put_right(&name, &mut loaded)?;
            Ok((loaded, wrote))
        });
        let (loaded, wrote) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => {
                self.state.rounds.tending -= usize::from(tended);
                return done(Err(e));
            }
        };
        let loaded = *loaded;
        let id = loaded.identity.as_ref().map(|found| found.id());
        let identity = loaded.identity.unwrap_or_else(|| {
            Identity::unused(&self.store.directory(), loaded.deletions.as_ref())
        });
        let opened = OpenedTopic {
            generation,
            epoch: identity.epoch(),
            lineage: identity.lineage(),
            deleted: deleted_before(&identity, loaded.deletions.as_ref()),
            first: loaded.numbers.first,
            head: loaded.numbers.head,
            producers: loaded.producers,
            keys: loaded.keys,
            lately: loaded.lately,
        };
        let topic = OpenTopic {
            generation,
            id,
            identity,
            numbers: loaded.numbers,
            news,
            retention: (self.retention)(&name),
            since_checkpoint: loaded.since_checkpoint,
            bytes_since_checkpoint: 0,
            marks_written: 0,
            touched: false,
            over_bound: false,
            oldest: Oldest::NotLookedAt,
            tended,
        };
        if let Some(id) = topic.id {
            self.start_forgetting(id, loaded.forgotten);
        }
        self.state
            .topics
            .insert(name.clone(), Slot::Open(Box::new(topic)));
        if tended {
            self.look_at_retention(&name);
            self.end_tending(&name);
        }
        self.state.commit.answers.push(Answer::Opened {
            done,
            opened,
            wrote,
        });
    }

    /// Writes what differs from what is stored. Says whether anything did.
    fn put_right(&mut self, name: &TopicName, loaded: &mut Loaded) -> Result<bool, LogError> {
        let Some(identity) = &loaded.identity else {
            return Ok(false);
        };
        if let Err(closed) = self.store.check_open() {
            if loaded.identity_changed {
                return Err(closed);
            }
            // What the failed commit left behind is not committed, whatever lies there.
            let head = self
                .store
                .committed_head(identity.id(), loaded.numbers.head);
            loaded.numbers.head = head;
            // Nor is what was trimmed for it: nobody is given a place beyond the head.
            loaded.numbers.first = loaded.numbers.first.min(head + 1);
            loaded.producers.retain(|mark| mark.offset <= head);
            loaded.keys.retain(|mark| mark.offset <= head);
            return Ok(false);
        }
        let differs = loaded.identity_changed
            || loaded.numbers_changed
            || !loaded.leftovers.is_empty()
            || !loaded.corrected.is_empty();
        if !differs {
            return Ok(false);
        }
        let store = &self.store;
        let write = || -> Result<(), super::meta::MetaError> {
            for key in &loaded.leftovers {
                store.records.remove(&key.to_bytes())?;
            }
            if loaded.identity_changed {
                store.meta.set_identity(name, identity)?;
            }
            loaded.correct_marks(&store.meta, identity.id())?;
            store.meta.set_numbers(identity.id(), &loaded.numbers)
        };
        if let Err(e) = write() {
            let reason = format!("a write failed: {e}");
            self.store.close(&reason);
            return Err(LogError::Closed(reason));
        }
        self.state.commit.wrote = true;
        self.state
            .rounds
            .count(name, loaded.stored_bytes, loaded.numbers.bytes);
        Ok(true)
    }

    pub(super) fn close(&mut self, name: &TopicName, generation: u64) {
        let is_meant = |slot: &Slot| match slot {
            Slot::Opening(opening) => opening.generation == generation,
            Slot::Open(topic) => topic.generation == generation,
        };
        if self.state.topics.get(name).is_some_and(is_meant) {
            self.leave(name);
        }
    }

    /// Closes every topic: the log ends.
    pub(super) fn close_all(&mut self) {
        let names: Vec<TopicName> = self.state.topics.keys().cloned().collect();
        for name in names {
            self.leave(&name);
        }
        self.state.commit.wrote = true;
    }

    /// Takes the topic out of its slot, and writes what only the slot knows.
    pub(super) fn leave(&mut self, name: &TopicName) {
        let slot = self.state.topics.remove(name);
        give_back(&mut self.state.topics);
        match slot {
            None => {}
            Some(Slot::Opening(opening)) => {
                self.state.rounds.tending -= usize::from(opening.tended);
                (opening.done)(Err(LogError::StaleGeneration));
            }
            Some(Slot::Open(mut topic)) => {
                self.state.rounds.tending -= usize::from(topic.tended);
                // Otherwise the producers are found in the records after the checkpoint: slower, and no worse.
                let is_dirty = topic.touched || !topic.since_checkpoint.is_empty();
                if is_dirty && !self.store.is_closed() {
                    topic.make_checkpoint_due();
                    let written = Self::write_numbers_of(&self.store, &mut topic);
                    self.check(written);
                }
            }
        }
    }
}

/// The deleted sequences of a name. One whose deletion was not finished before a crash is still there, and not among them.
pub(super) fn deleted_before(identity: &Identity, deletions: Option<&Deletions>) -> Vec<Epoch> {
    let mut deleted = deletions.map(Deletions::epochs).unwrap_or_default();
    let lineage = identity.lineage();
    deleted.retain(|epoch| {
        *epoch != identity.epoch() && lineage.iter().all(|earlier| earlier.epoch != *epoch)
    });
    deleted
}
