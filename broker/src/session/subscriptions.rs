//! A session's subscriptions: joining, leaving, following rooms that die and come back. Owns each one's position; pages and
//! live messages are written by `outbound`.
//!
//! ```text
//! joining ──subscribed──▶ joined ──unsubscribe──▶ leaving ──unsubscribed──▶ (gone)
//!    ▲  ◀── the room is gone: join again from the position ──┘
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use hark_protocol::{
    CloseCode, Cursor, Encoded, Epoch, ErrorCode, ServerFrame, SubscribeFrom, TopicName,
};

use super::socket::SessionContext;
use super::{ByTopic, Session};
use crate::topic::{
    PULL_RETRY, PageFrame, Pull, RoomHandle, RoomNews, Seat, Seating, Subscribe, Unsubscribe,
    join_again_after, pull_again_after,
};

/// So many failures in a row are more than a full queue.
const WORTH_A_WORD: u32 = 5;
/// Commands for a topic that may wait for its `unsubscribed`.
const MAX_DEFERRED: usize = 16;

/// A session's subscriptions, by the session's own key. A key stands for one joining: a subscription that joins again gets a new
/// one, so that pages on their way to the earlier life cannot be taken for the new one's.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_key: HashMap<u32, Subscription>,
    keys: ByTopic<u32>,
    next_key: u32,
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    topic: TopicName,
    room: Arc<RoomHandle>,
    /// Where it sits; `None` while joining.
    seat: Option<Seat>,
    /// Where it wants to start, while joining.
    from: SubscribeFrom,
    /// What the client has: meaningful once `subscribed` was said.
    pub(super) position: Cursor,
    id: Option<u64>,
    said_subscribed: bool,
    said_caught_up: bool,
    /// Joinings that failed in a row.
    attempts: u32,
    /// Pages that could not be read, in a row.
    page_failures: u32,
    leaving: Option<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    id: Option<u64>,
    /// What the client asked for meanwhile; begins when `unsubscribed` is said.
    deferred: VecDeque<Deferred>,
}

#[derive(Debug)]
enum Deferred {
    Subscribe {
        id: Option<u64>,
        from: SubscribeFrom,
    },
    Unsubscribe {
        id: Option<u64>,
    },
}

impl Subscriptions {
    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut Subscription> {
        self.by_key.get_mut(&key)
    }

    fn of_topic(&mut self, topic: &TopicName) -> Option<(u32, &mut Subscription)> {
        let key = *self.keys.get(topic)?;
        self.by_key
            .get_mut(&key)
            .map(|subscription| (key, subscription))
    }

    fn insert(&mut self, subscription: Subscription) -> u32 {
        self.next_key = self.next_key.wrapping_add(1);
        self.keys.insert(subscription.topic.clone(), self.next_key);
        self.by_key.insert(self.next_key, subscription);
        self.next_key
    }

    fn remove(&mut self, key: u32) -> Option<Subscription> {
        let subscription = self.by_key.remove(&key)?;
        self.keys.remove(&subscription.topic);
        Some(subscription)
    }
}

/// What came of asking for a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The room or the reader pool will answer.
    Room,
    /// The room's mailbox is full.
    Full,
    /// There is no seat, or its room has gone and will say so.
    Nobody,
}

impl Subscription {
    /// Asks for the page after the position.
    pub(super) fn pull(&mut self) -> Asked {
        let Some(seat) = self.seat.filter(|_| self.leaving.is_none()) else {
            return Asked::Nobody;
        };
        match self.room.order(Pull {
            seat,
            position: self.position,
        }) {
            true => Asked::Room,
            false if self.room.is_connected() => Asked::Full,
            false => Asked::Nobody,
        }
    }
}

impl Session {
    pub(super) fn subscribe(
        &mut self,
        id: Option<u64>,
        topic: TopicName,
        from: SubscribeFrom,
        ctx: &mut SessionContext,
    ) {
        if let Some((_, existing)) = self.subscriptions.of_topic(&topic) {
            if existing.leaving.is_some() {
                self.defer(&topic, Deferred::Subscribe { id, from }, ctx);
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
        let key = self.subscriptions.insert(Subscription {
            room: self.registry.room(&topic),
            topic,
            seat: None,
            from,
            position: Cursor {
                epoch: Epoch::new(1),
                offset: 0,
            },
            id,
            said_subscribed: false,
            said_caught_up: false,
            attempts: 0,
            page_failures: 0,
            leaving: None,
        });
        self.join(key);
    }

    fn join(&mut self, key: u32) {
        let (Some(port), Some(subscription)) = (&self.port, self.subscriptions.get_mut(key)) else {
            return;
        };
        // Where the order cannot be sent, its drop guard says that the room is gone.
        subscription.room.order(Subscribe::new(
            port.clone(),
            key,
            subscription.from,
            self.subprotocol,
        ));
    }

    pub(super) fn unsubscribe(
        &mut self,
        id: Option<u64>,
        topic: &TopicName,
        ctx: &mut SessionContext,
    ) {
        let Some((_, subscription)) = self.subscriptions.of_topic(topic) else {
            let message = format!("this session has no subscription to {topic}");
            self.send_error(ctx, id, ErrorCode::NotSubscribed, message);
            return;
        };
        if subscription.leaving.is_some() {
            self.defer(topic, Deferred::Unsubscribe { id }, ctx);
            return;
        }
        subscription.leaving = Some(Leaving {
            id,
            deferred: VecDeque::new(),
        });
        self.leave_if_seated(topic, ctx);
    }

    /// Keeps a command until `unsubscribed` has been said.
    fn defer(&mut self, topic: &TopicName, command: Deferred, ctx: &mut SessionContext) {
        let leaving = self.subscriptions.of_topic(topic);
        let leaving = leaving.and_then(|(_, subscription)| subscription.leaving.as_mut());
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
        let Some((key, subscription)) = self.subscriptions.of_topic(topic) else {
            return;
        };
        if subscription.leaving.is_none() {
            return;
        }
        let Some(seat) = subscription.seat else {
            return;
        };
        if !subscription.room.order(Unsubscribe { seat }) {
            match subscription.room.is_connected() {
                // Its mailbox is full: ask again in a moment.
                true => {
                    let topic = topic.clone();
                    ctx.run_later(PULL_RETRY, move |session, ctx| {
                        session.leave_if_seated(&topic, ctx)
                    });
                }
                false => self.left(key, ctx),
            }
        }
    }

    /// Says `unsubscribed`, and begins what the client asked for meanwhile.
    fn left(&mut self, key: u32, ctx: &mut SessionContext) {
        self.stop_pulling(key, ctx);
        let Some(left) = self.subscriptions.remove(key) else {
            return;
        };
        let Some(Leaving { id, deferred }) = left.leaving else {
            return;
        };
        self.send(
            ctx,
            &ServerFrame::Unsubscribed {
                id,
                topic: left.topic.clone(),
            },
        );
        for command in deferred {
            match command {
                Deferred::Subscribe { id, from } => {
                    self.subscribe(id, left.topic.clone(), from, ctx)
                }
                Deferred::Unsubscribe { id } => self.unsubscribe(id, &left.topic, ctx),
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
            RoomNews::Subscribed { key, seating } => self.subscribed(key, seating, ctx),
            RoomNews::NotSubscribed { key, code, message } => {
                self.not_subscribed(key, code, message, ctx)
            }
            RoomNews::Lagging { key } => {
                self.pulls.add(key);
                self.pull_next(ctx);
            }
            RoomNews::Page {
                key,
                frames,
                position,
                live,
            } => self.page(key, frames, position, live, ctx),
            RoomNews::Deleted { key, gap, position } => self.topic_deleted(key, gap, position, ctx),
            RoomNews::PageFailed { key, reason } => self.page_failed(key, &reason, ctx),
            RoomNews::Unsubscribed { key } => self.left(key, ctx),
            RoomNews::Gone { key } => self.room_gone(key, ctx),
        }
    }

    fn subscribed(&mut self, key: u32, seating: Seating, ctx: &mut SessionContext) {
        let Some(subscription) = self.subscriptions.get_mut(key) else {
            return;
        };
        subscription.seat = Some(seating.seat);
        subscription.position = seating.position;
        subscription.attempts = 0;
        let topic = subscription.topic.clone();
        let id = subscription.id;
        if !std::mem::replace(&mut subscription.said_subscribed, true) {
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
            self.send_encoded(ctx, gap);
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
        let Some(subscription) = self.subscriptions.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut subscription.said_caught_up, true) {
            let frame = ServerFrame::CaughtUp {
                topic: subscription.topic.clone(),
                cursor: subscription.position,
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
        let Some(subscription) = self.subscriptions.get_mut(key) else {
            return;
        };
        if subscription.said_subscribed {
            self.room_gone(key, ctx);
            return;
        }
        let id = subscription.id;
        self.send_error(ctx, id, code, message);
        match subscription_is_leaving(self.subscriptions.get_mut(key)) {
            true => self.left(key, ctx),
            false => drop(self.subscriptions.remove(key)),
        }
    }

    fn page(
        &mut self,
        key: u32,
        frames: Vec<PageFrame>,
        position: u64,
        live: bool,
        ctx: &mut SessionContext,
    ) {
        self.pulls.answered(key);
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.position.offset = position;
            subscription.page_failures = 0;
            self.write_page(frames.into_iter().map(|page| page.frame), ctx);
            match live {
                true => self.say_caught_up(key, ctx),
                false => self.pulls.add(key),
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
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.position = position;
            subscription.page_failures = 0;
            // As a page is: what comes next is asked for when the socket has taken it.
            self.write_page([gap].into_iter(), ctx);
            self.pulls.add(key);
        }
        self.pull_next(ctx);
    }

    /// Asks again, a little later each time. A page that cannot be read for a minute ends the session, so that the client learns of it.
    fn page_failed(&mut self, key: u32, reason: &str, ctx: &mut SessionContext) {
        self.pulls.answered(key);
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.page_failures += 1;
            let failures = subscription.page_failures;
            if failures == WORTH_A_WORD {
                let topic = subscription.topic.as_str();
                tracing::warn!(
                    session = self.name,
                    topic,
                    reason,
                    "a page could not be read; trying again"
                );
            }
            let Some(wait) = pull_again_after(failures) else {
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
        if subscription_is_leaving(self.subscriptions.get_mut(key)) {
            self.left(key, ctx);
            return;
        }
        let Some(mut subscription) = self.subscriptions.remove(key) else {
            return;
        };
        subscription.attempts += 1;
        let Some(wait) = join_again_after(subscription.attempts) else {
            tracing::error!(session = self.name, topic = %subscription.topic, "the topic's room cannot be had");
            self.close(ctx, CloseCode::INTERNAL, "a topic's room cannot be had");
            return;
        };
        subscription.seat = None;
        if subscription.said_subscribed {
            subscription.from = SubscribeFrom::After(subscription.position);
        }
        let key = self.subscriptions.insert(subscription);
        ctx.run_later(wait, move |session, _| {
            let registry = session.registry.clone();
            if let Some(subscription) = session.subscriptions.get_mut(key) {
                subscription.room = registry.room(&subscription.topic);
            }
            session.join(key);
        });
    }

    pub(super) fn leave_all_rooms(&mut self) {
        for (_, subscription) in self.subscriptions.by_key.drain() {
            if let Some(seat) = subscription.seat {
                // Where it cannot be told, the room finds out by itself that nobody is there.
                subscription.room.order(Unsubscribe { seat });
            }
        }
    }
}

fn subscription_is_leaving(subscription: Option<&mut Subscription>) -> bool {
    subscription.is_some_and(|subscription| subscription.leaving.is_some())
}
