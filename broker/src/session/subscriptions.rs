//! A session's subscriptions: what a client asks of them and is answered. Owns leaving, and what is asked for meanwhile; the life of each
//! is `topic::Subscription`, pages and live messages are written by `outbound`.
//!
//! ```text
//! joining ──subscribed──▶ joined ──unsubscribe──▶ leaving ──unsubscribed──▶ (gone)
//!    ▲  ◀── the room is gone: join again from the position ──┘
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use hark_protocol::{CloseCode, Cursor, Encoded, ErrorCode, ServerFrame, SubscribeFrom, TopicName};

use super::socket::SessionContext;
use super::{About, ByTopic, Session};
use crate::identity::Identity;
use crate::limits::{Counted, Held, Meter, TooMuch};
use crate::topic::{Asked, PageFrame, Refusal, RoomNews, Seat, Seating, Subscription};

/// So many failures in a row are more than a full queue.
const WORTH_A_WORD: u32 = 5;
/// A subscribe wakes a room, and mostly opens it: of the commands of a turn it takes so many more than its own.
const SUBSCRIBE_WEIGHS: usize = 7;
/// So many topics at a time are said to lag because of what lies unacknowledged: more would only add to it.
const MAX_TOLD: usize = 32;
/// Commands for a topic that may wait for its `unsubscribed`.
const MAX_DEFERRED: usize = 16;

/// A session's subscriptions, by the session's own key. A key stands for one joining: a subscription that joins again gets a new
/// one, so that pages on their way to the earlier life cannot be taken for the new one's.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_key: HashMap<u32, Subscribed>,
    keys: ByTopic<u32>,
    next_key: u32,
    /// Where others see how many there are.
    about: Option<Arc<About>>,
}

/// One subscription, and what the client has been told of it.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) subscription: Subscription,
    id: Option<u64>,
    was_told: bool,
    leaving: Option<Leaving>,
    /// It is counted as long as it is there: also of whom the client has turned out to be.
    held: Vec<Held>,
}

#[derive(Debug, Default)]
struct Leaving {
    /// The `unsubscribe`'s; none where the grant is gone.
    id: Option<u64>,
    /// What the client asked for meanwhile; begins when `unsubscribed` is said.
    deferred: VecDeque<Deferred>,
}

#[derive(Debug)]
enum Deferred {
    Subscribe {
        id: Option<u64>,
        from: SubscribeFrom,
        added: Option<Identity>,
    },
    Unsubscribe {
        id: Option<u64>,
    },
}

impl Subscriptions {
    /// None yet, of the session of which this is known.
    pub(super) fn of(about: Arc<About>) -> Self {
        Self {
            about: Some(about),
            ..Self::default()
        }
    }

    fn count(&self) {
        if let Some(about) = &self.about {
            about.has_subscriptions(self.by_key.len());
        }
    }

    /// The client turns out to be somebody: they count among that one's.
    pub(super) fn count_as_known(&mut self, meter: &Meter) -> Result<(), TooMuch> {
        let one = |_| meter.hold_as_known(Counted::Subscriptions, 1);
        // All or none.
        let held: Vec<Held> = self.by_key.keys().map(one).collect::<Result<_, _>>()?;
        for (subscribed, held) in self.by_key.values_mut().zip(held) {
            subscribed.held.push(held);
        }
        Ok(())
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut Subscribed> {
        self.by_key.get_mut(&key)
    }

    fn of_topic(&mut self, topic: &TopicName) -> Option<(u32, &mut Subscribed)> {
        let key = *self.keys.get(topic)?;
        self.by_key
            .get_mut(&key)
            .map(|subscribed| (key, subscribed))
    }

    fn insert(&mut self, subscribed: Subscribed) -> u32 {
        self.next_key = self.next_key.wrapping_add(1);
        let topic = subscribed.subscription.topic().clone();
        self.keys.insert(topic, self.next_key);
        self.by_key.insert(self.next_key, subscribed);
        self.count();
        self.next_key
    }

    fn remove(&mut self, key: u32) -> Option<Subscribed> {
        let subscribed = self.by_key.remove(&key)?;
        self.keys.remove(subscribed.subscription.topic());
        self.count();
        Some(subscribed)
    }

    fn is_leaving(&self, key: u32) -> bool {
        let subscribed = self.by_key.get(&key);
        subscribed.is_some_and(|subscribed| subscribed.leaving.is_some())
    }

    /// Asks for the next page of a subscription.
    pub(super) fn pull(&self, key: u32) -> Asked {
        match self.by_key.get(&key) {
            Some(subscribed) if subscribed.leaving.is_none() => subscribed.subscription.pull(),
            _ => Asked::Nobody,
        }
    }
}

impl Session {
    /// Looks at the token for this topic first, where there is one: if it is refused, so is the `subscribe`, whatever may be read without it.
    pub(super) fn subscribe_with(
        &mut self,
        id: Option<u64>,
        topic: TopicName,
        from: SubscribeFrom,
        token: Option<String>,
        ctx: &mut SessionContext,
    ) {
        let added = token.map(|token| self.judge_for_topic(&topic, &token));
        match added.transpose() {
            Ok(added) => self.subscribe(id, topic, from, added, ctx),
            Err(refusal) => self.refuse_token(id, refusal, ctx),
        }
    }

    fn subscribe(
        &mut self,
        id: Option<u64>,
        topic: TopicName,
        from: SubscribeFrom,
        added: Option<Identity>,
        ctx: &mut SessionContext,
    ) {
        if let Some(inbound) = &self.inbound {
            inbound.weighs(SUBSCRIBE_WEIGHS);
        }
        if let Some((_, existing)) = self.subscriptions.of_topic(&topic) {
            if existing.leaving.is_some() {
                self.defer(&topic, Deferred::Subscribe { id, from, added }, ctx);
            } else {
                let message = format!(
                    "this session has a subscription to {topic} already; unsubscribe first"
                );
                self.send_error(ctx, id, ErrorCode::AlreadySubscribed, message);
            }
            return;
        }
        let limit = self.settings.max_subscriptions;
        if self.subscriptions.by_key.len() >= limit {
            let message =
                format!("a session has at most {limit} subscriptions; open another connection");
            self.send_error(ctx, id, ErrorCode::TooManySubscriptions, message);
            return;
        }
        // First: whoever has as many as he may opens no room.
        let held = match self.access.meter().hold(Counted::Subscriptions, 1) {
            Ok(held) => held,
            Err(too_much) => return self.refuse_command(ctx, id, too_much.into()),
        };
        if let Some(added) = added {
            self.access.add(topic.clone(), added);
            self.watch_what_was_added(ctx);
        }
        let subscription = match Subscription::new(&self.access, topic.clone(), from) {
            Ok(subscription) => subscription,
            Err(refusal) => {
                self.access.forget(&topic);
                return self.refuse_command(ctx, id, refusal);
            }
        };
        let key = self.subscriptions.insert(Subscribed {
            subscription,
            id,
            was_told: false,
            leaving: None,
            held: vec![held],
        });
        self.join(key);
    }

    fn join(&mut self, key: u32) {
        if let (Some(port), Some(subscribed)) = (&self.port, self.subscriptions.get_mut(key)) {
            let port = port.clone();
            let subscription = &mut subscribed.subscription;
            subscription.join(port, key, self.subprotocol);
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        id: Option<u64>,
        topic: &TopicName,
        ctx: &mut SessionContext,
    ) {
        let Some((_, subscribed)) = self.subscriptions.of_topic(topic) else {
            let message = format!("this session has no subscription to {topic}");
            self.send_error(ctx, id, ErrorCode::NotSubscribed, message);
            return;
        };
        if subscribed.leaving.is_some() {
            self.defer(topic, Deferred::Unsubscribe { id }, ctx);
            return;
        }
        subscribed.leaving = Some(Leaving {
            id,
            deferred: VecDeque::new(),
        });
        self.leave_if_seated(topic, ctx);
    }

    /// Keeps a command until `unsubscribed` has been said.
    fn defer(&mut self, topic: &TopicName, command: Deferred, ctx: &mut SessionContext) {
        let leaving = self.subscriptions.of_topic(topic);
        let leaving = leaving.and_then(|(_, subscribed)| subscribed.leaving.as_mut());
        match leaving.filter(|leaving| leaving.deferred.len() < MAX_DEFERRED) {
            Some(leaving) => leaving.deferred.push_back(command),
            None => {
                let (Deferred::Subscribe { id, .. } | Deferred::Unsubscribe { id }) = command;
                self.send_error(ctx, id, ErrorCode::Busy, "wait for `unsubscribed`");
            }
        }
    }

    /// Tells the room; while joining, that has to wait for the seat.
    fn leave_if_seated(&mut self, topic: &TopicName, ctx: &mut SessionContext) {
        let Some((key, subscribed)) = self.subscriptions.of_topic(topic) else {
            return;
        };
        if subscribed.leaving.is_none() || !subscribed.subscription.is_seated() {
            return;
        }
        if !subscribed.subscription.leave() {
            self.left(key, ctx);
        }
    }

    /// Says `unsubscribed`, and begins what the client asked for meanwhile.
    fn left(&mut self, key: u32, ctx: &mut SessionContext) {
        self.stop_pulling(key, ctx);
        let Some(left) = self.subscriptions.remove(key) else {
            return;
        };
        self.access.forget(left.subscription.topic());
        let Some(Leaving { id, deferred }) = left.leaving else {
            return;
        };
        let topic = left.subscription.topic();
        self.send(
            ctx,
            &ServerFrame::Unsubscribed {
                id,
                topic: topic.clone(),
            },
        );
        for command in deferred {
            match command {
                Deferred::Subscribe { id, from, added } => {
                    self.subscribe(id, topic.clone(), from, added, ctx);
                }
                Deferred::Unsubscribe { id } => self.unsubscribe(id, topic, ctx),
            }
        }
    }

    /// A page of this subscription that is still on its way will not come, or not count: the others have their turn.
    fn stop_pulling(&mut self, key: u32, ctx: &mut SessionContext) {
        self.pulls.remove(key);
        self.pull_next(ctx);
    }

    pub(super) fn room_news(&mut self, news: RoomNews, ctx: &mut SessionContext) {
        match news {
            RoomNews::Subscribed { key, seat, seating } => self.subscribed(key, seat, seating, ctx),
            RoomNews::NotSubscribed { key, code, message } => {
                self.not_subscribed(key, code, message, ctx)
            }
            RoomNews::Lagging { key, behind } => {
                self.falls_behind(key, behind, ctx);
                self.pulls.add(key);
                self.pull_next(ctx);
            }
            RoomNews::Page {
                key,
                frames,
                position,
                behind,
                live,
            } => self.page(key, frames, position, behind, live, ctx),
            RoomNews::Deleted { key, gap, position } => self.topic_deleted(key, gap, position, ctx),
            RoomNews::PageFailed { key, reason } => self.page_failed(key, &reason, ctx),
            RoomNews::Unsubscribed { key } => self.left(key, ctx),
            RoomNews::Gone { key } => self.room_gone(key, ctx),
        }
    }

    fn subscribed(&mut self, key: u32, seat: Seat, seating: Seating, ctx: &mut SessionContext) {
        let Some(subscribed) = self.subscriptions.get_mut(key) else {
            return;
        };
        subscribed.subscription.seated(seat, &seating);
        let topic = subscribed.subscription.topic().clone();
        let id = subscribed.id;
        if !std::mem::replace(&mut subscribed.was_told, true) {
            let Seating {
                cursor,
                head,
                resumed,
                ..
            } = seating;
            self.send(
                ctx,
                &ServerFrame::Subscribed {
                    id,
                    topic: topic.clone(),
                    cursor,
                    head,
                    resumed,
                },
            );
        }
        if let Some(gap) = seating.gap {
            self.send_encoded(ctx, &gap);
        }
        match seating.live {
            true => self.say_caught_up(key, ctx),
            false => {
                self.pulls.add(key);
                self.pull_next(ctx);
            }
        }
        self.leave_if_seated(&topic, ctx);
    }

    fn say_caught_up(&mut self, key: u32, ctx: &mut SessionContext) {
        let Some(Subscribed { subscription, .. }) = self.subscriptions.get_mut(key) else {
            return;
        };
        if subscription.catches_up() {
            let frame = ServerFrame::CaughtUp {
                topic: subscription.topic().clone(),
                cursor: subscription.position,
            };
            self.send(ctx, &frame);
        }
    }

    /// The client of a subscription that is live takes less than comes: tells it, unless that was said lately.
    fn falls_behind(&mut self, key: u32, behind: Option<u64>, ctx: &mut SessionContext) {
        if let Some(Subscribed { subscription, .. }) = self.subscriptions.get_mut(key)
            && subscription.falls_behind()
        {
            self.say_lagging(key, behind, ctx);
        }
    }

    /// What the client was given lies unacknowledged: tells it of every subscription that messages have come by.
    pub(super) fn all_fall_behind(&mut self, ctx: &mut SessionContext) {
        let by_key = self.subscriptions.by_key.iter_mut();
        let fed = by_key.filter_map(|(&key, one)| one.subscription.was_fed().then_some(key));
        // Of the others it is said the next time.
        for key in fed.take(MAX_TOLD).collect::<Vec<_>>() {
            // How much of it the client has not got nobody knows: it is on its way.
            self.falls_behind(key, None, ctx);
        }
    }

    fn say_lagging(&mut self, key: u32, behind: Option<u64>, ctx: &mut SessionContext) {
        if let Some(Subscribed { subscription, .. }) = self.subscriptions.get_mut(key) {
            let frame = ServerFrame::Lagging {
                topic: subscription.topic().clone(),
                cursor: subscription.position,
                behind,
            };
            self.send(ctx, &frame);
        }
    }

    fn not_subscribed(
        &mut self,
        key: u32,
        code: ErrorCode,
        message: String,
        ctx: &mut SessionContext,
    ) {
        let Some(subscribed) = self.subscriptions.get_mut(key) else {
            return;
        };
        if subscribed.was_told {
            self.room_gone(key, ctx);
            return;
        }
        let id = subscribed.id;
        self.send_error(ctx, id, code, message);
        match self.subscriptions.is_leaving(key) {
            true => self.left(key, ctx),
            false => {
                if let Some(refused) = self.subscriptions.remove(key) {
                    self.access.forget(refused.subscription.topic());
                }
            }
        }
    }

    fn page(
        &mut self,
        key: u32,
        frames: Vec<PageFrame>,
        position: u64,
        behind: Option<u64>,
        live: bool,
        ctx: &mut SessionContext,
    ) {
        self.pulls.answered(key);
        if let Some(Subscribed { subscription, .. }) = self.subscriptions.get_mut(key) {
            subscription.page_read(position);
            let is_to_be_told = !live && subscription.stays_behind();
            self.write_page(frames.into_iter().map(|page| page.frame), ctx);
            match live {
                true => self.say_caught_up(key, ctx),
                false => self.pulls.add(key),
            }
            if is_to_be_told {
                self.say_lagging(key, behind, ctx);
            }
        }
        self.pull_next(ctx);
    }

    /// Goes on in the sequence that came in the deleted one's place.
    fn topic_deleted(
        &mut self,
        key: u32,
        gap: Encoded,
        position: Cursor,
        ctx: &mut SessionContext,
    ) {
        self.pulls.answered(key);
        if let Some(subscribed) = self.subscriptions.get_mut(key) {
            subscribed.subscription.deleted(position);
            // As a page is: what comes next is asked for when the socket has taken it.
            self.write_page([gap].into_iter(), ctx);
            self.pulls.add(key);
        }
        self.pull_next(ctx);
    }

    /// Asks again, a little later each time. A page that cannot be read for a minute ends the session, so that the client learns of it.
    fn page_failed(&mut self, key: u32, reason: &str, ctx: &mut SessionContext) {
        self.pulls.answered(key);
        if let Some(Subscribed { subscription, .. }) = self.subscriptions.get_mut(key) {
            let wait = subscription.page_failed();
            if subscription.failed_pages() == WORTH_A_WORD {
                let topic = subscription.topic().as_str();
                tracing::warn!(
                    session = self.name,
                    topic,
                    reason,
                    "a page could not be read; trying again"
                );
            }
            let Some(wait) = wait else {
                self.close(ctx, CloseCode::INTERNAL, "a topic's history cannot be read");
                return;
            };
            self.pull_later(key, wait, ctx);
        }
        self.pull_next(ctx);
    }

    /// Joins again, from the position, a little later each time it fails.
    fn room_gone(&mut self, key: u32, ctx: &mut SessionContext) {
        self.stop_pulling(key, ctx);
        if self.subscriptions.is_leaving(key) {
            self.left(key, ctx);
            return;
        }
        let Some(mut subscribed) = self.subscriptions.remove(key) else {
            return;
        };
        let Some(wait) = subscribed.subscription.room_gone(subscribed.was_told) else {
            tracing::error!(session = self.name, topic = %subscribed.subscription.topic(), "the topic's room cannot be had");
            self.close(ctx, CloseCode::INTERNAL, "a topic's room cannot be had");
            return;
        };
        let key = self.subscriptions.insert(subscribed);
        ctx.run_later(wait, move |session, _| session.join(key));
    }

    /// The client has become somebody else, or may do less: subscriptions that are no longer granted end, and it is told.
    pub(super) fn end_what_is_no_longer_granted(&mut self, ctx: &mut SessionContext) {
        let topics: Vec<TopicName> = self.subscriptions.keys.keys().cloned().collect();
        for topic in topics {
            let Err(Refusal { code, message, .. }) = self.access.check_read(&topic) else {
                continue;
            };
            let Some((key, subscribed)) = self.subscriptions.of_topic(&topic) else {
                continue;
            };
            if !subscribed.was_told && subscribed.leaving.is_none() {
                // It is the answer to the `subscribe`. The seat is given up when it comes.
                let id = subscribed.id;
                self.send_error(ctx, id, code, message);
                drop(self.subscriptions.remove(key));
                self.access.forget(&topic);
                continue;
            }
            if subscribed.leaving.is_none() {
                subscribed.leaving = Some(Leaving::default());
                self.leave_if_seated(&topic, ctx);
            }
        }
    }

    pub(super) fn leave_all_rooms(&mut self) {
        self.subscriptions = Subscriptions::default();
    }
}
