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
mod stall;
mod subscriptions;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use actix_web::HttpRequest;
use hark_protocol::{CloseCode, ServerFrame, Subprotocol, TopicName};

use crate::settings::SessionSettings;
use crate::topic::{Delivery, Registry, RoomNews};

pub use sessions::Sessions;
pub use socket::upgrade;
pub use stall::keep_line;

use outbound::{Flow, Port, Pulls};
use publishing::{Publishing, Receipts};
use socket::SessionContext;
use stall::Watch;
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
    watch: Arc<Watch>,
    subscriptions: Subscriptions,
    pulls: Pulls,
    publishing: Publishing,

    /// A message that comes in fragments.
    assembling: Option<inbound::Assembling>,
    bad_frames_in_a_row: u32,
    last_heard: Instant,
    /// A close frame has been written.
    ending: bool,
    /// Where the session is listed while it lives.
    listed_as: Option<usize>,
}

/// Order: say goodbye and close, because Hark is about to end.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Goodbye {
    /// When the client should come back.
    pub retry_after_ms: u64,
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
    /// A session that begins when its actor starts.
    pub fn new(
        request: &HttpRequest,
        subprotocol: Subprotocol,
        registry: Arc<Registry>,
        sessions: Arc<Sessions>,
        settings: SessionSettings,
    ) -> Self {
        let peer = request
            .peer_addr()
            .map(|peer| peer.to_string())
            .unwrap_or_default();
        let watch = Arc::new(Watch::new(settings.stall_timeout, request.conn_data()));
        let name = format!("s{:012x}", rand::random::<u64>() >> 16);
        Self {
            name,
            peer,
            subprotocol,
            registry,
            sessions,
            settings,
            started: Instant::now(),
            port: None,
            flow: Rc::default(),
            watch,
            subscriptions: Subscriptions::default(),
            pulls: Pulls::default(),
            publishing: Publishing::default(),
            assembling: None,
            bad_frames_in_a_row: 0,
            last_heard: Instant::now(),
            ending: false,
            listed_as: None,
        }
    }

    fn begin(&mut self, ctx: &mut SessionContext) {
        let port = Port::new(ctx.address(), self.flow.credit().clone());
        self.port = Some(Arc::new(port));
        self.listed_as = self
            .sessions
            .enter(ctx.address().recipient(), self.watch.clone());
        self.send(
            ctx,
            &ServerFrame::Welcome {
                session: self.name.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                heartbeat_ms: self.settings.heartbeat.as_millis() as u64,
                max_message_bytes: self.settings.max_message_bytes as u64,
                max_inflight: self.settings.max_inflight as u64,
            },
        );
        if self.listed_as.is_none() {
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
        let pages = stall::pages(self.flow.given_since_heard());
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
        if let Some(listed_as) = self.listed_as.take() {
            self.sessions.leave(listed_as);
        }
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
    fn handle(&mut self, receipts: Receipts, ctx: &mut SessionContext) {
        self.take_receipts(receipts, ctx);
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
