//! How answers reach the socket. Owns what a connection has been given and the socket has not taken, and the middleware that gives it;
//! the guarded stream (`edge`) writes it.
//!
//! actix-http copies what it is given to a buffer of the connection that it does not make smaller again (but for one of more than 128 KiB):
//! what is given at once is what every client keeps that was ever sent as much. So an answer whose length is known is given in small
//! pieces. What goes on and on, WebSockets and event streams, is handed past it, straight to the stream beneath: in one piece, and gone
//! when it is sent.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::Next;
use bytes::{Buf as _, Bytes};

use crate::connections::Connection;

/// So much is given to actix-http at a time.
pub const PIECE_BYTES: usize = 8 * 1024;
/// Behind so much that the socket has not taken, a stream is not asked for more.
const MAX_WAITING_BYTES: usize = 32 * 1024;
/// So many pieces are written at once.
const PIECES_AT_ONCE: usize = 16;

/// What was handed past actix-http and the socket has not taken.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// The stream is asked for more when there is less.
    awaited: bool,
}

impl Output {
    /// Behind what is there.
    pub(crate) fn give(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    /// Writes with `write` until nothing is left, or nothing is taken. Gives whether the stream is to be asked for more.
    pub(crate) fn write_all<E>(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<Result<usize, E>>,
    ) -> Poll<Result<bool, E>> {
        while self.bytes > 0 {
            let mut slices = [IoSlice::new(&[]); PIECES_AT_ONCE];
            let filled = slices.iter_mut().zip(&self.pieces);
            let count = filled.map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
            let written = ready!(write(&slices[..count]))?;
            self.took(written);
        }
        Poll::Ready(Ok(std::mem::take(&mut self.awaited)))
    }

    fn took(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(piece) = self.pieces.front_mut()
            && bytes > 0
        {
            let of_this = bytes.min(piece.len());
            piece.advance(of_this);
            bytes -= of_this;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

/// A request that is being answered: from its head to the end of the answer's body.
struct Answering(Option<Arc<Connection>>);

impl Drop for Answering {
    fn drop(&mut self) {
        let Some(connection) = &self.0 else { return };
        connection.answer_ends();
    }
}

/// The middleware around every request: its connection knows when it has been answered, and is given the answer's body.
pub async fn give(
    request: ServiceRequest,
    next: Next<impl MessageBody + Unpin + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let answering = Answering(request.conn_data::<Arc<Connection>>().cloned());
    let response = next.call(request).await?;
    let head = response.response().head();
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let chunked = head.chunked() && !upgraded;
    Ok(response.map_body(|_, body| Given {
        chunked,
        goes_on: body.size() == BodySize::Stream && answering.0.is_some(),
        body,
        rest: Bytes::new(),
        end: None,
        answering,
    }))
}

/// An answer's body, on its way to the socket.
struct Given<B: MessageBody> {
    body: B,
    /// It has no known length, and goes past actix-http.
    goes_on: bool,
    /// In chunks (RFC 9112, section 7.1), the last of which is actix-http's.
    chunked: bool,
    /// What has not been given on of what the body gave.
    rest: Bytes,
    /// How it ends, until the socket has taken all before.
    end: Option<Option<Result<Bytes, B::Error>>>,
    answering: Answering,
}

impl<B: MessageBody + Unpin> Given<B> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let piece = PIECE_BYTES.min(self.rest.len());
        Poll::Ready(Some(Ok(self.rest.split_to(piece))))
    }

    /// Hands on all that there is; what this gives itself is the end.
    fn poll_going_on(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, B::Error>>> {
        loop {
            let mut output = connection.output();
            let most_bytes = if self.end.is_some() { 0 } else { MAX_WAITING_BYTES };
            if output.bytes > most_bytes {
                // actix-http writes next, whatever this gives, and the stream wakes the task when it has.
                output.awaited = true;
                return Poll::Pending;
            }
            drop(output);
            if let Some(end) = self.end.take() {
                return Poll::Ready(end);
            }
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    let mut output = connection.output();
                    if self.chunked {
                        output.give(format!("{:X}\r\n", bytes.len()).into());
                    }
                    output.give(bytes);
                    if self.chunked {
                        output.give(Bytes::from_static(b"\r\n"));
                    }
                }
                end => self.end = Some(end),
            }
        }
    }
}

/// Nothing of it is ever pinned but the body.
impl<B: MessageBody + Unpin> Unpin for Given<B> {}

impl<B: MessageBody + Unpin> MessageBody for Given<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        match this.answering.0.clone() {
            Some(connection) if this.goes_on => this.poll_going_on(&connection, cx),
            _ => this.poll_piece(cx),
        }
    }
}
