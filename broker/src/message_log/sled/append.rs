//! Keeps records at the end of a topic.

use hark_protocol::{Record, TopicName};

use super::ids;
use super::layout::TopicId;
use super::meta::{Ids, Mark, MetaError};
use super::store::plainly;
use super::stored::{MAX_PAYLOAD_BYTES, PackError};
use super::writer::{Answer, Slot, Writer};
use crate::message_log::{Append, KnownBy, LogError, NewRecord};

impl Writer {
    pub(super) fn append(&mut self, append: Append) {
        let Append {
            topic: name,
            generation,
            records,
            done,
        } = append;
        let accepted = self.store.check_open().and_then(|()| self.check_room());
        let accepted = accepted.and_then(|()| self.check_descriptors());
        if let Err(e) = accepted {
            return done(Err(e));
        }
        let is_current = match self.state.topics.get(&name) {
            Some(Slot::Open(topic)) => topic.generation == generation,
            Some(Slot::Opening(_)) | None => false,
        };
        if !is_current {
            return done(Err(LogError::StaleGeneration));
        }
        match self.write_records(&name, records) {
            Ok(records) => self
                .state
                .commit
                .answers
                .push(Answer::Appended { done, records }),
            Err(e) => {
                if let LogError::Closed(reason) = &e {
                    self.store.close(reason);
                }
                done(Err(e));
            }
        }
    }

    fn write_records(
        &mut self,
        name: &TopicName,
        records: Vec<NewRecord>,
    ) -> Result<Vec<Record>, LogError> {
        let sizes = records.iter().map(|new| new.message.payload.len());
        if let Some(size) = sizes.max().filter(|size| *size > MAX_PAYLOAD_BYTES) {
            return Err(LogError::TooLarge(size));
        }
        let id = self.id_of(name)?;
        let Some(Slot::Open(topic)) = self.state.topics.get_mut(name) else {
            return Err(LogError::StaleGeneration);
        };
        Self::touch(&self.store, &mut self.state.commit, name, topic);

        let time_ms = topic.numbers.last_time_ms.max(self.store.clock.now_ms());
        let base = topic.numbers.head + 1;
        let tree = &self.store.records;
        let keys = &mut self.state.commit.keys;
        let packed = self
            .state
            .packer
            .pack(id, base, time_ms, &records, |key, value| {
                *keys += 1;
                tree.insert(key, value)
            });
        let bytes = packed.map_err(|e| match e {
            PackError::Put(e) => LogError::Closed(format!("a write failed: {}", plainly(&e))),
            // Was checked above; what of it was written must not stay.
            PackError::TooLarge(bytes) => LogError::Closed(format!("{bytes} bytes did not fit")),
        })?;

        self.state.commit.wrote = true;
        self.state.rounds.count(name, 0, bytes);
        topic.numbers.last_time_ms = time_ms;
        topic.numbers.bytes += bytes;
        topic.bytes_since_checkpoint += bytes;
        let mut kept = Vec::with_capacity(records.len());
        for (offset, record) in (base..).zip(records) {
            let NewRecord {
                message,
                identity,
                idempotency,
            } = record;
            if let KnownBy::Sequence(producer, seq) = KnownBy::new(identity.clone(), idempotency) {
                topic.since_checkpoint.insert(
                    producer,
                    Mark {
                        seq,
                        offset,
                        time_ms,
                    },
                );
            }
            topic.numbers.head = offset;
            kept.push(Record {
                offset,
                prev: None,
                time_ms,
                identity,
                message,
            });
        }
        Ok(kept)
    }

    /// The topic's id; the first append draws one.
    fn id_of(&mut self, name: &TopicName) -> Result<TopicId, LogError> {
        let Some(Slot::Open(topic)) = self.state.topics.get_mut(name) else {
            return Err(LogError::StaleGeneration);
        };
        if let Some(id) = topic.id {
            return Ok(id);
        }
        if self.ids.topics >= self.max_topics {
            return Err(LogError::TooManyTopics);
        }
        let id = ids::drawn(self.ids.next);
        let ids = Ids {
            next: self.ids.next + 1,
            topics: self.ids.topics + 1,
        };
        let identity = topic.identity.clone().with_id(id);
        // In this order: were the name found again without the numbers, the id would be given out twice.
        let written: Result<(), MetaError> = self
            .store
            .meta
            .set_ids(ids)
            .and_then(|()| self.store.meta.set_identity(name, &identity));
        written.map_err(|e| LogError::Closed(format!("a write failed: {e}")))?;
        self.ids = ids;
        topic.id = Some(id);
        topic.identity = identity;
        Ok(id)
    }
}
