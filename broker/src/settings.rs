//! What the parts of the broker are given at start: engines, limits, faults. Owns the defaults' meaning in the running broker;
//! `config` owns how they are set.

use std::sync::Arc;
use std::time::Duration;

use hark_protocol::{Message, Record, ServerFrame, TopicName, TopicPattern};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::identity::Authority;
use crate::message_log::MessageLog;
use crate::receiving::Receivings;
use crate::remembered::Remembered;

/// What every room is given.
#[derive(Debug, Clone)]
pub struct RoomSettings {
    /// The time of day.
    pub clock: Clock,
    /// A room that nobody has needed for so long retires.
    pub idle: Duration,
    /// The most rooms that stay though nobody holds them; beyond it the longest idle retire before their time.
    pub max_idle_rooms: usize,
    /// Bytes of newest batches that all rooms may hold together.
    pub tail_budget: Budget,
    /// Bytes of messages that may be staged in all rooms together. Full: publishes are answered `busy`.
    pub staged_budget: Budget,
    /// What all rooms together remember of producers and keys. Full of such as were heard lately: new ones are answered `busy`.
    pub remembered: Remembered,
    /// Says in which topics readers are told who published a message.
    pub(crate) authority: Arc<Authority>,
    /// Breakage on request, for tests.
    pub faults: Faults,
}

/// The engines, and which topics live where.
#[derive(Debug, Clone)]
pub struct Engines {
    /// Keeps records on disk.
    pub synced: Arc<dyn MessageLog>,
    /// Keeps records in memory.
    pub memory: Arc<dyn MessageLog>,
    /// The topics that are kept in memory.
    pub memory_topics: Arc<[TopicPattern]>,
}

impl Engines {
    /// Whether `topic` is kept in memory only.
    pub fn keeps_in_memory(&self, topic: &TopicName) -> bool {
        let mut patterns = self.memory_topics.iter();
        patterns.any(|pattern| pattern.matches(topic))
    }

    /// The engine that keeps `topic`.
    pub fn log_of(&self, topic: &TopicName) -> Arc<dyn MessageLog> {
        match self.keeps_in_memory(topic) {
            true => self.memory.clone(),
            false => self.synced.clone(),
        }
    }
}

/// The header of a message that asks for a fault, where faults are switched on.
const FAULT_HEADER: &str = "hark-fault";

/// Breakage on request: switched on by the environment variable `HARK_FAULTS=1`, for tests alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Whether requests are heard at all.
    pub enabled: bool,
}

impl Faults {
    /// Panics if `message` asks for a room that breaks before the message is kept.
    pub fn strike_before_append(self, message: &Message) {
        assert!(
            !self.asked(message, "room-panic"),
            "a fault was asked for: before the append"
        );
    }

    /// Panics if one of `records` asks for a room that breaks when it is kept but not yet answered or passed on.
    pub fn strike_after_append(self, records: &[Record]) {
        let asked = |record: &Record| self.asked(&record.message, "room-panic-after-commit");
        assert!(
            !records.iter().any(asked),
            "a fault was asked for: after the append"
        );
    }

    fn asked(self, message: &Message, fault: &str) -> bool {
        self.enabled && message.headers.get(FAULT_HEADER) == Some(fault)
    }
}

/// The most unanswered publishes of a session, unless set otherwise.
pub const DEFAULT_MAX_INFLIGHT: usize = 1024;

/// What every session is given.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Hark pings this often; one that sends nothing for two and a half times as long is ended.
    pub heartbeat: Duration,
    /// A client that takes less than a page (64 KiB) of what waits for it within this time is ended.
    pub stall_timeout: Duration,
    /// The most bytes a frame from a client may have, reassembled.
    pub max_message_bytes: usize,
    /// The most unanswered publishes of a session; beyond it Hark stops reading from it.
    pub max_inflight: usize,
    /// The most payload bytes of unanswered publishes of a session (but at least one message); beyond it Hark stops reading.
    pub max_inflight_bytes: usize,
    /// The most subscriptions of a session.
    pub max_subscriptions: usize,
    /// Messages that have come in part, of all connections.
    pub receivings: Receivings,
}

impl SessionSettings {
    /// What every connection that stays hears first; `session` is its name in the log.
    pub fn welcome(&self, session: &str) -> ServerFrame {
        ServerFrame::Welcome {
            session: session.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_ms: self.heartbeat.as_millis() as u64,
            max_message_bytes: self.max_message_bytes as u64,
            max_inflight: self.max_inflight as u64,
        }
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(25),
            stall_timeout: Duration::from_secs(60),
            max_message_bytes: hark_protocol::MAX_FRAME_BYTES,
            max_inflight: DEFAULT_MAX_INFLIGHT,
            max_inflight_bytes: 1024 * 1024,
            max_subscriptions: 1000,
            receivings: Receivings::new(64 * 1024 * 1024),
        }
    }
}
