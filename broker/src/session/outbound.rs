//! What goes out: frames, pages, and the pace of both. Owns the credit rooms deliver against, when the next page is asked for, and the
//! bytes that the socket has not been given yet.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_http::ws::{OpCode, Parser};
use bytes::{Bytes, BytesMut};
use hark_protocol::{CloseCode, Encoded, ErrorCode, ServerFrame, codec};

use super::Session;
use super::publishing::Receipts;
use super::socket::SessionContext;
use crate::topic::{Asked, Credit, Delivery, Publisher, Receipt, Refused, RoomNews, Subscriber};

/// What both sides of the socket share with the session.
#[derive(Debug)]
pub(super) struct Flow {
    credit: Arc<Credit>,
    /// Frames that the socket has not been given yet. They are written in the session's turns, and it has none before all are given.
    written: RefCell<BytesMut>,
    /// Bytes put into the body since it was last asked for more.
    owed_bytes: Cell<i64>,
    last_heard: Cell<Instant>,
    /// Bytes the socket was given since the client was last heard of: so much may lie before a ping.
    given_since_heard: Cell<usize>,
    /// What became of the last page.
    page: Cell<PageProgress>,
    /// Whether the inbound stream is paused, and who is to be woken when it goes on.
    inbound_paused: Cell<bool>,
    inbound_waker: RefCell<Option<Waker>>,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            credit: Arc::default(),
            written: RefCell::default(),
            owed_bytes: Cell::default(),
            last_heard: Cell::new(Instant::now()),
            given_since_heard: Cell::default(),
            page: Cell::default(),
            inbound_paused: Cell::default(),
            inbound_waker: RefCell::default(),
        }
    }
}

/// What became of the last page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum PageProgress {
    /// It is written, and the session knows.
    #[default]
    Done,
    /// The socket has not asked for more since.
    Unwritten,
    /// It is written, and the session is owed a turn to ask for the next.
    TurnOwed,
}

impl Flow {
    pub(super) fn credit(&self) -> &Arc<Credit> {
        &self.credit
    }

    /// The body is asked for more: the socket has taken what it gave before, or nearly (`output`).
    pub(super) fn body_polled(&self) {
        let owed = self.owed_bytes.take();
        if owed > 0 {
            self.credit.give_back(owed);
        }
        if self.page.get() == PageProgress::Unwritten {
            self.page.set(PageProgress::TurnOwed);
        }
    }

    /// Whether the session is owed a turn because a page has been written.
    pub(super) fn take_page_turn(&self) -> bool {
        let owed = self.page.get() == PageProgress::TurnOwed;
        if owed {
            self.page.set(PageProgress::Done);
        }
        owed
    }

    /// Whether the next page may be pulled: the one before is written.
    fn page_written(&self) -> bool {
        self.page.get() != PageProgress::Unwritten
    }

    pub(super) fn pause_inbound(&self) {
        self.inbound_paused.set(true);
    }

    pub(super) fn resume_inbound(&self) {
        if !self.inbound_paused.replace(false) {
            return;
        }
        // Nobody has listened meanwhile.
        self.last_heard.set(Instant::now());
        if let Some(waker) = self.inbound_waker.take() {
            waker.wake();
        }
    }

    /// Whether the inbound stream has to wait; if so `waker` is called when it goes on.
    pub(super) fn inbound_must_wait(&self, waker: &Waker) -> bool {
        let paused = self.inbound_paused.get();
        if paused {
            self.inbound_waker.replace(Some(waker.clone()));
        }
        paused
    }

    pub(super) fn inbound_is_paused(&self) -> bool {
        self.inbound_paused.get()
    }

    /// Puts a frame behind what is written already.
    pub(super) fn write(&self, op: OpCode, payload: impl AsRef<[u8]>) {
        Parser::write_message(&mut self.written.borrow_mut(), payload, op, true, false);
    }

    /// The last frame (RFC 6455, section 5.5.1).
    pub(super) fn write_close(&self, code: CloseCode, reason: &str) {
        let payload = [&code.0.to_be_bytes(), reason.as_bytes()].concat();
        self.write(OpCode::Close, payload);
    }

    /// Room for so many bytes at once, where many frames follow.
    fn reserve(&self, bytes: usize) {
        self.written.borrow_mut().reserve(bytes);
    }

    /// What has been written since the last call.
    pub(super) fn take_written(&self) -> Option<Bytes> {
        let written = self.written.take();
        let given = self.given_since_heard.get();
        self.given_since_heard
            .set(given.saturating_add(written.len()));
        (!written.is_empty()).then(|| written.freeze())
    }

    /// The client has sent something, be it a byte.
    pub(super) fn heard(&self) {
        self.last_heard.set(Instant::now());
        self.given_since_heard.set(0);
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard.get()
    }

    pub(super) fn given_since_heard(&self) -> usize {
        self.given_since_heard.get()
    }
}

/// What rooms reach a session by. One long-lived address per kind, shared by all rooms.
#[derive(Debug)]
pub(super) struct Port {
    deliveries: Recipient<Delivery>,
    news: Recipient<RoomNews>,
    receipts: Recipient<Receipts>,
    /// What became of envelopes, until the session has its turn: however many rooms answer meanwhile, it is woken once. Bounded by
    /// `max_inflight`.
    answered: Mutex<Vec<Vec<Receipt>>>,
    credit: Arc<Credit>,
}

impl Port {
    pub(super) fn new(session: Addr<Session>, credit: Arc<Credit>) -> Self {
        Self {
            deliveries: session.clone().recipient(),
            news: session.clone().recipient(),
            receipts: session.recipient(),
            answered: Mutex::default(),
            credit,
        }
    }

    /// The receipts of each envelope that was answered since.
    pub(super) fn take_answered(&self) -> Vec<Vec<Receipt>> {
        std::mem::take(&mut *self.answered())
    }

    fn answered(&self) -> MutexGuard<'_, Vec<Vec<Receipt>>> {
        // A list is whole after each step.
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Port {
    fn try_deliver(&self, delivery: Delivery) -> Result<(), Refused> {
        let bytes = delivery.bytes as i64;
        if !self.credit.take(bytes) {
            return Err(Refused);
        }
        self.deliveries.try_send(delivery).map_err(|_| {
            self.credit.give_back(bytes);
            Refused
        })
    }

    #[allow(clippy::disallowed_methods)] // bounded: what the session asked for, or once per change of state
    fn tell(&self, news: RoomNews) {
        self.news.do_send(news);
    }

    fn is_connected(&self) -> bool {
        self.news.connected()
    }
}

impl Publisher for Port {
    #[allow(clippy::disallowed_methods)] // bounded: one that the session has not seen
    fn take_receipts(&self, receipts: Vec<Receipt>) {
        let mut answered = self.answered();
        answered.push(receipts);
        let is_first = answered.len() == 1;
        drop(answered);
        if is_first {
            self.receipts.do_send(Receipts);
        }
    }
}

impl Session {
    /// Puts a frame on the wire.
    pub(super) fn send(&self, ctx: &mut SessionContext, frame: &ServerFrame) {
        self.send_encoded(ctx, &codec::encode_server(frame, self.subprotocol));
    }

    /// Puts a frame on the wire. The context is there to say that it is the session's turn: behind it the socket looks at what was written.
    pub(super) fn send_encoded(&self, _: &mut SessionContext, frame: &Encoded) {
        match frame {
            Encoded::Text(text) => self.flow.write(OpCode::Text, text),
            Encoded::Binary(bytes) => self.flow.write(OpCode::Binary, bytes),
        }
    }

    pub(super) fn send_error(
        &self,
        ctx: &mut SessionContext,
        id: Option<u64>,
        code: ErrorCode,
        message: impl Into<String>,
    ) {
        let message = message.into();
        self.send(
            ctx,
            &ServerFrame::Error {
                id,
                code,
                message,
                expected_seq: None,
                retry_after_ms: None,
            },
        );
    }

    /// Passes on live messages. The credit goes back when the body is asked for more.
    pub(super) fn deliver(&mut self, delivery: &Delivery, ctx: &mut SessionContext) {
        let owed = &self.flow.owed_bytes;
        owed.set(owed.get() + delivery.bytes as i64);
        let Some(subscribed) = self.subscriptions.get_mut(delivery.key) else {
            return;
        };
        subscribed.subscription.fed(delivery.last_offset());
        self.flow.reserve(delivery.bytes);
        for frame in delivery.frames() {
            self.send_encoded(ctx, frame);
        }
    }

    /// Asks for the next page, if one is wanted and the last one is written.
    pub(super) fn pull_next(&mut self, ctx: &mut SessionContext) {
        while self.flow.page_written()
            && let Some(key) = self.pulls.whose_turn()
        {
            match self.subscriptions.pull(key) {
                Asked::Room => return,
                Asked::Nobody => self.pulls.answered(key),
                Asked::Later(wait) => {
                    self.pulls.answered(key);
                    self.pull_later(key, wait, ctx);
                }
            }
        }
    }

    /// Asks again for a page that could not be had just now; meanwhile the other subscriptions have their turn.
    pub(super) fn pull_later(&mut self, key: u32, wait: Duration, ctx: &mut SessionContext) {
        ctx.run_later(wait, move |session, ctx| {
            if session.subscriptions.get_mut(key).is_some() {
                session.pulls.add(key);
            }
            session.pull_next(ctx);
        });
    }

    /// Writes a page's frames; the next page is asked for when the body is asked for more.
    pub(super) fn write_page(
        &mut self,
        frames: impl ExactSizeIterator<Item = Encoded>,
        ctx: &mut SessionContext,
    ) {
        if frames.len() > 0 {
            self.flow.page.set(PageProgress::Unwritten);
        }
        for frame in frames {
            self.send_encoded(ctx, &frame);
        }
    }
}
