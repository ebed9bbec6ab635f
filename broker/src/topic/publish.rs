//! Publishing: taking messages in their order, once, and answering when they are kept. Owns what is on its way; whether a message is new
//! `producers` knows, the keeping is the log's and the passing on `fan_out`'s.
//!
//! A message is *staged* until the append in flight is answered; then all that is staged goes as the next one. So batches
//! form by themselves under load, and cost nothing when idle. A *copy* of one that is on its way waits for it, and has its answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use hark_protocol::{Cursor, ErrorCode, Idempotency, Identity, Message as Published, TopicOutcome};

use super::producers::Look;
use super::{Batch, Room, tell_room};
use crate::budget::Taken;
use crate::identity;
use crate::limits::{Meter, Rated, TooMuch};
use crate::message_log::{Append, Appended, KnownBy, LogError, NewRecord, give_back};

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
    /// Whose it is, where that counts.
    meter: Option<Meter>,
}

/// One message to be kept. Made by the right to publish it (`MayPublish`), which knows whose it is.
#[derive(Debug)]
pub struct PublishItem {
    /// The publisher's own name for it, told back in the receipt.
    pub(super) tag: usize,
    /// What to keep.
    pub(super) message: Published,
    /// Who publishes it.
    pub(super) identity: Option<Identity>,
    /// How it is known if it comes again.
    pub(super) idempotency: Idempotency,
    /// Its share of the bytes that may be staged in all rooms together; that of a message to several topics is one for all of them.
    pub(super) taken: Arc<Taken>,
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
        /// Where. Offset 0, which is no message's: it was kept before, and where is not known any more.
        cursor: Cursor,
        /// Whether it had been kept before.
        duplicate: bool,
    },
    /// It is not (or, with `log_unavailable`, that is not known).
    Refused(Refusal),
}

impl From<Outcome> for TopicOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Kept { cursor, duplicate } => Self::Kept { cursor, duplicate },
            Outcome::Refused(refusal) => Self::Refused {
                code: refusal.code,
                message: refusal.message,
                expected_seq: refusal.expected_seq,
            },
        }
    }
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
    /// With `rate_limited`: when it may be taken.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal without a number.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            expected_seq: None,
            retry_after: None,
        }
    }
}

impl From<TooMuch> for Refusal {
    fn from(too_much: TooMuch) -> Self {
        Self {
            retry_after: Some(too_much.retry_after),
            ..Self::new(too_much.code(), too_much.to_string())
        }
    }
}

impl From<identity::Refusal> for Refusal {
    fn from(refusal: identity::Refusal) -> Self {
        Self {
            retry_after: refusal.retry_after,
            ..Self::new(refusal.code, refusal.message)
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
            meter: None,
        }
    }

    /// The same, counted by this.
    pub(super) fn metered(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
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
    answer_to: AnswerTo,
    record: NewRecord,
    known_by: KnownBy,
    taken: Arc<Taken>,
}

/// Whose answer it is: the envelope, and the place in it.
type AnswerTo = (usize, usize);

/// Messages that came again while they were on their way, by what they are copies of. Each has one that is staged or in flight, and is
/// answered with it.
pub(super) type Copies = HashMap<KnownBy, Vec<AnswerTo>>;

impl Staged {
    /// What the message is known by if it comes again.
    pub(super) fn known_by(&self) -> &KnownBy {
        &self.known_by
    }
}

/// An append in flight: who gets which answer, in the order of the records.
#[derive(Debug, Default)]
pub(super) struct Appending {
    owed: Vec<Owed>,
}

#[derive(Debug)]
struct Owed {
    answer_to: AnswerTo,
    known_by: KnownBy,
    /// Held until the answer.
    _taken: Arc<Taken>,
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
    pub(super) fn publish(&mut self, order: Publish, ctx: &mut Context<Self>) {
        self.last_used = std::time::Instant::now();
        if order.items.is_empty() {
            return; // an envelope without messages is answered by being dropped
        }
        if let Err(too_much) = self.may_begin(order.meter.as_ref()) {
            order.answer_all(&Outcome::Refused(too_much.into()));
            return;
        }
        let Publish {
            envelope, items, ..
        } = order;
        let entry = self.envelopes.insert(envelope);
        let now_ms = self.settings.clock.passed_ms();
        for (index, item) in items.into_iter().enumerate() {
            self.settings.faults.strike_before_append(&item.message);
            let record = NewRecord {
                message: item.message,
                identity: item.identity,
                idempotency: item.idempotency,
            };
            let known_by = record.known_by();
            match self.producers.look_at(&known_by, now_ms) {
                Look::New => {
                    self.staged.push_back(Staged {
                        answer_to: (entry, index),
                        record,
                        known_by,
                        taken: item.taken,
                    });
                }
                Look::OnItsWay => {
                    let copies = self.copies.entry(known_by).or_default();
                    copies.push((entry, index));
                }
                Look::Kept { offset } => {
                    let cursor = self.place.cursor(offset.unwrap_or(0));
                    let duplicate = true;
                    self.answer((entry, index), Outcome::Kept { cursor, duplicate });
                }
                Look::Refused(refusal) => self.answer((entry, index), Outcome::Refused(refusal)),
            }
        }
        if !self.log_is_busy() && !self.staged.is_empty() && !self.flush_noted {
            self.flush_noted = true;
            ctx.notify(Flush);
        }
    }

    /// Whether there may be this topic, if there is none yet: the first envelope counts as a new topic, those behind it do not.
    fn may_begin(&mut self, meter: Option<&Meter>) -> Result<(), TooMuch> {
        if self.has_begun || self.place.head > 0 || !self.place.deleted.is_empty() {
            return Ok(());
        }
        if let Some(meter) = meter {
            meter.take(&[(Rated::NewTopics, 1)])?;
        }
        self.has_begun = true;
        Ok(())
    }

    fn answer(&mut self, (envelope, index): AnswerTo, outcome: Outcome) {
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
        let mut appending = Appending {
            owed: Vec::with_capacity(records.capacity()),
        };
        let mut bytes = 0;
        while let Some(next) = self.staged.front() {
            bytes += next.record.message.size_bytes();
            let full = bytes > APPEND_MAX_BYTES || records.len() >= APPEND_MAX_RECORDS;
            if full && !records.is_empty() {
                break;
            }
            let Some(staged) = self.staged.pop_front() else {
                break;
            };
            appending.owed.push(Owed {
                answer_to: staged.answer_to,
                known_by: staged.known_by,
                _taken: staged.taken,
            });
            records.push(staged.record);
        }
        if self.staged.is_empty() {
            // Rooms are many, and mostly nothing is staged: kept for the next message, its memory would be a quarter of an idle room's,
            // and after a burst far more.
            self.staged = VecDeque::new();
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
                for (owed, &offset) in appending.owed.iter().zip(&offsets) {
                    self.producers.kept(&owed.known_by, offset, now_ms);
                }
                self.settings.faults.strike_after_append(&records);
                if let Some(last) = records.last() {
                    let tells_identity = self.tells_identity();
                    self.place.head = last.offset;
                    let batch = Batch::new(self.topic.clone(), records, tells_identity);
                    self.tail.push(Arc::new(batch));
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
        for (owed, &offset) in appending.owed.into_iter().zip(offsets) {
            let cursor = self.place.cursor(offset);
            let kept = |duplicate| Outcome::Kept { cursor, duplicate };
            self.answer(owed.answer_to, kept(false));
            if self.copies.is_empty() {
                continue;
            }
            for answer_to in self.copies.remove(&owed.known_by).unwrap_or_default() {
                self.answer(answer_to, kept(true));
            }
        }
        give_back(&mut self.copies);
    }

    /// Refuses what was in flight and all that was staged behind it: taking the later ones would break the order.
    fn append_failed(&mut self, appending: Appending, error: &LogError, ctx: &mut Context<Self>) {
        // Why the log refuses it has said once; this comes with every publish.
        tracing::debug!(topic = %self.topic, %error, "an append was refused");
        let refused = Outcome::Refused(Refusal::from(error));
        let staged = std::mem::take(&mut self.staged);
        let copies = std::mem::take(&mut self.copies);
        let in_flight = appending.owed.iter().map(|owed| owed.answer_to);
        let staged = staged.iter().map(|staged| staged.answer_to);
        let copies = copies.into_values().flatten();
        for answer_to in in_flight.chain(staged).chain(copies) {
            self.answer(answer_to, refused.clone());
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
