//! The WebSocket under a session: the only file that knows actix-web-actors. Owns the upgrade's response, the cutting of
//! the byte stream into frames within bounds, and the pace of the body.
//!
//! actix-http's parser checks a frame's length only once all of it is buffered, so a header that announces 2^62 bytes would make
//! it hold whatever comes. [`FrameGuard`] reads the headers first.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix::prelude::*;
use actix_http::ws::Item;
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws::{self, ProtocolError, WebsocketContext};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use hark_protocol::CloseCode;

use super::Session;
use super::inbound::Piece;
use super::outbound::Flow;

/// What a session's handlers are given.
pub(super) type SessionContext = WebsocketContext<Session>;

/// Envelopes that may wait for a session. Full: the room makes the subscription lag.
const SESSION_MAILBOX: usize = 256;
/// The longest reason a close frame can carry (RFC 6455, section 5.5: 125 bytes less the code).
const MAX_CLOSE_REASON_BYTES: usize = 123;

/// Answers an upgrade that has been checked, and starts the session on it.
pub fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    session: Session,
    answer_subprotocol: bool,
) -> actix_web::Result<HttpResponse> {
    let mut response = ws::handshake(request)?;
    if answer_subprotocol {
        // Not left to actix-web-actors, which looks at the first line of what the client offers alone.
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, session.subprotocol.name()));
    }
    let flow = session.flow.clone();
    let max_bytes = session.settings.max_message_bytes;
    let frames = FrameGuard::new(payload.into_inner(), flow.clone(), max_bytes);
    let codec = actix_http::ws::Codec::new().max_size(max_bytes);
    let body = WebsocketContext::with_codec(session, frames, codec);
    Ok(response.streaming(PacedBody {
        body: Box::pin(body),
        flow,
    }))
}

impl Actor for Session {
    type Context = SessionContext;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SESSION_MAILBOX);
        ctx.add_stream(BodyTurns(self.flow.clone()));
        self.begin(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.end();
    }
}

impl Session {
    /// Ends the session with a code and a reason, which also goes to the log.
    pub(super) fn close(&mut self, ctx: &mut SessionContext, code: CloseCode, reason: &str) {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        tracing::info!(
            session = self.name,
            peer = self.peer,
            code = code.0,
            reason,
            "a session is ended"
        );
        debug_assert!(reason.len() <= MAX_CLOSE_REASON_BYTES);
        ctx.close(Some(ws::CloseReason {
            code: code.0.into(),
            description: Some(reason.to_owned()),
        }));
        ctx.stop();
    }
}

impl StreamHandler<Result<ws::Message, ProtocolError>> for Session {
    fn handle(&mut self, message: Result<ws::Message, ProtocolError>, ctx: &mut Self::Context) {
        self.heard();
        match message {
            Ok(ws::Message::Text(text)) => self.take_piece(
                Piece::Whole {
                    text: true,
                    bytes: text.into_bytes(),
                },
                ctx,
            ),
            Ok(ws::Message::Binary(bytes)) => {
                self.take_piece(Piece::Whole { text: false, bytes }, ctx)
            }
            Ok(ws::Message::Continuation(Item::FirstText(bytes))) => {
                self.take_piece(Piece::First { text: true, bytes }, ctx)
            }
            Ok(ws::Message::Continuation(Item::FirstBinary(bytes))) => {
                self.take_piece(Piece::First { text: false, bytes }, ctx)
            }
            Ok(ws::Message::Continuation(Item::Continue(bytes))) => {
                self.take_piece(Piece::Next(bytes), ctx)
            }
            Ok(ws::Message::Continuation(Item::Last(bytes))) => {
                self.take_piece(Piece::Last(bytes), ctx)
            }
            Ok(ws::Message::Ping(payload)) => ctx.pong(&payload),
            Ok(ws::Message::Pong(_) | ws::Message::Nop) => {}
            Ok(ws::Message::Close(reason)) => {
                tracing::debug!(session = self.name, ?reason, "the client closes");
                ctx.close(Some(ws::CloseCode::Normal.into()));
                ctx.stop();
            }
            Err(error) => {
                let code = self
                    .flow
                    .violation()
                    .unwrap_or_else(|| violation_code(&error));
                let reason = match code {
                    CloseCode::TOO_LARGE => format!(
                        "a message has at most {} bytes",
                        self.settings.max_message_bytes
                    ),
                    CloseCode::BAD_TEXT => "the text is not UTF-8".to_owned(),
                    _ if self.flow.violation().is_some() => {
                        "a control frame has at most 125 bytes".to_owned()
                    }
                    _ => error.to_string(),
                };
                let longest = reason.len().min(MAX_CLOSE_REASON_BYTES);
                let end = (0..=longest)
                    .rev()
                    .find(|&end| reason.is_char_boundary(end))
                    .unwrap_or(0);
                self.close(ctx, code, &reason[..end]);
            }
        }
    }
}

/// Which code a violation is closed with (RFC 6455, section 7.4.1).
fn violation_code(error: &ProtocolError) -> CloseCode {
    match error {
        ProtocolError::Overflow => CloseCode::TOO_LARGE,
        // actix-web-actors reports text that is not UTF-8 so; reserved bits are `InvalidData`.
        ProtocolError::Io(error) if error.kind() == std::io::ErrorKind::Other => {
            CloseCode::BAD_TEXT
        }
        _ => CloseCode::PROTOCOL,
    }
}

/// The session's output, which tells the flow each time the socket asks for more: then what was given before is taken. While the
/// socket is blocked it does not ask, and the session stands still.
struct PacedBody<S> {
    body: Pin<Box<S>>,
    flow: Rc<Flow>,
}

impl<S, E> Stream for PacedBody<S>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.flow.body_polled();
        let given = self.body.as_mut().poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &given {
            self.flow.gave(bytes.len());
        }
        given
    }
}

/// Gives the session a turn when a page has been written, so that it asks for the next. It is looked at whenever the session
/// runs, which it does after each piece of output: it needs no waker.
struct BodyTurns(Rc<Flow>);

/// The socket has taken the last page.
#[derive(Debug)]
struct PageWritten;

impl Stream for BodyTurns {
    type Item = PageWritten;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<PageWritten>> {
        match self.0.take_page_turn() {
            true => Poll::Ready(Some(PageWritten)),
            false => Poll::Pending,
        }
    }
}

impl StreamHandler<PageWritten> for Session {
    fn handle(&mut self, PageWritten: PageWritten, ctx: &mut Self::Context) {
        self.pull_next(ctx);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

/// Cuts the byte stream at frame borders, one frame a turn, and refuses one that announces too much as soon as its header is
/// there. Fragments of a message count together. Waits while the session has too much unanswered.
pub(super) struct FrameGuard<S> {
    payload: S,
    flow: Rc<Flow>,
    max_bytes: usize,
    buffer: BytesMut,
    /// Bytes of the message that is coming in fragments.
    message_bytes: usize,
    /// A frame was handed out in this turn.
    handed_out: bool,
    ended: bool,
}

/// What the first bytes of a frame say.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// There is more to come.
    Incomplete,
    /// The whole frame is there.
    Complete {
        frame_bytes: usize,
        payload_bytes: usize,
    },
    /// The codec will refuse it by what is there.
    Refused,
    /// It announces too much.
    TooLarge,
    /// It is a control frame that announces more than one may have (RFC 6455, section 5.5).
    TooLargeControl,
}

impl<S> FrameGuard<S> {
    pub(super) fn new(payload: S, flow: Rc<Flow>, max_bytes: usize) -> Self {
        Self {
            payload,
            flow,
            max_bytes,
            buffer: BytesMut::new(),
            message_bytes: 0,
            handed_out: false,
            ended: false,
        }
    }

    /// Reads a frame's header (RFC 6455, section 5.2).
    fn look(&self) -> Header {
        let bytes = &self.buffer[..];
        let [first, second, rest @ ..] = bytes else {
            return Header::Incomplete;
        };
        let opcode = first & 0x0f;
        let masked = second & 0x80 != 0;
        let control = opcode & 0x08 != 0;
        if first & 0x70 != 0 || !masked || !matches!(opcode, 0..=2 | 8..=10) {
            return Header::Refused;
        }
        let (length, header_bytes) = match second & 0x7f {
            126 => match rest {
                [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 4),
                _ => return Header::Incomplete,
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (u64::from_be_bytes(*length), 10),
                None => return Header::Incomplete,
            },
            length => (u64::from(length), 2),
        };
        let before = if opcode == 0 { self.message_bytes } else { 0 };
        let length = match usize::try_from(length) {
            _ if control && length > 125 => return Header::TooLargeControl,
            Ok(length) if control || length.saturating_add(before) <= self.max_bytes => length,
            _ => return Header::TooLarge,
        };
        let frame_bytes = header_bytes + 4 + length;
        match bytes.len() >= frame_bytes {
            true => Header::Complete {
                frame_bytes,
                payload_bytes: length,
            },
            false => Header::Incomplete,
        }
    }

    /// Ends the connection at the frame that begins here.
    fn end_with(&mut self, code: CloseCode) -> Poll<Option<Result<Bytes, PayloadError>>> {
        self.ended = true;
        self.flow.set_violation(code);
        Poll::Ready(Some(Err(PayloadError::Overflow)))
    }

    fn hand_out(&mut self, frame_bytes: usize, payload_bytes: usize) -> Bytes {
        let first = self.buffer[0];
        if first & 0x08 == 0 {
            let before = if first & 0x0f == 0 {
                self.message_bytes
            } else {
                0
            };
            let last = first & 0x80 != 0;
            self.message_bytes = if last { 0 } else { before + payload_bytes };
        }
        self.handed_out = true;
        self.buffer.split_to(frame_bytes).freeze()
    }
}

impl<S> Stream for FrameGuard<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The reader asks until it hears "not now", and only then decodes: one frame at a time, so that pausing is exact.
        if std::mem::take(&mut self.handed_out) || self.flow.inbound_must_wait(cx.waker()) {
            return Poll::Pending;
        }
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            match self.look() {
                Header::Complete {
                    frame_bytes,
                    payload_bytes,
                } => {
                    return Poll::Ready(Some(Ok(self.hand_out(frame_bytes, payload_bytes))));
                }
                Header::Refused => {
                    self.ended = true;
                    self.handed_out = true;
                    return Poll::Ready(Some(Ok(self.buffer.split().freeze())));
                }
                Header::TooLarge => return self.end_with(CloseCode::TOO_LARGE),
                Header::TooLargeControl => return self.end_with(CloseCode::PROTOCOL),
                Header::Incomplete => {}
            }
            match Pin::new(&mut self.payload).poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.buffer.extend_from_slice(&chunk),
                Poll::Ready(Some(Err(_)) | None) => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
