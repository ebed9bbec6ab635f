//! Error codes: what a program chooses by. Owns the list and its meaning; the sentences for people come from those who
//! refuse.

use std::fmt;

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, again: $again:literal, status: $status:literal;)*) => {
        /// Why a command was refused. The names are for ever, and each says whether trying again makes sense.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $doc])* $name,)*
            /// A code of a newer Hark, which this build does not know. Never sent.
            Unknown,
        }

        impl ErrorCode {
            /// Every code that can be sent.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Unknown => "unknown" }
            }

            /// The code of that name; `Unknown` for a name this build does not know.
            pub fn by_name(name: &str) -> Self {
                match name { $($text => Self::$name,)* _ => Self::Unknown }
            }

            /// Whether the same command may succeed when it is sent again, unchanged.
            pub const fn try_again(self) -> bool {
                match self { $(Self::$name => $again,)* Self::Unknown => false }
            }

            /// The HTTP status that goes with the code (RFC 9110, section 15).
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)* Self::Unknown => 500 }
            }
        }
    };
}

error_codes! {
    /// The text is no frame: not JSON, an unknown type, a missing or wrong field.
    BadFrame = "bad_frame", again: false, status: 400;
    /// The topic's name breaks the grammar, or belongs to the system.
    BadTopic = "bad_topic", again: false, status: 400;
    /// The cursor, or another form of `from`, cannot be read.
    BadCursor = "bad_cursor", again: false, status: 400;
    /// A message or one of its parts is over its limit.
    TooLarge = "too_large", again: false, status: 413;
    /// No identity where one is needed.
    Unauthenticated = "unauthenticated", again: false, status: 401;
    /// The identity may not do this.
    Forbidden = "forbidden", again: false, status: 403;
    /// The token runs out soon; send a new one.
    Expiring = "expiring", again: false, status: 401;
    /// There is no such subscription to end.
    NotSubscribed = "not_subscribed", again: false, status: 404;
    /// The session has a subscription to this topic already.
    AlreadySubscribed = "already_subscribed", again: false, status: 409;
    /// The session, identity or address has as many subscriptions as it may have.
    TooManySubscriptions = "too_many_subscriptions", again: false, status: 429;
    /// There are as many topics as there may be.
    TooManyTopics = "too_many_topics", again: false, status: 429;
    /// The producer's number is not the next; `expected_seq` is.
    OutOfSequence = "out_of_sequence", again: false, status: 409;
    /// More than this client may, or all together.
    RateLimited = "rate_limited", again: true, status: 429;
    /// A queue is full, or the room is starting again.
    Busy = "busy", again: true, status: 503;
    /// The log does not take writes. What was in flight may have been kept: send it again with its sequence number.
    LogUnavailable = "log_unavailable", again: true, status: 503;
    /// This broker, engine or transport cannot do that.
    Unsupported = "unsupported", again: false, status: 501;
    /// Something broke inside Hark.
    Internal = "internal", again: true, status: 500;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct FrameError {
    /// The `id` of the frame, where it could be read, so that the answer can be matched.
    pub id: Option<u64>,
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong and what would be right.
    pub message: String,
}

impl FrameError {
    /// An error about a frame whose `id` is not known.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            id: None,
            code,
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_name() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::by_name(code.as_str()), code);
        }
        assert_eq!(ErrorCode::by_name("from_the_future"), ErrorCode::Unknown);
    }
}
