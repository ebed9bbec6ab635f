//! The subprotocols one URL serves. Owns their names and what an encoded frame is; `codec` does the encoding.

use bytes::Bytes;
use bytestring::ByteString;

/// How frames are written on a WebSocket. The client offers, in `Sec-WebSocket-Protocol` (RFC 6455, section 1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subprotocol {
    /// `hark.v1.json`: text frames. What a client gets that offers nothing.
    Json,
    /// `hark.v1.bincode`: binary frames.
    Bincode,
}

impl Subprotocol {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Json, Self::Bincode];

    /// The name in `Sec-WebSocket-Protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "hark.v1.json",
            Self::Bincode => "hark.v1.bincode",
        }
    }

    /// The subprotocol of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// One frame as it goes out: text for JSON, bytes for bincode. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// The payload of a WebSocket text frame.
    Text(ByteString),
    /// The payload of a WebSocket binary frame.
    Binary(Bytes),
}

impl Encoded {
    /// The payload's bytes.
    pub fn as_bytes(&self) -> &Bytes {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// How many bytes the payload has.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty (no frame's is).
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }
}
