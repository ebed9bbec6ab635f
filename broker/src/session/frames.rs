//! What comes in over a WebSocket: the byte stream cut into frames, frames put together to messages, within bounds. Owns what breaks the
//! protocol, how much is taken in a turn, and what has been read when a session ends; what a message says is `inbound`'s.
//!
//! actix-http's parser checks a frame's length only once all of it is buffered, so a header that announces 2^62 bytes would make it hold
//! whatever comes. So headers are read here first, and the parser is given whole frames.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use actix_http::ws::{OpCode, Parser, ProtocolError};
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use hark_protocol::CloseCode;

use super::outbound::Flow;
use crate::connections::Connection;
use crate::receiving::{NoRoom, Part, Receiving};
use crate::turns::Turn;

/// The longest reason a close frame can carry (RFC 6455, section 5.5: 125 bytes less the code).
pub(super) const MAX_CLOSE_REASON_BYTES: usize = 123;

/// What has come, whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A message of the kind that the subprotocol has.
    Message(Bytes),
    /// Are you there?
    Ping(Bytes),
    /// Yes.
    Pong,
    /// The end. What comes behind it does not count.
    Close,
}

/// Why nothing more is taken: how the connection is to be closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: CloseCode,
    pub(super) reason: String,
}

impl Violation {
    fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        let longest = reason.len().min(MAX_CLOSE_REASON_BYTES);
        let end = (0..=longest)
            .rev()
            .find(|&end| reason.is_char_boundary(end));
        reason.truncate(end.unwrap_or(0));
        Self { code, reason }
    }

    fn too_large(max_bytes: usize) -> Self {
        Self::new(
            CloseCode::TOO_LARGE,
            format!("a message has at most {max_bytes} bytes"),
        )
    }
}

impl From<NoRoom> for Violation {
    fn from(no_room: NoRoom) -> Self {
        Self::new(CloseCode::TRY_LATER, no_room.to_string())
    }
}

/// A session's way in: a stream of what comes, and what has been read by the time it ends. Clones are the same.
pub(super) struct Inbound<S = Payload>(Rc<RefCell<Frames<S>>>);

impl<S> Clone for Inbound<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What a session takes of its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// Text, or else binary frames.
    pub(super) text: bool,
    /// The most bytes of a message.
    pub(super) max_bytes: usize,
}

/// Cuts the byte stream, and refuses what announces too much as soon as its header is there. Fragments of a message count together.
struct Frames<S> {
    payload: S,
    flow: Rc<Flow>,
    taken: Taken,
    /// A message has begun to come in fragments (RFC 6455, section 5.4).
    in_fragments: bool,
    /// What there is of the next message. Its frame is `raw`.
    part: Part,
    receiving: Receiving,
    turn: Turn,
    connection: Option<Arc<Connection>>,
    /// What has come of the payload.
    received_bytes: u64,
    ended: bool,
}

/// What the first bytes of a frame say.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// There is more to come.
    Incomplete,
    /// The whole frame is there.
    Complete { frame_bytes: usize },
    /// The parser will refuse it by what is there.
    Refused,
    /// It announces too much.
    TooLarge,
    /// It is a control frame that announces more than one may have (RFC 6455, section 5.5).
    TooLargeControl,
}

impl<S> Inbound<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    pub(super) fn new(
        payload: S,
        flow: Rc<Flow>,
        taken: Taken,
        receiving: Receiving,
        connection: Option<Arc<Connection>>,
    ) -> Self {
        Self(Rc::new(RefCell::new(Frames {
            payload,
            flow,
            taken,
            in_fragments: false,
            part: Part::default(),
            receiving,
            turn: Turn::default(),
            connection,
            received_bytes: 0,
            ended: false,
        })))
    }

    /// The next of what has been read by now: nothing more is waited for, and nothing held back.
    pub(super) fn next_read(&self) -> Option<Incoming> {
        self.0.borrow_mut().next_read()
    }

    /// The command that was given out last weighs as much as so many more.
    pub(super) fn weighs(&self, commands: usize) {
        self.0.borrow_mut().turn.did(commands, 0);
    }

    /// Nothing more is taken, of what has been read neither.
    pub(super) fn end(&self) {
        self.0.borrow_mut().end();
    }
}

impl<S> Stream for Inbound<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Incoming, Violation>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll(cx)
    }
}

impl<S> Frames<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, Violation>>> {
        let connection = self.connection.as_ref();
        if connection.is_some_and(|connection| connection.has_waited_for_the_socket()) {
            self.turn.begin_anew();
        }
        if let Err(no_room) = self.receiving.take_back(&mut self.part) {
            return Poll::Ready(Some(Err(self.violated(no_room))));
        }
        let next = match self.flow.inbound_must_wait(cx.waker()) {
            // It is Hark that does not go on, and what is there may be whole.
            true => {
                // Hark itself has stopped reading: that makes nobody slow.
                self.receiving.pace_anew();
                return Poll::Pending;
            }
            false => self.poll_next_whole(cx),
        };
        // It may be long until the next poll, since a session whose socket is blocked has none: what is held until then is counted. (With
        // a frame that is handed out goes no more than was read with it, unless it stands between fragments.)
        if next.is_pending() || !self.part.fragments.is_empty() {
            self.receiving.leave(&mut self.part, cx.waker());
        }
        next
    }

    fn poll_next_whole(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Incoming, Violation>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            ready!(self.turn.poll_ready(cx));
            match self.next_frame() {
                Some(Ok(Some(incoming))) => return Poll::Ready(Some(Ok(incoming))),
                Some(Err(violation)) => return Poll::Ready(Some(Err(violation))),
                Some(Ok(None)) => continue,
                None => {}
            }
            match Pin::new(&mut self.payload).poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    // Every byte is a sign of life, though it be the ten thousandth part of a message.
                    self.flow.heard();
                    self.take(&chunk);
                }
                Poll::Ready(Some(Err(_)) | None) => self.end(),
                // The client has closed its side; the connection ends when the session does.
                Poll::Pending if self.is_cut_short(cx) => self.end(),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn next_read(&mut self) -> Option<Incoming> {
        if self.receiving.take_back(&mut self.part).is_err() {
            self.end();
        }
        while !self.ended {
            match self.next_frame() {
                Some(Ok(Some(incoming))) => return Some(incoming),
                Some(Err(_)) => return None,
                Some(Ok(None)) => continue,
                None => {}
            }
            match Pin::new(&mut self.payload).poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(chunk))) => self.take(&chunk),
                Poll::Ready(Some(Err(_)) | None) | Poll::Pending => self.end(),
            }
        }
        None
    }

    fn is_cut_short(&self, cx: &Context<'_>) -> bool {
        let received = self.received_bytes;
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.body_ends_after(received, cx.waker()))
    }

    fn take(&mut self, chunk: &[u8]) {
        self.received_bytes += chunk.len() as u64;
        self.turn.did(0, chunk.len());
        self.receiving.came(chunk.len());
        self.part.raw.extend_from_slice(chunk);
    }

    fn end(&mut self) {
        self.ended = true;
        self.part = Part::default();
        self.receiving.forget();
    }

    fn violated(&mut self, violation: impl Into<Violation>) -> Violation {
        self.end();
        violation.into()
    }

    /// Takes the next frame, if all of it is there; gives what is whole with it.
    fn next_frame(&mut self) -> Option<Result<Option<Incoming>, Violation>> {
        let frame_bytes = match self.look() {
            Header::Complete { frame_bytes } => frame_bytes,
            Header::Refused => self.part.raw.len(),
            Header::TooLarge => {
                let too_large = Violation::too_large(self.taken.max_bytes);
                return Some(Err(self.violated(too_large)));
            }
            Header::TooLargeControl => {
                let reason = "a control frame has at most 125 bytes";
                return Some(Err(
                    self.violated(Violation::new(CloseCode::PROTOCOL, reason))
                ));
            }
            Header::Incomplete => return None,
        };
        self.turn.did(1, 0);
        let mut frame = self.part.cut(frame_bytes);
        let taken = match Parser::parse(&mut frame, true, self.taken.max_bytes) {
            Ok(Some((is_last, op, payload))) => {
                self.put_together(is_last, op, payload.unwrap_or_default())
            }
            // What is refused is so by its first two bytes, and all else is whole.
            Ok(None) => Err(self.broken(&ProtocolError::BadOpCode)),
            Err(error) => Err(self.broken(&error)),
        };
        Some(taken.map_err(|violation| self.violated(violation)))
    }

    /// Adds a frame to what there is; gives what is whole with it.
    fn put_together(
        &mut self,
        is_last: bool,
        op: OpCode,
        payload: BytesMut,
    ) -> Result<Option<Incoming>, Violation> {
        match op {
            OpCode::Text | OpCode::Binary | OpCode::Continue => {
                self.put_data_together(is_last, op, payload)
            }
            OpCode::Bad => Err(self.broken(&ProtocolError::BadOpCode)),
            OpCode::Ping | OpCode::Pong | OpCode::Close if !is_last => {
                Err(self.broken(&ProtocolError::ContinuationFragment(op)))
            }
            OpCode::Ping => Ok(Some(Incoming::Ping(payload.freeze()))),
            OpCode::Pong => Ok(Some(Incoming::Pong)),
            OpCode::Close => {
                Parser::try_parse_close_payload(&payload).map_err(|error| self.broken(&error))?;
                self.end();
                Ok(Some(Incoming::Close))
            }
        }
    }

    fn put_data_together(
        &mut self,
        is_last: bool,
        op: OpCode,
        payload: BytesMut,
    ) -> Result<Option<Incoming>, Violation> {
        let goes_on = op == OpCode::Continue;
        match (goes_on, self.in_fragments) {
            (true, false) => return Err(self.broken(&ProtocolError::ContinuationNotStarted)),
            (false, true) => return Err(self.broken(&ProtocolError::ContinuationStarted)),
            (false, false) => self.check_kind(op == OpCode::Text)?,
            (true, true) => {}
        }
        self.in_fragments = !is_last;
        if goes_on || !is_last {
            self.part.fragments.extend_from_slice(&payload);
        }
        let message = match (is_last, goes_on) {
            (false, _) => return Ok(None),
            (true, false) => payload,
            (true, true) => std::mem::take(&mut self.part.fragments),
        };
        if self.taken.text && std::str::from_utf8(&message).is_err() {
            let reason = "the text is not UTF-8";
            return Err(Violation::new(CloseCode::BAD_TEXT, reason));
        }
        Ok(Some(Incoming::Message(message.freeze())))
    }

    fn check_kind(&self, text: bool) -> Result<(), Violation> {
        let reason = match text {
            _ if text == self.taken.text => return Ok(()),
            true => "hark.v1.bincode has binary frames only",
            false => "hark.v1.json has text frames only",
        };
        Err(Violation::new(CloseCode::UNSUPPORTED, reason))
    }

    /// What the parser has found (RFC 6455, section 7.4.1).
    fn broken(&self, error: &ProtocolError) -> Violation {
        match error {
            ProtocolError::Overflow => Violation::too_large(self.taken.max_bytes),
            _ => Violation::new(CloseCode::PROTOCOL, error.to_string()),
        }
    }

    /// Reads a frame's header (RFC 6455, section 5.2).
    fn look(&self) -> Header {
        let bytes = &self.part.raw[..];
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
        let before = match opcode {
            0 => self.part.fragments.len(),
            _ => 0,
        };
        let length = match usize::try_from(length) {
            _ if control && length > 125 => return Header::TooLargeControl,
            Ok(length) if control || length.saturating_add(before) <= self.taken.max_bytes => {
                length
            }
            _ => return Header::TooLarge,
        };
        let frame_bytes = header_bytes + 4 + length;
        match bytes.len() >= frame_bytes {
            true => Header::Complete { frame_bytes },
            false => Header::Incomplete,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use super::*;
    use crate::receiving::Receivings;
    use crate::turns::{MAX_BYTES_A_TURN, MAX_COMMANDS_A_TURN};

    const MAX_BYTES: usize = 1024 * 1024;

    /// A payload of chunks that are all there.
    #[derive(Default)]
    struct Chunks {
        chunks: VecDeque<Bytes>,
        /// The end of it has come too.
        ends: bool,
    }

    impl Stream for Chunks {
        type Item = Result<Bytes, PayloadError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            match self.chunks.pop_front() {
                Some(chunk) => Poll::Ready(Some(Ok(chunk))),
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..126 => bytes.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(0x80 | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend([0; 4]); // a mask that changes nothing
        bytes.extend(payload);
        bytes
    }

    fn text(payload: &[u8]) -> Vec<u8> {
        frame(0x81, payload)
    }

    fn message(payload: &'static [u8]) -> Incoming {
        Incoming::Message(Bytes::from_static(payload))
    }

    struct Given {
        inbound: Inbound<Chunks>,
        flow: Rc<Flow>,
        all: Receivings,
    }

    impl Given {
        fn new(chunks: &[Vec<u8>], ends: bool) -> Self {
            let all = Receivings::new(64 * 1024 * 1024);
            let flow = Rc::<Flow>::default();
            let chunks = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk));
            let payload = Chunks {
                chunks: chunks.collect(),
                ends,
            };
            let taken = Taken {
                text: true,
                max_bytes: MAX_BYTES,
            };
            let receiving = all.of("192.0.2.1");
            let inbound = Inbound::new(payload, flow.clone(), taken, receiving, None);
            Self { inbound, flow, all }
        }

        fn push(&self, chunk: Vec<u8>) {
            self.inbound
                .0
                .borrow_mut()
                .payload
                .chunks
                .push_back(chunk.into());
        }

        fn unread_chunks(&self) -> usize {
            self.inbound.0.borrow().payload.chunks.len()
        }

        /// Of what has been read.
        fn unread_bytes(&self) -> usize {
            let frames = &mut *self.inbound.0.borrow_mut();
            frames.receiving.take_back(&mut frames.part).unwrap();
            frames.part.raw.len()
        }

        /// What is handed out until it has to be asked again later.
        async fn a_turn(&mut self) -> Vec<Option<Result<Incoming, Violation>>> {
            poll_fn(|cx| {
                let mut handed_out = Vec::new();
                while let Poll::Ready(next) = Pin::new(&mut self.inbound).poll_next(cx) {
                    let is_end = !matches!(next, Some(Ok(_)));
                    handed_out.push(next);
                    if is_end {
                        break;
                    }
                }
                Poll::Ready(handed_out)
            })
            .await
        }
    }

    #[actix_web::test]
    async fn a_turn_ends_after_so_many_frames_whatever_they_are() {
        let ping = frame(0x89, b"");
        let bad = text(b"?");
        for frame in [ping, bad] {
            let mut given = Given::new(&[frame.repeat(10 * MAX_COMMANDS_A_TURN)], false);
            for _ in 0..10 {
                assert_eq!(given.a_turn().await.len(), MAX_COMMANDS_A_TURN);
                // Asked at once, it gives nothing; after the sockets have been looked at, it goes on.
                assert_eq!(given.a_turn().await, []);
                tokio::task::yield_now().await;
            }
            assert_eq!(given.a_turn().await, []);
        }
    }

    /// Fragments without end make no message, and take their turn all the same.
    #[actix_web::test]
    async fn a_turn_ends_after_so_many_fragments() {
        let mut bytes = frame(0x01, b"");
        bytes.extend(frame(0, b"").repeat(10 * MAX_COMMANDS_A_TURN));
        let length = bytes.len();
        let mut given = Given::new(&[bytes], false);
        for turn in 1..=10 {
            assert_eq!(given.a_turn().await, []);
            let left = given.unread_bytes();
            let taken = turn * MAX_COMMANDS_A_TURN * frame(0, b"").len();
            assert_eq!(length - left, taken, "in {turn} turns");
            tokio::task::yield_now().await;
        }
    }

    #[actix_web::test]
    async fn a_turn_ends_after_so_many_bytes_of_one_message() {
        let bytes = text(&vec![b'x'; MAX_BYTES - 100]);
        let chunks: Vec<Vec<u8>> = bytes.chunks(4096).map(<[u8]>::to_vec).collect();
        let mut given = Given::new(&chunks, false);
        let mut turns = 0;
        let mut handed_out = Vec::new();
        while handed_out.is_empty() {
            let before = given.unread_chunks();
            handed_out = given.a_turn().await;
            assert!(before - given.unread_chunks() <= MAX_BYTES_A_TURN / 4096);
            turns += 1;
            assert!(turns < 100);
            tokio::task::yield_now().await;
        }
        assert_eq!(turns, MAX_BYTES / MAX_BYTES_A_TURN);
    }

    #[actix_web::test]
    async fn while_it_is_paused_nothing_is_handed_out_but_what_was_read_is_at_the_end() {
        let mut given = Given::new(&[[text(b"1"), text(b"2")].concat(), text(b"3")], false);
        given.push(text(b"4")[..3].to_vec());
        given.flow.pause_inbound();
        assert_eq!(given.a_turn().await, []);

        let read = std::iter::from_fn(|| given.inbound.next_read());
        let expected = [message(b"1"), message(b"2"), message(b"3")];
        assert_eq!(read.collect::<Vec<_>>(), expected);
        // What comes later does not count any more.
        given.push(text(b"5"));
        assert_eq!(given.inbound.next_read(), None);
        given.flow.resume_inbound();
        assert_eq!(given.a_turn().await, [None]);
    }

    #[actix_web::test]
    async fn what_comes_behind_a_close_frame_or_a_violation_does_not_count() {
        let last = [text(b"1"), frame(0x88, b""), text(b"2")].concat();
        let mut given = Given::new(std::slice::from_ref(&last), true);
        let expected = [Some(Ok(message(b"1"))), Some(Ok(Incoming::Close)), None];
        assert_eq!(given.a_turn().await, expected);
        let given = Given::new(&[last], true);
        let read = std::iter::from_fn(|| given.inbound.next_read());
        assert_eq!(read.collect::<Vec<_>>(), [message(b"1"), Incoming::Close]);

        let unmasked = [text(b"1"), vec![0x81, 0], text(b"2")].concat();
        let given = Given::new(&[unmasked], true);
        let read = std::iter::from_fn(|| given.inbound.next_read());
        assert_eq!(read.collect::<Vec<_>>(), [message(b"1")]);
    }

    #[actix_web::test]
    async fn what_has_come_in_part_is_counted_and_goes_when_it_is_told_to() {
        let half = &text(&vec![b'x'; MAX_BYTES])[..MAX_BYTES / 2];
        let mut given = Given::new(&[half.to_vec()], false);
        let held = |given: &Given| given.inbound.0.borrow().part.raw.capacity();
        while given.unread_chunks() > 0 || held(&given) > 0 {
            assert_eq!(given.a_turn().await, []);
            tokio::task::yield_now().await;
        }
        // It lies with the others, not here.
        let used = given.all.used();
        assert!((MAX_BYTES / 2..=MAX_BYTES).contains(&used), "{used}");

        given.all.let_go_of_all();
        let no_room = Violation::from(NoRoom);
        assert_eq!(no_room.code, CloseCode::TRY_LATER);
        assert_eq!(given.a_turn().await, [Some(Err(no_room))]);
        assert_eq!(given.a_turn().await, [None]);
        assert_eq!(given.all.used(), 0);
    }

    /// A session whose socket is blocked is not asked again, whatever it was doing last.
    #[actix_web::test]
    async fn fragments_are_counted_also_while_something_stands_between_them() {
        let fragment = frame(0x01, &vec![b'x'; MAX_BYTES_A_TURN / 2]);
        let mut given = Given::new(&[[fragment, frame(0x89, b"").repeat(5)].concat()], false);
        let next = poll_fn(|cx| Pin::new(&mut given.inbound).poll_next(cx)).await;
        assert_eq!(next, Some(Ok(Incoming::Ping(Bytes::new()))));
        assert!(given.all.used() >= MAX_BYTES_A_TURN / 2);
        assert_eq!(given.a_turn().await.len(), 4);
    }

    /// A session that once sent a megabyte must not keep it while it is idle.
    #[actix_web::test]
    async fn a_large_message_leaves_nothing_behind() {
        let bytes = [text(&vec![b'x'; MAX_BYTES]), text(b"1")[..3].to_vec()].concat();
        let mut given = Given::new(&[bytes], false);
        while given.a_turn().await.is_empty() {
            tokio::task::yield_now().await;
        }
        let held = given.inbound.0.borrow().part.raw.capacity();
        assert!(held < 1024, "{held} bytes");
    }
}
