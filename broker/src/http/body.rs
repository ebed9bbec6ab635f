//! The bodies of requests: whole, or cut into lines as they come. Owns their bounds, in bytes and in patience.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hark_protocol::{ErrorCode, MAX_FRAME_BYTES};
use tokio::time::Instant;

use super::{ApiError, Gate};
use crate::connections::{Connection, pages};

/// Lines that are given out together, at most; the next ones are read when these are done with.
const MAX_LINES_A_TURN: usize = 512;
/// Bytes of lines that are given out together (but at least one line).
const MAX_LINE_BYTES_A_TURN: usize = 256 * 1024;

/// A request's body. One that dawdles is given up: no timer of the server runs once the head is there.
pub(super) struct Body {
    payload: Pin<Box<web::Payload>>,
    patience: Duration,
    connection: Option<Arc<Connection>>,
    received_bytes: u64,
    /// With `Content-Length`.
    announced: bool,
}

/// When what is waited for must be there: each page of it within the patience.
struct Deadline {
    began: Instant,
    received: usize,
}

impl Deadline {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            received: 0,
        }
    }
}

impl Body {
    /// The body of a request. One that is packed is refused (RFC 9110, section 8.4): it would be kept as it is, and taken for what it
    /// holds.
    pub(super) fn new(
        request: &HttpRequest,
        payload: web::Payload,
        gate: &Gate,
    ) -> Result<Self, ApiError> {
        let mut packed = request.headers().get_all(header::CONTENT_ENCODING);
        if packed.any(|packed| !packed.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(ApiError::with_status(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ErrorCode::Unsupported,
                "a body with a Content-Encoding is not taken; send it unpacked",
            ));
        }
        Ok(Self {
            payload: Box::pin(payload),
            patience: gate.session_settings.stall_timeout,
            connection: Connection::of(request),
            received_bytes: 0,
            announced: request.headers().contains_key(header::CONTENT_LENGTH),
        })
    }

    /// Whether the client has said how long it is.
    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    /// All of it; `what` it is called where it is too large.
    pub(super) async fn whole(mut self, what: &str) -> Result<Bytes, ApiError> {
        let mut body = BytesMut::new();
        let mut deadline = Deadline::begin();
        while let Some(chunk) = self.next(&mut deadline).await? {
            if body.len() + chunk.len() > MAX_FRAME_BYTES {
                return Err(too_large(what));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The next piece, or that it ends in its midst: the client has closed its side.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        if let Poll::Ready(piece) = self.payload.poll_next_unpin(cx) {
            return Poll::Ready(piece);
        }
        match &self.connection {
            Some(connection) if connection.body_ends_after(self.received_bytes, cx.waker()) => {
                Poll::Ready(Some(Err(PayloadError::Incomplete(None))))
            }
            _ => Poll::Pending,
        }
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self, deadline: &mut Deadline) -> Result<Option<Bytes>, ApiError> {
        let pages = pages(deadline.received).saturating_add(1);
        let end = deadline.began + self.patience.saturating_mul(pages);
        match tokio::time::timeout_at(end, std::future::poll_fn(|cx| self.poll_piece(cx))).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                deadline.received += piece.len();
                self.received_bytes += piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(Some(Err(error))) => Err(ApiError::new(
                ErrorCode::BadFrame,
                format!("the body ended early: {error}"),
            )),
            Err(_) => Err(ApiError::with_status(
                StatusCode::REQUEST_TIMEOUT,
                ErrorCode::BadFrame,
                "the body did not come, or too slowly; send it without a pause",
            )),
        }
    }
}

fn too_large(what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("{what} has at most {MAX_FRAME_BYTES} bytes"),
    )
}

/// A body cut into lines. Holds one line of at most the largest message, or as much that was read ahead, and what came behind it.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// So many bytes of the buffer hold no line break.
    searched: usize,
    /// Inside a line that is too long: it has been answered, the rest of it is passed over.
    skipping: bool,
    /// For the next lines, since they are waited for.
    deadline: Option<Deadline>,
    ended: bool,
    /// Why it ended before its time.
    broken: Option<ApiError>,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            skipping: false,
            deadline: None,
            ended: false,
            broken: None,
        }
    }

    /// The lines that are there, but at least one; empty lines do not count. `None` at the end.
    pub(super) async fn next_lines(&mut self) -> Option<Vec<Result<Bytes, ApiError>>> {
        loop {
            let lines = self.take_lines();
            if !lines.is_empty() {
                return Some(lines);
            }
            if self.ended {
                return None;
            }
            self.read_on().await;
        }
    }

    /// The lines that are there: as many as are given out together.
    pub(super) fn take_lines(&mut self) -> Vec<Result<Bytes, ApiError>> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        while lines.len() < MAX_LINES_A_TURN && bytes < MAX_LINE_BYTES_A_TURN {
            // The last answer says why there is no other.
            let broken = |lines: &mut Self| lines.broken.take().map(Err);
            let Some(line) = self.cut().or_else(|| broken(self)) else {
                break;
            };
            bytes += line.as_ref().map_or(0, Bytes::len);
            lines.push(line);
        }
        if !lines.is_empty() {
            self.deadline = None;
        }
        lines
    }

    /// Whether all of it has been read, though lines may still be there.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether more would have to be read than is held.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() > MAX_FRAME_BYTES
    }

    /// Waits for the next piece. Given up in its midst, it can be called again.
    pub(super) async fn read_on(&mut self) {
        let deadline = self.deadline.get_or_insert_with(Deadline::begin);
        match self.body.next(deadline).await {
            Ok(Some(piece)) => self.buffer.extend_from_slice(&piece),
            Ok(None) => self.ended = true,
            // What is left behind the last whole line is a part of one, and must not be taken for it.
            Err(error) => {
                let whole = self.buffer.iter().rposition(|&byte| byte == b'\n');
                self.buffer.truncate(whole.map_or(0, |end| end + 1));
                self.searched = self.searched.min(self.buffer.len());
                self.broken = Some(error);
                self.ended = true;
            }
        }
    }

    /// The next line of the buffer that is not empty.
    fn cut(&mut self) -> Option<Result<Bytes, ApiError>> {
        loop {
            let unsearched = &self.buffer[self.searched..];
            let end = unsearched.iter().position(|&byte| byte == b'\n');
            let end = end.map(|end| self.searched + end);
            self.searched = if end.is_some() { 0 } else { self.buffer.len() };
            let line = match end {
                Some(end) => self.buffer.split_to(end + 1),
                None if self.buffer.len() > MAX_FRAME_BYTES => {
                    self.buffer.clear();
                    self.searched = 0;
                    match std::mem::replace(&mut self.skipping, true) {
                        true => return None,
                        false => return Some(Err(too_large("a line"))),
                    }
                }
                None if self.ended && !self.buffer.is_empty() => {
                    self.searched = 0;
                    self.buffer.split()
                }
                None => return None,
            };
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = line.trim_ascii();
            match line.len() {
                0 => {}
                1..=MAX_FRAME_BYTES => return Some(Ok(Bytes::copy_from_slice(line))),
                _ => return Some(Err(too_large("a line"))),
            }
        }
    }
}
