//! Any legal frame, for property tests. Owns what "any" is: borders and odd characters included.

use bytes::Bytes;
use hark_protocol::{
    ClientFrame, Cursor, Destination, Epoch, ErrorCode, GapReason, Headers, Idempotency,
    IdempotencyInEach, Identity, JsonText, Message, MessageId, Payload, ProducerId, PublishAll,
    Record, ServerFrame, SubscribeFrom, TopicName, TopicOutcome, TopicReceipt,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::samples::Frame;

/// The last millisecond that RFC 3339 can say in every time zone.
const LAST_MS: u64 = 253_402_207_200_999;

/// Any frame of either side.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        client().prop_map(Frame::Client),
        server().prop_map(Frame::Hark)
    ]
}

fn client() -> impl Strategy<Value = ClientFrame> {
    prop_oneof![
        (id(), any::<String>()).prop_map(|(id, token)| ClientFrame::Auth { id, token }),
        (id(), topic(), from(), option::of(any::<String>())).prop_map(
            |(id, topic, from, token)| ClientFrame::Subscribe {
                id,
                topic,
                from,
                token
            }
        ),
        (id(), topic()).prop_map(|(id, topic)| ClientFrame::Unsubscribe { id, topic }),
        (id(), plain_topic(), message(), idempotency()).prop_map(
            |(id, topic, message, idempotency)| {
                ClientFrame::Publish {
                    id,
                    topic,
                    message,
                    idempotency,
                }
            }
        ),
        (id(), publish_all()).prop_map(|(id, publish)| ClientFrame::PublishAll { id, publish }),
        id().prop_map(|id| ClientFrame::Ping { id }),
    ]
}

fn server() -> impl Strategy<Value = ServerFrame> {
    let text = any::<String>;
    prop_oneof![
        (text(), text(), number(), number(), number()).prop_map(
            |(session, version, heartbeat_ms, max_message_bytes, max_inflight)| {
                ServerFrame::Welcome {
                    session,
                    version,
                    heartbeat_ms,
                    max_message_bytes,
                    max_inflight,
                }
            }
        ),
        (id(), text(), option::of(0..=LAST_MS)).prop_map(|(id, identity, expires_at_ms)| {
            ServerFrame::Authenticated {
                id,
                identity,
                expires_at_ms,
            }
        }),
        (id(), topic(), cursor(), number(), any::<bool>()).prop_map(
            |(id, topic, cursor, head, resumed)| {
                ServerFrame::Subscribed {
                    id,
                    topic,
                    cursor,
                    head,
                    resumed,
                }
            }
        ),
        (topic(), record()).prop_map(|(topic, record)| ServerFrame::Message { topic, record }),
        (topic(), cursor()).prop_map(|(topic, cursor)| ServerFrame::CaughtUp { topic, cursor }),
        (topic(), cursor(), id()).prop_map(|(topic, cursor, behind)| ServerFrame::Lagging {
            topic,
            cursor,
            behind,
        }),
        (
            topic(),
            prop::sample::select(&GapReason::ALL[..]),
            id(),
            id(),
            cursor()
        )
            .prop_map(|(topic, reason, from, to, cursor)| ServerFrame::Gap {
                topic,
                reason,
                from,
                to,
                cursor
            }),
        (id(), topic()).prop_map(|(id, topic)| ServerFrame::Unsubscribed { id, topic }),
        (number(), topic(), cursor(), any::<bool>()).prop_map(|(id, topic, cursor, duplicate)| {
            ServerFrame::Published {
                id,
                topic,
                cursor,
                duplicate,
            }
        }),
        (number(), vec(topic_receipt(), 0..6))
            .prop_map(|(id, receipts)| ServerFrame::PublishedAll { id, receipts }),
        (
            id(),
            prop::sample::select(ErrorCode::ALL),
            text(),
            id(),
            id()
        )
            .prop_map(|(id, code, message, expected_seq, retry_after_ms)| {
                ServerFrame::Error {
                    id,
                    code,
                    message,
                    expected_seq,
                    retry_after_ms,
                }
            }),
        (text(), number()).prop_map(|(reason, retry_after_ms)| ServerFrame::Goodbye {
            reason,
            retry_after_ms
        }),
        id().prop_map(|id| ServerFrame::Pong { id }),
    ]
}

/// Numbers of every length, since bincode writes them in one, three, five or nine bytes.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..300_u64,
        any::<u16>().prop_map(u64::from),
        any::<u32>().prop_map(u64::from),
        any::<u64>(),
        Just(u64::MAX),
    ]
}

fn id() -> impl Strategy<Value = Option<u64>> {
    option::of(number())
}

fn plain_topic() -> impl Strategy<Value = TopicName> {
    "[A-Za-z0-9_:@-]{1,12}(\\.[A-Za-z0-9_:@-]{1,12}){0,4}".prop_map(|name| name.parse().unwrap())
}

fn topic() -> impl Strategy<Value = TopicName> {
    (plain_topic(), any::<bool>()).prop_map(|(name, system)| match system {
        true => format!("${name}").parse().unwrap(),
        false => name,
    })
}

fn cursor() -> impl Strategy<Value = Cursor> {
    (number(), number()).prop_map(|(epoch, offset)| Cursor {
        epoch: Epoch::new(epoch),
        offset,
    })
}

fn from() -> impl Strategy<Value = SubscribeFrom> {
    prop_oneof![
        Just(SubscribeFrom::Now),
        Just(SubscribeFrom::Earliest),
        cursor().prop_map(SubscribeFrom::After),
        number().prop_map(SubscribeFrom::Last),
        (0..=LAST_MS).prop_map(SubscribeFrom::SinceTime),
        (0..=LAST_MS).prop_map(SubscribeFrom::SinceAgo),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let identity = (any::<String>(), any::<String>())
        .prop_map(|(issuer, subject)| Identity::new(&issuer, &subject));
    (number(), id(), number(), option::of(identity), message()).prop_map(
        |(offset, prev, time_ms, identity, message)| Record {
            offset,
            prev,
            time_ms,
            identity,
            message,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    (payload(), headers()).prop_map(|(payload, headers)| Message { payload, headers })
}

fn headers() -> impl Strategy<Value = Headers> {
    btree_map("\\PC{1,8}|[\\x00-\\x7f]{1,4}", any::<String>(), 0..6).prop_map(|pairs| {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Headers::new(pairs.collect()).unwrap_or_default()
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let content_type = option::of("[ -~]{0,40}");
    // From all that needs no escape to nothing but control characters, and some that is no UTF-8.
    let text = prop_oneof![
        any::<String>(),
        "[ -~\\n\"üß日]{0,80}",
        "[\\x00-\\x22\\\\]{0,40}"
    ];
    let data = prop_oneof![
        8 => text.prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..40),
    ];
    let text_type = prop::sample::select(&TEXT_TYPES[..]);
    prop_oneof![
        json_text().prop_map(|text| Payload::Json(JsonText::check(text.into()).unwrap())),
        (vec(any::<u8>(), 0..600), content_type).prop_map(|(data, content_type)| Payload::Bytes {
            data: Bytes::from(data),
            content_type: content_type.map(Into::into),
        }),
        (data, text_type).prop_map(|(data, content_type)| Payload::Bytes {
            data: Bytes::from(data),
            content_type: Some(content_type.into()),
        }),
    ]
}

/// Types of which text goes as text, and some of which it does not.
const TEXT_TYPES: [&str; 6] = [
    "text/plain",
    "text/plain; charset=utf-8",
    "Text/HTML;charset=\"US-ASCII\"; level=1",
    "text/plain; charset=iso-8859-1",
    "text/csv; charset=utf-8; charset=utf-16",
    "application/xml",
];

/// JSON with everything that may stand in it, line breaks between values included.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        Just("-0.5e-300".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just(r#""\ud800 \u0000 \/""#.to_owned()),
        any::<String>().prop_map(|value| serde_json::Value::from(value).to_string()),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|values| format!("[ {} ]", values.join(" ,\r\n"))),
            btree_map(any::<String>(), inner, 0..5).prop_map(|fields| {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| format!("\n\t{}: {value}", serde_json::Value::from(name)));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// What a publish may name: topics, those of the system, and what is none at all.
fn destination() -> impl Strategy<Value = Destination> {
    prop_oneof![
        topic().prop_map(|topic| Destination::parse(topic.as_str())),
        any::<String>().prop_map(|name| Destination::parse(&name)),
    ]
}

fn publish_all() -> impl Strategy<Value = PublishAll> {
    let topics = vec((destination(), number()), 1..6);
    (topics, message(), idempotency()).prop_map(|(mut topics, message, idempotency)| {
        topics.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        topics.dedup_by(|(a, _), (b, _)| a.as_str() == b.as_str());
        let (topics, seqs): (Vec<_>, Vec<_>) = topics.into_iter().unzip();
        let idempotency = match idempotency {
            Idempotency::None => IdempotencyInEach::None,
            Idempotency::Sequence { producer, .. } => IdempotencyInEach::Sequences {
                producer,
                seqs: seqs.into_iter().map(|seq| seq.max(1)).collect(),
            },
            Idempotency::Key(key) => IdempotencyInEach::Key(key),
        };
        PublishAll::new(topics, message, idempotency).unwrap()
    })
}

fn topic_receipt() -> impl Strategy<Value = TopicReceipt> {
    let code = prop::sample::select(ErrorCode::ALL);
    let outcome = prop_oneof![
        (cursor(), any::<bool>())
            .prop_map(|(cursor, duplicate)| TopicOutcome::Kept { cursor, duplicate }),
        (code, any::<String>(), id()).prop_map(|(code, message, expected_seq)| {
            TopicOutcome::Refused {
                code,
                message,
                expected_seq,
            }
        }),
    ];
    (destination(), outcome).prop_map(|(topic, outcome)| TopicReceipt { topic, outcome })
}

fn idempotency() -> impl Strategy<Value = Idempotency> {
    let key = "[ -~äöü]{1,32}";
    prop_oneof![
        Just(Idempotency::None),
        (key, number()).prop_map(|(producer, seq)| Idempotency::Sequence {
            producer: ProducerId::parse(&producer).unwrap(),
            seq: seq.max(1),
        }),
        key.prop_map(|key| Idempotency::Key(MessageId::parse(&key).unwrap())),
    ]
}
