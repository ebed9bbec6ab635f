//! The session: the actor that serves one WebSocket. Owns what the client has asked for and what it is owed; `frames` cuts what comes in,
//! `inbound` reads commands, `limiting` says how many, `publishing` and `subscriptions` carry them out, `outbound` writes, `ending` closes, and `socket` alone knows
//! actix-web-actors.
//!
//! Mailbox (256 envelopes; full: the room makes the subscription lag, and it reads the log instead):
//! - [`Delivery`]: live messages, by `try_send` against a credit in bytes;
//! - [`RoomNews`], `Receipts`: what it asked its rooms for; bounded by `max_inflight`, by one page at a
//!   time and by its subscriptions;
//! - [`Goodbye`]: it is to go; `Unacknowledged`: the client does not take what it was given; `Reconsider`: what the client may do has changed.
//!
//! ```text
//! open ──close, silence, goodbye──▶ answering ──all answered, or half a second──▶ ended
//!   └──────────────────────────violation, the connection is gone───────────────────▲
//! ```
//! A blocked socket freezes the actor: nothing here runs until the peer reads. So what must happen then (the timeout, the bound)
//! is the listener's and the rooms'.

mod ending;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod identifying;
mod inbound;
mod limiting;
mod outbound;
mod publishing;
mod sessions;
mod socket;
mod subscriptions;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_http::ws::OpCode;
use hark_protocol::{CloseCode, ServerFrame, Subprotocol, TopicName};

use crate::connections::{Connection, pages};
use crate::identity::Checkpoint;
use crate::limits::Held;
use crate::patience::{Judge, Verdict};
use crate::settings::SessionSettings;
use crate::topic::{Access, Delivery, Pulls, RoomNews};

pub use sessions::{About, Leave, Present, Sessions, Transport, Why};
pub use socket::upgrade;

use ending::Ending;
use frames::Inbound;
use identifying::Identifying;
use limiting::Limiting;
use outbound::{Flow, Port};
use publishing::{Publishing, Receipts};
use socket::SessionContext;
use subscriptions::Subscriptions;

/// The actor that serves one WebSocket.
pub struct Session {
    /// For logs and `welcome`.
    name: String,
    /// What others know of it.
    about: Arc<About>,
    /// A `Reconsider` is on its way.
    doubted: Arc<AtomicBool>,
    subprotocol: Subprotocol,
    access: Access,
    checkpoint: Checkpoint,
    identifying: Identifying,
    limiting: Limiting,
    sessions: Arc<Sessions>,
    settings: SessionSettings,
    started: Instant,
    /// The connection that it is on.
    connection: Option<Arc<Connection>>,

    /// What rooms reach the session by; there from `started` on.
    port: Option<Arc<Port>>,
    /// Shared with both sides of the socket.
    flow: Rc<Flow>,
    /// What comes in; there once it is upgraded.
    inbound: Option<Inbound>,
    subscriptions: Subscriptions,
    pulls: Pulls,
    publishing: Publishing,

    bad_frames_in_a_row: u32,
    silence: Judge,
    ending: Ending,
    /// The session's place in the list, while it lives.
    present: Option<Present>,
}

/// Order: say goodbye and close.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Goodbye {
    /// Because of this.
    pub why: Why,
    /// When the client should come back.
    pub retry_after_ms: u64,
    /// How long what it has published may take to be answered before it is ended.
    pub answers_within: Duration,
}

/// A name for a connection that stays, for logs and `welcome`.
fn new_name() -> String {
    format!("s{:012x}", rand::random::<u64>() >> 16)
}

/// News: what the client was given has lain unacknowledged for too long.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
struct Unacknowledged;

/// News: what the client may do has changed, or it is nobody any more.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
struct Reconsider;

/// How a session is told to go, that its client lags, and that something has changed about it.
#[derive(Debug)]
struct Goodbyes {
    goodbye: Recipient<Goodbye>,
    has_gone: AtomicBool,
    unacknowledged: Recipient<Unacknowledged>,
    reconsider: Recipient<Reconsider>,
    doubted: Arc<AtomicBool>,
}

impl Leave for Goodbyes {
    #[allow(clippy::disallowed_methods)] // once in a session's life
    fn leave(&self, goodbye: Goodbye) {
        if !self.has_gone.swap(true, Ordering::AcqRel) {
            self.goodbye.do_send(goodbye);
        }
    }

    #[allow(clippy::disallowed_methods)] // once until it is looked at
    fn reconsider(&self) {
        if !self.doubted.swap(true, Ordering::AcqRel) {
            self.reconsider.do_send(Reconsider);
        }
    }

    fn lag(&self) {
        // A session whose mailbox is full hears it from its rooms.
        self.unacknowledged.try_send(Unacknowledged).ok();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.name)
            .field("peer", &self.about.address)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session of which this is known; it begins when its actor starts.
    pub fn new(
        about: About,
        subprotocol: Subprotocol,
        access: Access,
        checkpoint: Checkpoint,
        sessions: Arc<Sessions>,
        settings: SessionSettings,
    ) -> Self {
        let about = Arc::new(about);
        Self {
            name: about.id.clone(),
            connection: about.connection.clone(),
            subscriptions: Subscriptions::of(about.clone()),
            about,
            doubted: Arc::default(),
            subprotocol,
            access,
            checkpoint,
            identifying: Identifying::default(),
            limiting: Limiting::default(),
            sessions,
            started: Instant::now(),
            port: None,
            flow: Rc::default(),
            inbound: None,
            pulls: Pulls::default(),
            publishing: Publishing::default(),
            bad_frames_in_a_row: 0,
            silence: Judge::new(settings.heartbeat, Instant::now()),
            ending: Ending::default(),
            present: None,
            settings,
        }
    }

    /// The same, counted as long as it is there.
    #[must_use]
    pub fn counted(mut self, held: Held) -> Self {
        self.limiting.holds(held);
        self
    }

    fn begin(&mut self, ctx: &mut SessionContext) {
        let port = Port::new(ctx.address(), self.flow.credit().clone());
        self.port = Some(Arc::new(port));
        let goodbyes = Arc::new(Goodbyes {
            goodbye: ctx.address().recipient(),
            has_gone: AtomicBool::new(false),
            unacknowledged: ctx.address().recipient(),
            reconsider: ctx.address().recipient(),
            doubted: self.doubted.clone(),
        });
        if let Some(connection) = &self.connection {
            let tell = goodbyes.clone();
            connection.when_behind(move || tell.lag());
        }
        self.present = self.sessions.enter(goodbyes, self.about.clone());
        self.send(ctx, &self.settings.welcome(&self.name));
        if self.present.is_none() {
            self.close_at_once(ctx, CloseCode::RESTART, "hark is about to end");
            return;
        }
        self.silence = Judge::new(self.settings.heartbeat, Instant::now());
        self.beat_later(ctx);
        self.begin_identified(ctx);
        // Something may have changed before it was in the list.
        self.reconsider(ctx);
        tracing::debug!(
            session = self.name,
            peer = self.about.address,
            subprotocol = self.subprotocol.name(),
            "a session began"
        );
    }

    /// Each beat from the one before: after a sleep there is one, and not all that were missed.
    fn beat_later(&self, ctx: &mut SessionContext) {
        ctx.run_later(self.settings.heartbeat, |session, ctx| {
            session.heartbeat(ctx);
            session.beat_later(ctx);
        });
    }

    fn heartbeat(&mut self, ctx: &mut SessionContext) {
        if self.is_ending() {
            return;
        }
        // A ping waits behind what the client has not read yet, which it may do as slowly as a page within each stall timeout; and while
        // the inbound stream is paused nobody listens.
        let pages = pages(self.flow.given_since_heard());
        let silence = self.settings.heartbeat.saturating_mul(5) / 2;
        let patience = silence.saturating_add(self.settings.stall_timeout.saturating_mul(pages));
        let (now, heard) = (Instant::now(), self.flow.last_heard());
        let is_overdue =
            now.saturating_duration_since(heard) > patience && !self.flow.inbound_is_paused();
        match self.silence.look(now, heard, is_overdue) {
            Verdict::Overdue => self.close(
                ctx,
                CloseCode::SILENT,
                "nothing came for too long, not even the answer to a ping",
            ),
            Verdict::InTime | Verdict::AskFirst => {
                self.flow.write(OpCode::Ping, b"");
                self.publishing.let_go_of_unused_rooms();
            }
        }
    }
}

impl Handler<Delivery> for Session {
    type Result = ();
    fn handle(&mut self, delivery: Delivery, ctx: &mut SessionContext) {
        self.deliver(&delivery, ctx);
    }
}

impl Handler<RoomNews> for Session {
    type Result = ();
    fn handle(&mut self, news: RoomNews, ctx: &mut SessionContext) {
        self.room_news(news, ctx);
    }
}

impl Handler<Receipts> for Session {
    type Result = ();
    fn handle(&mut self, _: Receipts, ctx: &mut SessionContext) {
        self.take_receipts(ctx);
        self.close_if_answered(ctx);
    }
}

impl Handler<publishing::Flush> for Session {
    type Result = ();
    fn handle(&mut self, _: publishing::Flush, _: &mut SessionContext) {
        self.flush_publishes();
    }
}

impl Handler<Unacknowledged> for Session {
    type Result = ();
    fn handle(&mut self, _: Unacknowledged, ctx: &mut SessionContext) {
        self.all_fall_behind(ctx);
    }
}

impl Handler<Reconsider> for Session {
    type Result = ();
    fn handle(&mut self, _: Reconsider, ctx: &mut SessionContext) {
        self.reconsider(ctx);
    }
}

impl Handler<Goodbye> for Session {
    type Result = ();
    fn handle(&mut self, goodbye: Goodbye, ctx: &mut SessionContext) {
        if self.is_ending() {
            return;
        }
        if let Some(reason) = goodbye.why.goodbye() {
            self.send(
                ctx,
                &ServerFrame::Goodbye {
                    reason: reason.to_owned(),
                    retry_after_ms: goodbye.retry_after_ms,
                },
            );
        }
        if goodbye.why != Why::Restart {
            // A new token may have given it more time since it was told.
            self.about.has_to_go();
        }
        let (code, reason) = goodbye.why.close();
        self.close_within(ctx, code, reason, goodbye.answers_within);
    }
}

/// Topics by name; what a session holds of each.
type ByTopic<T> = HashMap<TopicName, T>;
