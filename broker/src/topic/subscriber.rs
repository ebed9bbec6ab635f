//! What a room says to those who subscribe and publish. Owns the words, and how much every subscriber bears; leaves to each
//! transport how they are carried.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use actix::{Addr, Message};
use hark_protocol::{Cursor, Encoded, ErrorCode, Subprotocol};

use super::{Batch, Room, Unsubscribe};

/// Somebody a room serves: a session, an SSE stream, a long-poll.
///
/// `tell` takes what was asked for or what happens once per change of state, and may not refuse; `try_deliver` takes live
/// data, and refuses rather than wait.
pub trait Subscriber: Send + Sync {
    /// Takes live messages, or refuses: then the room sends no more until the subscriber pulls.
    fn try_deliver(&self, delivery: Delivery) -> Result<(), Refused>;

    /// Takes news. Bounded by what the subscriber asked for.
    fn tell(&self, news: RoomNews);

    /// Whether it is still there. A room takes the seat of one that has gone.
    fn is_connected(&self) -> bool;
}

/// Bytes of live messages that all rooms together may have on their way to one subscriber.
const CREDIT_BYTES: i64 = 256 * 1024;
/// What rooms may still send a subscriber, in bytes. Rooms take, whoever writes to the socket gives back.
#[derive(Debug)]
pub struct Credit(AtomicI64);

impl Default for Credit {
    fn default() -> Self {
        Self(AtomicI64::new(CREDIT_BYTES))
    }
}

impl Credit {
    /// Takes `bytes` if there is any credit at all: one batch may go beyond it.
    pub fn take(&self, bytes: i64) -> bool {
        if self.0.load(Ordering::Relaxed) <= 0 {
            return false;
        }
        self.0.fetch_sub(bytes, Ordering::Relaxed);
        true
    }

    /// Gives back what has been passed on to the socket.
    pub fn give_back(&self, bytes: i64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The subscriber's queue is full, its credit is used up, or it has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// A subscriber's place in a room. Dropping it gives it up, wherever it is then: also on its way to one that went while it joined.
#[derive(Debug)]
pub struct Seat {
    pub(super) room: Arc<Addr<Room>>,
    pub(super) number: SeatNumber,
}

impl Drop for Seat {
    // Once for each seat that the room has given, so that never more of these wait for it than it has seats.
    #[allow(clippy::disallowed_methods)]
    fn drop(&mut self) {
        self.room.do_send(Unsubscribe { seat: self.number });
    }
}

/// Which seat of a room, and which of those who sat there one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatNumber {
    pub(super) index: usize,
    pub(super) generation: u64,
}

/// Live messages for one subscriber: a part of a batch that everyone shares.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Delivery {
    /// The subscriber's own name for the subscription.
    pub key: u32,
    /// What was committed.
    pub batch: Arc<Batch>,
    /// The first frame of it that this subscriber has not been sent.
    pub start: usize,
    /// How many bytes the frames have, for the credit.
    pub bytes: usize,
    /// In which form the subscriber reads.
    pub subprotocol: Subprotocol,
}

impl Delivery {
    /// The frames to be sent.
    pub fn frames(&self) -> &[Encoded] {
        &self.batch.frames(self.subprotocol)[self.start..]
    }

    /// The subscriber's position once it has them.
    pub fn last_offset(&self) -> u64 {
        self.batch.last_offset()
    }
}

/// Where a subscription begins.
#[derive(Debug)]
pub struct Seating {
    /// The position it asked for.
    pub cursor: Cursor,
    /// Its position now; another one than asked for if `gap` says so.
    pub position: Cursor,
    /// The newest offset.
    pub head: u64,
    /// Whether it goes on exactly where it said.
    pub resumed: bool,
    /// What it cannot have, as a frame.
    pub gap: Option<Encoded>,
    /// Whether it is fed by the room from now on; otherwise it has to pull.
    pub live: bool,
}

/// A frame of a page: a message, or a gap.
#[derive(Debug, Clone)]
pub struct PageFrame {
    /// As it goes on the wire.
    pub frame: Encoded,
    /// The position once it is read.
    pub position: u64,
    /// Whether it is a gap.
    pub is_gap: bool,
}

/// What a room tells a subscriber.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum RoomNews {
    /// The subscription stands.
    Subscribed {
        /// Which subscription.
        key: u32,
        /// Where it sits, until it is dropped.
        seat: Seat,
        /// Where it begins.
        seating: Seating,
    },
    /// The subscription could not be made; there is none.
    NotSubscribed {
        /// Which subscription.
        key: u32,
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// The room sends no more live messages until the subscriber has caught up by pulling.
    Lagging {
        /// Which subscription.
        key: u32,
        /// How many messages are kept behind what it was sent, where the log knows.
        behind: Option<u64>,
    },
    /// The page that was pulled.
    Page {
        /// Which subscription.
        key: u32,
        /// Messages and gaps, as frames.
        frames: Vec<PageFrame>,
        /// The position once they are read.
        position: u64,
        /// How many messages are kept behind that, where the log knows.
        behind: Option<u64>,
        /// Whether the subscriber is live from here on.
        live: bool,
    },
    /// The topic was deleted: the subscriber's position is the beginning of another sequence, and it has to pull. Comes unasked to
    /// one that is live, and in the place of a page to one that is not.
    Deleted {
        /// Which subscription.
        key: u32,
        /// What it cannot have, as a frame.
        gap: Encoded,
        /// Its position now.
        position: Cursor,
    },
    /// The page could not be read just now; pull again in a moment.
    PageFailed {
        /// Which subscription.
        key: u32,
        /// For the log.
        reason: String,
    },
    /// The subscription has ended as asked; nothing of it follows.
    Unsubscribed {
        /// Which subscription.
        key: u32,
    },
    /// The room has ended without having been asked. Subscribe again from the position.
    Gone {
        /// Which subscription.
        key: u32,
    },
}
