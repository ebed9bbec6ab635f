//! A door for what is fuzzed (`fuzz/src/targets.rs`): messages out of a stream of bytes, without a socket. Nothing else uses it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::{Stream, stream};

use super::frames::{Inbound, Incoming, Taken, Violation};
use crate::receiving::Receivings;

/// What came, whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// A message.
    Message(Bytes),
    /// A ping.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// A close frame.
    Close,
}

/// What comes of a stream in these pieces, and the violation that ended it: its code, and why.
pub fn messages(
    pieces: Vec<Bytes>,
    text: bool,
    max_bytes: usize,
) -> (Vec<Came>, Option<(u16, String)>) {
    let pieces = stream::iter(pieces.into_iter().map(Ok));
    let receiving = Receivings::new(usize::MAX).of("");
    let taken = Taken { text, max_bytes };
    let mut inbound = Inbound::new(pieces, Default::default(), taken, receiving, None);
    let mut came = Vec::new();
    loop {
        // Pending between two turns alone: all of it is there.
        match Pin::new(&mut inbound).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(incoming))) => came.push(match incoming {
                Incoming::Message(bytes) => Came::Message(bytes),
                Incoming::Ping(bytes) => Came::Ping(bytes),
                Incoming::Pong => Came::Pong,
                Incoming::Close => Came::Close,
            }),
            Poll::Ready(Some(Err(Violation { code, reason }))) => {
                return (came, Some((code.0, reason)));
            }
            Poll::Ready(None) => return (came, None),
            Poll::Pending => {}
        }
    }
}
