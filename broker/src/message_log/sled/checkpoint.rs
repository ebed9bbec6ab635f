//! Checkpoints of what producers have sent: their newest numbers go to `meta` now and then, so that opening a topic reads
//! a few records and not a day of them.

use std::collections::HashMap;

use hark_protocol::TopicName;

use super::meta::{Meta, MetaError};
use super::reader::Job;
use super::writer::{OpenTopic, Slot, Writer};
use crate::message_log::MAX_PRODUCERS;

/// A checkpoint is due after so many records …
const CHECKPOINT_RECORDS: u64 = 1024;
/// … or so many bytes: what opening a topic reads at most, but for one append.
const CHECKPOINT_BYTES: u64 = 1024 * 1024;

impl OpenTopic {
    pub(super) fn is_checkpoint_due(&self) -> bool {
        self.numbers.head - self.numbers.checkpoint.min(self.numbers.head) >= CHECKPOINT_RECORDS
            || self.bytes_since_checkpoint >= CHECKPOINT_BYTES
    }

    pub(super) fn make_checkpoint_due(&mut self) {
        self.bytes_since_checkpoint = CHECKPOINT_BYTES;
    }

    /// Writes the producers' numbers. The topic's own, which say how far they go, are to be written after.
    pub(super) fn checkpoint(&mut self, meta: &Meta) -> Result<(), MetaError> {
        let Some(id) = self.id else { return Ok(()) };
        for (producer, mark) in &self.since_checkpoint {
            meta.set_mark(id, producer, mark)?;
        }
        self.marks_written += self.since_checkpoint.len();
        self.since_checkpoint = HashMap::new();
        self.bytes_since_checkpoint = 0;
        self.numbers.checkpoint = self.numbers.head;
        Ok(())
    }
}

impl Writer {
    /// Has producers looked up that may be forgotten, once so many were written that there may be some.
    pub(super) fn look_up_forgotten(&mut self, name: &TopicName, marks_written: usize) {
        if marks_written < MAX_PRODUCERS {
            return;
        }
        let Some(Slot::Open(topic)) = self.state.topics.get_mut(name) else {
            return;
        };
        let Some(id) = topic.id else { return };
        // Where the readers have too much to do already, the next checkpoint asks again.
        if self.jobs.push(Job::FindForgotten(id), 0).is_ok() {
            topic.marks_written = 0;
        }
    }
}
