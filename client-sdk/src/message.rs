//! What a subscription delivers.

use bytes::Bytes;
use hark_protocol::{Cursor, Headers, Identity, Payload, TopicName};
use serde::de::DeserializeOwned;

use crate::Gap;

/// One thing a subscription has to say, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Message),
    /// Messages that cannot be had. The subscription goes on behind them.
    Gap(Gap),
    /// What was kept when the subscription (or its resumption after a reconnect) started has been delivered; from here on it
    /// is live.
    CaughtUp(Cursor),
}

/// A message with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: TopicName,
    /// Its place. Subscribing after this cursor gives what follows: store it when the message is done with.
    pub cursor: Cursor,
    /// When it was kept, in milliseconds since 1970-01-01T00:00Z. Never goes back within a topic.
    pub time_ms: u64,
    /// Who published it, as Hark says: in topics where that is told, of those who were not anonymous.
    pub identity: Option<Identity>,
    /// The content.
    pub payload: Payload,
    /// Names and values beside it.
    pub headers: Headers,
}

impl Message {
    /// The content, read as JSON. An error if it is of another shape, or bytes that are no JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.bytes())
    }

    /// The content's bytes: the text of JSON, or the bytes as they were published.
    pub fn bytes(&self) -> &Bytes {
        match &self.payload {
            Payload::Json(text) => text.as_bytes(),
            Payload::Bytes { data, .. } => data,
        }
    }

    /// The text, if text is what was published (with [`Client::publish_text`](crate::Client::publish_text), `hark pub`, `curl -d`): bytes whose type is
    /// `text/…`, of no charset, `utf-8` or `us-ascii`, and that are UTF-8. A JSON string is JSON: see [`json`](Self::json).
    pub fn text(&self) -> Option<&str> {
        self.payload.text()
    }

    /// The offset: `cursor.offset`.
    pub fn offset(&self) -> u64 {
        self.cursor.offset
    }
}

impl Event {
    /// What it counts in a queue.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Message(message) => {
                let headers: usize = message
                    .headers
                    .iter()
                    .map(|(name, value)| name.len() + value.len())
                    .sum();
                size_of::<Self>() + message.payload.len() + headers
            }
            Self::Gap(_) | Self::CaughtUp(_) => size_of::<Self>(),
        }
    }
}
