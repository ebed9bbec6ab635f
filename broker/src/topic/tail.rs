//! The tail cache: the newest batches of a topic, in memory and encoded once for all. Owns how much of them stays.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use hark_protocol::{Encoded, Identity, Record, Subprotocol, TopicName, codec};

use crate::budget::Budget;

/// How many bytes of batches a room keeps at most; one batch is kept whatever its size.
const TAIL_MAX_BYTES: usize = 512 * 1024;
/// Beside its payload, what a frame costs in memory and on the wire, roughly.
const FRAME_OVERHEAD_BYTES: usize = 64;

/// Records of one topic committed together: the unit of fan-out. Never empty.
#[derive(Debug)]
pub struct Batch {
    topic: TopicName,
    records: Vec<Record>,
    /// What it holds in memory, roughly: its payloads, and once more as frames.
    held_bytes: usize,
    /// One encoding per subprotocol serves every subscriber; made when the first one needs it.
    encoded: [OnceLock<EncodedBatch>; 2],
}

#[derive(Debug)]
struct EncodedBatch {
    frames: Vec<Encoded>,
    bytes: usize,
}

impl Batch {
    /// `tells_identity`: whether its readers are told who published it.
    pub(super) fn new(topic: TopicName, mut records: Vec<Record>, tells_identity: bool) -> Self {
        debug_assert!(!records.is_empty());
        if !tells_identity {
            records.iter_mut().for_each(|record| record.identity = None);
        }
        let held = |record: &Record| {
            let identity = record.identity.as_ref().map_or(0, Identity::size_bytes);
            2 * (record.message.size_bytes() + identity + FRAME_OVERHEAD_BYTES)
        };
        let held_bytes = records.iter().map(held).sum();
        Self {
            topic,
            records,
            held_bytes,
            encoded: [OnceLock::new(), OnceLock::new()],
        }
    }

    fn first_offset(&self) -> u64 {
        self.records.first().map_or(0, |record| record.offset)
    }

    /// The newest offset in it.
    pub fn last_offset(&self) -> u64 {
        self.records.last().map_or(0, |record| record.offset)
    }

    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The records as frames, one each.
    pub fn frames(&self, subprotocol: Subprotocol) -> &[Encoded] {
        &self.encoded(subprotocol).frames
    }

    fn encoded(&self, subprotocol: Subprotocol) -> &EncodedBatch {
        let slot = match subprotocol {
            Subprotocol::Json => 0,
            Subprotocol::Bincode => 1,
        };
        self.encoded[slot].get_or_init(|| {
            let encode = |record| codec::encode_message(&self.topic, record, subprotocol);
            let frames: Vec<_> = self.records.iter().map(encode).collect();
            let bytes = frames.iter().map(frame_bytes).sum();
            EncodedBatch { frames, bytes }
        })
    }

    /// Where the records after `position` begin.
    pub(super) fn start_after(&self, position: u64) -> usize {
        self.records
            .partition_point(|record| record.offset <= position)
    }

    /// Where the records after `position` begin, and how many bytes their frames have.
    pub(super) fn part_after(&self, position: u64, subprotocol: Subprotocol) -> (usize, usize) {
        let encoded = self.encoded(subprotocol);
        let start = self.start_after(position);
        match start {
            0 => (0, encoded.bytes),
            start => (start, encoded.frames[start..].iter().map(frame_bytes).sum()),
        }
    }
}

pub(super) fn frame_bytes(frame: &Encoded) -> usize {
    frame.len() + FRAME_OVERHEAD_BYTES
}

/// The newest batches of a topic, without a hole.
pub(super) struct Tail {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// The batches cover every offset after this one, up to the head.
    covered_after: u64,
    /// Whether the batches tell who published.
    tells_identity: bool,
    /// Shared by all rooms. Where it is used up, a room keeps its newest batch alone.
    budget: Budget,
}

impl Tail {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            covered_after: 0,
            tells_identity: false,
            budget,
        }
    }

    /// Empties the tail: it covers what comes after `head`.
    pub(super) fn reset(&mut self, head: u64) {
        self.batches.clear();
        self.budget.give_back(std::mem::take(&mut self.bytes));
        self.covered_after = head;
    }

    /// Whether readers are told who published. Where that was set otherwise, what is here is of no use: up to `head` they read the log.
    pub(super) fn tell_identity(&mut self, tells_identity: bool, head: u64) {
        if tells_identity != self.tells_identity {
            self.tells_identity = tells_identity;
            self.reset(head);
        }
    }

    pub(super) fn push(&mut self, batch: Arc<Batch>) {
        let bytes = batch.held_bytes;
        self.bytes += bytes;
        let within_budget = self.budget.take_even_if_over(bytes);
        self.batches.push_back(batch);
        let limit = if within_budget { TAIL_MAX_BYTES } else { 0 };
        while self.bytes > limit && self.batches.len() > 1 {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            let bytes = batch.held_bytes;
            self.bytes -= bytes;
            self.budget.give_back(bytes);
            self.covered_after = batch.last_offset();
        }
    }

    /// Whether everything after `position` is here.
    pub(super) fn covers(&self, position: u64) -> bool {
        position >= self.covered_after
    }

    /// The batches that hold anything after `position`, oldest first.
    pub(super) fn after(&self, position: u64) -> impl Iterator<Item = &Arc<Batch>> {
        // Nearly always the newest one is all that is asked for, so look from the end.
        let from = match self.batches.back() {
            Some(newest) if newest.first_offset() > position => self
                .batches
                .partition_point(|batch| batch.last_offset() <= position),
            Some(newest) if newest.last_offset() > position => self.batches.len() - 1,
            _ => self.batches.len(),
        };
        self.batches.range(from..)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hark_protocol::{Headers, Message, Payload};

    use super::*;

    fn batch(offsets: std::ops::RangeInclusive<u64>, payload_bytes: usize) -> Arc<Batch> {
        let data = Bytes::from(vec![b'x'; payload_bytes]);
        let payload = Payload::Bytes {
            data,
            content_type: None,
        };
        let message = Message {
            payload,
            headers: Headers::default(),
        };
        let record = |offset| Record {
            offset,
            prev: None,
            time_ms: 1,
            identity: None,
            message: message.clone(),
        };
        Arc::new(Batch::new(
            TopicName::parse("t").unwrap(),
            offsets.map(record).collect(),
            true,
        ))
    }

    fn offsets_after(tail: &Tail, position: u64) -> Vec<u64> {
        let part = |batch: &Arc<Batch>| {
            let (start, _) = batch.part_after(position, Subprotocol::Json);
            batch.records()[start..]
                .iter()
                .map(|record| record.offset)
                .collect::<Vec<_>>()
        };
        tail.after(position).flat_map(part).collect()
    }

    #[test]
    fn gives_what_comes_after_a_position() {
        let mut tail = Tail::new(Budget::new("tail", 1 << 20));
        tail.reset(10);
        for offsets in [11..=13, 14..=14, 15..=19] {
            tail.push(batch(offsets, 10));
        }
        assert!(tail.covers(10) && !tail.covers(9));
        for position in 10..=19 {
            assert_eq!(
                offsets_after(&tail, position),
                (position + 1..=19).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn keeps_within_its_bytes_and_the_budget_of_all() {
        let budget = Budget::new("tail", TAIL_MAX_BYTES * 2);
        let mut tail = Tail::new(budget.clone());
        tail.reset(0);
        for offset in 1..=100 {
            tail.push(batch(offset..=offset, 50_000));
        }
        assert!(
            tail.covers(99) && !tail.covers(90),
            "the newest stay, the oldest go"
        );
        let mut others = Tail::new(budget.clone());
        for offset in 1..=3 {
            others.push(batch(offset..=offset, TAIL_MAX_BYTES));
        }
        assert_eq!(
            others.batches.len(),
            1,
            "over the budget of all, one batch stays"
        );
        drop((tail, others));
        assert_eq!(budget.used(), 0);
    }
}
