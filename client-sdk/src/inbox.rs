//! The subscriptions and their positions. Owns "every later message once, or a gap"; knows no sockets: it is told what was
//! said and what time it is, and says what to send. `client-sdk/script` holds it to its rules.
//!
//! A subscription is what the application **wants**; the **wire** is what the broker has agreed to. `reconcile` brings the second in line
//! with the first, one command at a time, so that whatever happens in between (a reconnect, a drop, a new subscription
//! to the same topic) ends in the right place:
//!
//! ```text
//!            subscribe                  subscribed
//!   Off ───────────────────► Asking ───────────────────► On
//!    ▲                          │ error                   │
//!    ├──────────────────────────┘ (again later, or end)   │ unsubscribe: not wanted, parked, or a hole
//!    │          unsubscribed / error                      ▼
//!    └─────────────────────────────────────────────── Leaving        a lost connection: all Off
//! ```
//!
//! The position of a subscription is the last offset that was put into its queue. The rules:
//!
//! 1. `subscribed.cursor` is where a new subscription starts. One that goes on keeps its own offset, and takes the epoch over when the
//!    broker says that it resumed: the topic lost a tail that the client never had. Should the broker name another epoch without
//!    either, that is made a gap.
//! 2. A message moves the position to its offset. At or below the position: dropped, it was delivered. Its `prev` beyond the
//!    position: a hole. The client leaves and subscribes again after its position. When the same hole comes back, the application
//!    gets a gap for it, since asking for ever would be worse.
//! 3. `gap.cursor` replaces the position, also with another epoch or a smaller offset.
//! 4. Messages count only while the wire is `On`. What comes before `subscribed` or after leaving belongs to an earlier round.
//! 5. After a reconnect every subscription that has a position asks for what comes after it; one that has none yet asks as
//!    the application did.
//! 6. A subscription of whose topic several connections in a row brought nothing (see `losses`) is **stuck**: the application is told, and
//!    it is asked for again after a while, so that whatever ends the connection with it does not do so all the time.
//!
//! When a queue is full the socket is not read any more, so TCP holds the broker back. That stalls everything else on
//! the connection, receipts included, and an application that awaits a receipt between two messages would wait for ever. So
//! when somebody else waits for 100 ms, or nobody else for 10 s, the full subscriptions are **parked**: the client leaves
//! their topics, reads on, and subscribes again after their positions when the application has taken half of what is queued. One whose
//! queue is full when a connection is lost is parked too: else each reconnect would bring one message more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hark_protocol::{ClientFrame, Cursor, ErrorCode, GapReason, Record, SubscribeFrom, TopicName};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock;
use crate::events::{ConnectionEvent, Reporter};
use crate::figures::STUCK_RETRY;
use crate::losses::Losses;
use crate::queue::Queue;
use crate::world::World;
use crate::{ClientError, Event, Gap, Message, SubscribeError};

/// How long a full queue may hold up others on the same connection.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_millis(100);
/// How long a full queue may keep the socket unread when nobody else waits. Hark ends a session that takes nothing for a minute.
const PATIENCE_ALONE: Duration = Duration::from_secs(10);
/// The bounds of the wait before a refused `subscribe` is sent again.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// So often the broker is asked to fill the same hole.
const HOLE_ATTEMPTS: u32 = 3;

/// What the application asked for.
#[derive(Debug)]
pub(crate) struct Subscribe {
    pub(crate) topic: TopicName,
    pub(crate) from: SubscribeFrom,
    pub(crate) token: Option<ForTopic>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) reply: oneshot::Sender<Result<Cursor, SubscribeError>>,
}

/// A token for one topic. `Debug` does not show it: it may end up in a log.
pub(crate) struct ForTopic(pub(crate) String);

impl std::fmt::Debug for ForTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ForTopic(…)")
    }
}

#[derive(Debug)]
pub(crate) struct Inbox {
    seats: HashMap<TopicName, Seat>,
    /// Which seat an answer is for.
    requests: HashMap<u64, TopicName>,
    /// Topics whose queue is full, and since when the socket is not read.
    full: Vec<TopicName>,
    full_since: Option<Instant>,
    /// The earliest `not_before` of the seats.
    retry_at: Option<Instant>,
    reporter: Arc<Reporter>,
    world: World,
}

/// One topic.
#[derive(Debug)]
struct Seat {
    wire: Wire,
    wanted: Option<Wanted>,
    /// Who waits for the end of the earlier subscription.
    leavers: Vec<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Off,
    Asking(u64),
    On,
    Leaving(u64),
}

#[derive(Debug)]
struct Wanted {
    /// Tells this subscription from an earlier one to the same topic.
    queue: Arc<Queue>,
    from: SubscribeFrom,
    token: Option<ForTopic>,
    position: Option<Cursor>,
    /// The `subscribe` that was sent for it. An answer to another one was meant for an earlier subscription.
    asked: Option<u64>,
    /// Who waits for the first `subscribed`.
    reply: Option<oneshot::Sender<Result<Cursor, SubscribeError>>>,
    /// The queue is full; not now.
    parked: bool,
    /// The broker was busy, or the subscription is stuck; not before.
    not_before: Option<Instant>,
    setbacks: u32,
    /// Of connections, with nothing heard of the topic (rule 6).
    losses: Losses,
    /// A hole behind the position, and how often it was seen.
    hole: Option<(Cursor, u32)>,
}

/// What is to be said to the broker that is no publish, in order. At most one command for each topic, a ping and a token.
#[derive(Debug, Default)]
pub(crate) struct ToSay {
    pub(crate) frames: VecDeque<ClientFrame>,
    /// The last id given to any frame; publishes draw from here too.
    pub(crate) last_id: u64,
    /// Without a connection nothing can be said; a new one reconciles everything.
    pub(crate) connected: bool,
}

impl Inbox {
    pub(crate) fn new(reporter: Arc<Reporter>, world: World) -> Self {
        Self {
            seats: HashMap::new(),
            requests: HashMap::new(),
            full: Vec::new(),
            full_since: None,
            retry_at: None,
            reporter,
            world,
        }
    }

    /// Whether the application has any subscription.
    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether an answer to a command of a subscription is awaited.
    pub(crate) fn owns(&self, id: u64) -> bool {
        self.requests.contains_key(&id)
    }

    pub(crate) fn subscribe(&mut self, subscribe: Subscribe, to_say: &mut ToSay) {
        let Subscribe {
            topic,
            from,
            token,
            queue,
            reply,
        } = subscribe;
        let seat = self.seats.entry(topic.clone()).or_insert_with(Seat::empty);
        if seat.wanted.is_some() {
            reply
                .send(Err(SubscribeError::AlreadySubscribed(topic)))
                .ok();
            return;
        }
        seat.wanted = Some(Wanted {
            queue,
            from,
            token,
            position: None,
            asked: None,
            reply: Some(reply),
            parked: false,
            not_before: None,
            setbacks: 0,
            losses: Losses::default(),
            hole: None,
        });
        self.reconcile(&topic, to_say);
    }

    /// The subscription with that queue is not wanted any more.
    pub(crate) fn unsubscribe(
        &mut self,
        topic: &TopicName,
        queue: &Arc<Queue>,
        reply: Option<oneshot::Sender<()>>,
        to_say: &mut ToSay,
    ) {
        if let Some(seat) = self.seats.get_mut(topic)
            && seat.wants(queue)
        {
            seat.wanted = None;
            seat.leavers.extend(reply);
            self.not_full(topic);
            self.reconcile(topic, to_say);
        }
    }

    /// The application has taken half of a queue that was full.
    pub(crate) fn drained(&mut self, topic: &TopicName, queue: &Arc<Queue>, to_say: &mut ToSay) {
        // What is left of an earlier subscription says nothing about this one.
        let seat = self.seats.get_mut(topic).filter(|seat| seat.wants(queue));
        if let Some(wanted) = seat.and_then(|seat| seat.wanted.as_mut()) {
            wanted.parked = false;
            self.not_full(topic);
            self.reconcile(topic, to_say);
        }
    }

    fn not_full(&mut self, topic: &TopicName) {
        self.full.retain(|full| full != topic);
        if self.full.is_empty() {
            self.full_since = None;
        }
    }

    /// Whether the socket may be read.
    pub(crate) fn may_read(&self) -> bool {
        self.full.is_empty()
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self, to_say: &mut ToSay) {
        let topics: Vec<_> = self.seats.keys().cloned().collect();
        for topic in topics {
            self.reconcile(&topic, to_say);
        }
    }

    /// The connection is gone, which had proven itself or not.
    pub(crate) fn disconnected(&mut self, proven: bool, now: Instant) {
        self.requests.clear();
        self.full_since = None;
        self.retry_at = None;
        let full = std::mem::take(&mut self.full);
        self.seats.retain(|topic, seat| {
            let tried = seat.wire == Wire::On;
            seat.wire = Wire::Off;
            for leaver in seat.leavers.drain(..) {
                leaver.send(()).ok();
            }
            let Some(wanted) = &mut seat.wanted else {
                return false;
            };
            wanted.parked |= full.contains(topic);
            wanted.setbacks = 0;
            if wanted.losses.connection_lost(tried, proven)
                && let Some(cursor) = wanted.position
            {
                wanted.not_before = Some(now + self.world.about(STUCK_RETRY));
                self.reporter.tell(ConnectionEvent::Stuck {
                    topic: topic.clone(),
                    cursor,
                    tries: wanted.losses.tries(),
                });
            } else if !wanted.losses.is_stuck() {
                wanted.not_before = None;
            }
            self.retry_at = self.retry_at.into_iter().chain(wanted.not_before).min();
            true
        });
    }

    /// Whether that was an answer to a living command.
    pub(crate) fn subscribed(
        &mut self,
        id: Option<u64>,
        cursor: Cursor,
        resumed: bool,
        now: Instant,
        to_say: &mut ToSay,
    ) -> bool {
        let Some(topic) = id.and_then(|id| self.requests.remove(&id)) else {
            return false;
        };
        let Some(seat) = self.seats.get_mut(&topic) else {
            return false;
        };
        if id.map(Wire::Asking) != Some(seat.wire) {
            return false;
        }
        seat.wire = Wire::On;
        match seat.wanted.as_mut().filter(|wanted| wanted.asked == id) {
            None => self.leave(&topic, to_say),
            Some(wanted) => {
                wanted.setbacks = 0;
                match wanted.position {
                    None => {
                        wanted.position = Some(cursor);
                        if let Some(reply) = wanted.reply.take() {
                            reply.send(Ok(cursor)).ok();
                        }
                    }
                    Some(position) => {
                        self.reporter.tell(ConnectionEvent::Resumed {
                            topic: topic.clone(),
                            cursor,
                        });
                        if resumed && cursor.offset == position.offset {
                            wanted.position = Some(cursor);
                        } else if cursor.epoch != position.epoch {
                            let gap = Gap {
                                reason: GapReason::OtherEpoch,
                                from: None,
                                to: None,
                                cursor,
                            };
                            self.deliver(&topic, cursor, Event::Gap(gap), now);
                        }
                    }
                }
                self.reconcile(&topic, to_say);
            }
        }
        true
    }

    pub(crate) fn unsubscribed(&mut self, id: Option<u64>, topic: &TopicName, to_say: &mut ToSay) {
        let Some(seat) = self.seats.get_mut(topic) else {
            return;
        };
        match (seat.wire, id) {
            (Wire::Leaving(asked), Some(id)) if asked == id => {
                self.requests.remove(&id);
            }
            // Not asked for: the broker ended it. Asking again gives the reason.
            (Wire::On, None) => {}
            _ => return,
        }
        seat.wire = Wire::Off;
        self.reconcile(topic, to_say);
    }

    /// A command of a subscription was refused.
    pub(crate) fn refused(
        &mut self,
        id: u64,
        code: ErrorCode,
        message: String,
        retry_after: Option<Duration>,
        now: Instant,
        to_say: &mut ToSay,
    ) {
        let Some(topic) = self.requests.remove(&id) else {
            return;
        };
        let Some(seat) = self.seats.get_mut(&topic) else {
            return;
        };
        match seat.wire {
            Wire::Asking(asked) if asked == id => {}
            Wire::Leaving(asked) if asked == id => {
                match code.try_again() {
                    true => self.leave(&topic, to_say),
                    // There is nothing to leave any more.
                    false => {
                        seat.wire = Wire::Off;
                        self.reconcile(&topic, to_say);
                    }
                }
                return;
            }
            _ => return,
        }
        if code == ErrorCode::AlreadySubscribed {
            // Of an earlier round; this client has one at a time.
            self.leave(&topic, to_say);
            return;
        }
        seat.wire = Wire::Off;
        if let Some(wanted) = seat
            .wanted
            .as_mut()
            .filter(|wanted| wanted.asked == Some(id))
        {
            if code.try_again() {
                let wait = self.world.draw(wanted.setbacks, FIRST_WAIT, LONGEST_WAIT);
                let wait = wait.max(retry_after.unwrap_or_default());
                let not_before = clock::after(now, wait);
                wanted.setbacks = wanted.setbacks.saturating_add(1);
                wanted.not_before = Some(not_before);
                self.retry_at = Some(self.retry_at.map_or(not_before, |at| at.min(not_before)));
            } else if let Some(wanted) = seat.wanted.take() {
                wanted.fail(&SubscribeError::Refused { code, message });
                self.not_full(&topic);
            }
        }
        self.reconcile(&topic, to_say);
    }

    pub(crate) fn message(
        &mut self,
        topic: TopicName,
        record: Record,
        now: Instant,
        to_say: &mut ToSay,
    ) {
        self.heard_of(&topic);
        let Some(wanted) = self.listening(&topic) else {
            return;
        };
        let Some(position) = wanted.position else {
            return;
        };
        if record.offset <= position.offset {
            self.reporter.count(|c| &c.repeated_messages);
            return;
        }
        let before = record.prev_offset();
        if before > position.offset {
            let ask = wanted.ask_about_hole(position);
            self.reporter.count(|c| &c.holes);
            let found = record.offset;
            self.reporter.tell(ConnectionEvent::Hole {
                topic: topic.clone(),
                after: position,
                found,
            });
            if ask {
                self.leave(&topic, to_say);
                return;
            }
            let cursor = Cursor {
                epoch: position.epoch,
                offset: before,
            };
            let (from, to) = (Some(position.offset + 1), Some(before));
            let lost = Gap {
                reason: GapReason::Lost,
                from,
                to,
                cursor,
            };
            self.deliver(&topic, cursor, Event::Gap(lost), now);
        }
        let cursor = Cursor {
            epoch: position.epoch,
            offset: record.offset,
        };
        let message = Message {
            topic: topic.clone(),
            cursor,
            time_ms: record.time_ms,
            identity: record.identity,
            payload: record.message.payload,
            headers: record.message.headers,
        };
        self.deliver(&topic, cursor, Event::Message(message), now);
    }

    pub(crate) fn gap(&mut self, topic: &TopicName, gap: Gap, now: Instant) {
        self.heard_of(topic);
        self.deliver(topic, gap.cursor, Event::Gap(gap), now);
    }

    /// For whoever listens: nothing has to be done.
    pub(crate) fn lagging(&mut self, topic: TopicName, behind: Option<u64>) {
        self.heard_of(&topic);
        let position = self.listening(&topic).and_then(|wanted| wanted.position);
        if let Some(cursor) = position {
            self.reporter.tell(ConnectionEvent::Lagging {
                topic,
                cursor,
                behind,
            });
        }
    }

    pub(crate) fn caught_up(&mut self, topic: &TopicName, cursor: Cursor, now: Instant) {
        self.heard_of(topic);
        // The position stays: it is what was received. If the broker's is another, the next message tells.
        if let Some(position) = self.listening(topic).and_then(|wanted| wanted.position) {
            self.deliver(topic, position, Event::CaughtUp(cursor), now);
        }
    }

    /// The connection has brought something of the topic.
    fn heard_of(&mut self, topic: &TopicName) {
        if let Some(wanted) = self.listening(topic) {
            wanted.losses.answered();
        }
    }

    /// Puts an event into the queue, behind which the position is this.
    fn deliver(&mut self, topic: &TopicName, position: Cursor, event: Event, now: Instant) {
        let Some(wanted) = self.listening(topic) else {
            return;
        };
        wanted.position = Some(position);
        let full = wanted.queue.push(event);
        if full && !self.full.contains(topic) {
            self.full.push(topic.clone());
            self.full_since.get_or_insert(now);
        }
    }

    /// The subscription whose messages count now (rule 4).
    fn listening(&mut self, topic: &TopicName) -> Option<&mut Wanted> {
        let seat = self.seats.get_mut(topic)?;
        seat.wanted.as_mut().filter(|_| seat.wire == Wire::On)
    }

    /// When something is to be done that nobody will call for.
    pub(crate) fn next_wakeup(&self, others_wait: bool) -> Option<Instant> {
        let patience = self
            .full_since
            .map(|since| since + self.patience(others_wait));
        self.retry_at.into_iter().chain(patience).min()
    }

    fn patience(&self, others_wait: bool) -> Duration {
        match others_wait || !self.requests.is_empty() || self.seats.len() > self.full.len() {
            true => PATIENCE_WITH_OTHERS,
            false => PATIENCE_ALONE,
        }
    }

    pub(crate) fn wake_up(&mut self, now: Instant, others_wait: bool, to_say: &mut ToSay) {
        if self
            .full_since
            .is_some_and(|since| now >= since + self.patience(others_wait))
        {
            self.full_since = None;
            for topic in std::mem::take(&mut self.full) {
                if let Some(wanted) = self
                    .seats
                    .get_mut(&topic)
                    .and_then(|seat| seat.wanted.as_mut())
                {
                    wanted.parked = true;
                    self.reporter.tell(ConnectionEvent::Paused {
                        topic: topic.clone(),
                    });
                    self.reconcile(&topic, to_say);
                }
            }
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry(now, to_say);
        }
    }

    /// Asks again for what was refused a while ago.
    fn retry(&mut self, now: Instant, to_say: &mut ToSay) {
        let mut due = Vec::new();
        self.retry_at = None;
        for (topic, seat) in &mut self.seats {
            let Some(wanted) = &mut seat.wanted else {
                continue;
            };
            match wanted.not_before {
                Some(at) if at <= now => {
                    wanted.not_before = None;
                    due.push(topic.clone());
                }
                later => self.retry_at = self.retry_at.into_iter().chain(later).min(),
            }
        }
        for topic in due {
            self.reconcile(&topic, to_say);
        }
    }

    /// The client ends.
    pub(crate) fn end(&mut self, error: &ClientError) {
        for (_, seat) in self.seats.drain() {
            if let Some(wanted) = seat.wanted {
                wanted.fail(&SubscribeError::Ended(error.clone()));
            }
        }
        self.requests.clear();
        self.full.clear();
        self.full_since = None;
    }

    /// Says the next thing that brings the wire in line with what is wanted.
    fn reconcile(&mut self, topic: &TopicName, to_say: &mut ToSay) {
        let Some(seat) = self.seats.get_mut(topic) else {
            return;
        };
        if seat.wire == Wire::Off {
            for leaver in seat.leavers.drain(..) {
                leaver.send(()).ok();
            }
        }
        match (&mut seat.wanted, seat.wire) {
            (None, Wire::Off) => {
                self.seats.remove(topic);
            }
            (Some(wanted), Wire::Off)
                if to_say.connected && !wanted.parked && wanted.not_before.is_none() =>
            {
                let from = wanted.position.map_or(wanted.from, SubscribeFrom::After);
                let id = to_say.next_id();
                wanted.asked = Some(id);
                to_say.frames.push_back(ClientFrame::Subscribe {
                    id: Some(id),
                    topic: topic.clone(),
                    from,
                    token: wanted.token.as_ref().map(|token| token.0.clone()),
                });
                self.requests.insert(id, topic.clone());
                seat.wire = Wire::Asking(id);
            }
            (wanted, Wire::On) if wanted.as_ref().is_none_or(|wanted| wanted.parked) => {
                self.leave(topic, to_say);
            }
            _ => {}
        }
    }

    fn leave(&mut self, topic: &TopicName, to_say: &mut ToSay) {
        let Some(seat) = self.seats.get_mut(topic) else {
            return;
        };
        let id = to_say.next_id();
        to_say.frames.push_back(ClientFrame::Unsubscribe {
            id: Some(id),
            topic: topic.clone(),
        });
        self.requests.insert(id, topic.clone());
        seat.wire = Wire::Leaving(id);
    }
}

impl Seat {
    fn empty() -> Self {
        Self {
            wire: Wire::Off,
            wanted: None,
            leavers: Vec::new(),
        }
    }

    /// Whether it is for the subscription with that queue.
    fn wants(&self, queue: &Arc<Queue>) -> bool {
        self.wanted
            .as_ref()
            .is_some_and(|wanted| Arc::ptr_eq(&wanted.queue, queue))
    }
}

impl Wanted {
    /// Whether the broker is to be asked (again) for what lies behind `position`; not when that did not help.
    fn ask_about_hole(&mut self, position: Cursor) -> bool {
        let seen = match self.hole {
            Some((at, seen)) if at == position => seen + 1,
            _ => 1,
        };
        self.hole = Some((position, seen));
        seen <= HOLE_ATTEMPTS
    }

    fn fail(mut self, error: &SubscribeError) {
        if let Some(reply) = self.reply.take() {
            reply.send(Err(error.clone())).ok();
        }
        self.queue.end(error.clone());
    }
}

impl ToSay {
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

#[cfg(test)]
mod tests;
