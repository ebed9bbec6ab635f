//! The bodies of requests: whole, or cut into lines as they come. Owns their bounds, in bytes and in patience.

use std::pin::Pin;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hark_protocol::{ErrorCode, MAX_FRAME_BYTES};
use tokio::time::Instant;

use super::{ApiError, Gate};
use crate::connections::pages;

/// Lines that are given out together, at most; the next ones are read when these are done with.
const MAX_LINES_A_TURN: usize = 512;
/// Bytes of lines that are given out together (but at least one line).
const MAX_LINE_BYTES_A_TURN: usize = 256 * 1024;

/// A request's body. One that dawdles is given up: no timer of the server runs once the head is there.
pub(super) struct Body {
    pub(super) payload: Pin<Box<web::Payload>>,
    pub(super) patience: Duration,
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
        let packed = request.headers().get(header::CONTENT_ENCODING);
        if packed.is_some_and(|packed| !packed.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(ApiError::with_status(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ErrorCode::Unsupported,
                "a body with a Content-Encoding is not taken; send it unpacked",
            ));
        }
        Ok(Self {
            payload: Box::pin(payload),
            patience: gate.session_settings.stall_timeout,
        })
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

    /// The next piece; `None` at the end.
    async fn next(&mut self, deadline: &mut Deadline) -> Result<Option<Bytes>, ApiError> {
        let pages = pages(deadline.received).saturating_add(1);
        let end = deadline.began + self.patience.saturating_mul(pages);
        match tokio::time::timeout_at(end, self.payload.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                deadline.received += piece.len();
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

/// A body cut into lines. Holds one line of at most the largest message, and what came behind it.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// So many bytes of the buffer hold no line break.
    searched: usize,
    /// Inside a line that is too long: it has been answered, the rest of it is passed over.
    skipping: bool,
    ended: bool,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            skipping: false,
            ended: false,
        }
    }

    /// The lines that are there, but at least one; empty lines do not count. `None` at the end.
    pub(super) async fn next_lines(&mut self) -> Option<Vec<Result<Bytes, ApiError>>> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        let mut deadline = Deadline::begin();
        loop {
            while lines.len() < MAX_LINES_A_TURN && bytes < MAX_LINE_BYTES_A_TURN {
                let Some(line) = self.cut() else { break };
                bytes += line.as_ref().map_or(0, Bytes::len);
                lines.push(line);
            }
            if !lines.is_empty() {
                return Some(lines);
            }
            if self.ended {
                return None;
            }
            match self.body.next(&mut deadline).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => self.ended = true,
                // What is left is a part of a line, and must not be taken for a whole one. The last answer says why there is no other.
                Err(error) => {
                    self.buffer.clear();
                    self.searched = 0;
                    self.ended = true;
                    lines.push(Err(error));
                }
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
