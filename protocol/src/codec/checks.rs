//! What both forms check after reading a frame, in one place, so that a frame means the same in either. Owns the
//! sentences of refusal; leaves reading and writing to `json` and `binary`.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::marker::PhantomData;

use bytestring::ByteString;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    Cursor, Destination, ErrorCode, FrameError, Headers, HeadersError, Idempotency,
    IdempotencyInEach, MAX_HEADER_PAIRS, MAX_PUBLISH_TOPICS, Message, MessageId, Payload,
    ProducerId, PublishAll, PublishAllError, TopicName, TopicOutcome, TopicReceipt,
    check_content_type, publish_all,
};

/// The most bytes of a refusal's sentence: it may quote what came in, and that may be a MiB.
const MAX_SENTENCE_BYTES: usize = 300;

/// A refusal whose sentence is cut to a bearable length, while it is written: it never takes more.
pub(super) fn refuse(code: ErrorCode, sentence: impl fmt::Display) -> FrameError {
    FrameError::new(code, Clipped(sentence).to_string())
}

/// Shows no more than the first bytes of what may be long.
pub(super) struct Clipped<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Clipped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Room<'r, 'f>(&'r mut fmt::Formatter<'f>, usize);
        impl fmt::Write for Room<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                if text.len() <= self.1 {
                    self.1 -= text.len();
                    return self.0.write_str(text);
                }
                let end = (0..=self.1)
                    .rev()
                    .find(|&at| text.is_char_boundary(at))
                    .unwrap_or(0);
                self.1 = 0;
                self.0.write_str(&text[..end])?;
                Err(fmt::Error) // ends the writing
            }
        }

        let mut room = Room(f, MAX_SENTENCE_BYTES);
        match write!(room, "{}", self.0) {
            Ok(()) => Ok(()),
            Err(fmt::Error) => f.write_str("…"),
        }
    }
}

/// The refusal of what is no frame.
pub(super) fn bad_frame(sentence: impl fmt::Display) -> FrameError {
    refuse(ErrorCode::BadFrame, sentence)
}

/// A topic to read from, a system topic included.
pub(super) fn topic(name: &str) -> Result<TopicName, FrameError> {
    TopicName::parse(name).map_err(|e| refuse(ErrorCode::BadTopic, e))
}

/// A topic to publish to, by whatever way: names of the system are refused.
pub fn topic_to_publish(name: &str) -> Result<TopicName, FrameError> {
    publish_all::topic_to_publish(name).map_err(|e| refuse(ErrorCode::BadTopic, e))
}

/// A publish to several topics: as many as may be, none twice, each with its number.
pub(super) fn publish_all<N: AsRef<str>>(
    topics: &List<N>,
    message: Message,
    idempotency: IdempotencyInEach,
) -> Result<PublishAll, FrameError> {
    let publish = match topics.count > topics.kept.len() {
        true => Err(PublishAllError::TooManyTopics(topics.count)),
        false => {
            let topics = topics.kept.iter();
            let topics = topics
                .map(|name| Destination::parse(name.as_ref()))
                .collect();
            PublishAll::new(topics, message, idempotency)
        }
    };
    publish.map_err(|e| refuse(e.code(), e))
}

/// A cursor as Hark gave it out.
pub(super) fn cursor(text: &str) -> Result<Cursor, FrameError> {
    text.parse().map_err(|e| refuse(ErrorCode::BadCursor, e))
}

/// Headers within their limits.
pub(super) fn headers(pairs: Option<HeaderPairs<'_>>) -> Result<Headers, FrameError> {
    let Some(HeaderPairs { kept, count }) = pairs else {
        return Ok(Headers::default());
    };
    let checked = match count > kept.len() {
        true => Err(HeadersError::TooMany(count)),
        false => Headers::new(
            kept.iter()
                .map(|(name, value)| (name.as_ref().into(), value.as_ref().into()))
                .collect(),
        ),
    };
    checked.map_err(|e| match e {
        HeadersError::TooMany(_) | HeadersError::TooLarge(_) => refuse(ErrorCode::TooLarge, e),
        HeadersError::BadName(_) => bad_frame(e),
    })
}

/// A publisher's content type.
pub(super) fn content_type(text: Option<&str>) -> Result<Option<ByteString>, FrameError> {
    match text.map(check_content_type) {
        Some(Err(error)) => Err(bad_frame(format_args!("`content_type`: {error}"))),
        Some(Ok(())) | None => Ok(text.map(ByteString::from)),
    }
}

/// Text, and what the publisher calls it: that may not contradict.
pub(super) fn text(text: Text<'_>, content_type: Option<&str>) -> Result<Payload, FrameError> {
    let content_type = self::content_type(content_type)?;
    Payload::typed_text(text.into_byte_string(), content_type).map_err(bad_frame)
}

/// Which of the ways to publish again safely a client chose, if any.
pub(super) fn idempotency(
    producer: Option<&str>,
    seq: Option<u64>,
    message_id: Option<&str>,
) -> Result<Idempotency, FrameError> {
    match (producer, seq, message_id) {
        (None, None, None) => Ok(Idempotency::None),
        (Some(_), Some(0), None) => Err(bad_frame(
            "`seq` counts 1, 2, 3 … per producer and topic; it was 0",
        )),
        (Some(producer), Some(seq), None) => {
            let producer = ProducerId::parse(producer).map_err(bad_frame)?;
            Ok(Idempotency::Sequence { producer, seq })
        }
        (None, None, Some(key)) => MessageId::parse(key)
            .map(Idempotency::Key)
            .map_err(bad_frame),
        (_, _, Some(_)) => Err(bad_frame(
            "a publish has `producer` and `seq`, or `message_id`, not both",
        )),
        (_, _, None) => Err(bad_frame(
            "`producer` and `seq` go together; one of them is missing",
        )),
    }
}

/// Which of the ways to publish again safely a client chose for several topics, if any.
pub(super) fn idempotency_in_each(
    producer: Option<&str>,
    seqs: Option<Vec<u64>>,
    message_id: Option<&str>,
) -> Result<IdempotencyInEach, FrameError> {
    match (producer, seqs, message_id) {
        (None, None, None) => Ok(IdempotencyInEach::None),
        (Some(producer), Some(seqs), None) => {
            let producer = ProducerId::parse(producer).map_err(bad_frame)?;
            Ok(IdempotencyInEach::Sequences { producer, seqs })
        }
        (None, None, Some(key)) => MessageId::parse(key)
            .map(IdempotencyInEach::Key)
            .map_err(bad_frame),
        (_, _, Some(_)) => Err(bad_frame(
            "a publish has `producer` and `seqs`, or `message_id`, not both",
        )),
        (_, _, None) => Err(bad_frame(
            "`producer` and `seqs` go together where a publish has `topics`; one of them is missing",
        )),
    }
}

/// The numbers of a list, as many as there are topics at most.
pub(super) fn seqs(seqs: List<Number>) -> Result<Vec<u64>, FrameError> {
    match seqs.count > seqs.kept.len() {
        true => Err(refuse(
            ErrorCode::TooLarge,
            format_args!(
                "`seqs` has at most {MAX_PUBLISH_TOPICS} numbers; these are {}",
                seqs.count
            ),
        )),
        false => Ok(seqs.kept.into_iter().map(|Number(seq)| seq).collect()),
    }
}

/// The receipts of a list, as many as there are topics at most.
pub(super) fn receipts<T>(
    receipts: List<T>,
    read: impl Fn(&T) -> Result<TopicReceipt, FrameError>,
) -> Result<Vec<TopicReceipt>, FrameError> {
    match receipts.count > receipts.kept.len() {
        true => Err(bad_frame(format_args!(
            "`receipts` has at most {MAX_PUBLISH_TOPICS}; these are {}",
            receipts.count
        ))),
        false => receipts.kept.iter().map(read).collect(),
    }
}

/// What became of a message in one of its topics.
pub(super) fn receipt(
    topic: &str,
    kept: (Option<&str>, Option<bool>),
    refused: (Option<&str>, Option<&str>),
    expected_seq: Option<u64>,
) -> Result<TopicReceipt, FrameError> {
    let outcome = match (kept, refused) {
        ((Some(at), Some(duplicate)), (None, None)) => TopicOutcome::Kept {
            cursor: cursor(at)?,
            duplicate,
        },
        ((None, None), (Some(code), Some(message))) => TopicOutcome::Refused {
            code: ErrorCode::by_name(code),
            message: message.to_owned(),
            expected_seq,
        },
        _ => {
            return Err(bad_frame(
                "a receipt has either `cursor` and `duplicate` or `code` and `message`",
            ));
        }
    };
    Ok(TopicReceipt {
        topic: Destination::parse(topic),
        outcome,
    })
}

/// A string that is borrowed from the frame unless it holds escapes. (serde borrows no `Option<Cow<str>>`.)
#[derive(Debug, Clone)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The string, copied unless it was copied already.
    pub(super) fn into_string(self) -> String {
        self.0.into_owned()
    }

    /// The string, as one that does not hold on to the frame.
    pub(super) fn into_byte_string(self) -> ByteString {
        match self.0 {
            Cow::Borrowed(text) => ByteString::from(text),
            Cow::Owned(text) => ByteString::from(text),
        }
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A list as it was read, not yet checked: no more items are kept than there may be topics.
#[derive(Debug)]
pub(super) struct List<T> {
    pub(super) kept: Vec<T>,
    pub(super) count: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<List<T>, E> {
                // The default would quote the string, however long it is.
                Err(E::invalid_type(Unexpected::Other("a string"), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
                let mut list = List {
                    kept: Vec::new(),
                    count: 0,
                };
                while let Some(item) = items.next_element()? {
                    list.count += 1;
                    if list.count <= MAX_PUBLISH_TOPICS {
                        list.kept.push(item);
                    }
                }
                Ok(list)
            }
        }
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(ListVisitor(PhantomData)),
            false => deserializer.deserialize_seq(ListVisitor(PhantomData)),
        }
    }
}

/// A whole number of a list.
#[derive(Debug)]
pub(super) struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(Self);
        }
        // The text, so that what is no number is quoted only in part.
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        raw.parse().map(Self).map_err(|_| {
            let found = Clipped(raw);
            D::Error::custom(format_args!(
                "whole numbers from 0 to 2^64 - 1, not {found}"
            ))
        })
    }
}

/// Headers as they were read, not yet checked: no more pairs are kept than may be.
#[derive(Debug)]
pub(super) struct HeaderPairs<'a> {
    kept: Vec<(Text<'a>, Text<'a>)>,
    count: usize,
}

impl<'de> Deserialize<'de> for HeaderPairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = HeaderPairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<HeaderPairs<'de>, E> {
                // The default would quote the string, however long it is.
                Err(E::invalid_type(Unexpected::Other("a string"), &self))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<HeaderPairs<'de>, A::Error> {
                let mut pairs = HeaderPairs {
                    kept: Vec::new(),
                    count: 0,
                };
                while let Some(pair) = map.next_entry()? {
                    pairs.count += 1;
                    if pairs.count <= MAX_HEADER_PAIRS {
                        pairs.kept.push(pair);
                    }
                }
                Ok(pairs)
            }
        }
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(PairsVisitor), // JSON, which says itself what is there
            false => deserializer.deserialize_map(PairsVisitor),
        }
    }
}

/// Headers as they are written: a map in the publisher's order.
#[derive(Debug)]
pub(super) struct HeaderMap<'a>(pub(super) &'a Headers);

impl Serialize for HeaderMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}
