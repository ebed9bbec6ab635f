//! The client's one task: owns the socket, connects again, and moves frames between it and `outbox` and `inbox`.
//!
//! ```text
//!             ┌──── wait (full jitter, retry_after_ms) ◄────┐
//!             ▼                                             │ lost
//!   start ► dial ──── welcome ────► serve ──────────────────┤
//!             │ final error           │ close, answered     │ terminal close code
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
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hark_protocol::{ClientFrame, CloseCode, Encoded, ErrorCode, ServerFrame, Subprotocol, codec};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCloseCode;
use tokio_tungstenite::tungstenite::{self, Message as WsMessage, Utf8Bytes};

use crate::backoff;
use crate::client::{Command, Shared};
use crate::clock::Clock;
use crate::dial::{self, DialError, Socket, Welcome};
use crate::events::ConnectionEvent;
use crate::inbox::{Inbox, ToSay};
use crate::options::{FirstConnection, Options, TokenError};
use crate::outbox::{Limits, Outbox};
use crate::world::World;
use crate::{ClientError, Gap};

/// Commands and frames taken before others have their turn.
const COMMANDS_PER_TURN: usize = 256;
const FRAMES_PER_TURN: usize = 256;
/// Turns before the runtime's other tasks have theirs.
const TURNS_PER_POLL: usize = 8;
/// A connection is dead when nothing came for so many heartbeats.
const SILENT_HEARTBEATS: f64 = 2.5;
/// How long unanswered messages are waited for when all handles are gone.
const LINGER: Duration = Duration::from_secs(5);
/// How long the closing handshake may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

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
    /// Failures since the broker last answered something.
    failures: u32,
    /// What the broker asked for when it ended the last connection, or refused the last attempt.
    retry_after: Option<Duration>,
    /// A token was refused that had been good; the callback has one chance to give a better one.
    token_doubted: bool,
}

/// The application wants the client to end.
struct Closing {
    deadline: Instant,
    replies: Vec<oneshot::Sender<usize>>,
}

/// What there is while a connection stands.
struct Line {
    socket: Socket,
    limits: Limits,
    /// Longer than this without a sound: the connection is dead.
    silence: Duration,
    heard: Instant,
    /// The socket was not read, so that nothing could be heard.
    paused: bool,
    unflushed: bool,
    /// The ping that is sent first, in case there is nothing else to be answered.
    probe: u64,
    token: Option<BoxFuture<'static, Result<String, TokenError>>>,
    alarm: Pin<Box<Sleep>>,
}

/// How a connection ended.
enum End {
    /// To be made again.
    Lost(ClientError),
    /// Never again: the client ends.
    Final(ClientError),
}

impl Connection {
    pub(crate) fn new(
        options: Options,
        shared: Arc<Shared>,
        commands: mpsc::UnboundedReceiver<Command>,
        first: oneshot::Sender<()>,
    ) -> Result<Self, ClientError> {
        dial::check_url(&options.url)?;
        let world = World::new(Clock::default());
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
            failures: 0,
            retry_after: None,
            token_doubted: false,
        })
    }

    /// Runs until the client ends.
    pub(crate) async fn run(mut self) {
        let error = self.keep_connected().await;
        self.end(&error);
    }

    async fn keep_connected(&mut self) -> ClientError {
        let mut without_since = Instant::now();
        loop {
            let end = match self.connect().await {
                Err(end) => end,
                Ok((socket, welcome)) => {
                    let end = self.serve(socket, welcome).await;
                    without_since = Instant::now();
                    end
                }
            };
            let lost = match end {
                End::Final(error) => return error,
                End::Lost(error) => error,
            };
            let required = self.options.first_connection == FirstConnection::Required;
            let Some(reconnect) = self
                .options
                .reconnect
                .filter(|_| self.first.is_none() || !required)
            else {
                return lost;
            };
            if reconnect
                .give_up_after
                .is_some_and(|after| without_since.elapsed() >= after)
            {
                return lost;
            }
            let drawn = backoff::draw(self.failures, reconnect.first_wait, reconnect.longest_wait);
            let wait = self.retry_after.take().unwrap_or(drawn);
            self.failures = self.failures.saturating_add(1);
            self.tell(ConnectionEvent::Reconnecting {
                reason: lost.to_string(),
                wait,
            });
            if let Err(closed) = self.meanwhile(tokio::time::sleep(wait)).await {
                return closed;
            }
        }
    }

    async fn connect(&mut self) -> Result<(Socket, Welcome), End> {
        let asked = self.options.token.as_ref().map(|callback| callback());
        let token = match asked {
            None => None,
            Some(asked) => match self.meanwhile(asked).await.map_err(End::Final)? {
                Ok(token) => Some(token),
                // Whoever gives tokens may be away for a while, as the broker may be.
                Err(error) => return Err(End::Lost(ClientError::Token(error.to_string()))),
            },
        };
        let options = Arc::clone(&self.options);
        let attempt = async move { dial::dial(&options, token).await };
        match self.meanwhile(attempt).await.map_err(End::Final)? {
            Ok(connected) => Ok(connected),
            Err(DialError {
                error,
                is_final: true,
                ..
            }) => Err(End::Final(error)),
            Err(DialError {
                error, retry_after, ..
            }) => {
                self.retry_after = retry_after;
                Err(End::Lost(error))
            }
        }
    }

    /// Takes commands while there is no connection and `attempt` goes on. An error when the client is to end.
    async fn meanwhile<T>(&mut self, attempt: impl Future<Output = T>) -> Result<T, ClientError> {
        let mut attempt = std::pin::pin!(attempt);
        let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::MAX));
        poll_fn(|cx| {
            while self.poll_commands(cx) {}
            if let Some(closing) = &self.closing {
                alarm.as_mut().reset(closing.deadline);
                if self.outbox.unanswered() == 0 || alarm.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(ClientError::Closed));
                }
            }
            attempt.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Uses a connection until it is lost or the client ends.
    async fn serve(&mut self, socket: Socket, welcome: Welcome) -> End {
        let Welcome {
            session,
            version,
            heartbeat,
            limits,
        } = welcome;
        self.shared.reporter.count(|c| &c.connections);
        self.tell(ConnectionEvent::Connected { session, version });
        if let Some(first) = self.first.take() {
            first.send(()).ok();
        }
        self.to_say.connected = true;
        let probe = self.to_say.next_id();
        self.to_say
            .frames
            .push_back(ClientFrame::Ping { id: Some(probe) });
        self.inbox.connected(&mut self.to_say);
        let now = Instant::now();
        let mut line = Line {
            socket,
            limits,
            silence: heartbeat.mul_f64(SILENT_HEARTBEATS),
            heard: now,
            paused: false,
            unflushed: false,
            probe,
            token: None,
            alarm: Box::pin(tokio::time::sleep_until(now)),
        };
        let end = poll_fn(|cx| self.poll_line(&mut line, cx)).await;
        self.to_say.connected = false;
        self.to_say.frames.clear();
        self.outbox.disconnected(false);
        self.inbox.disconnected(false, Instant::now());
        if let End::Final(ClientError::Closed) = end {
            line.say_goodbye().await;
        }
        if let End::Lost(error) = &end {
            self.tell(ConnectionEvent::Disconnected {
                reason: error.to_string(),
            });
        }
        end
    }

    /// Everything that can be done now.
    fn poll_line(&mut self, line: &mut Line, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURNS_PER_POLL {
            let now = Instant::now();
            let mut progress = self.poll_commands(cx);
            // Before reading, which they may allow again.
            self.outbox.wake_up(now);
            self.inbox
                .wake_up(now, self.outbox.unanswered() > 0, &mut self.to_say);
            match self.poll_read(line, cx, now) {
                ControlFlow::Break(end) => return Poll::Ready(end),
                ControlFlow::Continue(read) => progress |= read,
            }
            self.poll_token(line, cx);
            if let Err(error) = self.poll_write(line, cx) {
                // What the broker said before it closed is worth more than that it has closed.
                return Poll::Ready(match self.poll_read(line, cx, now) {
                    ControlFlow::Break(end) => end,
                    ControlFlow::Continue(_) => End::Lost(lost(reason_of(error))),
                });
            }
            if let Some(closing) = &self.closing
                && (self.outbox.unanswered() == 0 && !line.unflushed || now >= closing.deadline)
            {
                return Poll::Ready(End::Final(ClientError::Closed));
            }
            if !line.paused && now >= line.heard + line.silence {
                return Poll::Ready(End::Lost(lost(format!(
                    "nothing heard for {:?}",
                    line.silence
                ))));
            }
            if !progress && self.poll_alarm(line, cx).is_pending() {
                return Poll::Pending;
            }
        }
        // Others have their turn; then it goes on.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when something is due. The alarm is moved only to an earlier time; when it goes off too early it is set anew.
    fn poll_alarm(&self, line: &mut Line, cx: &mut Context<'_>) -> Poll<()> {
        let silent = (!line.paused).then(|| line.heard + line.silence);
        let delayed = self.outbox.next_wakeup();
        let waiting = self.inbox.next_wakeup(self.outbox.unanswered() > 0);
        let closing = self.closing.as_ref().map(|closing| closing.deadline);
        let due = [silent, delayed, waiting, closing]
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
                self.close(Instant::now() + LINGER, None);
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
                line.heard = now;
            }
            let message = match line.socket.poll_next_unpin(cx) {
                Poll::Pending => return ControlFlow::Continue(read > 0),
                Poll::Ready(Some(Ok(message))) => message,
                Poll::Ready(Some(Err(error))) => {
                    return ControlFlow::Break(End::Lost(lost(reason_of(error))));
                }
                Poll::Ready(None) => {
                    return ControlFlow::Break(End::Lost(lost("it ended".to_owned())));
                }
            };
            line.heard = now;
            match message {
                WsMessage::Text(text) => self.decode(line, &text.into(), Subprotocol::Json, now),
                WsMessage::Binary(bytes) => self.decode(line, &bytes, Subprotocol::Bincode, now),
                // The answer is queued already (RFC 6455, section 5.5.2).
                WsMessage::Ping(_) => line.unflushed = true,
                WsMessage::Pong(_) | WsMessage::Frame(_) => {}
                WsMessage::Close(close) => {
                    // The answer to the close is queued; if it cannot leave at once, the broker does without.
                    if let Poll::Ready(Err(error)) = line.socket.poll_flush_unpin(cx) {
                        tracing::debug!(%error, "the close was not answered");
                    }
                    return ControlFlow::Break(self.closed(close));
                }
            }
        }
        ControlFlow::Continue(true)
    }

    /// The broker has closed: the code tells whether to connect again.
    fn closed(&mut self, close: Option<CloseFrame>) -> End {
        let Some(close) = close else {
            return End::Lost(lost("closed without a code".to_owned()));
        };
        let (code, reason) = (CloseCode(close.code.into()), close.reason.to_string());
        // A token that has run out while the machine slept, say: the callback may have a better one.
        let another_token = code == CloseCode::UNAUTHENTICATED
            && self.options.token.is_some()
            && !std::mem::replace(&mut self.token_doubted, true);
        match code.should_reconnect() || another_token {
            true => End::Lost(lost(format!("closed with code {}: {reason}", code.0))),
            false => End::Final(ClientError::ClosedByBroker { code, reason }),
        }
    }

    fn decode(&mut self, line: &mut Line, bytes: &Bytes, subprotocol: Subprotocol, now: Instant) {
        match codec::decode_server(bytes, subprotocol) {
            Ok(frame) => self.hear(line, frame, now),
            // A frame of a newer Hark, perhaps. If it was a message, the next one shows the hole.
            Err(error) => self.tell(ConnectionEvent::Unreadable {
                reason: error.to_string(),
            }),
        }
    }

    fn hear(&mut self, line: &mut Line, frame: ServerFrame, now: Instant) {
        let ms = |ms: Option<u64>| ms.map(Duration::from_millis);
        match frame {
            ServerFrame::Message { topic, record } => {
                self.inbox.message(topic, record, now, &mut self.to_say)
            }
            ServerFrame::Published {
                id,
                cursor,
                duplicate,
                ..
            } => {
                self.outbox.published(id, cursor, duplicate);
                self.settle();
            }
            ServerFrame::PublishedAll { id, receipts } => {
                self.outbox.published_all(id, receipts, now);
                self.settle();
            }
            ServerFrame::Subscribed {
                id,
                cursor,
                resumed,
                ..
            } => {
                if self
                    .inbox
                    .subscribed(id, cursor, resumed, now, &mut self.to_say)
                {
                    self.settle();
                }
            }
            ServerFrame::Unsubscribed { id, topic } => {
                self.inbox.unsubscribed(id, &topic, &mut self.to_say)
            }
            ServerFrame::CaughtUp { topic, cursor } => self.inbox.caught_up(&topic, cursor, now),
            ServerFrame::Lagging { topic, behind, .. } => self.inbox.lagging(topic, behind),
            ServerFrame::Gap {
                topic,
                reason,
                from,
                to,
                cursor,
            } => {
                self.inbox.gap(
                    &topic,
                    Gap {
                        reason,
                        from,
                        to,
                        cursor,
                    },
                    now,
                );
            }
            ServerFrame::Error {
                code: ErrorCode::Expiring,
                ..
            } => {
                if line.token.is_none() {
                    line.token = self.options.token.as_ref().map(|callback| callback());
                }
            }
            ServerFrame::Error {
                id: Some(id),
                code,
                message,
                expected_seq,
                retry_after_ms,
            } => {
                let retry_after = ms(retry_after_ms);
                if self.inbox.owns(id) {
                    self.inbox
                        .refused(id, code, message, retry_after, now, &mut self.to_say);
                } else {
                    self.outbox
                        .refused(id, code, message, expected_seq, retry_after, now);
                }
            }
            ServerFrame::Error {
                id: None,
                code,
                message,
                ..
            } => {
                tracing::warn!(%code, message, "Hark refused a frame without an id");
            }
            ServerFrame::Goodbye { retry_after_ms, .. } => {
                self.retry_after = Some(Duration::from_millis(retry_after_ms));
            }
            ServerFrame::Pong { id } => {
                if id == Some(line.probe) && self.outbox.unanswered() == 0 && self.inbox.is_empty()
                {
                    self.settle();
                }
            }
            ServerFrame::Authenticated { .. } | ServerFrame::Welcome { .. } => {}
        }
    }

    /// The broker does its work: the next failure is a first one.
    fn settle(&mut self) {
        self.failures = 0;
        self.token_doubted = false;
    }

    fn poll_token(&mut self, line: &mut Line, cx: &mut Context<'_>) {
        let Some(Poll::Ready(token)) = line.token.as_mut().map(|token| token.poll_unpin(cx)) else {
            return;
        };
        line.token = None;
        match token {
            Ok(token) => {
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

    /// Writes what may be written, and flushes once.
    fn poll_write(
        &mut self,
        line: &mut Line,
        cx: &mut Context<'_>,
    ) -> Result<(), tungstenite::Error> {
        while let Poll::Ready(ready) = line.socket.poll_ready_unpin(cx) {
            ready?;
            let Some(frame) = self.next_frame(line.limits) else {
                break;
            };
            line.socket.start_send_unpin(match frame {
                // Text was made from a string, so this check finds nothing.
                Encoded::Text(text) => WsMessage::Text(Utf8Bytes::try_from(text.into_bytes())?),
                Encoded::Binary(bytes) => WsMessage::Binary(bytes),
            })?;
            line.unflushed = true;
        }
        if line.unflushed
            && let Poll::Ready(flushed) = line.socket.poll_flush_unpin(cx)
        {
            flushed?;
            line.unflushed = false;
        }
        Ok(())
    }

    fn next_frame(&mut self, limits: Limits) -> Option<Encoded> {
        match self.to_say.frames.pop_front() {
            Some(frame) => Some(codec::encode_client(&frame, self.options.subprotocol)),
            None => {
                self.outbox
                    .next_frame(&mut self.to_say.last_id, limits, self.options.subprotocol)
            }
        }
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

impl Line {
    /// The closing handshake, as far as the broker takes part (RFC 6455, section 7.1.1).
    async fn say_goodbye(mut self) {
        let handshake = async {
            let close = CloseFrame {
                code: WsCloseCode::Normal,
                reason: Utf8Bytes::from_static(""),
            };
            self.socket.send(WsMessage::Close(Some(close))).await?;
            // Not to the end of the connection: the broker may linger for a client that goes first.
            while let Some(message) = self.socket.next().await {
                if message?.is_close() {
                    break;
                }
            }
            Ok::<(), tungstenite::Error>(())
        };
        match tokio::time::timeout(CLOSE_PATIENCE, handshake).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the closing handshake failed"),
            Err(_) => tracing::debug!("the broker did not answer the close"),
        }
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

fn lost(reason: String) -> ClientError {
    ClientError::Lost { reason }
}
