//! The session: the actor that serves one WebSocket. Owns what the client has asked for and what it is owed; `inbound` reads
//! commands, `publishing` and `subscriptions` carry them out, `outbound` writes, and `socket` alone knows actix-web-actors.
//!
//! Mailbox (256 envelopes; full: the room makes the subscription lag, and it reads the log instead):
//! - [`Delivery`]: live messages, by `try_send` against a credit in bytes;
//! - [`RoomNews`], `Receipts`: what it asked its rooms for; bounded by `max_inflight`, by one page at a
//!   time and by its subscriptions;
//! - [`Goodbye`]: Hark is about to end.
//!
//! ```text
//! open ──close, violation, silence, goodbye──▶ ended
//! ```
//! A blocked socket freezes the actor: nothing here runs until the peer reads. So what must happen then (the timeout, the bound)
//! is the listener's and the rooms'.

mod inbound;
mod outbound;
mod publishing;
mod sessions;
mod socket;
mod subscriptions;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use hark_protocol::{CloseCode, ServerFrame, Subprotocol, TopicName};

use crate::connections::pages;
use crate::settings::SessionSettings;
use crate::topic::{Delivery, Pulls, Registry, RoomNews};

pub use sessions::{Leave, Present, Sessions};
pub use socket::upgrade;

use outbound::{Flow, Port};
use publishing::{Publishing, Receipts};
use socket::SessionContext;
use subscriptions::Subscriptions;

/// The actor that serves one WebSocket.
pub struct Session {
    /// For logs and `welcome`.
    name: String,
    /// Who it is, for logs.
    peer: String,
    subprotocol: Subprotocol,
    registry: Arc<Registry>,
    sessions: Arc<Sessions>,
    settings: SessionSettings,
    started: Instant,

    /// What rooms reach the session by; there from `started` on.
    port: Option<Arc<Port>>,
    /// Shared with both sides of the socket.
    flow: Rc<Flow>,
    subscriptions: Subscriptions,
    pulls: Pulls,
    publishing: Publishing,

    /// A message that comes in fragments.
    assembling: Option<inbound::Assembling>,
    bad_frames_in_a_row: u32,
    last_heard: Instant,
    /// A close frame has been written.
    ending: bool,
    /// The session's place in the list, while it lives.
    present: Option<Present>,
}

/// Order: say goodbye and close, because Hark is about to end.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Goodbye {
    /// When the client should come back.
    pub retry_after_ms: u64,
}

/// A name for a connection that stays, for logs and `welcome`.
pub fn new_name() -> String {
    format!("s{:012x}", rand::random::<u64>() >> 16)
}

/// How a session is told to go.
#[derive(Debug)]
struct Goodbyes(Recipient<Goodbye>);

impl Leave for Goodbyes {
    #[allow(clippy::disallowed_methods)] // once in a session's life
    fn leave(&self, goodbye: Goodbye) {
        self.0.do_send(goodbye);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.name)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session with the client at `peer`, that begins when its actor starts.
    pub fn new(
        peer: String,
        subprotocol: Subprotocol,
        registry: Arc<Registry>,
        sessions: Arc<Sessions>,
        settings: SessionSettings,
    ) -> Self {
        Self {
            name: new_name(),
            peer,
            subprotocol,
            registry,
            sessions,
            settings,
            started: Instant::now(),
            port: None,
            flow: Rc::default(),
            subscriptions: Subscriptions::default(),
            pulls: Pulls::default(),
            publishing: Publishing::default(),
            assembling: None,
            bad_frames_in_a_row: 0,
            last_heard: Instant::now(),
            ending: false,
            present: None,
        }
    }

    fn begin(&mut self, ctx: &mut SessionContext) {
        let port = Port::new(ctx.address(), self.flow.credit().clone());
        self.port = Some(Arc::new(port));
        let goodbyes = Goodbyes(ctx.address().recipient());
        self.present = self.sessions.enter(Arc::new(goodbyes));
        self.send(ctx, &self.settings.welcome(&self.name));
        if self.present.is_none() {
            self.close(ctx, CloseCode::RESTART, "hark is about to end");
            return;
        }
        ctx.run_interval(self.settings.heartbeat, |session, ctx| {
            session.heartbeat(ctx)
        });
        tracing::debug!(
            session = self.name,
            peer = self.peer,
            subprotocol = self.subprotocol.name(),
            "a session began"
        );
    }

    fn heartbeat(&mut self, ctx: &mut SessionContext) {
        if self.ending {
            return;
        }
        // A ping waits behind what the client has not read yet, which it may do as slowly as a page within each stall timeout; and while
        // the inbound stream is paused nobody listens.
        let pages = pages(self.flow.given_since_heard());
        let silence = self.settings.heartbeat.saturating_mul(5) / 2;
        let patience = silence.saturating_add(self.settings.stall_timeout.saturating_mul(pages));
        if self.last_heard.elapsed() > patience && !self.flow.inbound_is_paused() {
            self.close(
                ctx,
                CloseCode::SILENT,
                "nothing came for too long, not even the answer to a ping",
            );
            return;
        }
        ctx.ping(b"");
        self.publishing.let_go_of_unused_rooms();
    }

    fn end(&mut self) {
        self.present = None;
        self.leave_all_rooms();
        tracing::debug!(
            session = self.name,
            seconds = self.started.elapsed().as_secs(),
            "a session ended"
        );
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
    }
}

impl Handler<publishing::Flush> for Session {
    type Result = ();
    fn handle(&mut self, _: publishing::Flush, _: &mut SessionContext) {
        self.flush_publishes();
    }
}

impl Handler<Goodbye> for Session {
    type Result = ();
    fn handle(&mut self, goodbye: Goodbye, ctx: &mut SessionContext) {
        let reason = "restart".to_owned();
        self.send(
            ctx,
            &ServerFrame::Goodbye {
                reason,
                retry_after_ms: goodbye.retry_after_ms,
            },
        );
        self.close(ctx, CloseCode::RESTART, "hark is about to end");
    }
}

/// Topics by name; what a session holds of each.
type ByTopic<T> = HashMap<TopicName, T>;
