//! The room: the actor that serves one topic. Owns the topic's sequence while it is open: who subscribes, what is staged, what
//! was committed last. Knows nothing of WebSockets (subscribers are [`Subscriber`]s) and nothing of how records are kept.
//!
//! Mailbox, all of it answered, even if the room dies with it unread (`subscriber`, `publish`: answers are sent by drop guards):
//! - [`Publish`], [`Subscribe`], [`Unsubscribe`], [`Pull`], [`History`], [`Delete`]: orders, each in the file of its name;
//! - `AppendAnswered`, `DeleteAnswered`, `TimeFound`, `News`: what the log tells; `Flush`, `IdleCheck`: notes to itself;
//! - `Retire`: what the registry says where too many rooms are idle.
//!
//! ```text
//! opening ──opened──▶ serving ──idle, alone, nothing staged──▶ retired
//!    │ └──cannot be read──▶ unopened ──after a while──▶ gone
//!    └──log refuses──▶ gone ◀──panic── serving
//! ```
//! While opening, the mailbox waits. *Gone* tells every subscriber, who joins again from its own position; *retired* is
//! only reached while nobody holds the room's handle, so there is nobody to tell.

mod access;
mod delete;
mod fan_out;
mod history;
pub mod names;
mod openings;
mod producers;
mod publish;
mod registry;
mod retire;
mod subscribe;
mod subscriber;
mod subscription;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
mod unopened;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use hark_protocol::{Cursor, Epoch, TopicName};
use slab::Slab;

use crate::message_log::{self, Lineage, LogError, LogNews, MessageLog, NewsSink, OpenedTopic};
use crate::settings::RoomSettings;

pub use access::{Access, MayPublish, MayRead};
pub use delete::{Delete, Deleted};
pub use history::{History, HistoryPage};
pub use publish::{Outcome, Publish, PublishItem, Publisher, Receipt, Refusal};
pub use registry::Registry;
pub use subscribe::{Pull, Subscribe, Unsubscribe};
pub use subscriber::{
    Credit, Delivery, PageFrame, Refused, RoomNews, Seat, SeatNumber, Seating, Subscriber,
};
pub use subscription::{Asked, Pulls, Subscription, join_again_after};
pub use tail::Batch;

use delete::Deletes;
use producers::Producers;
use publish::{Appending, Copies, Staged};
use registry::{Opening, RoomHandle};
use subscribe::{Seated, TimeFound};
use tail::Tail;
use unopened::Unopened;

/// Envelopes that may wait for a room. Full: publishes are answered `busy`, subscriptions try again a little later.
const ROOM_MAILBOX: usize = 4096;

/// Where orders wait for a room.
type Mailbox = actix::dev::channel::AddressReceiver<Room>;

/// The actor that serves one topic.
pub struct Room {
    topic: TopicName,
    /// Tells this room from an earlier one of the same topic.
    id: u64,
    /// The one that everybody shares: by it a seat is given up.
    address: Arc<Addr<Self>>,
    registry: Arc<Registry>,
    /// There while it is being opened.
    opening: Option<Opening>,
    log: Arc<dyn MessageLog>,
    settings: RoomSettings,

    /// Why the log did not open the topic, if so.
    unopened: Option<Unopened>,
    generation: u64,
    place: Place,
    tail: Tail,
    /// Subscribers, each at a place that is its own until it leaves.
    seats: Slab<Seated>,
    /// Tells a seat's holder from the one before.
    next_seat_generation: u64,
    fan_out: fan_out::Progress,

    producers: Producers,
    /// What arrived while an append is in flight: the next batch. Bounded by the budget of staged bytes and by `max_inflight` of
    /// each session; full is answered `busy` where the bytes are taken.
    staged: VecDeque<Staged>,
    appending: Option<Appending>,
    copies: Copies,
    deletes: Deletes,
    envelopes: Slab<publish::Envelope>,
    flush_noted: bool,
    /// A topic that held nothing was let begin.
    has_begun: bool,

    last_used: Instant,
    retired: bool,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room")
            .field("topic", &self.topic)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Where a topic stands.
#[derive(Debug, Clone)]
struct Place {
    epoch: Epoch,
    lineage: Vec<Lineage>,
    /// Earlier sequences that were deleted.
    deleted: Vec<Epoch>,
    /// The oldest offset that is kept; `head + 1` if none is.
    first: u64,
    /// The newest committed offset.
    head: u64,
}

impl Place {
    /// Takes from what the log found of a topic what says where it stands.
    fn take(opened: &mut OpenedTopic) -> Self {
        Self {
            epoch: opened.epoch,
            lineage: std::mem::take(&mut opened.lineage),
            deleted: std::mem::take(&mut opened.deleted),
            first: opened.first,
            head: opened.head,
        }
    }

    fn cursor(&self, offset: u64) -> Cursor {
        Cursor {
            epoch: self.epoch,
            offset,
        }
    }

    /// How many messages are kept behind `position`, where the log knows.
    fn behind(&self, log: &dyn MessageLog, topic: &TopicName, position: u64) -> Option<u64> {
        log.count(topic, position.max(self.first - 1), self.head)
    }
}

impl Room {
    /// A room's mailbox, and the address by which everybody sends to it.
    fn mailbox() -> (Arc<Addr<Self>>, Mailbox) {
        // Not `start_in_arbiter`: its mailbox has room for 16 until the thread gets round to saying otherwise.
        let (address, mailbox) = actix::dev::channel::channel(ROOM_MAILBOX);
        (Arc::new(Addr::new(address)), mailbox)
    }

    /// Starts the room on `arbiter`. What is sent to it waits until the log has opened the topic. `false`: the thread has ended.
    fn start_on(
        arbiter: &ArbiterHandle,
        topic: TopicName,
        id: u64,
        registry: Arc<Registry>,
        (address, mailbox): (Arc<Addr<Self>>, Mailbox),
    ) -> bool {
        arbiter.spawn_fn(move || {
            let told = address.clone();
            // One at a time: no round begins before all have answered.
            #[allow(clippy::disallowed_methods)]
            let tell = Arc::new(move |forget| told.do_send(forget));
            let producers = Producers::new(registry.settings().remembered.clone(), tell);
            let opening = Some(Opening::of(&registry));
            Context::with_receiver(mailbox).run(Self {
                id,
                address,
                opening,
                log: registry.log_of(&topic),
                settings: registry.settings().clone(),
                tail: Tail::new(registry.settings().tail_budget.clone()),
                unopened: None,
                generation: 0,
                place: Place {
                    epoch: Epoch::new(1),
                    lineage: Vec::new(),
                    deleted: Vec::new(),
                    first: 1,
                    head: 0,
                },
                seats: Slab::new(),
                next_seat_generation: 0,
                fan_out: fan_out::Progress::default(),
                producers,
                staged: VecDeque::new(),
                appending: None,
                copies: Copies::new(),
                deletes: Deletes::default(),
                envelopes: Slab::new(),
                flush_noted: false,
                has_begun: false,
                last_used: Instant::now(),
                retired: false,
                registry,
                topic,
            });
        })
    }

    fn opened(&mut self, opened: Result<OpenedTopic, LogError>, ctx: &mut Context<Self>) {
        self.opening = None;
        match opened {
            Ok(mut opened) => {
                self.generation = opened.generation;
                self.tail.reset(opened.head);
                self.place = Place::take(&mut opened);
                self.remember(opened);
                self.note_idle_check(ctx);
            }
            Err(error @ (LogError::Unreadable(_) | LogError::Closed(_))) => {
                self.stay_unopened(error, ctx);
            }
            // Said to whoever waits for the room; in the log, a crowd that is told to come back would drown all else.
            Err(LogError::Busy) => ctx.stop(),
            Err(error) => {
                tracing::warn!(topic = %self.topic, %error, "the log did not open a topic; its room ends");
                ctx.stop();
            }
        }
    }

    /// Whether readers are told who published what they read. Asked each time, and before the tail is used: it may be set otherwise while
    /// the room is open, and then what the tail holds is void. A live subscriber to whom some of it is still owed reads that from the log.
    fn tells_identity(&mut self) -> bool {
        let tells_identity = self.settings.authority.tells_identity(&self.topic);
        self.tail.tell_identity(tells_identity, self.place.head);
        tells_identity
    }

    /// Begins with what the log found of producers and keys.
    fn remember(&mut self, opened: OpenedTopic) {
        let OpenedTopic {
            producers,
            keys,
            lately,
            ..
        } = opened;
        let clock = &self.settings.clock;
        self.producers.begin(producers, keys, lately, clock);
    }
}

impl Actor for Room {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (tell, opened) = tokio::sync::oneshot::channel();
        let news: Recipient<News> = ctx.address().recipient();
        let news: NewsSink = Arc::new(move |fact| tell_room(&news, News(fact)));
        let done: message_log::Done<_> = Box::new(move |opened| {
            // A room that is gone no longer cares.
            drop(tell.send(opened));
        });
        self.log.open(self.topic.clone(), news, done);
        let unanswered = || LogError::Unreadable("the log ended without an answer".to_owned());
        ctx.wait(opened.into_actor(self).map(move |opened, room, ctx| {
            room.opened(opened.unwrap_or_else(|_| Err(unanswered())), ctx);
        }));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.log.close(self.topic.clone(), self.generation);
    }
}

/// The drop guard: a room that ends in any other way than by retiring says so. Publishes are answered by their envelopes.
impl Drop for Room {
    fn drop(&mut self) {
        if self.retired {
            return;
        }
        self.registry.forget(&self.topic, self.id);
        if std::thread::panicking() {
            tracing::error!(topic = %self.topic, "a room panicked; its subscribers join again");
        }
        for (_, seated) in &self.seats {
            seated.subscriber.tell(RoomNews::Gone { key: seated.key });
        }
    }
}

/// What the log tells without having been asked.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct News(LogNews);

/// Sends a room what it asked the log for, or what happens once per change: bounded by construction, so the mailbox's bound
/// does not apply.
#[allow(clippy::disallowed_methods)]
fn tell_room<M>(room: &Recipient<M>, fact: M)
where
    M: Message<Result = ()> + Send + 'static,
{
    room.do_send(fact);
}

impl Handler<Publish> for Room {
    type Result = ();
    fn handle(&mut self, order: Publish, ctx: &mut Self::Context) {
        match &self.unopened {
            Some(unopened) => unopened.publish(order),
            None => self.publish(order, ctx),
        }
    }
}

impl Handler<Subscribe> for Room {
    type Result = ();
    fn handle(&mut self, order: Subscribe, ctx: &mut Self::Context) {
        match &self.unopened {
            Some(unopened) => unopened.subscribe(order),
            None => self.subscribe(order, ctx),
        }
    }
}

impl Handler<Unsubscribe> for Room {
    type Result = ();
    fn handle(&mut self, order: Unsubscribe, _: &mut Self::Context) {
        self.unsubscribe(order);
    }
}

impl Handler<Pull> for Room {
    type Result = ();
    fn handle(&mut self, order: Pull, _: &mut Self::Context) {
        self.pull(order);
    }
}

impl Handler<History> for Room {
    type Result = ();
    fn handle(&mut self, order: History, ctx: &mut Self::Context) {
        match &self.unopened {
            Some(unopened) => unopened.history(order),
            None => self.history(order, ctx),
        }
    }
}

impl Handler<Delete> for Room {
    type Result = ();
    fn handle(&mut self, order: Delete, ctx: &mut Self::Context) {
        match &self.unopened {
            Some(unopened) => unopened.delete(order),
            None => self.delete(order, ctx),
        }
    }
}

impl Handler<publish::Flush> for Room {
    type Result = ();
    fn handle(&mut self, _: publish::Flush, ctx: &mut Self::Context) {
        self.flush_noted = false;
        self.append_staged(ctx);
    }
}

impl Handler<publish::AppendAnswered> for Room {
    type Result = ();
    fn handle(&mut self, answer: publish::AppendAnswered, ctx: &mut Self::Context) {
        self.append_answered(answer, ctx);
    }
}

impl Handler<delete::DeleteAnswered> for Room {
    type Result = ();
    fn handle(&mut self, answer: delete::DeleteAnswered, ctx: &mut Self::Context) {
        self.delete_answered(answer, ctx);
    }
}

impl Handler<TimeFound> for Room {
    type Result = ();
    fn handle(&mut self, found: TimeFound, ctx: &mut Self::Context) {
        self.time_found(found, ctx);
    }
}

impl Handler<News> for Room {
    type Result = ();
    fn handle(&mut self, News(fact): News, _: &mut Self::Context) {
        match fact {
            // News and answers come in order, so this is never about a sequence that a delete has ended since.
            LogNews::Trimmed { first } => self.place.first = self.place.first.max(first),
            LogNews::AppendedElsewhere(_) => {
                tracing::error!(topic = %self.topic, "an engine that is not shared told of another node's records");
            }
        }
    }
}
