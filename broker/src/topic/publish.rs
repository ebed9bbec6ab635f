//! Publishing: taking messages in their order, once, and answering when they are kept. Owns sequences and keys; leaves the
//! keeping to the log and the passing on to `fan_out`.
//!
//! A message is *staged* until the append in flight is answered; then all that is staged goes as the next one. So batches
//! form by themselves under load, and cost nothing when idle.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use hark_protocol::{Cursor, ErrorCode, Idempotency, Message as Published, MessageId, ProducerId};

use super::{Batch, Place, Room, tell_room};
use crate::budget::Taken;
use crate::clock::Clock;
use crate::message_log::{
    Append, Appended, KEY_MEMORY_MS, KeyMark, LogError, MAX_PRODUCERS, MAX_RECENT_KEYS, NewRecord,
    PRODUCER_MEMORY_MS, ProducerMark,
};

/// The most bytes of one append's messages (but at least one message): what a slow subscriber can be sent beyond its credit.
const APPEND_MAX_BYTES: usize = 256 * 1024;
/// The most messages of one append.
const APPEND_MAX_RECORDS: usize = 4096;

/// Order: keep these messages, in this order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Publish {
    envelope: Envelope,
    items: Vec<PublishItem>,
}

/// One message to be kept.
#[derive(Debug)]
pub struct PublishItem {
    /// The publisher's own name for it, told back in the receipt.
    pub tag: usize,
    /// What to keep.
    pub message: Published,
    /// How it is known if it comes again.
    pub idempotency: Idempotency,
    /// Its share of the bytes that may be staged in all rooms together.
    pub taken: Taken,
}

/// Whoever publishes: a session, an HTTP request.
pub trait Publisher: Send + Sync {
    /// Takes the answers to one envelope, all of them, once.
    fn take_receipts(&self, receipts: Vec<Receipt>);
}

/// The answer to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which message.
    pub tag: usize,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is kept.
    Kept {
        /// Where.
        cursor: Cursor,
        /// Whether it had been kept before.
        duplicate: bool,
    },
    /// It is not (or, with `log_unavailable`, that is not known).
    Refused(Refusal),
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// With `out_of_sequence`: the number that would have been taken.
    pub expected_seq: Option<u64>,
}

impl Refusal {
    /// A refusal without a number.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            expected_seq: None,
        }
    }
}

impl From<&LogError> for Refusal {
    fn from(error: &LogError) -> Self {
        let code = match error {
            LogError::Busy | LogError::StaleGeneration | LogError::OtherEpoch => ErrorCode::Busy,
            LogError::Closed(_)
            | LogError::NoRoom(_)
            | LogError::Lacking(_)
            | LogError::Unreadable(_) => ErrorCode::LogUnavailable,
            LogError::TooManyTopics => ErrorCode::TooManyTopics,
            LogError::TooLarge(_) => ErrorCode::TooLarge,
        };
        let what_to_do = match error {
            LogError::NoRoom(_) => "; make room on it or keep less, and it goes on by itself",
            LogError::Lacking(_) => "; it goes on by itself once this has passed",
            _ => "",
        };
        Self::new(code, format!("{error}{what_to_do}"))
    }
}

impl Publish {
    /// An envelope whose answers all go to `publisher`, together.
    pub fn new(publisher: Arc<dyn Publisher>, items: Vec<PublishItem>) -> Self {
        let answers = items.iter().map(|item| (item.tag, None)).collect();
        Self {
            envelope: Envelope {
                publisher,
                unanswered: items.len(),
                answers,
            },
            items,
        }
    }
}

/// The answers owed to one publisher. Sent when the last one is known; dropped before that, the rest is answered `busy`, so that
/// a room that dies leaves nobody waiting.
pub(super) struct Envelope {
    publisher: Arc<dyn Publisher>,
    answers: Vec<(usize, Option<Outcome>)>,
    unanswered: usize,
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Envelope")
            .field("unanswered", &self.unanswered)
            .finish_non_exhaustive()
    }
}

impl Publish {
    /// Answers every message alike.
    pub(super) fn answer_all(mut self, outcome: &Outcome) {
        for index in 0..self.items.len() {
            self.envelope.answer(index, outcome.clone());
        }
    }
}

impl Envelope {
    fn answer(&mut self, index: usize, outcome: Outcome) {
        if let Some((_, answer @ None)) = self.answers.get_mut(index) {
            *answer = Some(outcome);
            self.unanswered -= 1;
        }
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        let gone = || {
            Outcome::Refused(Refusal::new(
                ErrorCode::Busy,
                "the topic's room could not answer; send it again",
            ))
        };
        let answers = std::mem::take(&mut self.answers);
        let receipt = |(tag, outcome): (usize, Option<Outcome>)| Receipt {
            tag,
            outcome: outcome.unwrap_or_else(gone),
        };
        self.publisher
            .take_receipts(answers.into_iter().map(receipt).collect());
    }
}

/// A message that waits for what is in flight to the log.
#[derive(Debug)]
pub(super) struct Staged {
    envelope: usize,
    index: usize,
    order: StagedOrder,
}

#[derive(Debug)]
enum StagedOrder {
    Keep(NewRecord, Taken),
    /// It came a second time while the first was still on its way: answered when that one is.
    SameAs(Idempotency),
}

impl Staged {
    /// How a message is known that is to be kept; `None` for one that came a second time.
    pub(super) fn new_message(&self) -> Option<&Idempotency> {
        match &self.order {
            StagedOrder::Keep(record, _) => Some(&record.idempotency),
            StagedOrder::SameAs(_) => None,
        }
    }

    /// How a message is known that came a second time.
    pub(super) fn copy_of(&self) -> Option<&Idempotency> {
        match &self.order {
            StagedOrder::Keep(..) => None,
            StagedOrder::SameAs(idempotency) => Some(idempotency),
        }
    }

    /// Whose answer it is: the envelope, and the place in it.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.envelope, self.index)
    }

    fn bytes(&self) -> usize {
        match &self.order {
            StagedOrder::Keep(record, _) => record.message.size_bytes(),
            StagedOrder::SameAs(_) => 0,
        }
    }
}

/// An append in flight: who gets which answer.
#[derive(Debug, Default)]
pub(super) struct Appending {
    owed: Vec<Owed>,
}

#[derive(Debug)]
struct Owed {
    envelope: usize,
    index: usize,
    idempotency: Idempotency,
    /// Which of the records it is; `None` for one that came a second time.
    record: Option<usize>,
    /// Held until the answer.
    _taken: Option<Taken>,
}

/// Note to itself: the mailbox is drained, send what is staged.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Flush;

/// The log's answer to the append in flight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct AppendAnswered(Result<Appended, LogError>);

impl Room {
    pub(super) fn publish(
        &mut self,
        Publish { envelope, items }: Publish,
        ctx: &mut Context<Self>,
    ) {
        self.last_used = std::time::Instant::now();
        if items.is_empty() {
            return; // an envelope without messages is answered by being dropped
        }
        let entry = self.envelopes.insert(envelope);
        let now_ms = self.settings.clock.passed_ms();
        for (index, item) in items.into_iter().enumerate() {
            self.settings.faults.strike_before_append(&item.message);
            match self.producers.look_at(&item.idempotency, now_ms) {
                Look::New => {
                    let record = NewRecord {
                        message: item.message,
                        idempotency: item.idempotency,
                    };
                    let order = StagedOrder::Keep(record, item.taken);
                    self.staged.push_back(Staged {
                        envelope: entry,
                        index,
                        order,
                    });
                }
                Look::OnItsWay => {
                    let order = StagedOrder::SameAs(item.idempotency);
                    self.staged.push_back(Staged {
                        envelope: entry,
                        index,
                        order,
                    });
                }
                Look::Kept { offset } => {
                    let cursor = self.place.cursor(offset);
                    self.answer(
                        entry,
                        index,
                        Outcome::Kept {
                            cursor,
                            duplicate: true,
                        },
                    );
                }
                Look::Refused(refusal) => self.answer(entry, index, Outcome::Refused(refusal)),
            }
        }
        if !self.log_is_busy() && !self.staged.is_empty() && !self.flush_noted {
            self.flush_noted = true;
            ctx.notify(Flush);
        }
    }

    pub(super) fn answer(&mut self, envelope: usize, index: usize, outcome: Outcome) {
        let Some(owed) = self.envelopes.get_mut(envelope) else {
            return;
        };
        owed.answer(index, outcome);
        if owed.unanswered == 0 {
            // Dropping an envelope sends it.
            drop(self.envelopes.remove(envelope));
        }
    }

    /// Whether an order is in flight to the log: one at a time, so that each knows what it comes after.
    pub(super) fn log_is_busy(&self) -> bool {
        self.appending.is_some() || self.deletes.are_in_flight()
    }

    /// Sends what is staged to the log, unless something is in flight already.
    pub(super) fn append_staged(&mut self, ctx: &mut Context<Self>) {
        if self.log_is_busy() || self.staged.is_empty() {
            return;
        }
        let mut records = Vec::with_capacity(self.staged.len().min(APPEND_MAX_RECORDS));
        let mut appending = Appending::default();
        let mut bytes = 0;
        while let Some(next) = self.staged.front() {
            bytes += next.bytes();
            let full = bytes > APPEND_MAX_BYTES || records.len() >= APPEND_MAX_RECORDS;
            if full && !records.is_empty() {
                break;
            }
            let Some(staged) = self.staged.pop_front() else {
                break;
            };
            let Staged {
                envelope,
                index,
                order,
            } = staged;
            let (idempotency, record, taken) = match order {
                StagedOrder::SameAs(idempotency) => (idempotency, None, None),
                StagedOrder::Keep(record, taken) => {
                    let idempotency = record.idempotency.clone();
                    records.push(record);
                    (idempotency, Some(records.len() - 1), Some(taken))
                }
            };
            appending.owed.push(Owed {
                envelope,
                index,
                idempotency,
                record,
                _taken: taken,
            });
        }
        if self.staged.is_empty() {
            // Rooms are many, and mostly nothing is staged: kept for the next message, its memory would be a quarter of an idle room's,
            // and after a burst far more.
            self.staged = VecDeque::new();
        }
        if records.is_empty() {
            self.answer_owed(appending, &[]);
            return;
        }
        self.appending = Some(appending);
        let room: Recipient<AppendAnswered> = ctx.address().recipient();
        self.log.append(Append {
            topic: self.topic.clone(),
            generation: self.generation,
            records,
            done: Box::new(move |answer| tell_room(&room, AppendAnswered(answer))),
        });
    }

    pub(super) fn append_answered(
        &mut self,
        AppendAnswered(answer): AppendAnswered,
        ctx: &mut Context<Self>,
    ) {
        let Some(appending) = self.appending.take() else {
            return;
        };
        self.last_used = std::time::Instant::now();
        match answer {
            Ok(Appended { records }) => {
                let offsets: Vec<u64> = records.iter().map(|record| record.offset).collect();
                let now_ms = self.settings.clock.passed_ms();
                for owed in &appending.owed {
                    if let Some(&offset) = owed.record.and_then(|at| offsets.get(at)) {
                        self.producers.kept(&owed.idempotency, offset, now_ms);
                    }
                }
                self.settings.faults.strike_after_append(&records);
                if let Some(last) = records.last() {
                    self.place.head = last.offset;
                    self.tail
                        .push(Arc::new(Batch::new(self.topic.clone(), records)));
                }
                // The disk works on what comes next while this batch is passed on.
                self.delete_if_wanted(ctx);
                self.append_staged(ctx);
                self.answer_owed(appending, &offsets);
                self.fan_out(ctx);
            }
            Err(error) => self.append_failed(appending, &error, ctx),
        }
    }

    fn answer_owed(&mut self, appending: Appending, offsets: &[u64]) {
        for owed in appending.owed {
            let kept = match owed.record {
                Some(at) => offsets.get(at).copied(),
                None => self.producers.offset_of(&owed.idempotency),
            };
            let outcome = match kept {
                Some(offset) => Outcome::Kept {
                    cursor: self.place.cursor(offset),
                    duplicate: owed.record.is_none(),
                },
                None => Outcome::Refused(Refusal::new(
                    ErrorCode::Internal,
                    "the message's place is not known; send it again",
                )),
            };
            self.answer(owed.envelope, owed.index, outcome);
        }
    }

    /// Refuses what was in flight and all that was staged behind it: taking the later ones would break the order.
    fn append_failed(&mut self, appending: Appending, error: &LogError, ctx: &mut Context<Self>) {
        // Why the log refuses it has said once; this comes with every publish.
        tracing::debug!(topic = %self.topic, %error, "an append was refused");
        let refused = Outcome::Refused(Refusal::from(error));
        let staged = std::mem::take(&mut self.staged);
        let in_flight = appending
            .owed
            .iter()
            .map(|owed| (owed.envelope, owed.index));
        for (envelope, index) in
            in_flight.chain(staged.iter().map(|staged| (staged.envelope, staged.index)))
        {
            self.answer(envelope, index, refused.clone());
        }
        self.producers.forget_staged();
        if *error == LogError::StaleGeneration {
            // Another room serves the topic: this one must not go on.
            ctx.stop();
            return;
        }
        self.delete_if_wanted(ctx);
    }
}

/// What a room knows of those who count, and of keys used lately. State per producer, not per message; bounded. Its times are
/// milliseconds that have passed (`Clock::passed_ms`), so that nothing is remembered for longer when the clock is set.
#[derive(Debug, Default)]
pub(super) struct Producers {
    counts: HashMap<ProducerId, Count>,
    keys: HashMap<MessageId, Key>,
    /// Keys in the order they were used, to forget the oldest.
    key_order: VecDeque<(MessageId, u64)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// The newest number taken: staged, on its way, or kept.
    taken_seq: u64,
    /// The newest number kept, and where.
    kept_seq: u64,
    kept_offset: u64,
    used_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    /// `None` while on its way.
    offset: Option<u64>,
    used_ms: u64,
}

enum Look {
    New,
    OnItsWay,
    Kept { offset: u64 },
    Refused(Refusal),
}

impl Producers {
    /// What the log found of earlier lives.
    pub(super) fn found(
        producers: Vec<ProducerMark>,
        mut keys: Vec<KeyMark>,
        clock: &Clock,
    ) -> Self {
        let count = |mark: ProducerMark| {
            let count = Count {
                taken_seq: mark.seq,
                kept_seq: mark.seq,
                kept_offset: mark.offset,
                used_ms: clock.passed_at_ms(mark.time_ms),
            };
            (mark.producer, count)
        };
        keys.sort_by_key(|mark| mark.offset);
        let known = |mark: KeyMark| {
            let known = Key {
                offset: Some(mark.offset),
                used_ms: clock.passed_at_ms(mark.time_ms),
            };
            (mark.key, known)
        };
        let keys: Vec<(MessageId, Key)> = keys.into_iter().map(known).collect();
        let order = keys.iter().map(|(key, known)| (key.clone(), known.used_ms));
        Self {
            counts: producers.into_iter().map(count).collect(),
            key_order: order.collect(),
            keys: keys.into_iter().collect(),
        }
    }

    /// Says whether a message is new, and if so counts it as taken.
    fn look_at(&mut self, idempotency: &Idempotency, now_ms: u64) -> Look {
        match idempotency {
            Idempotency::None => Look::New,
            Idempotency::Sequence { producer, seq } => {
                self.look_at_sequence(producer, *seq, now_ms)
            }
            Idempotency::Key(key) => self.look_at_key(key, now_ms),
        }
    }

    fn look_at_sequence(&mut self, producer: &ProducerId, seq: u64, now_ms: u64) -> Look {
        let count = match self.counts.get_mut(producer) {
            Some(count) => count,
            None if seq != 1 => return Look::Refused(out_of_sequence(seq, 1)),
            None => {
                self.make_room_for_producer(now_ms);
                self.counts.entry(producer.clone()).or_default()
            }
        };
        count.used_ms = now_ms;
        if seq == count.taken_seq + 1 {
            count.taken_seq = seq;
            Look::New
        } else if seq > count.taken_seq {
            Look::Refused(out_of_sequence(seq, count.taken_seq + 1))
        } else if seq > count.kept_seq {
            Look::OnItsWay
        } else {
            Look::Kept {
                offset: count.kept_offset,
            }
        }
    }

    fn look_at_key(&mut self, key: &MessageId, now_ms: u64) -> Look {
        self.forget_old_keys(now_ms);
        match self.keys.get(key) {
            Some(Key {
                offset: Some(offset),
                ..
            }) => Look::Kept { offset: *offset },
            Some(Key { offset: None, .. }) => Look::OnItsWay,
            None => {
                self.take_key(key, now_ms);
                Look::New
            }
        }
    }

    fn take_key(&mut self, key: &MessageId, used_ms: u64) {
        let on_its_way = Key {
            offset: None,
            used_ms,
        };
        self.keys.insert(key.clone(), on_its_way);
        self.key_order.push_back((key.clone(), used_ms));
    }

    fn kept(&mut self, idempotency: &Idempotency, offset: u64, now_ms: u64) {
        match idempotency {
            Idempotency::None => {}
            Idempotency::Sequence { producer, seq } => {
                if let Some(count) = self.counts.get_mut(producer) {
                    count.kept_seq = count.kept_seq.max(*seq);
                    count.kept_offset = offset;
                    count.used_ms = now_ms;
                }
            }
            Idempotency::Key(key) => {
                if let Some(known) = self.keys.get_mut(key) {
                    known.offset = Some(offset);
                }
            }
        }
    }

    /// Where a message is kept that came a second time.
    fn offset_of(&self, idempotency: &Idempotency) -> Option<u64> {
        match idempotency {
            Idempotency::None => None,
            Idempotency::Sequence { producer, .. } => {
                self.counts.get(producer).map(|count| count.kept_offset)
            }
            Idempotency::Key(key) => self.keys.get(key).and_then(|known| known.offset),
        }
    }

    /// Where a message is kept, if it is.
    pub(super) fn kept_at(&self, idempotency: &Idempotency) -> Option<u64> {
        match idempotency {
            Idempotency::Sequence { producer, seq } => {
                let count = self.counts.get(producer)?;
                (*seq <= count.kept_seq).then_some(count.kept_offset)
            }
            Idempotency::None | Idempotency::Key(_) => self.offset_of(idempotency),
        }
    }

    /// Counts a message as taken that is staged, where all that had been kept is forgotten.
    pub(super) fn take_again(&mut self, idempotency: &Idempotency, now_ms: u64) {
        match idempotency {
            Idempotency::None => {}
            Idempotency::Sequence { producer, seq } => {
                let count = self.counts.entry(producer.clone()).or_default();
                count.taken_seq = *seq;
                count.used_ms = now_ms;
            }
            Idempotency::Key(key) => self.take_key(key, now_ms),
        }
    }

    /// Nothing that was on its way arrived.
    fn forget_staged(&mut self) {
        for count in self.counts.values_mut() {
            count.taken_seq = count.kept_seq;
        }
        self.counts.retain(|_, count| count.kept_seq > 0);
        self.keys.retain(|_, key| key.offset.is_some());
        self.key_order
            .retain(|(key, _)| self.keys.contains_key(key));
    }

    /// Forgets who has been silent for a day; where that is not enough, the tenth that has been silent longest.
    fn make_room_for_producer(&mut self, now_ms: u64) {
        if self.counts.len() < MAX_PRODUCERS {
            return;
        }
        let mut used: Vec<u64> = self.counts.values().map(|count| count.used_ms).collect();
        used.sort_unstable();
        let oldest_tenth_ms = used.get(MAX_PRODUCERS / 10).copied().unwrap_or(0);
        let limit_ms = now_ms
            .saturating_sub(PRODUCER_MEMORY_MS)
            .max(oldest_tenth_ms);
        self.counts
            .retain(|_, count| count.used_ms > limit_ms || count.taken_seq > count.kept_seq);
    }

    fn forget_old_keys(&mut self, now_ms: u64) {
        while let Some((key, used_ms)) = self.key_order.front() {
            let old = now_ms.saturating_sub(*used_ms) > KEY_MEMORY_MS
                || self.key_order.len() > MAX_RECENT_KEYS;
            let on_its_way = self
                .keys
                .get(key)
                .is_some_and(|known| known.offset.is_none());
            if !old || on_its_way {
                break;
            }
            let same_use = self
                .keys
                .get(key)
                .is_some_and(|known| known.used_ms == *used_ms);
            if same_use {
                self.keys.remove(key);
            }
            self.key_order.pop_front();
        }
    }

    /// Whether a key is remembered that the next room of the topic would not be told of: the log looks for keys among its newest
    /// records alone.
    pub(super) fn know_more_than_the_log(&mut self, place: &Place, now_ms: u64) -> bool {
        self.forget_old_keys(now_ms);
        let newest = (place.head + 1).saturating_sub(MAX_RECENT_KEYS as u64);
        let looked_at_from = place.first.max(newest);
        let is_found = |key: &Key| key.offset.is_some_and(|offset| offset >= looked_at_from);
        !self.keys.values().all(is_found)
    }
}

fn out_of_sequence(seq: u64, expected_seq: u64) -> Refusal {
    Refusal {
        code: ErrorCode::OutOfSequence,
        message: format!("seq {seq} is not the producer's next; {expected_seq} is"),
        expected_seq: Some(expected_seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(seq: u64) -> Idempotency {
        Idempotency::Sequence {
            producer: ProducerId::parse("p").unwrap(),
            seq,
        }
    }

    fn key(text: &str) -> Idempotency {
        Idempotency::Key(MessageId::parse(text).unwrap())
    }

    #[test]
    fn a_producer_counts_one_by_one() {
        let mut producers = Producers::default();
        assert!(
            matches!(producers.look_at(&sequence(2), 0), Look::Refused(r) if r.expected_seq == Some(1))
        );
        assert!(matches!(producers.look_at(&sequence(1), 0), Look::New));
        assert!(matches!(producers.look_at(&sequence(1), 0), Look::OnItsWay));
        assert!(
            matches!(producers.look_at(&sequence(3), 0), Look::Refused(r) if r.expected_seq == Some(2))
        );
        producers.kept(&sequence(1), 7, 0);
        assert!(matches!(
            producers.look_at(&sequence(1), 0),
            Look::Kept { offset: 7 }
        ));
        assert!(matches!(producers.look_at(&sequence(2), 0), Look::New));
        producers.forget_staged();
        assert!(
            matches!(producers.look_at(&sequence(2), 0), Look::New),
            "what did not arrive may come again"
        );
    }

    #[test]
    fn a_key_is_remembered_for_its_window() {
        let mut producers = Producers::default();
        assert!(matches!(producers.look_at(&key("a"), 0), Look::New));
        assert!(matches!(producers.look_at(&key("a"), 0), Look::OnItsWay));
        producers.kept(&key("a"), 3, 0);
        assert!(matches!(
            producers.look_at(&key("a"), KEY_MEMORY_MS),
            Look::Kept { offset: 3 }
        ));
        assert!(matches!(
            producers.look_at(&key("a"), KEY_MEMORY_MS + 1),
            Look::New
        ));
    }

    #[test]
    fn a_room_stays_for_keys_that_the_log_would_not_find() {
        let place = |first, head| Place {
            epoch: hark_protocol::Epoch::new(1),
            lineage: Vec::new(),
            deleted: Vec::new(),
            first,
            head,
        };
        let newest = MAX_RECENT_KEYS as u64;
        let mut producers = Producers::default();
        assert!(!producers.know_more_than_the_log(&place(1, 5), 0));
        producers.look_at(&key("a"), 0);
        assert!(
            producers.know_more_than_the_log(&place(1, 5), 0),
            "it is on its way"
        );
        producers.kept(&key("a"), 6, 0);
        assert!(!producers.know_more_than_the_log(&place(1, 6), 0));
        assert!(!producers.know_more_than_the_log(&place(6, newest + 5), 0));
        assert!(
            producers.know_more_than_the_log(&place(1, newest + 6), 0),
            "too many records have come since"
        );
        assert!(
            producers.know_more_than_the_log(&place(7, 6), 0),
            "its record was taken out"
        );
        assert!(!producers.know_more_than_the_log(&place(7, 6), KEY_MEMORY_MS + 1));
    }

    #[test]
    fn memory_of_producers_and_keys_is_bounded() {
        let mut producers = Producers::default();
        for n in 0..(MAX_PRODUCERS as u64 * 2) {
            let producer = ProducerId::parse(&format!("p{n}")).unwrap();
            let first = Idempotency::Sequence { producer, seq: 1 };
            assert!(matches!(producers.look_at(&first, n), Look::New));
            producers.kept(&first, n, n);
            let key = key(&format!("k{n}"));
            assert!(matches!(producers.look_at(&key, n), Look::New));
            producers.kept(&key, n, n);
        }
        assert!(producers.counts.len() <= MAX_PRODUCERS);
        assert!(producers.keys.len() <= MAX_RECENT_KEYS + 1);
        assert_eq!(producers.keys.len(), producers.key_order.len());
    }
}
