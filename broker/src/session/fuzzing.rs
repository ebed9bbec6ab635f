//! A door for what is fuzzed (`fuzz/src/targets.rs`): WebSocket frames out of a stream of bytes, without a socket. Nothing else uses it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_http::ws::{OpCode, Parser};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};

use super::outbound::Flow;
use super::socket::FrameGuard;

/// A frame: whether it is the last of its message, its kind, its payload.
pub type Frame = (bool, OpCode, Option<BytesMut>);

/// The frames of a stream that comes in these pieces, and the violation that ended it.
pub fn frames(pieces: Vec<Bytes>, max_message_bytes: usize) -> (Vec<Frame>, Option<String>) {
    let flow = Rc::<Flow>::default();
    let pieces = stream::iter(pieces.into_iter().map(Ok));
    let mut guard = FrameGuard::new(pieces, flow.clone(), max_message_bytes);
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        // As the reader of a session does: it asks until it hears "not now", and only then decodes.
        let ended = loop {
            match Pin::new(&mut guard).poll_next(&mut cx) {
                Poll::Ready(Some(Ok(bytes))) => buffer.extend_from_slice(&bytes),
                Poll::Ready(Some(Err(_))) => {
                    return (frames, flow.violation().map(|code| format!("{code:?}")));
                }
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        match Parser::parse(&mut buffer, true, max_message_bytes) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) if ended => return (frames, None),
            Ok(None) => {}
            Err(error) => return (frames, Some(error.to_string())),
        }
    }
}
