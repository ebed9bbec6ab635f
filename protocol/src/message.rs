//! Messages and records, and the checked parts they are made of. Owns what a payload, a header and a producer may be;
//! leaves how they are written to `codec` and how they are kept to the broker.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use crate::{MAX_CONTENT_TYPE_BYTES, MAX_HEADER_BYTES, MAX_HEADER_PAIRS};

/// What a user publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The content.
    pub payload: Payload,
    /// Names and values beside it.
    pub headers: Headers,
}

impl Message {
    /// How many bytes the content and the headers have: what bounds in bytes count.
    pub fn size_bytes(&self) -> usize {
        let header = |(name, value): (&str, &str)| name.len() + value.len();
        self.payload.len() + self.headers.iter().map(header).sum::<usize>()
    }

    /// The text, if text is what was published: see [`Payload::text`].
    pub fn text(&self) -> Option<&str> {
        self.payload.text()
    }
}

/// A message with its place in a topic, as kept in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The place: strictly increasing within a topic and epoch.
    pub offset: u64,
    /// The topic's record before, where it is not `offset - 1` (engines whose offsets skip).
    pub prev: Option<u64>,
    /// When it was kept, in milliseconds since 1970-01-01T00:00Z. Never goes back within a topic.
    pub time_ms: u64,
    /// Who published it, where it is known and told.
    pub identity: Option<Identity>,
    /// What was published.
    pub message: Message,
}

impl Record {
    /// The offset of the topic's record before; 0 before the first.
    pub fn prev_offset(&self) -> u64 {
        self.prev.unwrap_or_else(|| self.offset.saturating_sub(1))
    }
}

/// Who published a message: a subject, and the issuer that vouches for it. Equal subjects of two issuers are two identities. Clones share
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<(Box<str>, Box<str>)>);

impl Identity {
    /// The subject of that issuer.
    pub fn new(issuer: &str, subject: &str) -> Self {
        Self(Arc::new((issuer.into(), subject.into())))
    }

    /// Who vouches for the subject.
    pub fn issuer(&self) -> &str {
        &self.0.0
    }

    /// Who it is to the issuer.
    pub fn subject(&self) -> &str {
        &self.0.1
    }

    /// How many bytes the two have.
    pub fn size_bytes(&self) -> usize {
        self.issuer().len() + self.subject().len()
    }
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// One JSON value, checked.
    Json(JsonText),
    /// Anything else.
    Bytes {
        /// The bytes, as they came.
        data: Bytes,
        /// What they are (RFC 9110, section 8.3), if the publisher said so. At most 255 bytes.
        content_type: Option<ByteString>,
    },
}

/// What text is called whose publisher says no more than that it is text.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

impl Payload {
    /// Text, as `text/plain; charset=utf-8`.
    pub fn plain_text(text: impl Into<ByteString>) -> Self {
        Self::Bytes {
            data: text.into().into_bytes(),
            content_type: Some(ByteString::from_static(PLAIN_TEXT)),
        }
    }

    /// Text of this type, or of `text/plain; charset=utf-8`. A type that says otherwise is refused.
    pub fn typed_text(
        text: impl Into<ByteString>,
        content_type: Option<ByteString>,
    ) -> Result<Self, TextTypeError> {
        match content_type {
            None => Ok(Self::plain_text(text)),
            Some(content_type) if says_text(&content_type) => Ok(Self::Bytes {
                data: text.into().into_bytes(),
                content_type: Some(content_type),
            }),
            Some(content_type) => Err(TextTypeError(content_type)),
        }
    }

    /// What was published without a word on what it is: JSON if it is JSON, text if it is UTF-8, else bytes.
    pub fn undeclared(data: Bytes) -> Self {
        match JsonText::check(data.clone()) {
            Ok(json) => Self::Json(json),
            Err(_) => match ByteString::try_from(data.clone()) {
                Ok(text) => Self::plain_text(text),
                Err(_) => Self::Bytes {
                    data,
                    content_type: None,
                },
            },
        }
    }

    /// The text, if text is what was published: bytes whose type is `text/…`, of no charset, `utf-8` or `us-ascii`, and that are
    /// UTF-8. A JSON string is JSON.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Bytes {
                data,
                content_type: Some(content_type),
            } if says_text(content_type) => std::str::from_utf8(data).ok(),
            _ => None,
        }
    }

    /// How many bytes the content has.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(text) => text.as_str().len(),
            Self::Bytes { data, .. } => data.len(),
        }
    }

    /// Whether there is no content. A JSON value is never empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a publisher's content type was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a content type has at most {MAX_CONTENT_TYPE_BYTES} bytes and no control characters, such as `image/png`"
)]
pub struct ContentTypeError;

/// Checks a publisher's content type: it may end up in an HTTP header, so control characters are refused.
pub fn check_content_type(content_type: &str) -> Result<(), ContentTypeError> {
    match content_type.len() > MAX_CONTENT_TYPE_BYTES || content_type.chars().any(char::is_control)
    {
        true => Err(ContentTypeError),
        false => Ok(()),
    }
}

/// Why text was refused: its content type says that it is something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "what is in `text` is text/…, of no charset, utf-8 or us-ascii; `content_type` says {0:?}: give bytes of that type as `data_base64`"
)]
pub struct TextTypeError(pub ByteString);

/// Whether content of this type is text in an encoding that UTF-8 covers (RFC 9110, section 8.3.2). Whatever stands between two
/// semicolons counts as a parameter, also inside quotation marks: so no charset goes unseen.
fn says_text(content_type: &str) -> bool {
    let mut parts = content_type.split(';');
    let kind = parts.next().unwrap_or_default();
    let is_text = kind
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("text/"));
    is_text
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                let charset = value.trim().trim_matches('"');
                ["utf-8", "us-ascii"]
                    .iter()
                    .any(|known| charset.eq_ignore_ascii_case(known))
            }
            _ => true,
        })
}

/// One JSON value (RFC 8259) as text on one line: valid UTF-8, checked once, line breaks outside strings taken out.
///
/// Can only be made by checking, so that it can be spliced into a frame as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(ByteString);

/// Why bytes are not one JSON value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not one JSON value: {0}")]
pub struct JsonError(pub String);

impl JsonText {
    /// Checks that `json` is one JSON value. Copies only where a line break must go.
    pub fn check(json: Bytes) -> Result<Self, JsonError> {
        let text = ByteString::try_from(json).map_err(|e| JsonError(e.to_string()))?;
        let value: &serde_json::value::RawValue =
            serde_json::from_str(&text).map_err(|e| JsonError(e.to_string()))?;
        let value = match value.get().len() == text.len() {
            true => text,
            // A slice would hold on to all that was around it, however much that was.
            false => ByteString::from(value.get()),
        };
        Ok(Self(on_one_line(value)))
    }

    /// Copies what serde_json has checked already, so that it is not checked twice and does not hold on to the frame.
    pub(crate) fn from_raw(json: &serde_json::value::RawValue) -> Self {
        Self(on_one_line(json.get().into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text's bytes, shared.
    pub fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// Marks as checked what was checked before it was stored or sent: bytes that `as_bytes` gave, guarded by a checksum.
    /// Checks only that they are UTF-8 on one line, so that whatever happened to them they cannot break a frame in two.
    pub fn from_checked(json: Bytes) -> Result<Self, JsonError> {
        let text = ByteString::try_from(json).map_err(|e| JsonError(e.to_string()))?;
        Ok(Self(on_one_line(text)))
    }
}

/// A JSON string cannot hold a raw line break (RFC 8259, section 7), so every one there is stands outside strings.
fn on_one_line(text: ByteString) -> ByteString {
    let bytes: &[u8] = text.as_bytes();
    if !bytes.contains(&b'\n') && !bytes.contains(&b'\r') {
        return text;
    }
    let kept: BytesMut = text
        .bytes()
        .filter(|b| !matches!(b, b'\n' | b'\r'))
        .collect();
    // Taking out ASCII characters leaves UTF-8.
    ByteString::try_from(kept.freeze()).unwrap_or_default()
}

/// Names and values beside a message's content, in the publisher's order: at most 32 pairs and 4 KiB in all. Clones share them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Option<Arc<[(ByteString, ByteString)]>>);

/// Why headers were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    /// More than 32 pairs.
    #[error("a message has at most {MAX_HEADER_PAIRS} headers; this one has {0}")]
    TooMany(usize),
    /// More than 4 KiB.
    #[error("a message's headers have at most {MAX_HEADER_BYTES} bytes in all; these have {0}")]
    TooLarge(usize),
    /// A name is empty, or stands twice.
    #[error("header {0:?} is empty or stands twice")]
    BadName(String),
}

impl Headers {
    /// Checks the pairs against the limits.
    pub fn new(pairs: Vec<(ByteString, ByteString)>) -> Result<Self, HeadersError> {
        if pairs.len() > MAX_HEADER_PAIRS {
            return Err(HeadersError::TooMany(pairs.len()));
        }
        let bytes = pairs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > MAX_HEADER_BYTES {
            return Err(HeadersError::TooLarge(bytes));
        }
        for (at, (name, _)) in pairs.iter().enumerate() {
            if name.is_empty() || pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(HeadersError::BadName(name.to_string()));
            }
        }
        // Without any nothing is shared, so that nobody counts who shares it.
        Ok(Self((!pairs.is_empty()).then(|| pairs.into())))
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// Names and values, in the publisher's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let pairs = self.0.as_deref().unwrap_or_default();
        pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// How a message that is sent again is known to be the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Idempotency {
    /// It is not: sent twice, kept twice.
    #[default]
    None,
    /// By the producer's count: 1, 2, 3 … per producer and topic.
    Sequence {
        /// Who counts.
        producer: ProducerId,
        /// The count, from 1.
        seq: u64,
    },
    /// By a key of the client's own choosing, remembered for a while.
    Key(MessageId),
}

/// Why a string is no producer's name and no message's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a producer and a message_id have 1 to 64 bytes without control characters")]
pub struct Key64Error;

macro_rules! key64 {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(ByteString);

        impl $name {
            /// Checks the text and keeps a copy.
            pub fn parse(text: &str) -> Result<Self, Key64Error> {
                match (1..=64).contains(&text.len()) && !text.chars().any(char::is_control) {
                    true => Ok(Self(text.into())),
                    false => Err(Key64Error),
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

key64! {
    /// The random name a publisher counts its messages under: 1 to 64 bytes.
    ProducerId
}
key64! {
    /// A message's key, of the client's own choosing: 1 to 64 bytes.
    MessageId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_value_on_one_line() {
        let text = JsonText::check(Bytes::from_static(b" {\n  \"a\": [1,\r\n 2]\n}\n")).unwrap();
        assert_eq!(text.as_str(), r#"{  "a": [1, 2]}"#);
        for bad in ["", " ", "{", "1 2", "{\"a\":1}x", "nul", "\"a\nb\""] {
            assert!(
                JsonText::check(Bytes::copy_from_slice(bad.as_bytes())).is_err(),
                "{bad:?} was taken"
            );
        }
        assert!(JsonText::check(Bytes::from_static(b"\"\xff\"")).is_err());
    }

    #[test]
    fn text_is_what_says_so_and_is_utf_8() {
        let bytes = |data: &'static [u8], content_type: &str| Payload::Bytes {
            data: Bytes::from_static(data),
            content_type: Some(content_type.into()),
        };
        for content_type in [
            "text/plain",
            "text/html; charset=utf-8",
            "TEXT/Plain;Charset=\"UTF-8\"; format=flowed",
            "text/csv;header=present ; charset = US-ASCII",
        ] {
            let text = bytes("Grüße\n".as_bytes(), content_type);
            assert_eq!(text.text(), Some("Grüße\n"), "{content_type}");
            assert_eq!(bytes(b"\xff", content_type).text(), None, "{content_type}");
        }
        for content_type in [
            "",
            "text",
            "texture/plain",
            "application/json",
            "text/plain; charset=iso-8859-1",
            "text/plain; charset=utf-16",
            "text/plain; charset=",
            "text/plain; charset=utf-8; charset=latin1",
            "text/plain; a=\"b; charset=latin1\"",
        ] {
            assert_eq!(bytes(b"a", content_type).text(), None, "{content_type}");
        }
        let untyped = Payload::Bytes {
            data: Bytes::from_static(b"a"),
            content_type: None,
        };
        assert_eq!(untyped.text(), None);
        let json = JsonText::check(Bytes::from_static(b"\"a\"")).unwrap();
        assert_eq!(Payload::Json(json).text(), None);
    }

    #[test]
    fn what_says_nothing_is_json_or_text_or_bytes() {
        let read = |data: &'static [u8]| Payload::undeclared(Bytes::from_static(data));
        assert!(matches!(read(b" [1,\n2] "), Payload::Json(json) if json.as_str() == "[1,2]"));
        assert_eq!(read(b"hello"), Payload::plain_text("hello"));
        assert_eq!(read(b""), Payload::plain_text(""));
        assert_eq!(read(b"hello").text(), Some("hello"));
        let (data, content_type) = (Bytes::from_static(b"\xff"), None);
        assert_eq!(read(b"\xff"), Payload::Bytes { data, content_type });
    }

    #[test]
    fn headers_at_their_limits() {
        let pairs = |n: usize| {
            (0..n)
                .map(|i| (format!("{i}").into(), "v".into()))
                .collect::<Vec<_>>()
        };
        assert!(Headers::new(pairs(32)).is_ok());
        assert_eq!(Headers::new(pairs(33)), Err(HeadersError::TooMany(33)));
        let long = |n: usize| vec![("a".into(), ByteString::from("x".repeat(n)))];
        assert!(Headers::new(long(4095)).is_ok());
        assert_eq!(Headers::new(long(4096)), Err(HeadersError::TooLarge(4097)));
        assert!(Headers::new(vec![("a".into(), "1".into()), ("a".into(), "2".into())]).is_err());
    }

    #[test]
    fn keys_have_1_to_64_bytes() {
        assert!(ProducerId::parse(&"p".repeat(64)).is_ok());
        assert!(ProducerId::parse(&"p".repeat(65)).is_err());
        assert!(MessageId::parse("").is_err());
        assert!(MessageId::parse("a\nb").is_err());
    }
}
