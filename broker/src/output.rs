//! How answers reach the socket. Owns what a connection has been given and the socket has not taken, and the middleware that gives it;
//! the guarded stream (`edge`) writes it.
//!
//! actix-http copies what it is given to a buffer of the connection that it does not make smaller again (but for one of more than 128 KiB):
//! what is given at once is what every client keeps that was ever sent as much. So an answer whose length is known is given in small
//! pieces. What goes on and on, WebSockets and event streams, is handed past it, straight to the stream beneath: in one piece, and gone
//! when it is sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use bytes::{Buf as _, Bytes};

use crate::connections::Connection;

/// So much is given to actix-http at a time.
pub const PIECE_BYTES: usize = 8 * 1024;
/// Behind so much that the socket has not taken, a stream is not asked for more.
const MAX_WAITING_BYTES: usize = 32 * 1024;
/// So many pieces are written at once.
const PIECES_AT_ONCE: usize = 16;
/// Room for so many stays when all are written: what one slow moment needed is not kept for good.
const PIECES_KEPT: usize = 64;

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
    pub(crate) fn write_all(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<bool>> {
        while self.bytes > 0 {
            let mut slices = [IoSlice::new(&[]); PIECES_AT_ONCE];
            let filled = slices.iter_mut().zip(&self.pieces);
            let count = filled
                .map(|(slice, piece)| *slice = IoSlice::new(piece))
                .count();
            match ready!(write(&slices[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.took(written),
            }
        }
        if self.pieces.capacity() > PIECES_KEPT {
            self.pieces = VecDeque::new();
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
    // The answer to HEAD has no body, whatever it says of one (RFC 9110, section 9.3.2).
    let has_body = request.method() != Method::HEAD;
    let response = next.call(request).await?;
    let head = response.response().head();
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let chunked = head.chunked() && !upgraded;
    Ok(response.map_body(|_, body| Given {
        chunked,
        goes_on: body.size() == BodySize::Stream && has_body && answering.0.is_some(),
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
            let most_bytes = if self.end.is_some() {
                0
            } else {
                MAX_WAITING_BYTES
            };
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::rc::Rc;
    use std::task::Waker;
    use std::time::Duration;

    use actix_web::body::BodyStream;
    use futures_util::{StreamExt as _, stream};

    use super::*;
    use crate::connections::{Connections, Listed};

    const LARGE: usize = MAX_WAITING_BYTES + 1;

    fn listed() -> Listed {
        Connections::new(Duration::from_secs(60)).enter(None)
    }

    /// An answer that gives these, and how many have been asked for.
    fn given(
        of: &Listed,
        chunked: bool,
        pieces: Vec<Bytes>,
    ) -> (Pin<Box<impl MessageBody>>, Rc<Cell<usize>>) {
        let asked = Rc::<Cell<usize>>::default();
        let counter = asked.clone();
        let pieces = stream::iter(pieces).map(move |piece| {
            counter.set(counter.get() + 1);
            Ok::<_, Infallible>(piece)
        });
        let given = Given {
            body: BodyStream::new(pieces),
            goes_on: true,
            chunked,
            rest: Bytes::new(),
            end: None,
            answering: Answering(Some((**of).clone())),
        };
        (Box::pin(given), asked)
    }

    /// What the socket is written until it has taken at most so many bytes; whether the stream is asked for more then.
    fn written(of: &Listed, mut room: usize) -> (Vec<u8>, bool) {
        let mut written = Vec::new();
        let polled = of.output().write_all(|slices| {
            let before = written.len();
            for slice in slices {
                let bytes = slice.len().min(room);
                written.extend_from_slice(&slice[..bytes]);
                room -= bytes;
            }
            match written.len() - before {
                0 => Poll::Pending,
                bytes => Poll::Ready(Ok(bytes)),
            }
        });
        (written, matches!(polled, Poll::Ready(Ok(true))))
    }

    #[actix_web::test]
    async fn what_goes_on_and_on_is_asked_for_more_when_the_socket_has_taken_what_it_gave() {
        let connection = listed();
        let pieces = ["a", "", "b"].map(Bytes::from);
        let large = Bytes::from(vec![b'x'; LARGE]);
        let pieces = [&pieces[..], &[large], &pieces].concat();
        let (mut given, asked) = given(&connection, false, pieces);
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || given.as_mut().poll_next(&mut cx).map(|end| end.is_none());

        assert!(poll().is_pending());
        assert_eq!(asked.get(), 4);
        let (part, is_asked) = written(&connection, LARGE);
        assert!(part.starts_with(b"abxxx") && !is_asked);
        assert!(poll().is_pending());
        assert_eq!(asked.get(), 7, "what is left is little");
        assert!(poll().is_pending(), "it ends though not all is taken");
        assert_eq!(written(&connection, 1), (b"x".to_vec(), false));
        assert!(poll().is_pending());
        assert_eq!(written(&connection, LARGE), (b"xab".to_vec(), true));
        assert!(matches!(poll(), Poll::Ready(true)), "it does not end");
        assert_eq!(written(&connection, LARGE), (Vec::new(), false));
    }

    #[test]
    fn room_for_many_small_pieces_is_given_back_when_they_are_written() {
        let mut output = Output::default();
        for _ in 0..1_000 {
            output.give(Bytes::from_static(b"x"));
        }
        let all = |slices: &[IoSlice<'_>]| Poll::Ready(Ok(slices.iter().map(|s| s.len()).sum()));
        assert!(matches!(output.write_all(all), Poll::Ready(Ok(_))));
        assert!(output.pieces.capacity() <= PIECES_KEPT);
    }

    #[test]
    fn a_socket_that_takes_nothing_and_does_not_say_when_it_will_is_at_its_end() {
        let mut output = Output::default();
        output.give(Bytes::from_static(b"x"));
        let polled = output.write_all(|_| Poll::Ready(Ok(0)));
        assert!(matches!(polled, Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::WriteZero));
    }

    #[actix_web::test]
    async fn an_answer_in_chunks_goes_in_chunks() {
        let connection = listed();
        let pieces = vec![
            Bytes::from_static(b"hello"),
            Bytes::new(),
            Bytes::from(vec![b'x'; 300]),
        ];
        let (mut given, _) = given(&connection, true, pieces);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(given.as_mut().poll_next(&mut cx).is_pending());
        let chunks = format!("5\r\nhello\r\n12C\r\n{}\r\n", "x".repeat(300));
        let mut all = Vec::new();
        for room in [1, 2, 3, 1000] {
            all.extend(written(&connection, room).0);
        }
        assert_eq!(String::from_utf8(all).unwrap(), chunks);
        // The last is written by actix-http.
        assert!(matches!(
            given.as_mut().poll_next(&mut cx),
            Poll::Ready(None)
        ));
    }
}
