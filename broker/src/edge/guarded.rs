//! The guarded stream: every connection is read and written through one. Owns what may pass up to actix-http, and when.
//!
//! ```text
//!            ┌───────────────────────── answered, and written ────────────────────────┐
//!            ▼                                                                        │
//! accepted ▶ Head ──whole──▶ Body ──all of it──▶ Answering ──────────────────────────┘
//!             │ │              └──its end never comes──▶ CutShort ──answered──▶ end of input
//!             │ └──upgrade──▶ Endless ──closed, or the client is gone──▶ CutShort
//!             │                  └──Hark closes──▶ Closing ──the peer closes──▶ end of input
//!             └──refused, or too slow──▶ Refusing ──said──▶ Lingering ──▶ end of input
//! ```
//!
//! - One request at a time: the next head is handed on when the answer before has ended and its bytes are in the kernel. While the kernel
//!   takes no more, nothing is read. So a connection holds one answer, and what came behind its request has a bound.
//! - Heads are whole when they are handed on, and each has its time.
//! - A turn ends after so many bytes; then the others on the worker have theirs. What is handed on comes in pieces.
//! - The end of input is held back until the answer is there: a client may close its side when it has asked. Who reads a body that ends in
//!   its midst is told by the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::chunks::{BadChunks, Chunks};
use super::closing::Closing;
use super::head::{self, BodyLength, Head, MAX_HEAD_BYTES, Refusal};
use super::timer::Timer;
use crate::connections::{Connection, Listed};
use crate::limits::Held;
use crate::turns::Turn;

/// So much is handed on before there is a pause.
const HANDED_ON_AT_ONCE_BYTES: usize = 16 * 1024;
/// So much is read at once while a head is waited for.
const READ_BYTES: usize = 4 * 1024;
/// What may be waiting behind a request that is not answered yet.
const MAX_AHEAD_BYTES: usize = MAX_HEAD_BYTES;
/// Where an answer came before its request was read to the end, so much of it is still read, and thrown away by actix-http: or the answer
/// would be lost with a reset.
pub(super) const MAX_DRAINED_BYTES: u64 = 1024 * 1024;
/// When a client that finds no room may come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The first byte of a TLS connection: a record of a handshake (RFC 8446, section 5.1).
pub(super) const TLS_HANDSHAKE: u8 = 0x16;
/// How long a client that was refused has to read why, and to close.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// What lies beneath: a socket, or TLS over one.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// When it is dropped, what was written and not sent is thrown away: or the connection would live on until it is taken.
    fn discard_on_close(&self);
}

/// Whether there is a place for a connection.
#[derive(Debug)]
pub(super) enum Place {
    /// There is, and it is counted.
    Had(Held),
    /// What it asks is answered so.
    Refused {
        refusal: Refusal,
        /// When there may be one.
        retry_after: Duration,
        /// What it is counted by all the same, as long as the stream is there.
        held: Option<Held>,
        /// Its own place among those that are answered so.
        permit: Option<OwnedSemaphorePermit>,
    },
}

impl Place {
    /// There are as many connections as there may be.
    pub(super) fn no_room() -> Self {
        Self::Refused {
            refusal: Refusal::NO_ROOM,
            retry_after: RETRY_AFTER,
            held: None,
            permit: None,
        }
    }

    /// It came in plain text where TLS is spoken.
    pub(super) fn in_plain_text(self) -> Self {
        let (held, permit) = match self {
            Self::Had(held) => (Some(held), None),
            Self::Refused { held, permit, .. } => (held, permit),
        };
        Self::Refused {
            refusal: Refusal::NOT_ENCRYPTED,
            retry_after: RETRY_AFTER,
            held,
            permit,
        }
    }
}

/// How long a stream waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the first head, and from a head's first byte to its last.
    pub head: Duration,
    /// For the next request.
    pub keep_alive: Duration,
}

/// A connection's stream. See the module.
#[derive(Debug)]
pub(super) struct Guarded<T: Transport> {
    io: T,
    connection: Listed,
    patience: Patience,
    place: Place,
    phase: Phase,
    /// What was read from the socket and not handed on.
    buffer: BytesMut,
    /// So many bytes in front of it may be handed on.
    allowed: usize,
    /// The client has closed its side.
    input_closed: bool,
    write_blocked: bool,
    turn: Turn,
    /// Bytes handed on since the last pause.
    handed_on_bytes: usize,
    timer: Timer,
    /// How many were handed on.
    requests: u64,
    /// Bytes that came behind an answer and are thrown away.
    drained_bytes: u64,
}

#[derive(Debug)]
enum Phase {
    /// Between requests, or in a head, of which so many bytes have been looked at in vain.
    Head {
        seen: usize,
    },
    /// So many bytes of a body are still to come.
    Body {
        left: u64,
    },
    Chunked(Chunks),
    /// Behind an upgrade.
    Endless,
    /// Hark has closed a WebSocket, and waits for the peer's close frame.
    Closing(Closing),
    /// The request is all there, its answer is not.
    Answering,
    /// The guard's own answer is being written.
    Refusing(BytesMut),
    /// Said; what still comes is thrown away.
    Lingering,
    /// The request will never be whole: who reads it knows, and its answer is waited for.
    CutShort,
    /// The end of input is all that there is.
    Ended,
}

impl<T: Transport> Guarded<T> {
    /// Guards a stream that was just accepted.
    pub(super) fn new(io: T, connection: Listed, patience: Patience, place: Place) -> Self {
        Self {
            io,
            connection,
            patience,
            place,
            phase: Phase::Head { seen: 0 },
            buffer: BytesMut::new(),
            allowed: 0,
            input_closed: false,
            write_blocked: false,
            turn: Turn::default(),
            handed_on_bytes: 0,
            timer: Timer::default(),
            requests: 0,
            drained_bytes: 0,
        }
    }

    /// What others know of it.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Looks whether a whole head is there.
    fn look_for_head(&mut self, seen: usize) {
        // Empty lines in front of a request are passed over (RFC 9112, section 2.2).
        while self
            .buffer
            .first()
            .is_some_and(|&byte| byte == b'\r' || byte == b'\n')
        {
            self.buffer.advance(1);
        }
        if self.requests == 0 && self.buffer.first() == Some(&TLS_HANDSHAKE) {
            tracing::info!(
                peer = ?self.connection.peer(),
                "refused: it speaks TLS, and this listener does not; ask for http:// or ws://, or give the listener a certificate"
            );
            // What is no TLS tells its client so.
            self.refuse(Refusal::ENCRYPTED, RETRY_AFTER, false);
            return;
        }
        // A head ends with a line: there is nothing new before the next one has.
        let new = self.buffer.get(seen..).unwrap_or_default();
        let may_be_whole = new.contains(&b'\n') || self.buffer.len() >= MAX_HEAD_BYTES;
        self.phase = Phase::Head {
            seen: self.buffer.len(),
        };
        if may_be_whole {
            match head::read(&self.buffer) {
                Ok(Some(head)) => self.take_head(head),
                Ok(None) => {}
                Err(refusal) => self.refuse(refusal, RETRY_AFTER, false),
            }
        }
    }

    fn take_head(&mut self, head: Head) {
        if let Place::Refused {
            refusal,
            retry_after,
            ..
        } = self.place
        {
            let to_stream = head.wants_events && refusal != Refusal::NOT_ENCRYPTED;
            self.refuse(refusal, retry_after, to_stream);
            return;
        }
        self.timer.disarm();
        self.requests += 1;
        self.turn.did(1, 0);
        self.drained_bytes = 0;
        self.connection.request_begins();
        self.allowed = head.bytes;
        if let Some(rewritten) = head.rewritten {
            let rest = self.buffer.split_off(head.bytes);
            self.allowed = rewritten.len();
            self.buffer = BytesMut::from(&rewritten[..]);
            self.buffer.unsplit(rest);
        }
        self.phase = match head.body {
            BodyLength::Bytes(0) => Phase::Answering,
            BodyLength::Bytes(left) => Phase::Body { left },
            BodyLength::Chunked => Phase::Chunked(Chunks::new()),
            BodyLength::Endless => Phase::Endless,
        };
    }

    /// Answers in actix-http's place, and ends the connection.
    fn refuse(&mut self, refusal: Refusal, retry_after: Duration, wants_events: bool) {
        tracing::debug!(
            peer = ?self.connection.peer(),
            status = refusal.status,
            "a connection is refused"
        );
        let answer = answer(refusal, retry_after, wants_events);
        self.phase = Phase::Refusing(BytesMut::from(answer.as_bytes()));
        self.buffer = BytesMut::new();
        self.allowed = 0;
        self.timer.arm(LINGER);
    }

    /// Hands on what may be.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let bytes = self.allowed.min(buf.remaining());
        buf.put_slice(&self.buffer[..bytes]);
        self.buffer.advance(bytes);
        self.allowed -= bytes;
        if self.buffer.is_empty() {
            // Held only while something is in it: most connections are idle most of the time.
            self.buffer = BytesMut::new();
        }
    }

    /// Reads into the own buffer; 0 at the end of input.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input_closed {
            return Poll::Ready(Ok(0));
        }
        let mut bytes = [0; READ_BYTES];
        let room = READ_BYTES.min(self.turn.left_bytes());
        let mut piece = ReadBuf::new(&mut bytes[..room]);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut piece);
        self.buffer.extend_from_slice(piece.filled());
        self.count(polled, piece.filled().len())
    }

    /// Hands what comes straight on, at most `limit` bytes, and says how many; 0 at the end of input.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: u64,
    ) -> Poll<io::Result<usize>> {
        if self.input_closed {
            return Poll::Ready(Ok(0));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let limit = limit.min(self.turn.left_bytes());
        let before = buf.filled().len();
        let polled = if buf.remaining() <= limit {
            Pin::new(&mut self.io).poll_read(cx, buf)
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(limit));
            let polled = Pin::new(&mut self.io).poll_read(cx, &mut part);
            let bytes = part.filled().len();
            buf.advance(bytes);
            polled
        };
        self.count(polled, buf.filled().len() - before)
    }

    /// What was read counts for the turn.
    fn count(&mut self, polled: Poll<io::Result<()>>, bytes: usize) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(())) => {
                self.turn.did(0, bytes);
                self.input_closed = bytes == 0;
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.turn.waits_for_the_socket();
                self.connection.waits_for_the_socket();
                Poll::Pending
            }
        }
    }

    /// The client has closed its side before its request was whole, or while it has a WebSocket; or what it sends is no body.
    fn is_cut_short(&mut self) {
        self.connection.input_closed(true);
        self.phase = Phase::CutShort;
    }

    /// Goes on in the phase; `Ready` when something was handed on, or the end of input is.
    fn poll_phase(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.allowed > 0 {
                self.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            if self.turn.is_used_up() {
                return Poll::Pending;
            }
            match &mut self.phase {
                Phase::Head { seen } => {
                    let seen = *seen;
                    if self.buffer.len() > seen {
                        self.look_for_head(seen);
                        let has_begun = matches!(self.phase, Phase::Head { seen } if seen > 0);
                        if seen == 0 && has_begun && self.requests > 0 {
                            self.timer.arm(self.patience.head);
                        }
                        continue;
                    }
                    match self.poll_fill(cx)? {
                        Poll::Ready(0) => self.phase = Phase::Ended,
                        Poll::Ready(_) => {}
                        // Only now: what has come in time counts, though it is looked at late.
                        Poll::Pending if self.head_is_late(cx) => {}
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Phase::Body { left } => {
                    let left = *left;
                    if self.is_drained(cx) {
                        continue;
                    }
                    let bytes = if self.buffer.is_empty() {
                        ready!(self.poll_pass(cx, buf, left))? as u64
                    } else {
                        self.allowed = usize::try_from(left)
                            .unwrap_or(usize::MAX)
                            .min(self.buffer.len());
                        self.allowed as u64
                    };
                    if bytes == 0 {
                        self.is_cut_short();
                        continue;
                    }
                    self.hands_on_of_body(bytes);
                    self.phase = match left - bytes {
                        0 => Phase::Answering,
                        left => Phase::Body { left },
                    };
                    if self.allowed == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Phase::Chunked(_) if self.buffer.is_empty() => {
                    if !self.is_drained(cx) && ready!(self.poll_fill(cx))? == 0 {
                        self.is_cut_short();
                    }
                }
                Phase::Chunked(chunks) => match chunks.step(&self.buffer) {
                    Ok(step) => {
                        self.allowed = step.bytes;
                        if chunks.ended() {
                            self.phase = Phase::Answering;
                        }
                        self.hands_on_of_body(step.data_bytes);
                    }
                    Err(BadChunks) => self.is_cut_short(),
                },
                Phase::Endless if !self.buffer.is_empty() => {
                    self.allowed = self.buffer.len();
                    self.connection.handed_on(self.allowed as u64);
                }
                Phase::Endless if self.connection.is_closed() && self.connection.all_answered() => {
                    self.phase = Phase::Ended;
                }
                Phase::Endless if self.connection.all_answered() => {
                    self.phase = Phase::Closing(Closing::default());
                }
                // actix-http throws away what it gets of this, until it has waited long enough.
                Phase::Closing(_) if self.buffer.is_empty() => {
                    if ready!(self.poll_fill(cx))? == 0 {
                        self.phase = Phase::Ended;
                    }
                }
                Phase::Closing(closing) => {
                    if closing.comes_with(&self.buffer) {
                        self.phase = Phase::Ended;
                    }
                    self.buffer.clear();
                }
                Phase::Endless => {
                    let bytes = ready!(self.poll_pass(cx, buf, u64::MAX))?;
                    if bytes > 0 {
                        self.connection.handed_on(bytes as u64);
                        return Poll::Ready(Ok(()));
                    }
                    self.is_cut_short();
                }
                Phase::Answering if self.connection.all_answered() => {
                    self.phase = Phase::Head { seen: 0 };
                    self.timer.arm(if self.buffer.is_empty() {
                        self.patience.keep_alive
                    } else {
                        self.patience.head
                    });
                }
                // The end of the answer wakes.
                Phase::Answering if self.input_closed || self.buffer.len() >= MAX_AHEAD_BYTES => {
                    return Poll::Pending;
                }
                Phase::Answering => {
                    if ready!(self.poll_fill(cx))? == 0 {
                        self.connection.input_closed(false);
                    }
                }
                Phase::Refusing(_) | Phase::Lingering if self.timer.is_over(cx) => {
                    self.phase = Phase::Ended;
                }
                Phase::Refusing(answer) => {
                    while !answer.is_empty() {
                        let bytes = ready!(Pin::new(&mut self.io).poll_write(cx, answer))?;
                        if bytes == 0 {
                            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                        }
                        answer.advance(bytes);
                    }
                    ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
                    self.phase = Phase::Lingering;
                }
                Phase::Lingering => {
                    let bytes = ready!(self.poll_fill(cx))? as u64;
                    self.drained_bytes += bytes;
                    if bytes == 0 || self.drained_bytes > MAX_DRAINED_BYTES {
                        self.phase = Phase::Ended;
                    }
                    self.buffer.clear();
                }
                Phase::CutShort if self.connection.all_answered() && self.input_closed => {
                    self.phase = Phase::Ended;
                }
                // It may still be sending: to close now would be a reset, and lose the answer.
                Phase::CutShort if self.connection.all_answered() => {
                    self.timer.arm(LINGER);
                    self.phase = Phase::Lingering;
                }
                Phase::CutShort => return Poll::Pending,
                Phase::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn hands_on_of_body(&mut self, bytes: u64) {
        self.connection.handed_on(bytes);
        if self.connection.all_answered() {
            self.drained_bytes += bytes;
        }
    }

    /// Whether a head, or the next request, has not come in time; then the connection is about to end.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.timer.is_armed() {
            self.timer.arm(self.patience.head);
        }
        let late = self.timer.is_over(cx);
        if late && self.requests > 0 && self.buffer.is_empty() {
            // Nobody has asked for anything: there is nothing to say.
            self.phase = Phase::Ended;
        } else if late {
            self.refuse(Refusal::TOO_SLOW, RETRY_AFTER, false);
        }
        late
    }

    /// Whether enough has been read of a body whose request was answered without it; then the connection is about to end.
    fn is_drained(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.connection.all_answered() {
            return false;
        }
        if !self.timer.is_armed() {
            self.timer.arm(self.patience.head);
        }
        let enough = self.drained_bytes > MAX_DRAINED_BYTES || self.timer.is_over(cx);
        if enough {
            self.phase = Phase::Ended;
        }
        enough
    }

    /// What became of an attempt to write.
    fn wrote<R>(&mut self, polled: Poll<io::Result<R>>, cx: &Context<'_>) -> Poll<io::Result<R>> {
        match &polled {
            Poll::Pending => {
                // actix-http may do nothing but write from here on, and the connection can still be cut.
                self.connection.is_served_by(cx.waker());
                self.write_blocked = true;
            }
            Poll::Ready(Ok(_)) if std::mem::replace(&mut self.write_blocked, false) => {
                // Reading had stopped, and is not asked for by itself.
                cx.waker().wake_by_ref();
            }
            Poll::Ready(_) => {}
        }
        polled
    }

    fn end_if_cut(&self) -> io::Result<()> {
        if self.connection.is_cut() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was cut",
            ));
        }
        Ok(())
    }
}

/// The guard's own answer, in the form of all refusals; event streams are told to come back, since a browser takes any other status than 200
/// for the end of all.
fn answer(refusal: Refusal, retry_after: Duration, wants_events: bool) -> String {
    let Refusal {
        status,
        code,
        message,
    } = refusal;
    let (status, content_type, more, body) = if wants_events {
        let body = format!("retry: {}\n\n", retry_after.as_millis().max(1));
        // For a page of whatever origin: one that may not read this takes it for the end of all, too, and there is nothing in it.
        let origin = "access-control-allow-origin: *\r\n".to_owned();
        ("200 OK", "text/event-stream", origin, body)
    } else {
        let again = matches!(code, "busy" | "rate_limited");
        let seconds = retry_after.as_millis().div_ceil(1000).max(1);
        let retry = format!("retry-after: {seconds}\r\n");
        let body = format!("{{\"code\":\"{code}\",\"message\":\"{message}\"}}");
        let more = if again { retry } else { String::new() };
        (status, "application/json", more, body)
    };
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: {content_type}\r\n{more}\
         cache-control: no-store\r\nconnection: close\r\ndate: {date}\r\n\r\n{body}",
        body.len()
    )
}

impl<T: Transport> AsyncRead for Guarded<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.connection.is_served_by(cx.waker());
        this.end_if_cut()?;
        ready!(this.turn.poll_ready(cx));
        // The one whose answers are not taken is not asked for more; when they are, it is looked at again.
        if this.write_blocked || buf.remaining() == 0 {
            return Poll::Pending;
        }
        if this.handed_on_bytes >= HANDED_ON_AT_ONCE_BYTES {
            // actix-http takes all that there is before it looks at it, and its buffer stays as large as it was once.
            this.handed_on_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = this.poll_phase(cx, buf);
        match &polled {
            Poll::Ready(_) => this.handed_on_bytes += buf.filled().len() - before,
            Poll::Pending => this.handed_on_bytes = 0,
        }
        // The task is woken when the others have had their turn.
        if polled.is_pending() && this.turn.is_used_up() && this.turn.poll_ready(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl<T: Transport> AsyncWrite for Guarded<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.end_if_cut()?;
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.wrote(polled, cx)
    }

    /// What was handed past actix-http is written behind what it has written itself.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.end_if_cut()?;
        let written = this.connection.output().write_all(|slices| {
            let io = Pin::new(&mut this.io);
            match slices {
                // The cheaper call.
                [one] => io.poll_write(cx, one),
                some => io.poll_write_vectored(cx, some),
            }
        });
        if ready!(this.wrote(written, cx))? {
            cx.waker().wake_by_ref();
        }
        // What TLS has taken, and the socket has not.
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.wrote(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.end_if_cut()?;
        let polled = Pin::new(&mut this.io).poll_shutdown(cx);
        // TLS has something to say first.
        this.wrote(polled, cx)
    }
}

impl<T: Transport> Drop for Guarded<T> {
    fn drop(&mut self) {
        if self.connection.is_cut() {
            self.io.discard_on_close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::Wake;

    use bytes::Bytes;

    use super::*;
    use crate::connections::Connections;
    use crate::limits::Limits;
    use crate::turns::MAX_BYTES_A_TURN;

    /// A socket that always has more to read, as long as there is any, and takes what is written, or nothing.
    #[derive(Debug, Default)]
    struct Fake {
        input: VecDeque<u8>,
        closed: bool,
        blocked: bool,
        reads: Arc<AtomicUsize>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl AsyncRead for Fake {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            this.reads.fetch_add(1, Ordering::Relaxed);
            let bytes = buf.remaining().min(this.input.len());
            if bytes == 0 && !this.closed {
                return Poll::Pending;
            }
            let bytes: Vec<u8> = this.input.drain(..bytes).collect();
            buf.put_slice(&bytes);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Fake {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.blocked {
                return Poll::Pending;
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.blocked {
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }
    }

    impl Transport for Fake {
        fn discard_on_close(&self) {}
    }

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
    };

    fn guarded(input: &[u8]) -> Guarded<Fake> {
        let listed = Connections::new(Duration::from_secs(60)).enter(None);
        let io = Fake {
            input: input.iter().copied().collect(),
            ..Fake::default()
        };
        let place = Limits::new(crate::limits::Settings::default()).accept(None);
        Guarded::new(io, listed, PATIENCE, Place::Had(place.unwrap()))
    }

    /// What is handed on until there is a pause; `None`: the end of input.
    async fn until_pause(stream: &mut Guarded<Fake>) -> Option<Vec<u8>> {
        std::future::poll_fn(|cx| {
            let mut all = Vec::new();
            loop {
                let mut bytes = [0; 8192];
                let mut buf = ReadBuf::new(&mut bytes);
                match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                    Poll::Ready(Ok(())) if buf.filled().is_empty() && all.is_empty() => {
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                        all.extend_from_slice(buf.filled());
                    }
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    _ => return Poll::Ready(Some(all)),
                }
            }
        })
        .await
    }

    fn answered(stream: &Guarded<Fake>) {
        stream.connection.answer_ends();
    }

    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[actix_web::test]
    async fn the_next_request_comes_when_the_answer_before_has_gone() {
        let mut stream = guarded(HEAD.repeat(2).as_bytes());
        assert_eq!(until_pause(&mut stream).await.unwrap(), HEAD.as_bytes());
        assert_eq!(until_pause(&mut stream).await.unwrap(), b"");
        // The answer has ended, and the kernel does not take it.
        answered(&stream);
        stream.io.blocked = true;
        std::future::poll_fn(|cx| {
            assert!(Pin::new(&mut stream).poll_write(cx, b"answer").is_pending());
            Poll::Ready(())
        })
        .await;
        let reads = stream.io.reads.load(Ordering::Relaxed);
        assert_eq!(until_pause(&mut stream).await.unwrap(), b"");
        assert_eq!(
            stream.io.reads.load(Ordering::Relaxed),
            reads,
            "it reads though it is blocked"
        );
        stream.io.blocked = false;
        std::future::poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"answer"))
            .await
            .unwrap();
        assert_eq!(until_pause(&mut stream).await.unwrap(), HEAD.as_bytes());
    }

    #[actix_web::test]
    async fn what_goes_on_and_on_is_written_behind_what_actix_has_written() {
        let mut stream = guarded(b"");
        let said = |stream: &Guarded<Fake>| {
            let written = stream.io.written.lock().unwrap();
            String::from_utf8(written.clone()).unwrap()
        };
        for piece in ["one ", "two ", "three"] {
            stream.connection.output().give(piece.into());
        }
        std::future::poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"head "))
            .await
            .unwrap();
        assert_eq!(said(&stream), "head ");
        stream.io.blocked = true;
        std::future::poll_fn(|cx| {
            assert!(Pin::new(&mut stream).poll_flush(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        // Nothing is read of one that does not take what it is given.
        let reads = stream.io.reads.load(Ordering::Relaxed);
        until_pause(&mut stream).await;
        assert_eq!(stream.io.reads.load(Ordering::Relaxed), reads);
        stream.io.blocked = false;
        std::future::poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx))
            .await
            .unwrap();
        assert_eq!(said(&stream), "head one two three");
    }

    /// actix-http does nothing but write while the kernel takes no more, and stops reading for it.
    #[actix_web::test]
    async fn who_is_cut_while_it_only_writes_is_woken() {
        for past_actix in [false, true] {
            let mut stream = guarded(b"");
            stream.io.blocked = true;
            if past_actix {
                stream.connection.output().give(Bytes::from_static(b"news"));
            }
            let woken = Arc::new(Woken::default());
            let waker = woken.clone().into();
            let mut cx = Context::from_waker(&waker);
            let polled = match past_actix {
                false => Pin::new(&mut stream)
                    .poll_write(&mut cx, b"answer")
                    .map(drop),
                true => Pin::new(&mut stream).poll_flush(&mut cx).map(drop),
            };
            assert!(polled.is_pending());
            assert!(!woken.0.load(Ordering::Relaxed));
            assert!(stream.connection.cut());
            assert!(woken.0.load(Ordering::Relaxed), "{past_actix}");
            let flushed = Pin::new(&mut stream).poll_flush(&mut cx);
            assert!(matches!(flushed, Poll::Ready(Err(_))), "{flushed:?}");
        }
    }

    /// TLS says that it ends, which the kernel may not take.
    #[actix_web::test]
    async fn who_is_cut_while_it_is_shut_down_is_woken() {
        let mut stream = guarded(b"");
        stream.io.blocked = true;
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut stream).poll_shutdown(&mut cx).is_pending());
        assert!(stream.connection.cut());
        assert!(woken.0.load(Ordering::Relaxed));
        let ended = Pin::new(&mut stream).poll_shutdown(&mut cx);
        assert!(matches!(ended, Poll::Ready(Err(_))), "{ended:?}");
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[actix_web::test]
    async fn what_waits_behind_a_request_has_a_bound() {
        let mut stream = guarded(HEAD.repeat(10_000).as_bytes());
        until_pause(&mut stream).await;
        assert!(
            stream.buffer.len() <= MAX_AHEAD_BYTES + READ_BYTES,
            "{}",
            stream.buffer.len()
        );
    }

    #[actix_web::test]
    async fn a_turn_ends_after_so_many_bytes() {
        let length = 10 * MAX_BYTES_A_TURN;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n".to_owned();
        for head in [head, upgrade] {
            let mut input = head.into_bytes();
            input.resize(input.len() + length, b'x');
            let mut stream = guarded(&input);
            let (mut turns, mut bytes) = (0, 0);
            while bytes < input.len() {
                let turn = until_pause(&mut stream).await.unwrap().len();
                assert!(turn <= MAX_BYTES_A_TURN, "{turn} bytes in a turn");
                (turns, bytes) = (turns + 1, bytes + turn);
                tokio::task::yield_now().await;
            }
            assert!(turns >= 10, "{turns} turns");
        }
    }

    #[actix_web::test]
    async fn a_turn_ends_after_so_many_requests() {
        let mut stream = guarded(HEAD.repeat(100).as_bytes());
        let (mut turns, mut requests) = (1, 0);
        while requests < 100 {
            match until_pause(&mut stream).await.unwrap().len() {
                0 => {
                    assert!(stream.turn.is_used_up());
                    turns += 1;
                    tokio::task::yield_now().await;
                }
                _ => {
                    requests += 1;
                    answered(&stream);
                }
            }
        }
        assert!(turns > 1, "{turns} turns");
    }

    #[actix_web::test]
    async fn the_end_of_input_comes_behind_the_answer() {
        let mut stream = guarded(HEAD.as_bytes());
        stream.io.closed = true;
        assert_eq!(until_pause(&mut stream).await.unwrap(), HEAD.as_bytes());
        assert_eq!(
            until_pause(&mut stream).await.unwrap(),
            b"",
            "there is no end yet"
        );
        answered(&stream);
        assert_eq!(until_pause(&mut stream).await, None);
    }

    /// Waits until something was said, or the end of input comes; gives what was said.
    async fn until_said_or_ended(stream: &mut Guarded<Fake>) -> String {
        let wait = async {
            while until_pause(stream).await.is_some()
                && stream.io.written.lock().unwrap().is_empty()
            {
                tokio::time::sleep(SHORT.head / 10).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap();
        String::from_utf8(stream.io.written.lock().unwrap().clone()).unwrap()
    }

    const SHORT: Patience = Patience {
        head: Duration::from_millis(100),
        keep_alive: Duration::from_millis(200),
    };

    #[actix_web::test]
    async fn a_head_has_its_time_and_so_has_the_next() {
        let half = &HEAD[..10];
        let mut stream = guarded(half.as_bytes());
        stream.patience = SHORT;
        let said = until_said_or_ended(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");

        let mut stream = guarded(HEAD.as_bytes());
        until_pause(&mut stream).await;
        stream.patience.head = SHORT.head;
        answered(&stream);
        until_pause(&mut stream).await;
        stream.io.input.extend(half.as_bytes());
        let said = until_said_or_ended(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");

        // Nobody has asked for anything: the connection ends without a word.
        let mut stream = guarded(HEAD.as_bytes());
        until_pause(&mut stream).await;
        stream.patience = SHORT;
        answered(&stream);
        assert_eq!(until_said_or_ended(&mut stream).await, "");
        assert_eq!(until_pause(&mut stream).await, None);
    }

    /// A machine that slept finds all its timers over; it asks once more before it judges.
    #[actix_web::test]
    async fn who_slept_waits_once_more() {
        let mut stream = guarded(&HEAD.as_bytes()[..10]);
        stream.patience = SHORT;
        until_pause(&mut stream).await;
        #[allow(clippy::disallowed_methods)] // nothing runs meanwhile: that is what it is about
        std::thread::sleep(3 * SHORT.head);
        until_pause(&mut stream).await;
        assert!(
            stream.io.written.lock().unwrap().is_empty(),
            "judged in its sleep"
        );
        stream.io.input.extend(&HEAD.as_bytes()[10..]);
        assert_eq!(until_pause(&mut stream).await.unwrap(), HEAD.as_bytes());
    }
}
