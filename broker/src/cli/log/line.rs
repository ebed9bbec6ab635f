//! The lines of an export: one message each, as it goes over the wire, with its epoch and how it is known again. Owns the
//! form, in both directions.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use hark_protocol::{
    Headers, Idempotency, Identity, JsonText, MAX_FRAME_BYTES, Message, MessageId, Payload,
    ProducerId, TopicName, check_content_type, codec,
};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::message_log::NewRecord;
use crate::message_log::sled::END_OF_TIMES_MS;

/// No issuer and no subject is longer.
const MAX_PART_BYTES: usize = 255;

/// The line of a message, of which `frame` is the frame on the wire. `None`: it is no such frame.
pub(super) fn of_message(
    topic: &TopicName,
    epoch: &str,
    frame: &str,
    idempotency: &Idempotency,
) -> Option<String> {
    let begin = format!(r#"{{"type":"message","topic":"{topic}","#);
    let fields = frame.strip_prefix(&begin)?.strip_suffix('}')?;
    // A string is always JSON: the `Err` cannot be.
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let again = match idempotency {
        Idempotency::None => String::new(),
        Idempotency::Sequence { producer, seq } => {
            format!(r#","producer":{},"seq":{seq}"#, quoted(producer.as_str()))
        }
        Idempotency::Key(key) => format!(r#","message_id":{}"#, quoted(key.as_str())),
    };
    Some(format!(
        r#"{{"topic":"{topic}","epoch":"{epoch}",{fields}{again}}}"#
    ))
}

/// The line of offsets that cannot be had.
pub(super) fn of_gap(topic: &TopicName, reason: &str, range: Option<(u64, u64)>) -> String {
    match range {
        Some((from, to)) => format!(
            r#"{{"topic":"{topic}","gap":{{"reason":"{reason}","from":{from},"to":{to}}}}}"#
        ),
        None => format!(r#"{{"topic":"{topic}","gap":{{"reason":"{reason}"}}}}"#),
    }
}

/// For people.
pub(super) fn say_gap(topic: &TopicName, reason: &str, range: Option<(u64, u64)>) -> String {
    match range {
        Some((from, to)) => format!("{topic}: offsets {from} to {to} cannot be had ({reason})"),
        None => format!("{topic}: messages are missing ({reason})"),
    }
}

/// A line that was read.
#[derive(Debug)]
pub(super) enum Line {
    Message(Box<MessageLine>),
    /// Nothing can be imported for it.
    Gap,
}

#[derive(Debug)]
pub(super) struct MessageLine {
    pub(super) topic: TopicName,
    pub(super) time_ms: Option<u64>,
    pub(super) record: NewRecord,
}

/// What a line may hold. What only the broker it came from knew is passed over.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(rename = "epoch")]
    _epoch: Option<IgnoredAny>,
    #[serde(rename = "offset")]
    _offset: Option<IgnoredAny>,
    #[serde(rename = "prev")]
    _prev: Option<IgnoredAny>,
    // As `hark sub` shows it.
    #[serde(rename = "cursor")]
    _cursor: Option<IgnoredAny>,
    time: Option<u64>,
    identity: Option<IdentityFields>,
    // `null` is a message, too.
    #[serde(borrow, default, deserialize_with = "there")]
    data: Option<&'a RawValue>,
    text: Option<String>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
    content_type: Option<String>,
    headers: Option<Pairs>,
    #[serde(borrow)]
    producer: Option<Cow<'a, str>>,
    seq: Option<u64>,
    #[serde(borrow)]
    message_id: Option<Cow<'a, str>>,
    gap: Option<IgnoredAny>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "`identity` as an object with issuer and subject"
)]
struct IdentityFields {
    issuer: String,
    subject: String,
}

impl IdentityFields {
    fn checked(&self) -> Result<Identity, String> {
        let fits = |part: &String| (1..=MAX_PART_BYTES).contains(&part.len());
        match fits(&self.issuer) && fits(&self.subject) {
            true => Ok(Identity::new(&self.issuer, &self.subject)),
            false => Err(format!(
                "`identity` has an issuer and a subject of 1 to {MAX_PART_BYTES} bytes each"
            )),
        }
    }
}

fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Names and values in the order in which they stand.
#[derive(Debug)]
struct Pairs(Vec<(ByteString, ByteString)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    pairs.push((name.into(), value.into()));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Reads a line; an error says what is wrong with it.
pub(super) fn parse(line: &[u8]) -> Result<Line, String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    // Of the system's own names nobody could delete what was imported.
    let topic = codec::topic_to_publish(&fields.topic).map_err(|e| e.message)?;
    if fields.gap.is_some() {
        return Ok(Line::Gap);
    }
    if let Some(kind) = fields.kind.filter(|kind| kind != "message") {
        return Err(format!(
            "its type is {kind:?}; only messages can be imported"
        ));
    }
    if let Some(time) = fields.time.filter(|time| *time >= END_OF_TIMES_MS) {
        return Err(format!(
            "its `time` is {time}; it counts milliseconds since 1970, and must be less than {END_OF_TIMES_MS}"
        ));
    }
    let content_type = fields.content_type.map(ByteString::from);
    if let Some(content_type) = &content_type {
        check_content_type(content_type).map_err(|e| format!("`content_type`: {e}"))?;
    }
    let payload = match (fields.data, fields.text, fields.data_base64) {
        (Some(_), None, None) if content_type.is_some() => {
            return Err(
                "`content_type` goes with `text` or `data_base64`; `data` is JSON".to_owned(),
            );
        }
        (Some(data), None, None) => {
            let text = Bytes::copy_from_slice(data.get().as_bytes());
            Payload::Json(JsonText::check(text).map_err(|e| e.to_string())?)
        }
        (None, Some(text), None) => {
            Payload::typed_text(text, content_type).map_err(|e| e.to_string())?
        }
        (None, None, Some(data)) => {
            let data = BASE64_STANDARD.decode(data.as_bytes());
            let data = data.map_err(|e| format!("`data_base64` is not base64: {e}"))?;
            Payload::Bytes {
                data: data.into(),
                content_type,
            }
        }
        (None, None, None) => {
            return Err("there is none of `data`, `text` and `data_base64`".to_owned());
        }
        _ => return Err("give one of `data`, `text` and `data_base64`".to_owned()),
    };
    let headers = fields.headers.map_or(Vec::new(), |Pairs(pairs)| pairs);
    let headers = Headers::new(headers).map_err(|e| e.to_string())?;
    let idempotency = match (fields.producer, fields.seq, fields.message_id) {
        (None, None, None) => Idempotency::None,
        (Some(producer), Some(seq @ 1..), None) => Idempotency::Sequence {
            producer: ProducerId::parse(&producer).map_err(|e| e.to_string())?,
            seq,
        },
        (None, None, Some(key)) => {
            Idempotency::Key(MessageId::parse(&key).map_err(|e| e.to_string())?)
        }
        _ => {
            let what = "give `producer` with `seq` (from 1), or `message_id`, or none of them";
            return Err(what.to_owned());
        }
    };
    let message = Message { payload, headers };
    let bytes = message.size_bytes();
    if bytes > MAX_FRAME_BYTES {
        return Err(format!(
            "the message has {bytes} bytes, and may have {MAX_FRAME_BYTES}"
        ));
    }
    let identity = fields.identity.as_ref().map(IdentityFields::checked);
    let record = NewRecord {
        message,
        identity: identity.transpose()?,
        idempotency,
    };
    Ok(Line::Message(Box::new(MessageLine {
        topic,
        time_ms: fields.time,
        record,
    })))
}

#[cfg(test)]
mod tests {
    use hark_protocol::Record;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let topic = TopicName::parse("a.b").unwrap();
        let json = |text: &'static str| Payload::Json(JsonText::check(text.into()).unwrap());
        let bytes = |content_type: Option<&'static str>| Payload::Bytes {
            data: Bytes::from_static(b"\x00\xff\n"),
            content_type: content_type.map(ByteString::from_static),
        };
        let headers = vec![("z".into(), "1\n\"".into()), ("a".into(), "ü".into())];
        let producer = ProducerId::parse("p\"1").unwrap();
        let cases = [
            (json("null"), Vec::new(), Idempotency::None),
            (
                json(r#"{"a":[1,"}"]}"#),
                headers,
                Idempotency::Sequence { producer, seq: 7 },
            ),
            (
                bytes(None),
                Vec::new(),
                Idempotency::Key(MessageId::parse("k").unwrap()),
            ),
            (bytes(Some("image/png")), Vec::new(), Idempotency::None),
            (
                Payload::plain_text("one\n\"ü\""),
                Vec::new(),
                Idempotency::None,
            ),
            // It goes as base64, being longer as text.
            (
                Payload::plain_text("\u{0}\u{1}"),
                Vec::new(),
                Idempotency::None,
            ),
        ];
        let ana = Identity::new("https://login.example", "a\"na");
        let identities = [None, Some(ana)].into_iter().cycle();
        for ((payload, headers, idempotency), identity) in cases.into_iter().zip(identities) {
            let headers = Headers::new(headers).unwrap();
            let message = Message { payload, headers };
            let record = Record {
                offset: 3,
                prev: None,
                time_ms: 12,
                identity: identity.clone(),
                message: message.clone(),
            };
            let frame = codec::json::encode_message(&topic, &record);
            let line = of_message(&topic, "k3", &frame, &idempotency).unwrap();

            let Ok(Line::Message(read)) = parse(line.as_bytes()) else {
                panic!("{line}");
            };
            assert_eq!((&read.topic, read.time_ms), (&topic, Some(12)), "{line}");
            let expected = NewRecord {
                message,
                identity,
                idempotency,
            };
            assert_eq!(read.record, expected, "{line}");
        }
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let long = format!(
            r#"{{"topic":"a","data":"{}"}}"#,
            "x".repeat(MAX_FRAME_BYTES)
        );
        let cases = [
            ("", "EOF"),
            ("[]", "expected"),
            (r#"{"topic":"a..b","data":1}"#, "empty"),
            (r#"{"topic":"a"}"#, "none of"),
            (r#"{"topic":"a","data":1,"data_base64":""}"#, "one of"),
            (r#"{"topic":"a","text":"a","data_base64":""}"#, "one of"),
            (r#"{"topic":"a","data":1,"text":"a"}"#, "one of"),
            (
                r#"{"topic":"a","text":"a","content_type":"image/png"}"#,
                "image/png",
            ),
            (
                r#"{"topic":"a","data_base64":"","content_type":"a\tb"}"#,
                "control",
            ),
            (
                r#"{"topic":"a","data":1,"content_type":"x/y"}"#,
                "goes with",
            ),
            (r#"{"topic":"a","data_base64":"?"}"#, "base64"),
            (
                r#"{"topic":"a","data_base64":"","content_type":"image/png\tx"}"#,
                "control characters",
            ),
            (r#"{"topic":"a","data":1,"identity":"ana"}"#, "identity"),
            (
                r#"{"topic":"a","data":1,"identity":{"issuer":"","subject":"ana"}}"#,
                "1 to 255",
            ),
            (
                r#"{"topic":"a","data":1,"identity":{"subject":"ana"}}"#,
                "issuer",
            ),
            (r#"{"topic":"a","data":1,"dta":1}"#, "dta"),
            (r#"{"topic":"a","data":1,"producer":"p"}"#, "producer"),
            (r#"{"topic":"a","data":1,"producer":"p","seq":0}"#, "seq"),
            (r#"{"topic":"a","data":1,"type":"gone"}"#, "gone"),
            (r#"{"topic":"a","data":1,"headers":{"":"x"}}"#, "empty"),
            (
                r#"{"topic":"a","data":1,"time":281474976710656}"#,
                "less than 281474976710656",
            ),
            (
                r#"{"topic":"a","data_base64":"","content_type":"x/y\t"}"#,
                "control characters",
            ),
            (
                r#"{"topic":"a","data_base64":"","content_type":"x/y\r\nSet-Cookie: z"}"#,
                "control characters",
            ),
            (r#"{"topic":"$x","data":1}"#, "belongs to the system"),
            (r#"{"topic":"$x","gap":{"reason":"lost"}}"#, "system"),
            (&long, "1048578 bytes"),
        ];
        for (line, expected) in cases {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{line:.60}: {error}");
        }
        // As text was written before it had a name of its own.
        let earlier =
            r#"{"topic":"a","data_base64":"aGk=","content_type":"text/plain; charset=utf-8"}"#;
        let payloads =
            [earlier, r#"{"topic":"a","text":"hi"}"#].map(|line| match parse(line.as_bytes()) {
                Ok(Line::Message(read)) => read.record.message.payload,
                other => panic!("{line}: {other:?}"),
            });
        assert_eq!(payloads, [(); 2].map(|()| Payload::plain_text("hi")));
        let latest = format!(r#"{{"topic":"a","data":1,"time":{}}}"#, END_OF_TIMES_MS - 1);
        assert!(matches!(parse(latest.as_bytes()), Ok(Line::Message(_))));
        let gap = of_gap(&TopicName::parse("a").unwrap(), "lost", Some((1, 2)));
        assert!(matches!(parse(gap.as_bytes()), Ok(Line::Gap)), "{gap}");
    }
}
