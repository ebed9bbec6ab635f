//! The client's one task: connects again and again, and moves frames between the connection that stands (`line`) and `outbox` and `inbox`.
//!
//! ```text
//!             ┌──── wait (`outage`) ◄───────────────────────┐
//!             ▼                                             │ lost
//!   start ► dial ──── upgraded ───► serve ──────────────────┤
//!             │ refused for good      │ close, answered     │ an ending that is final
//!             └───────────────────────┴─────────► end ◄─────┘
//! ```
//!
//! Commands are taken in every state: what cannot be sent yet waits in `outbox` and `inbox`.
//!
//! Everything in `serve` happens in one poll: take commands, read what is there, write what may be written, flush
//! once. So a burst of publishes goes out in one write, reading never waits for writing (the broker stops reading while its
//! receipts cannot leave), and nothing here needs a lock or a second task.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hark_protocol::{ClientFrame, CloseCode, ErrorCode, ServerFrame, Subprotocol, codec};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message as WsMessage};

use crate::ClientError;
use crate::client::{Command, Shared};
use crate::clock;
use crate::dial::{self, DialError, Dialed, Failure};
use crate::events::ConnectionEvent;
use crate::heard::{self, Heard};
use crate::inbox::{Inbox, ToSay};
use crate::line::{Line, Said};
use crate::liveness::Verdict;
use crate::options::{FirstConnection, Options, Producer};
use crate::outage::Outage;
use crate::outbox::{Limits, Outbox};
use crate::race::Doubts;
use crate::world::World;

/// Commands and frames taken before others have their turn.
const COMMANDS_PER_TURN: usize = 256;
const FRAMES_PER_TURN: usize = 256;
/// Turns before the runtime's other tasks have theirs.
const TURNS_PER_POLL: usize = 8;
/// How long unanswered messages are waited for when all handles are gone.
const LINGER: Duration = Duration::from_secs(5);
/// The bounds of what the broker may say of itself.
const HEARTBEATS_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
const LARGEST_WINDOW: u32 = 1 << 20;

/// The task.
pub(crate) struct Connection {
    options: Arc<Options>,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    batch: Vec<Command>,
    /// Told when the first connection stands.
    first: Option<oneshot::Sender<()>>,
    outbox: Outbox,
    inbox: Inbox,
    to_say: ToSay,
    closing: Option<Closing>,
    /// All handles are gone.
    abandoned: bool,
    outage: Outage,
    /// Addresses that failed lately.
    doubts: Doubts,
    /// Since when there has been no connection.
    without_since: Instant,
    /// Why the last connection, or attempt, failed.
    last_error: Option<ClientError>,
}

/// The application wants the client to end.
struct Closing {
    deadline: Instant,
    replies: Vec<oneshot::Sender<usize>>,
}

/// How a connection ended.
enum End {
    /// Something broke, or nobody answered.
    Lost(String),
    /// The other side closed.
    Closed(Option<CloseFrame>),
    /// The client is to end, and this is why.
    Over(ClientError),
}

/// What comes after a connection, or an attempt.
enum Next {
    /// Another one.
    Again(ClientError),
    /// The client ends.
    Never(ClientError),
}

impl Connection {
    pub(crate) fn new(
        options: Options,
        shared: Arc<Shared>,
        commands: mpsc::UnboundedReceiver<Command>,
        first: oneshot::Sender<()>,
    ) -> Result<Self, ClientError> {
        dial::check(&options)?;
        let world = World::new(options.clock.clone());
        let reporter = &shared.reporter;
        let outbox = Outbox::new(&options.producer, Arc::clone(reporter), world.clone());
        let inbox = Inbox::new(Arc::clone(reporter), world);
        Ok(Self {
            options: Arc::new(options),
            shared,
            commands,
            batch: Vec::new(),
            first: Some(first),
            outbox,
            inbox,
            to_say: ToSay::default(),
            closing: None,
            abandoned: false,
            outage: Outage::new(Instant::now()),
            doubts: Doubts::default(),
            without_since: Instant::now(),
            last_error: None,
        })
    }

    /// Runs until the client ends.
    pub(crate) async fn run(mut self) {
        let error = self.keep_connected().await;
        self.end(&error);
    }

    async fn keep_connected(&mut self) -> ClientError {
        loop {
            let lost = match self.attempt().await {
                Next::Never(error) => return error,
                Next::Again(error) => error,
            };
            let required = self.options.first_connection == FirstConnection::Required;
            let Some(reconnect) = self
                .options
                .reconnect
                .filter(|_| self.first.is_none() || !required)
            else {
                return lost;
            };
            let wait = self.outage.next_wait(&reconnect, Instant::now());
            self.last_error = Some(lost.clone());
            self.tell(ConnectionEvent::Reconnecting {
                reason: lost.to_string(),
                wait,
            });
            if let Err(over) = self.meanwhile(tokio::time::sleep(wait)).await {
                return over;
            }
        }
    }

    /// One connection, from the token to its end.
    async fn attempt(&mut self) -> Next {
        let token = match self.options.ask_for_token() {
            None => None,
            Some(asked) => match self.meanwhile(asked).await {
                Err(over) => return Next::Never(over),
                Ok(Ok(token)) => Some(token),
                // Whoever gives tokens may be away for a while, as the broker may be.
                Ok(Err(error)) => return Next::Again(ClientError::Token(error.to_string())),
            },
        };
        let (options, doubts) = (Arc::clone(&self.options), self.doubts.clone());
        let shown = token.clone();
        let welcome_by = clock::after(Instant::now(), options.connect_timeout);
        let dial = async move {
            tokio::time::timeout_at(welcome_by, dial::dial(&options, token, &doubts)).await
        };
        match self.meanwhile(dial).await {
            Err(over) => Next::Never(over),
            Ok(Ok(Ok(dialed))) => self.serve(dialed, shown, welcome_by).await,
            Ok(Ok(Err(failed))) => self.failed(failed),
            Ok(Err(_)) => Next::Again(self.unreachable(self.not_in_time())),
        }
    }

    fn failed(&mut self, failed: DialError) -> Next {
        let DialError {
            error,
            kind,
            retry_after,
        } = failed;
        self.outage.asked_to_wait(retry_after);
        let renewable = self.options.token_is_renewable();
        let is_final = match kind {
            Failure::Passing => false,
            Failure::Final => true,
            Failure::TokenRefused => self.outage.refused_token_is_final(renewable),
        };
        match is_final {
            true => Next::Never(error),
            false => Next::Again(error),
        }
    }

    fn not_in_time(&self) -> String {
        format!("no connection within {:?}", self.options.connect_timeout)
    }

    fn unreachable(&self, reason: String) -> ClientError {
        let url = self.options.url.clone();
        ClientError::Unreachable { url, reason }
    }

    /// When there has been no connection for too long.
    fn give_up_at(&self) -> Option<Instant> {
        let after = self.options.reconnect?.give_up_after?;
        Some(clock::after(self.without_since, after))
    }

    fn given_up(&self) -> ClientError {
        let waited = || {
            self.unreachable(format!(
                "no connection within {:?}",
                self.without_since.elapsed()
            ))
        };
        self.last_error.clone().unwrap_or_else(waited)
    }

    /// Takes commands while there is no connection and `attempt` goes on. An error when the client is to end.
    async fn meanwhile<T>(&mut self, attempt: impl Future<Output = T>) -> Result<T, ClientError> {
        let mut attempt = std::pin::pin!(attempt);
        let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::MAX));
        poll_fn(|cx| {
            while self.poll_commands(cx) {}
            let now = Instant::now();
            let close_by = self.closing.as_ref().map(|closing| closing.deadline);
            if let Some(close_by) = close_by
                && (self.outbox.unanswered() == 0 || now >= close_by)
            {
                return Poll::Ready(Err(ClientError::Closed));
            }
            if let Poll::Ready(done) = attempt.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let give_up_at = self.give_up_at();
            if give_up_at.is_some_and(|at| now >= at) {
                return Poll::Ready(Err(self.given_up()));
            }
            if let Some(due) = close_by.into_iter().chain(give_up_at).min() {
                alarm.as_mut().reset(due);
                if alarm.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Uses a connection until it is lost or the client ends.
    async fn serve(&mut self, dialed: Dialed, shown: Option<String>, welcome_by: Instant) -> Next {
        let mut line = Line::new(dialed, shown, welcome_by, self.options.clock.now());
        self.to_say.connected = true;
        let id = Some(self.to_say.next_id());
        // What proves the connection where there is nothing else to be answered.
        self.to_say.frames.push_back(ClientFrame::Ping { id });
        self.inbox.connected(&mut self.to_say);
        let end = poll_fn(|cx| self.poll_line(&mut line, cx)).await;
        self.lost(line, end).await
    }

    /// The connection has ended: what that means for everything that hung on it, and for the next one.
    async fn lost(&mut self, mut line: Line, end: End) -> Next {
        if let End::Over(error) = end {
            // What is unanswered is so for that reason, and `end` says so.
            if error == ClientError::Closed {
                line.say_goodbye().await;
            }
            return Next::Never(error);
        }
        let now = Instant::now();
        let proven = line.has_proven_itself(self.options.clock.now());
        if proven {
            line.clear();
            self.outage.begins(now);
        }
        self.to_say.connected = false;
        self.to_say.frames.clear();
        // What was said before `welcome` may have been said to something else than Hark: no message is given up for that.
        let blameless = proven || !line.welcomed;
        self.outbox.disconnected(blameless);
        self.inbox.disconnected(blameless, now);
        if line.welcomed {
            self.without_since = now;
        }
        let welcomed = line.welcomed;
        let next = match end {
            End::Over(error) => Next::Never(error),
            End::Lost(reason) => {
                self.outage.ended_without_code(welcomed);
                Next::Again(self.lost_error(welcomed, reason))
            }
            End::Closed(close) => self.closed(close, welcomed),
        };
        if let (true, Next::Again(error)) = (welcomed, &next) {
            self.tell(ConnectionEvent::Disconnected {
                reason: error.to_string(),
            });
        }
        next
    }

    /// Without `welcome` there never was a connection.
    fn lost_error(&self, welcomed: bool, reason: String) -> ClientError {
        match welcomed {
            true => ClientError::Lost { reason },
            false => self.unreachable(reason),
        }
    }

    /// The other side has closed: the code tells whether to connect again.
    fn closed(&mut self, close: Option<CloseFrame>, welcomed: bool) -> Next {
        let Some(close) = close else {
            self.outage.ended_without_code(welcomed);
            return Next::Again(self.lost_error(welcomed, "closed without a code".to_owned()));
        };
        let (code, reason) = (CloseCode(close.code.into()), close.reason.to_string());
        let renewable = self.options.token_is_renewable();
        match self.outage.is_final(code, welcomed, renewable) {
            true => Next::Never(ClientError::ClosedByBroker { code, reason }),
            false => {
                let reason = format!("closed with code {}: {reason}", code.0);
                Next::Again(self.lost_error(welcomed, reason))
            }
        }
    }

    /// Everything that can be done now.
    fn poll_line(&mut self, line: &mut Line, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURNS_PER_POLL {
            let moment = self.options.clock.now();
            let now = moment.monotonic;
            let mut progress = self.poll_commands(cx);
            // Before reading, which they may allow again.
            self.outbox.wake_up(now);
            self.inbox
                .wake_up(now, self.outbox.unanswered() > 0, &mut self.to_say);
            match self.poll_read(line, cx, now) {
                ControlFlow::Break(end) => return Poll::Ready(end),
                ControlFlow::Continue(read) => progress |= read,
            }
            if line.judge(moment) == Verdict::Dead {
                let silent = now.saturating_duration_since(line.live.heard());
                let reason =
                    format!("nothing heard for {silent:.0?}, not even the answer to a ping");
                return Poll::Ready(End::Lost(reason));
            }
            self.poll_token(line, cx);
            let written = line.poll_write(cx, moment, |limits, welcomed| {
                self.next_frame(limits, welcomed)
            });
            if let Err(error) = written {
                // What the broker said before it closed is worth more than that it has closed.
                return Poll::Ready(match self.poll_read(line, cx, now) {
                    ControlFlow::Break(end) => end,
                    ControlFlow::Continue(_) => End::Lost(reason_of(error)),
                });
            }
            if let Some(closing) = &self.closing
                && (self.outbox.unanswered() == 0 && !line.unflushed || now >= closing.deadline)
            {
                return Poll::Ready(End::Over(ClientError::Closed));
            }
            if !line.welcomed && now >= line.welcome_by {
                return Poll::Ready(End::Lost(self.not_in_time()));
            }
            if !line.welcomed && self.give_up_at().is_some_and(|at| now >= at) {
                return Poll::Ready(End::Over(self.given_up()));
            }
            if !progress && self.poll_alarm(line, cx, now).is_pending() {
                return Poll::Pending;
            }
        }
        // Others have their turn; then it goes on.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when something is due. The alarm is moved only to an earlier time; when it goes off too early it is set anew.
    fn poll_alarm(&self, line: &mut Line, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let delayed = self.outbox.next_wakeup();
        let waiting = self.inbox.next_wakeup(self.outbox.unanswered() > 0);
        let closing = self.closing.as_ref().map(|closing| closing.deadline);
        let giving_up = self.give_up_at().filter(|_| !line.welcomed);
        let due = [line.next_wakeup(now), delayed, waiting, closing, giving_up]
            .into_iter()
            .flatten()
            .min();
        let Some(due) = due else { return Poll::Pending };
        if line.alarm.is_elapsed() || due < line.alarm.deadline() {
            line.alarm.as_mut().reset(due);
        }
        line.alarm.as_mut().poll(cx)
    }

    /// Whether there were any.
    fn poll_commands(&mut self, cx: &mut Context<'_>) -> bool {
        if self.abandoned {
            return false;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let progress = match self
            .commands
            .poll_recv_many(cx, &mut batch, COMMANDS_PER_TURN)
        {
            Poll::Pending => false,
            Poll::Ready(0) => {
                self.abandoned = true;
                self.close(clock::after(Instant::now(), LINGER), None);
                true
            }
            Poll::Ready(_) => true,
        };
        for command in batch.drain(..) {
            self.obey(command);
        }
        self.batch = batch;
        progress
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Publish(_) | Command::PublishAll(_) | Command::Subscribe(_)
                if self.closing.is_some() =>
            {
                command.refuse(&ClientError::Closed);
            }
            Command::Publish(outgoing) => self.outbox.publish(outgoing),
            Command::PublishAll(all) => {
                for outgoing in all {
                    self.outbox.publish(outgoing);
                }
            }
            Command::Subscribe(subscribe) => self.inbox.subscribe(subscribe, &mut self.to_say),
            Command::Unsubscribe {
                topic,
                queue,
                reply,
            } => {
                self.inbox
                    .unsubscribe(&topic, &queue, reply, &mut self.to_say);
            }
            Command::Drained { topic, queue } => {
                self.inbox.drained(&topic, &queue, &mut self.to_say);
            }
            Command::Close { deadline, reply } => self.close(deadline, Some(reply)),
        }
    }

    fn close(&mut self, deadline: Instant, reply: Option<oneshot::Sender<usize>>) {
        let closing = self.closing.get_or_insert(Closing {
            deadline,
            replies: Vec::new(),
        });
        closing.deadline = closing.deadline.min(deadline);
        closing.replies.extend(reply);
    }

    /// Reads what is there. Whether there was anything.
    fn poll_read(
        &mut self,
        line: &mut Line,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> ControlFlow<End, bool> {
        for read in 0..FRAMES_PER_TURN {
            if !self.inbox.may_read() {
                line.paused = true;
                return ControlFlow::Continue(read > 0);
            }
            if std::mem::take(&mut line.paused) {
                line.live.not_reading(self.options.clock.now());
            }
            let message = match line.socket.poll_next_unpin(cx) {
                Poll::Pending => return ControlFlow::Continue(read > 0),
                Poll::Ready(Some(Ok(message))) => message,
                Poll::Ready(Some(Err(error))) => {
                    return ControlFlow::Break(End::Lost(reason_of(error)));
                }
                Poll::Ready(None) => {
                    return ControlFlow::Break(End::Lost("it ended".to_owned()));
                }
            };
            match message {
                WsMessage::Text(text) => self.decode(line, &text.into(), Subprotocol::Json, now)?,
                WsMessage::Binary(bytes) => self.decode(line, &bytes, Subprotocol::Bincode, now)?,
                // The answer is queued already (RFC 6455, section 5.5.2).
                WsMessage::Ping(_) => line.unflushed = true,
                WsMessage::Pong(payload) => {
                    line.live.pong(&payload);
                    self.answered_a_ping(line, now);
                }
                WsMessage::Frame(_) => {}
                WsMessage::Close(close) => {
                    // The answer to the close is queued; if it cannot leave at once, the broker does without.
                    if let Poll::Ready(Err(error)) = line.socket.poll_flush_unpin(cx) {
                        tracing::debug!(%error, "the close was not answered");
                    }
                    return ControlFlow::Break(End::Closed(close));
                }
            }
        }
        ControlFlow::Continue(true)
    }

    fn decode(
        &mut self,
        line: &mut Line,
        bytes: &Bytes,
        subprotocol: Subprotocol,
        now: Instant,
    ) -> ControlFlow<End> {
        match codec::decode_server(bytes, subprotocol) {
            Ok(frame) if line.welcomed => self.hear(line, frame, now),
            Ok(ServerFrame::Welcome {
                session,
                version,
                heartbeat_ms,
                max_message_bytes,
                max_inflight,
            }) => {
                let limits = Limits::told(&version, max_message_bytes, max_inflight);
                let heartbeat_ms = heartbeat_ms.clamp(*HEARTBEATS_MS.start(), *HEARTBEATS_MS.end());
                self.welcomed(line, limits, Duration::from_millis(heartbeat_ms), now);
                self.tell(ConnectionEvent::Connected { session, version });
                if let Some(first) = self.first.take() {
                    first.send(()).ok();
                }
            }
            // Hark says nothing before it.
            Ok(other) => return ControlFlow::Break(no_hark(&format!("{other:?}"))),
            Err(error) if !line.welcomed => {
                return ControlFlow::Break(no_hark(&format!("what cannot be read: {error}")));
            }
            // A frame of a newer Hark, perhaps. If it was a message, the next one shows the hole.
            Err(error) => self.tell(ConnectionEvent::Unreadable {
                reason: error.to_string(),
            }),
        }
        ControlFlow::Continue(())
    }

    /// It is Hark: now its own limits hold.
    fn welcomed(&mut self, line: &mut Line, limits: Limits, heartbeat: Duration, now: Instant) {
        self.shared.reporter.count(|c| &c.connections);
        if self.options.window_messages.is_none() {
            let messages = u32::try_from(limits.in_flight).unwrap_or(u32::MAX);
            self.shared.window.grow_to(messages.min(LARGEST_WINDOW));
        }
        // A message for which this broker's limit is smaller than Hark's own.
        if let Some(Said {
            id: Some(id),
            encoded,
            ..
        }) = line.welcome(limits, heartbeat)
        {
            let (bytes, limit) = (encoded.len(), limits.frame_bytes);
            let sentence = format!("a frame of {bytes} bytes; this broker takes at most {limit}");
            self.outbox
                .refused(id, ErrorCode::TooLarge, sentence, None, None, now);
        }
    }

    /// A `pong` proves something only where there is nothing else to be answered.
    fn answered_a_ping(&self, line: &mut Line, now: Instant) {
        if !line.something_asked || self.outbox.unanswered() == 0 && self.inbox.is_empty() {
            line.served(now);
        }
    }

    /// Hark has done what it was asked for.
    fn served(&mut self, line: &mut Line, now: Instant) {
        line.served(now);
        self.outage.token_is_good();
    }

    fn hear(&mut self, line: &mut Line, frame: ServerFrame, now: Instant) {
        if let Some(id) = answered_id(&frame) {
            line.live.answered(id);
        }
        let (outbox, inbox, to_say) = (&mut self.outbox, &mut self.inbox, &mut self.to_say);
        match heard::hand_on(frame, outbox, inbox, to_say, now) {
            Heard::Taken => {}
            Heard::Served => self.served(line, now),
            Heard::Connection(frame) => self.hear_of_connection(line, frame, now),
        }
    }

    /// Asks for a fresh token, if there can be one and it has not been asked for.
    fn renew_token(&self, line: &mut Line) {
        if line.token.is_none() && self.options.token_is_renewable() {
            line.token = self.options.ask_for_token();
        }
    }

    fn hear_of_connection(&mut self, line: &mut Line, frame: ServerFrame, now: Instant) {
        match frame {
            ServerFrame::Error {
                code: ErrorCode::Expiring,
                ..
            } => self.renew_token(line),
            ServerFrame::Error { code, message, .. } => {
                tracing::warn!(%code, message, "Hark refused a frame without an id");
            }
            ServerFrame::Goodbye { retry_after_ms, .. } => {
                let wait = Duration::from_millis(retry_after_ms);
                self.outage.asked_to_wait(Some(wait));
            }
            ServerFrame::Pong { .. } => self.answered_a_ping(line, now),
            ServerFrame::Authenticated { .. } => self.outage.token_is_good(),
            // It was said before.
            _ => {}
        }
    }

    fn poll_token(&mut self, line: &mut Line, cx: &mut Context<'_>) {
        let Some(Poll::Ready(token)) = line.token.as_mut().map(|token| token.poll_unpin(cx)) else {
            return;
        };
        line.token = None;
        match token {
            // It would run out no later: Hark ends the connection in time, and the next one asks again.
            Ok(token) if line.shown.as_ref() == Some(&token) => {}
            Ok(token) => {
                line.shown = Some(token.clone());
                let id = Some(self.to_say.next_id());
                self.to_say
                    .frames
                    .push_back(ClientFrame::Auth { id, token });
            }
            Err(error) => self.tell(ConnectionEvent::TokenFailed {
                reason: error.to_string(),
            }),
        }
    }

    /// What is said next. Before `welcome` nothing that could not be said again: what listens may be something else than Hark.
    fn next_frame(&mut self, limits: Limits, welcomed: bool) -> Option<Said> {
        let subprotocol = self.options.subprotocol;
        if let Some(frame) = self.to_say.frames.pop_front() {
            let asks = !matches!(frame, ClientFrame::Ping { .. } | ClientFrame::Auth { .. });
            let (id, encoded) = (frame.id(), codec::encode_client(&frame, subprotocol));
            return Some(Said { id, asks, encoded });
        }
        if !welcomed && self.options.producer == Producer::None {
            return None;
        }
        let ids = &mut self.to_say.last_id;
        let encoded = self.outbox.next_frame(ids, limits, subprotocol)?;
        let id = Some(*ids);
        Some(Said {
            id,
            asks: true,
            encoded,
        })
    }

    fn tell(&self, event: ConnectionEvent) {
        self.shared.reporter.tell(event);
    }

    /// Tells everybody who waits.
    fn end(mut self, error: &ClientError) {
        // First, so that whoever finds a closed channel finds the reason too. Nobody else sets it.
        self.shared.ended.get_or_init(|| error.clone());
        self.shared.window.close();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Close { deadline, reply } => self.close(deadline, Some(reply)),
                command => command.refuse(error),
            }
        }
        let unanswered = self.outbox.end(error);
        self.inbox.end(error);
        for reply in self.closing.into_iter().flat_map(|closing| closing.replies) {
            reply.send(unanswered).ok();
        }
        self.shared.reporter.tell(ConnectionEvent::Ended {
            error: error.clone(),
        });
    }
}

/// What an error of the socket means to people.
fn reason_of(error: tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            "it ended without a word".to_owned()
        }
        tungstenite::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// What was said before `welcome`.
fn no_hark(said: &str) -> End {
    let said: String = said.chars().take(200).collect();
    End::Lost(format!(
        "what listens there is no Hark broker (expected `welcome`, got {said})"
    ))
}

/// The command that this is the answer to.
fn answered_id(frame: &ServerFrame) -> Option<u64> {
    match frame {
        ServerFrame::Published { id, .. } | ServerFrame::PublishedAll { id, .. } => Some(*id),
        ServerFrame::Authenticated { id, .. }
        | ServerFrame::Subscribed { id, .. }
        | ServerFrame::Unsubscribed { id, .. }
        | ServerFrame::Error { id, .. }
        | ServerFrame::Pong { id } => *id,
        ServerFrame::Welcome { .. }
        | ServerFrame::Message { .. }
        | ServerFrame::CaughtUp { .. }
        | ServerFrame::Lagging { .. }
        | ServerFrame::Gap { .. }
        | ServerFrame::Goodbye { .. } => None,
    }
}

#[cfg(test)]
mod tests;
