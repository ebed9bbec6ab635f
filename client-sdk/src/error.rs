//! What can go wrong, for programs (the variant) and for people (the sentence). Leaves the broker's own codes to
//! `hark_protocol::ErrorCode`.

use std::time::Duration;

use hark_protocol::{
    CloseCode, Cursor, ErrorCode, GapReason, HeadersError, Key64Error, TopicName, TopicNameError,
};

/// Why a client could not connect, or why it has ended. The same value is seen by everything that hangs on the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is not one of a Hark broker.
    #[error("{url:?} is no Hark URL ({reason}); it looks like ws://127.0.0.1:4275/ws")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `wss://`, but this build has no TLS.
    #[error("{url:?} needs TLS: build hark-client with its feature `tls`")]
    TlsNotBuilt {
        /// What was given.
        url: String,
    },
    /// A file of certificates, or of a certificate's key, is none.
    #[error("{reason}")]
    BadCertificates {
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// No connection could be had, and none is tried again.
    #[error("cannot reach Hark at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// The last attempt's reason.
        reason: String,
    },
    /// The upgrade was refused. With 401 or 403 and one of Hark's codes that is final; what else answers may be something that stands
    /// between, and is tried again.
    #[error("{url} refused the connection with HTTP status {status}: {message}")]
    Refused {
        /// Where.
        url: String,
        /// The HTTP status (RFC 9110, section 15).
        status: u16,
        /// Hark's code, if it was Hark who refused it.
        code: Option<ErrorCode>,
        /// What the answer said.
        message: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The token callback gave no token.
    #[error("no token: {0}")]
    Token(String),
    /// Hark ended the connection for good.
    #[error("Hark closed the connection with code {}: {reason}", code.0)]
    ClosedByBroker {
        /// The close code; it says that trying again makes no sense.
        code: CloseCode,
        /// What Hark said.
        reason: String,
    },
    /// The connection was lost, and reconnecting is switched off.
    #[error("the connection to Hark was lost: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
    /// The application closed the client. A normal ending.
    #[error("the client is closed")]
    Closed,
}

/// Why a message has no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic's name breaks the grammar.
    #[error(transparent)]
    BadTopic(#[from] TopicNameError),
    /// The topic belongs to the system.
    #[error("{0} belongs to the system: publish to a topic without a leading $")]
    SystemTopic(TopicName),
    /// A message is for the same topic twice.
    #[error("{0} is named twice: a message is published once to each topic")]
    TopicTwice(TopicName),
    /// The content type is over its limit.
    #[error("a content type has at most 255 bytes and no control characters, such as image/png")]
    BadContentType,
    /// The payload could not be written as JSON.
    #[error("the payload cannot be written as JSON: {0}")]
    BadPayload(String),
    /// The headers are over a limit, or a name stands twice.
    #[error(transparent)]
    BadHeaders(#[from] HeadersError),
    /// The message's key is not 1 to 64 bytes.
    #[error(transparent)]
    BadMessageId(#[from] Key64Error),
    /// The message is larger than the broker takes. It was not sent.
    #[error("the message makes a frame of {bytes} bytes, and the broker takes at most {limit}")]
    TooLarge {
        /// The size of the frame, or of the payload where that alone is too large.
        bytes: usize,
        /// `max_message_bytes` of the broker's `welcome`.
        limit: usize,
    },
    /// The broker refused it.
    #[error("{code}: {message}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
        /// The message had been sent before, over a connection that broke, and that sending may have been kept.
        maybe_kept: bool,
    },
    /// The producer's name that the application chose has been used before: the broker took a new message for one that
    /// it has. It is not kept. Choose another name, or let the client draw one.
    #[error(
        "the producer {0:?} has published to this topic before: the message was taken for a duplicate"
    )]
    ProducerInUse(String),
    /// No place in the window within the request timeout. The message was not sent.
    #[error("no place in the window of unanswered messages within {0:?}")]
    WindowFull(Duration),
    /// No answer within the request timeout. The message keeps its place and may still be kept.
    #[error("no receipt within {0:?}; the message may still be kept")]
    TimedOut(Duration),
    /// The connection broke before the answer came, and the message has no number and no key that would make sending it again
    /// safe. It may have been kept.
    #[error("the connection broke before the receipt came; the message may have been kept")]
    Interrupted,
    /// The message does not come through, and the client has given it up: five connections in a row broke after it had been sent first
    /// in its topic, before anything was answered there, or it has a [`message_id`](crate::Publish::message_id) and waited for as long as
    /// Hark remembers one. It may have been kept.
    #[error("no receipt came: {0}; the message may have been kept")]
    Lost(&'static str),
    /// The client has ended. The message may have been kept if it had been sent.
    #[error(transparent)]
    Ended(#[from] ClientError),
}

/// Why there is no subscription, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The topic's name breaks the grammar.
    #[error(transparent)]
    BadTopic(#[from] TopicNameError),
    /// This client has a subscription to the topic. One is enough: share it, or use another client.
    #[error("this client is subscribed to {0} already")]
    AlreadySubscribed(TopicName),
    /// The broker refused it.
    #[error("{code}: {message}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// No answer within the request timeout.
    #[error("no answer to the subscription within {0:?}")]
    TimedOut(Duration),
    /// The client has ended.
    #[error(transparent)]
    Ended(#[from] ClientError),
}

/// Why [`Subscription::next_message`](crate::Subscription::next_message) has no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NextMessageError {
    /// Something is missing. The subscription goes on behind it: ask again.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// The subscription has ended.
    #[error(transparent)]
    Ended(#[from] SubscribeError),
}

/// Messages that the subscriber cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("messages are missing ({}), {}; it goes on after {cursor}", reason.as_str(), Range(*from, *to))]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// The first offset that is missing, where the missing can be named.
    pub from: Option<u64>,
    /// The last offset that is missing, where the missing can be named.
    pub to: Option<u64>,
    /// The position behind the gap. It may be of another epoch, and its offset may be smaller than before.
    pub cursor: Cursor,
}

struct Range(Option<u64>, Option<u64>);

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (Some(from), Some(to)) => write!(f, "offsets {from} to {to}"),
            (Some(from), None) => write!(f, "from offset {from} on"),
            (None, Some(to)) => write!(f, "up to offset {to}"),
            (None, None) => f.write_str("it is not known how many"),
        }
    }
}

/// `Client::close` ended with publishes that nobody answered. They may have been kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} published messages were not answered in time; they may have been kept")]
pub struct Unanswered(pub usize);
