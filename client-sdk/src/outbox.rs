//! The messages that were published and not yet answered, and when each is sent (again). Owns "kept once, in order";
//! knows no sockets: it is told what was said and what time it is. `client-sdk/script` holds it to its rules.
//!
//! Every topic has a **lane**: a queue of entries in the order of publishing. A prefix of it, `sent`, has been written to this
//! connection and waits for answers; the rest waits for its turn.
//!
//! ```text
//!  publish ──► waiting ──(next_frame)──► sent ──(published)──► gone, with a receipt
//!                 ▲                        │
//!                 │   connection lost      │  all lanes, from their first entry
//!                 ├────────────────────────┤
//!                 │   busy & co.           │  this lane, from that entry, after a wait
//!                 ├────────────────────────┤
//!                 │   out_of_sequence      │  this lane, from the number the broker expects, at once the first time
//!                 └────────────────────────┤
//!                                          └──(any other error)──► gone, with the error
//! ```
//!
//! The rules:
//!
//! 1. A message gets its number (producer and seq) when it is first written, and keeps it. So numbers are given in the order of
//!    publishing, without holes, and what never was sent never has one.
//! 2. Every sending has a fresh id, ids only grow, and going back forgets the ids of everything that is sent again. An answer
//!    with a forgotten id is about an earlier sending: it is counted and ignored, the sending after it will be answered too.
//! 3. A lost connection sends everything again from the first unanswered entry, before anything new. The broker answers what it
//!    had kept with `duplicate`.
//! 4. An error that may pass (`busy`, `log_unavailable`, `rate_limited`, `internal`) goes back to that entry, after a wait that
//!    grows (or after `retry_after_ms`, if that is longer). Later entries of the lane that are in flight are then out of sequence, and
//!    their ids are forgotten already.
//! 5. `out_of_sequence` for a message says: everything below the expected number is kept, nothing from it on is. If the lane holds an
//!    entry of that number, go back to it. If not, the number belongs to a message that is not in the lane any more: it failed for
//!    good, or its receipt was given and the broker has lost it (a `memory` topic that began again, a deleted topic, a producer
//!    forgotten after a day). The entries from there on **forget their numbers and are counted from 1 under a fresh
//!    producer name**. A fresh name, not the old one with the numbers moved up, because a number must never mean two messages:
//!    a sending of the old number may still sit in a session that the broker has not noticed to be dead.
//! 6. Numbers of two producers say nothing about each other's order. So nothing is sent under the fresh name before the entries
//!    in front of it, which have the old one, are answered (the `fence`).
//! 7. Any other error is about that message alone: its caller gets the error, and the rest of the lane finds its way by rule 5.
//!    A message that nobody waits for any more keeps its place: it may be in flight, and taking it out would make a hole.
//! 8. A message with a key has no number that would keep its place. So it is sent when all before it are answered, and those behind
//!    it when it is. Hark forgets keys, so it is not sent again later than that: then it fails.
//! 9. What was published to several topics has an entry in the lane of each, and all the rules above hold there. Where several of
//!    these entries are next in their lanes at once, and are counted under one name, they travel in one frame with one id, if the
//!    broker knows such a frame. What comes back is answered lane by lane, so that what is sent again is what failed alone.
//! 10. The first message of a lane that several connections in a row did not bring through (see `losses`) fails, and may have been kept.
//!     Those behind it keep their numbers: they may have been kept with it, and rule 5 finds out.
//!     So that no other topic's message is given up for it, lanes go one at a time after the third such loss, each when the one before it
//!     is answered, and the one that was under way at a loss goes last.
//! 11. A message without number or key cannot be sent twice safely: whatever happens to it is told to its caller.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hark_protocol::{
    ClientFrame, Cursor, Encoded, ErrorCode, Idempotency, IdempotencyInEach, MAX_PUBLISH_TOPICS,
    Message, MessageId, ProducerId, PublishAll, Subprotocol, TopicName, TopicOutcome, TopicReceipt,
    codec,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::clock::{self, Clock, Moment};
use crate::events::{ConnectionEvent, Reporter};
use crate::losses::Losses;
use crate::options::Producer;
use crate::world::World;
use crate::{ClientError, PublishError, Receipt};

/// The wait after a first setback is drawn below this; the longest is for a broker whose log is closed until a restart.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long after its first sending a message with a key may be sent again. Hark knows the key for two minutes ("Publishing again" in
/// `protocol/README.md`); a sending takes a while to get there.
const KEY_LIFE: Duration = Duration::from_secs(100);
/// Lanes without entries are kept for their count up to so many, then forgotten: their topics go on under a new producer.
const IDLE_LANES: usize = 10_000;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: TopicName,
    pub(crate) message: Message,
    pub(crate) message_id: Option<MessageId>,
    pub(crate) reply: oneshot::Sender<Result<Receipt, PublishError>>,
    /// The places in the window that it takes until it is answered.
    pub(crate) permits: Permits,
    /// What it was published together with (rule 9).
    pub(crate) together: Option<Arc<Together>>,
}

/// Places in the window of unanswered messages.
#[derive(Debug)]
pub(crate) struct Permits {
    /// Its own, unless the message is for more topics than there are places.
    pub(crate) _message: Option<OwnedSemaphorePermit>,
    /// Of its content, which all topics of the message share.
    pub(crate) _bytes: Arc<OwnedSemaphorePermit>,
}

/// A message for several topics.
#[derive(Debug)]
pub(crate) struct Together {
    pub(crate) topics: Vec<TopicName>,
}

/// What the broker's `welcome` allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) frame_bytes: usize,
    pub(crate) in_flight: usize,
    /// Whether one frame may be for several topics.
    pub(crate) several: bool,
}

impl Limits {
    /// Those of a `welcome`.
    pub(crate) fn told(version: &str, frame_bytes: u64, in_flight: u64) -> Self {
        let at_least_one = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
        Self {
            frame_bytes: at_least_one(frame_bytes),
            in_flight: at_least_one(in_flight),
            several: hark_protocol::takes_publish_all(version),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    /// What new lanes count under.
    producer: Option<ProducerId>,
    /// The newest name that lanes were counted anew under (rule 5): good for each lane that has not had it, so that lanes that were
    /// forgotten together go on together.
    fresh: Option<ProducerId>,
    /// The name that the application chose, to tell when it was used before.
    named: Option<ProducerId>,
    lanes: HashMap<TopicName, Lane>,
    in_flight: InFlight,
    /// Lanes with something to send, in turn.
    ready: VecDeque<TopicName>,
    /// Lanes over whose first message connections may have been lost (rule 10).
    doubted: HashSet<TopicName>,
    /// Lanes that wait after a setback.
    waiting: BinaryHeap<Reverse<(Instant, TopicName)>>,
    unanswered: usize,
    reporter: Arc<Reporter>,
    world: World,
}

/// Why a message was refused.
struct Refused {
    code: ErrorCode,
    message: String,
    expected_seq: Option<u64>,
    retry_after: Option<Duration>,
}

/// The waits that were drawn for the lanes of one frame, by setbacks: equal ones, so that they go together again.
#[derive(Default)]
struct Waits(HashMap<u32, Duration>);

impl Waits {
    fn draw(&mut self, world: &World, setbacks: u32) -> Duration {
        let draw = || world.draw(setbacks, FIRST_WAIT, LONGEST_WAIT);
        *self.0.entry(setbacks).or_insert_with(draw)
    }
}

/// The living sendings.
#[derive(Debug, Default)]
struct InFlight {
    by_id: HashMap<u64, Sending>,
    /// How many messages they are: one for each topic.
    messages: usize,
}

#[derive(Debug)]
enum Sending {
    One(TopicName),
    /// Several, of which so many are alive. Which ones, the lanes know: an entry that is sent again has another id.
    Several(Vec<TopicName>, usize),
}

impl InFlight {
    fn insert(&mut self, id: u64, sending: Sending) {
        self.messages += sending.messages();
        self.by_id.insert(id, sending);
    }

    /// Its id is spent.
    fn take(&mut self, id: u64) -> Option<Sending> {
        let sending = self.by_id.remove(&id)?;
        self.messages -= sending.messages();
        Some(sending)
    }

    /// One of its messages is to be sent again.
    fn forget(&mut self, id: u64) {
        match self.by_id.get_mut(&id) {
            Some(Sending::Several(_, alive)) if *alive > 1 => {
                *alive -= 1;
                self.messages -= 1;
            }
            _ => {
                self.take(id);
            }
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Of any living sending: where it matters there is one lane that has some.
    fn topic(&self) -> Option<&TopicName> {
        match self.by_id.values().next()? {
            Sending::One(topic) => Some(topic),
            Sending::Several(topics, _) => topics.first(),
        }
    }
}

impl Sending {
    fn messages(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Several(_, alive) => *alive,
        }
    }
}

#[derive(Debug)]
struct Lane {
    producer: Option<ProducerId>,
    /// The number of the next message that gets one.
    next_seq: u64,
    entries: VecDeque<Entry>,
    /// How many entries, from the front, are written to this connection. Their ids grow from front to back.
    sent: usize,
    /// How many entries, from the front, must be answered before the rest is sent (rule 6). 0: no such thing.
    fence: usize,
    /// Setbacks since the last receipt.
    setbacks: u32,
    /// Of connections, with the first entry unanswered (rule 10).
    losses: Losses,
    state: LaneState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    /// Nothing to send, or nothing that may be sent yet.
    Resting,
    /// Stands in `ready`.
    Ready,
    /// Stands in `waiting`, until then.
    Waiting(Instant),
}

#[derive(Debug)]
struct Entry {
    /// A `publish`, as it goes out but for its id. `Idempotency::None` until it is numbered, unless the client has no producer.
    frame: ClientFrame,
    /// Of the last sending.
    id: u64,
    /// How often it was written.
    sendings: u32,
    /// When it was first written, if it has a key (rule 8).
    first_sent: Option<Moment>,
    reply: oneshot::Sender<Result<Receipt, PublishError>>,
    together: Option<Arc<Together>>,
    _permits: Permits,
}

impl Entry {
    fn idempotency(&mut self) -> &mut Idempotency {
        match &mut self.frame {
            ClientFrame::Publish { idempotency, .. } => idempotency,
            other => unreachable!("an entry holds a publish, not {other:?}"),
        }
    }

    fn number(&self) -> Option<(&ProducerId, u64)> {
        match &self.frame {
            ClientFrame::Publish {
                idempotency: Idempotency::Sequence { producer, seq },
                ..
            } => Some((producer, *seq)),
            _ => None,
        }
    }

    fn is_keyed(&self) -> bool {
        matches!(
            &self.frame,
            ClientFrame::Publish {
                idempotency: Idempotency::Key(_),
                ..
            }
        )
    }

    /// Whether Hark may have forgotten the key that an earlier sending had.
    fn outlived_its_key(&self, clock: &Clock) -> bool {
        self.first_sent
            .is_some_and(|sent| clock.now().since(sent) > KEY_LIFE)
    }

    /// Whether it can be sent again without being kept twice.
    fn repeatable(&self) -> bool {
        !matches!(
            &self.frame,
            ClientFrame::Publish {
                idempotency: Idempotency::None,
                ..
            }
        )
    }

    /// Tells the caller; nobody has to wait for it.
    fn answer(self, result: Result<Receipt, PublishError>) {
        self.reply.send(result).ok();
    }
}

impl Outbox {
    pub(crate) fn new(producer: &Producer, reporter: Arc<Reporter>, world: World) -> Self {
        let (producer, named) = match producer {
            Producer::Random => (Some(world.producer()), None),
            Producer::Named(name) => (Some(name.clone()), Some(name.clone())),
            Producer::None => (None, None),
        };
        Self {
            producer,
            fresh: None,
            named,
            lanes: HashMap::new(),
            in_flight: InFlight::default(),
            ready: VecDeque::new(),
            doubted: HashSet::new(),
            waiting: BinaryHeap::new(),
            unanswered: 0,
            reporter,
            world,
        }
    }

    /// Messages that have no answer yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    pub(crate) fn publish(&mut self, outgoing: Outgoing) {
        let Outgoing {
            topic,
            message,
            message_id,
            reply,
            permits,
            together,
        } = outgoing;
        if !self.lanes.contains_key(&topic) {
            self.forget_idle_lanes();
        }
        let producer = &self.producer;
        let lane = self
            .lanes
            .entry(topic.clone())
            .or_insert_with(|| Lane::new(producer.clone()));
        let idempotency = message_id.map_or(Idempotency::None, Idempotency::Key);
        let frame = ClientFrame::Publish {
            id: None,
            topic: topic.clone(),
            message,
            idempotency,
        };
        lane.entries.push_back(Entry {
            frame,
            id: 0,
            sendings: 0,
            first_sent: None,
            reply,
            together,
            _permits: permits,
        });
        self.unanswered += 1;
        lane.get_ready(&topic, &mut self.ready);
    }

    fn forget_idle_lanes(&mut self) {
        if self.lanes.len() >= IDLE_LANES {
            self.lanes.retain(|_, lane| !lane.entries.is_empty());
            // A topic that was forgotten must not be counted from 1 again under the same name.
            self.producer = self.producer.as_ref().map(|_| self.world.producer());
            self.fresh = None;
        }
    }

    /// The next message to write, if one may be written.
    pub(crate) fn next_frame(
        &mut self,
        ids: &mut u64,
        limits: Limits,
        subprotocol: Subprotocol,
    ) -> Option<Encoded> {
        while self.in_flight.messages < limits.in_flight {
            let careful = !self.doubted.is_empty();
            let topic = match self.in_flight.topic().filter(|_| careful) {
                // Only that lane may go on.
                Some(topic) => {
                    let at = self.ready.iter().position(|ready| ready == topic)?;
                    self.ready.remove(at)?
                }
                None => self.ready.pop_front()?,
            };
            let Some(lane) = self.lanes.get_mut(&topic) else {
                continue;
            };
            // It may have had a setback since it got in line.
            if lane.state != LaneState::Ready {
                continue;
            }
            lane.state = LaneState::Resting;
            if !lane.may_send() {
                continue;
            }
            if lane.entries[lane.sent].outlived_its_key(&self.world.clock) {
                let forgotten = "it waited for as long as Hark knows a message_id";
                let at = lane.sent;
                self.finish(&topic, at, Err(PublishError::Lost(forgotten)));
                continue;
            }
            let alone = careful || !limits.several || lane.entries[lane.sent].together.is_none();
            if !alone && let Some(encoded) = self.write_together(&topic, ids, limits, subprotocol) {
                return Some(encoded);
            }
            let Some(lane) = self.lanes.get_mut(&topic) else {
                continue;
            };
            let encoded = lane.write_next(*ids + 1, limits, subprotocol, &self.world.clock);
            match encoded {
                Ok(encoded) => {
                    *ids += 1;
                    if lane.entries[lane.sent - 1].sendings > 1 {
                        self.reporter.count(|c| &c.publishes_resent);
                    }
                    self.in_flight.insert(*ids, Sending::One(topic.clone()));
                    lane.get_ready(&topic, &mut self.ready);
                    return Some(encoded);
                }
                Err(too_large) => {
                    let at = lane.sent;
                    self.finish(&topic, at, Err(too_large));
                }
            }
        }
        None
    }

    /// Rule 9: the next entry of a lane in one frame with those it was published with, if there are any that may be sent just now
    /// and fit.
    fn write_together(
        &mut self,
        topic: &TopicName,
        ids: &mut u64,
        limits: Limits,
        subprotocol: Subprotocol,
    ) -> Option<Encoded> {
        let mut topics = self.next_together(topic)?;
        let encoded = loop {
            if topics.len() < 2 {
                return None;
            }
            let publish = self.publish_all(&topics)?;
            // It is not to be written for each half only to find that its content alone is too large.
            if publish.message().payload.len() > limits.frame_bytes {
                return None;
            }
            let id = Some(*ids + 1);
            let frame = ClientFrame::PublishAll { id, publish };
            let encoded = codec::encode_client(&frame, subprotocol);
            if encoded.len() <= limits.frame_bytes {
                break encoded;
            }
            topics.truncate(topics.len() / 2);
        };
        *ids += 1;
        for topic in &topics {
            let Some(lane) = self.lanes.get_mut(topic) else {
                continue;
            };
            let (idempotency, numbered_now) = lane.next_idempotency();
            *lane.entries[lane.sent].idempotency() = idempotency;
            lane.is_written(*ids, numbered_now, &self.world.clock);
            if lane.entries[lane.sent - 1].sendings > 1 {
                self.reporter.count(|c| &c.publishes_resent);
            }
            lane.get_ready(topic, &mut self.ready);
        }
        let messages = topics.len();
        self.in_flight
            .insert(*ids, Sending::Several(topics, messages));
        Some(encoded)
    }

    /// The topics whose lanes have the same message next as the lane of `topic`, that one first.
    fn next_together(&self, topic: &TopicName) -> Option<Vec<TopicName>> {
        let lane = self.lanes.get(topic)?;
        let together = lane.entries[lane.sent].together.as_ref()?;
        let is_next = |other: &&TopicName| {
            *other != topic
                && self.lanes.get(*other).is_some_and(|other| {
                    let next = other.entries.get(other.sent);
                    other.may_send()
                        && next.is_some_and(|next| {
                            next.together
                                .as_ref()
                                .is_some_and(|its| Arc::ptr_eq(its, together))
                                && !next.outlived_its_key(&self.world.clock)
                        })
                        && other.next_producer() == lane.next_producer()
                })
        };
        let others = together.topics.iter().filter(is_next);
        let topics = std::iter::once(topic).chain(others);
        Some(topics.take(MAX_PUBLISH_TOPICS).cloned().collect())
    }

    /// The next message of several lanes, which is the same in each.
    fn publish_all(&self, topics: &[TopicName]) -> Option<PublishAll> {
        let mut seqs = Vec::with_capacity(topics.len());
        let mut all = None;
        for topic in topics {
            let lane = self.lanes.get(topic)?;
            let (idempotency, _) = lane.next_idempotency();
            let counted = match idempotency {
                Idempotency::None => IdempotencyInEach::None,
                Idempotency::Key(key) => IdempotencyInEach::Key(key),
                Idempotency::Sequence { producer, seq } => {
                    seqs.push(seq);
                    IdempotencyInEach::Sequences {
                        producer,
                        seqs: Vec::new(),
                    }
                }
            };
            all.get_or_insert_with(|| (&lane.entries[lane.sent], counted));
        }
        let (entry, mut idempotency) = all?;
        if let IdempotencyInEach::Sequences { seqs: all, .. } = &mut idempotency {
            *all = seqs;
        }
        let ClientFrame::Publish { message, .. } = &entry.frame else {
            return None;
        };
        let topics = topics.iter().cloned().map(Into::into).collect();
        PublishAll::new(topics, message.clone(), idempotency).ok()
    }

    pub(crate) fn published(&mut self, id: u64, cursor: Cursor, duplicate: bool) {
        if let Some((topic, at)) = self.locate(id) {
            self.kept(&topic, at, cursor, duplicate);
        }
    }

    /// The receipts of a message for several topics.
    pub(crate) fn published_all(&mut self, id: u64, receipts: Vec<TopicReceipt>, now: Instant) {
        if self.in_flight.take(id).is_none() {
            self.reporter.count(|c| &c.stale_answers);
            return;
        }
        let mut waits = Waits::default();
        for TopicReceipt { topic, outcome } in receipts {
            let Ok(topic) = topic.topic() else { continue };
            // It may have been sent again since, under another id.
            let position = self.lanes.get(topic).and_then(|lane| lane.position_of(id));
            let Some(at) = position else {
                self.reporter.count(|c| &c.stale_answers);
                continue;
            };
            match outcome {
                TopicOutcome::Kept { cursor, duplicate } => self.kept(topic, at, cursor, duplicate),
                TopicOutcome::Refused {
                    code,
                    message,
                    expected_seq,
                } => {
                    let refused = Refused {
                        code,
                        message,
                        expected_seq,
                        retry_after: None,
                    };
                    self.refused_at(topic, at, refused, &mut waits, now);
                }
            }
        }
    }

    fn kept(&mut self, topic: &TopicName, at: usize, cursor: Cursor, duplicate: bool) {
        let Some(lane) = self.lanes.get_mut(topic) else {
            return;
        };
        lane.setbacks = 0;
        lane.losses.answered();
        self.doubted.remove(topic);
        let entry = &lane.entries[at];
        // A number that was sent once, and under which the broker has something: somebody else used it before.
        let used_before = match (entry.number(), &self.named) {
            (Some((producer, _)), Some(named))
                if duplicate && entry.sendings == 1 && producer == named =>
            {
                Some(named.as_str().to_owned())
            }
            _ => None,
        };
        let result = match used_before {
            Some(name) => Err(PublishError::ProducerInUse(name)),
            None => Ok(Receipt { cursor, duplicate }),
        };
        self.finish(topic, at, result);
    }

    pub(crate) fn refused(
        &mut self,
        id: u64,
        code: ErrorCode,
        message: String,
        expected_seq: Option<u64>,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        let topics = match self.in_flight.take(id) {
            Some(Sending::One(topic)) => vec![topic],
            // The frame as a whole.
            Some(Sending::Several(topics, _)) => topics,
            None => {
                self.reporter.count(|c| &c.stale_answers);
                return;
            }
        };
        let mut waits = Waits::default();
        for topic in topics {
            let position = self.lanes.get(&topic).and_then(|lane| lane.position_of(id));
            if let Some(at) = position {
                let refused = Refused {
                    code,
                    message: message.clone(),
                    expected_seq,
                    retry_after,
                };
                self.refused_at(&topic, at, refused, &mut waits, now);
            }
        }
    }

    fn refused_at(
        &mut self,
        topic: &TopicName,
        at: usize,
        refused: Refused,
        waits: &mut Waits,
        now: Instant,
    ) {
        let Refused {
            code,
            message,
            expected_seq,
            retry_after,
        } = refused;
        let Some(lane) = self.lanes.get_mut(topic) else {
            return;
        };
        lane.losses.answered();
        self.doubted.remove(topic);
        let entry = &lane.entries[at];
        match (code, entry.number(), expected_seq) {
            (ErrorCode::OutOfSequence, Some((producer, seq)), Some(expected)) if expected < seq => {
                let producer = producer.clone();
                let first = lane.first_missing(at, &producer, expected);
                if lane.entries[first].number() != Some((&producer, expected)) {
                    if self.fresh.is_none() || self.fresh == lane.producer {
                        self.fresh = Some(self.world.producer());
                    }
                    lane.count_anew(first, self.fresh.clone());
                }
                self.go_back(topic, first);
                let wait = match self.lanes.get(topic).map(|lane| lane.setbacks) {
                    Some(0) | None => Duration::ZERO,
                    Some(setbacks) => waits.draw(&self.world, setbacks),
                };
                self.wait(topic, wait, code, now);
            }
            _ if code.try_again() && entry.repeatable() => {
                let wait = waits.draw(&self.world, lane.setbacks);
                self.go_back(topic, at);
                self.wait(topic, wait.max(retry_after.unwrap_or_default()), code, now);
            }
            _ => {
                let maybe_kept = entry.sendings > 1;
                self.finish(
                    topic,
                    at,
                    Err(PublishError::Refused {
                        code,
                        message,
                        maybe_kept,
                    }),
                );
            }
        }
    }

    /// The connection is gone, which had proven itself or not. Everything repeatable waits for the next one.
    pub(crate) fn disconnected(&mut self, proven: bool) {
        let under_way = self.in_flight.topic().cloned();
        self.in_flight.clear();
        self.doubted.clear();
        self.waiting.clear();
        self.ready.clear();
        for (topic, lane) in &mut self.lanes {
            let in_flight = lane.sent;
            lane.sent = 0;
            lane.setbacks = 0;
            lane.state = LaneState::Resting;
            let tried = in_flight > 0 && lane.entries[0].repeatable();
            // Rule 11. From the back, so that what is left keeps its place.
            for at in (0..in_flight).rev() {
                if !lane.entries[at].repeatable() {
                    self.unanswered -= 1;
                    if let Some(entry) = lane.take(at) {
                        entry.answer(Err(PublishError::Interrupted));
                    }
                }
            }
            if lane.losses.connection_lost(tried, proven) {
                lane.losses.start_over();
                self.unanswered -= 1;
                if let Some(entry) = lane.take(0) {
                    let lost =
                        "each connection over which it was sent broke before the receipt came";
                    entry.answer(Err(PublishError::Lost(lost)));
                }
            }
            if lane.losses.are_suspicious() {
                self.doubted.insert(topic.clone());
            }
            lane.get_ready(topic, &mut self.ready);
        }
        if let Some(last) = under_way
            && let Some(at) = self.ready.iter().position(|ready| *ready == last)
            && let Some(last) = self.ready.remove(at)
        {
            self.ready.push_back(last);
        }
    }

    /// When a lane's wait is over.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn wake_up(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.waiting.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((at, topic))) = self.waiting.pop() else {
                return;
            };
            if let Some(lane) = self.lanes.get_mut(&topic)
                && lane.state == LaneState::Waiting(at)
            {
                lane.state = LaneState::Resting;
                lane.get_ready(&topic, &mut self.ready);
            }
        }
    }

    /// The client ends: nobody gets a receipt any more. How many were unanswered.
    pub(crate) fn end(&mut self, error: &ClientError) -> usize {
        for (_, lane) in self.lanes.drain() {
            for entry in lane.entries {
                entry.answer(Err(PublishError::Ended(error.clone())));
            }
        }
        self.in_flight.clear();
        self.ready.clear();
        self.waiting.clear();
        std::mem::take(&mut self.unanswered)
    }

    /// Which entry a living id belongs to. The id is spent.
    fn locate(&mut self, id: u64) -> Option<(TopicName, usize)> {
        let Some(Sending::One(topic)) = self.in_flight.take(id) else {
            self.reporter.count(|c| &c.stale_answers);
            return None;
        };
        let at = self.lanes.get(&topic)?.position_of(id)?;
        Some((topic, at))
    }

    fn finish(&mut self, topic: &TopicName, at: usize, result: Result<Receipt, PublishError>) {
        let Some(lane) = self.lanes.get_mut(topic) else {
            return;
        };
        if let Some(entry) = lane.take(at) {
            self.unanswered -= 1;
            entry.answer(result);
        }
        if at == 0 {
            lane.losses.start_over();
            self.doubted.remove(topic);
        }
        lane.get_ready(topic, &mut self.ready);
    }

    /// Everything from `first` on is to be sent again.
    fn go_back(&mut self, topic: &TopicName, first: usize) {
        let Some(lane) = self.lanes.get_mut(topic) else {
            return;
        };
        for entry in lane.entries.range(first.min(lane.sent)..lane.sent) {
            self.in_flight.forget(entry.id);
        }
        lane.sent = lane.sent.min(first);
    }

    fn wait(&mut self, topic: &TopicName, wait: Duration, code: ErrorCode, now: Instant) {
        let Some(lane) = self.lanes.get_mut(topic) else {
            return;
        };
        lane.setbacks = lane.setbacks.saturating_add(1);
        if wait.is_zero() {
            lane.get_ready(topic, &mut self.ready);
            return;
        }
        // A lane that stands in `ready` is passed over there: its state says that it waits.
        let until = clock::after(now, wait);
        lane.state = LaneState::Waiting(until);
        self.waiting.push(Reverse((until, topic.clone())));
        self.reporter.tell(ConnectionEvent::PublishDelayed {
            topic: topic.clone(),
            code,
            wait,
        });
    }
}

impl Lane {
    fn new(producer: Option<ProducerId>) -> Self {
        Self {
            producer,
            next_seq: 1,
            entries: VecDeque::new(),
            sent: 0,
            fence: 0,
            setbacks: 0,
            losses: Losses::default(),
            state: LaneState::Resting,
        }
    }

    fn may_send(&self) -> bool {
        let Some(next) = self.entries.get(self.sent) else {
            return false;
        };
        let behind_fence = self.fence > 0 && self.sent >= self.fence;
        // Rule 8.
        let beside_key =
            self.sent > 0 && (next.is_keyed() || self.entries[self.sent - 1].is_keyed());
        !behind_fence && !beside_key && !matches!(self.state, LaneState::Waiting(_))
    }

    fn get_ready(&mut self, topic: &TopicName, ready: &mut VecDeque<TopicName>) {
        if self.state == LaneState::Resting && self.may_send() {
            self.state = LaneState::Ready;
            ready.push_back(topic.clone());
        }
    }

    /// The entry whose last sending had that id. Most answers are about the first.
    fn position_of(&self, id: u64) -> Option<usize> {
        let (mut from, mut to) = (0, self.sent);
        let mut at = 0;
        while from < to {
            match self.entries[at].id.cmp(&id) {
                Ordering::Equal => return Some(at),
                Ordering::Less => from = at + 1,
                Ordering::Greater => to = at,
            }
            at = from + (to - from) / 2;
        }
        None
    }

    /// Takes an entry out, answered.
    fn take(&mut self, at: usize) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.sent -= usize::from(at < self.sent);
        self.fence -= usize::from(at < self.fence);
        Some(entry)
    }

    /// Writes the first entry that is not sent. It has its number from here on (rule 1), unless it is too large.
    fn write_next(
        &mut self,
        id: u64,
        limits: Limits,
        subprotocol: Subprotocol,
        clock: &Clock,
    ) -> Result<Encoded, PublishError> {
        let too_large = |bytes| PublishError::TooLarge {
            bytes,
            limit: limits.frame_bytes,
        };
        let (next_idempotency, numbered_now) = self.next_idempotency();
        let entry = &mut self.entries[self.sent];
        if let ClientFrame::Publish {
            id: frame_id,
            message,
            idempotency,
            ..
        } = &mut entry.frame
        {
            if message.payload.len() > limits.frame_bytes {
                return Err(too_large(message.payload.len()));
            }
            *frame_id = Some(id);
            *idempotency = next_idempotency;
        }
        let encoded = codec::encode_client(&entry.frame, subprotocol);
        if encoded.len() > limits.frame_bytes {
            return Err(too_large(encoded.len()));
        }
        self.is_written(id, numbered_now, clock);
        Ok(encoded)
    }

    /// How the next entry to be sent is known again, and whether its number is a new one.
    fn next_idempotency(&self) -> (Idempotency, bool) {
        let known = match &self.entries[self.sent].frame {
            ClientFrame::Publish { idempotency, .. } => idempotency,
            _ => &Idempotency::None,
        };
        match (known, &self.producer) {
            (Idempotency::None, Some(producer)) => {
                let (producer, seq) = (producer.clone(), self.next_seq);
                (Idempotency::Sequence { producer, seq }, true)
            }
            (known, _) => (known.clone(), false),
        }
    }

    /// The name that the next entry to be sent is, or will be, counted under.
    fn next_producer(&self) -> Option<&ProducerId> {
        match &self.entries[self.sent].frame {
            ClientFrame::Publish { idempotency, .. } => match idempotency {
                Idempotency::Sequence { producer, .. } => Some(producer),
                Idempotency::None => self.producer.as_ref(),
                Idempotency::Key(_) => None,
            },
            _ => None,
        }
    }

    /// The first entry that was not sent has been written.
    fn is_written(&mut self, id: u64, numbered_now: bool, clock: &Clock) {
        self.next_seq += u64::from(numbered_now);
        let entry = &mut self.entries[self.sent];
        entry.id = id;
        entry.sendings = entry.sendings.saturating_add(1);
        if entry.is_keyed() {
            entry.first_sent.get_or_insert_with(|| clock.now());
        }
        self.sent += 1;
    }

    /// The first entry that the broker has not kept, when it refuses `refused` and expects `expected` of that producer.
    fn first_missing(&self, refused: usize, producer: &ProducerId, expected: u64) -> usize {
        let missing = |entry: &Entry| {
            entry
                .number()
                .is_some_and(|(of, seq)| of == producer && seq >= expected)
        };
        self.entries
            .range(..refused)
            .position(missing)
            .unwrap_or(refused)
    }

    /// Rule 5: a fresh producer for everything from `first` on, and rule 6: behind a fence.
    fn count_anew(&mut self, first: usize, fresh: Option<ProducerId>) {
        self.producer = fresh;
        self.next_seq = 1;
        self.fence = first;
        for entry in self.entries.range_mut(first..) {
            if entry.number().is_some() {
                *entry.idempotency() = Idempotency::None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
