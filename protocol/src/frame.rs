//! Every frame of version 1, as values. Owns what can be said; `codec` owns how it is written.

use std::fmt;

use crate::{
    Cursor, ErrorCode, Idempotency, Message, PublishAll, Record, SubscribeFrom, TopicName,
    TopicReceipt,
};

/// What a client says. `id` is the client's own and is echoed in the answer.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// Who I am: first thing, or again before a token runs out.
    Auth {
        /// Echoed in `authenticated` or `error`.
        id: Option<u64>,
        /// The token. Not shown by `Debug`, so that it ends up in no log.
        token: String,
    },
    /// Send me this topic.
    Subscribe {
        /// Echoed in `subscribed` or `error`.
        id: Option<u64>,
        /// Which topic.
        topic: TopicName,
        /// Where to start.
        from: SubscribeFrom,
        /// A token for this topic alone, beside what the connection may read. Not shown by `Debug` either.
        token: Option<String>,
    },
    /// No more of this topic.
    Unsubscribe {
        /// Echoed in `unsubscribed` or `error`.
        id: Option<u64>,
        /// Which topic.
        topic: TopicName,
    },
    /// Keep this message and pass it on.
    Publish {
        /// Echoed in `published` or `error`. Without it the client wants no receipt.
        id: Option<u64>,
        /// Where to.
        topic: TopicName,
        /// What.
        message: Message,
        /// How it is known again if it is sent twice.
        idempotency: Idempotency,
    },
    /// Keep this message in each of several topics, and pass it on there.
    PublishAll {
        /// Echoed in `published_all` or `error`. Without it the client wants no receipts.
        id: Option<u64>,
        /// What, where to, and how it is known again.
        publish: PublishAll,
    },
    /// Are you there?
    Ping {
        /// Echoed in `pong`.
        id: Option<u64>,
    },
}

impl ClientFrame {
    /// The frame's `id`, if it has one.
    pub fn id(&self) -> Option<u64> {
        match self {
            Self::Auth { id, .. }
            | Self::Subscribe { id, .. }
            | Self::Unsubscribe { id, .. }
            | Self::Publish { id, .. }
            | Self::PublishAll { id, .. }
            | Self::Ping { id } => *id,
        }
    }
}

impl fmt::Debug for ClientFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth { id, token: _ } => f
                .debug_struct("Auth")
                .field("id", id)
                .finish_non_exhaustive(),
            Self::Subscribe {
                id,
                topic,
                from,
                token: _,
            } => f
                .debug_struct("Subscribe")
                .field("id", id)
                .field("topic", topic)
                .field("from", from)
                .finish_non_exhaustive(),
            Self::Unsubscribe { id, topic } => f
                .debug_struct("Unsubscribe")
                .field("id", id)
                .field("topic", topic)
                .finish(),
            Self::Publish {
                id,
                topic,
                message,
                idempotency,
            } => f
                .debug_struct("Publish")
                .field("id", id)
                .field("topic", topic)
                .field("message", message)
                .field("idempotency", idempotency)
                .finish(),
            Self::PublishAll { id, publish } => f
                .debug_struct("PublishAll")
                .field("id", id)
                .field("publish", publish)
                .finish(),
            Self::Ping { id } => f.debug_struct("Ping").field("id", id).finish(),
        }
    }
}

/// What Hark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame {
    /// First thing on a connection. Nobody has to wait for it.
    Welcome {
        /// The session's name, for logs.
        session: String,
        /// Hark's version.
        version: String,
        /// Hark pings this often, in milliseconds.
        heartbeat_ms: u64,
        /// The most bytes a frame from the client may have.
        max_message_bytes: u64,
        /// The most publishes that may be unanswered; beyond it Hark stops reading.
        max_inflight: u64,
    },
    /// The token is good.
    Authenticated {
        /// The `id` of the `auth`.
        id: Option<u64>,
        /// Who you are.
        identity: String,
        /// When the token runs out, in milliseconds since 1970-01-01T00:00Z.
        expires_at_ms: Option<u64>,
    },
    /// The subscription stands.
    Subscribed {
        /// The `id` of the `subscribe`.
        id: Option<u64>,
        /// Which topic.
        topic: TopicName,
        /// Where delivery starts: what comes after this cursor. A `gap` follows at once where that cannot be.
        cursor: Cursor,
        /// The newest offset just now.
        head: u64,
        /// Whether the subscription goes on exactly at the cursor the client gave.
        resumed: bool,
    },
    /// One message of a topic.
    Message {
        /// Which topic.
        topic: TopicName,
        /// The message and its place.
        record: Record,
    },
    /// What was kept has been sent; from here on it is live. Once per `subscribe`.
    CaughtUp {
        /// Which topic.
        topic: TopicName,
        /// The client's position.
        cursor: Cursor,
    },
    /// The client takes a topic's messages more slowly than they come. It misses nothing.
    Lagging {
        /// Which topic.
        topic: TopicName,
        /// The client's position.
        cursor: Cursor,
        /// How many messages are kept behind it, where the log knows.
        behind: Option<u64>,
    },
    /// Something that the client cannot have. Its position is now `cursor`.
    Gap {
        /// Which topic.
        topic: TopicName,
        /// Why.
        reason: GapReason,
        /// The first offset that is missing, where the missing can be named.
        from: Option<u64>,
        /// The last offset that is missing, where the missing can be named.
        to: Option<u64>,
        /// The client's position from here on, also when that is another epoch or a smaller offset.
        cursor: Cursor,
    },
    /// The subscription has ended; nothing of this topic follows.
    Unsubscribed {
        /// The `id` of the `unsubscribe`.
        id: Option<u64>,
        /// Which topic.
        topic: TopicName,
    },
    /// The receipt: the message is kept.
    Published {
        /// The `id` of the `publish`.
        id: u64,
        /// Where to.
        topic: TopicName,
        /// The record's place. For a duplicate that of the first, or offset 0, which is no record's, where it is not known any more.
        cursor: Cursor,
        /// Whether it had been kept before.
        duplicate: bool,
    },
    /// The receipts of a publish to several topics: it is kept in each, or was refused there.
    PublishedAll {
        /// The `id` of the `publish`.
        id: u64,
        /// One for each topic, in the order of the `publish`.
        receipts: Vec<TopicReceipt>,
    },
    /// A command was refused. The session goes on.
    Error {
        /// The `id` of the command, where it could be read.
        id: Option<u64>,
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
        /// With `out_of_sequence`: the number that would have been taken.
        expected_seq: Option<u64>,
        /// When trying again makes sense: not before so many milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// Hark is about to close the connection.
    Goodbye {
        /// Why: `restart`.
        reason: String,
        /// Connect again after so many milliseconds; each session gets its own.
        retry_after_ms: u64,
    },
    /// The answer to `ping`.
    Pong {
        /// The `id` of the `ping`.
        id: Option<u64>,
    },
}

/// Why a subscriber cannot have something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// Retention took it.
    Expired,
    /// Damage, or a tail that was cut.
    Lost,
    /// The cursor belongs to another sequence of offsets. There is no range.
    OtherEpoch,
    /// The cursor is beyond anything that ever was.
    Ahead,
    /// The topic was deleted; the subscription goes on with the new sequence.
    Deleted,
    /// The topic prefers the newest to the complete, and the subscriber was slow.
    Skipped,
    /// A reason of a newer Hark, which this build does not know: a gap all the same. Never sent.
    Unknown,
}

impl GapReason {
    /// Every reason that can be sent.
    pub const ALL: [Self; 6] = [
        Self::Expired,
        Self::Lost,
        Self::OtherEpoch,
        Self::Ahead,
        Self::Deleted,
        Self::Skipped,
    ];

    /// The reason on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::OtherEpoch => "other_epoch",
            Self::Ahead => "ahead",
            Self::Deleted => "deleted",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }

    /// The reason of that name; `Unknown` for a name this build does not know.
    pub fn by_name(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|known| known.as_str() == name)
            .unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let frame = ClientFrame::Auth {
            id: Some(1),
            token: "open sesame".into(),
        };
        assert_eq!(format!("{frame:?}"), "Auth { id: Some(1), .. }");
        let frame = ClientFrame::Subscribe {
            id: None,
            topic: TopicName::parse("a").unwrap(),
            from: SubscribeFrom::Now,
            token: Some("open sesame".into()),
        };
        assert!(!format!("{frame:?}").contains("sesame"));
    }
}
