//! One value for each golden file: what the file's bytes mean, built in Rust. Owns the list; `golden` owns the files.

use bytes::Bytes;
use hark_protocol::{
    ClientFrame, Cursor, Destination, ErrorCode, GapReason, Headers, Idempotency,
    IdempotencyInEach, Identity, JsonText, Message, MessageId, Payload, ProducerId, PublishAll,
    Record, ServerFrame, Subprotocol, SubscribeFrom, TopicName, TopicOutcome, TopicReceipt, codec,
};

/// A frame of either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A client says it.
    Client(ClientFrame),
    /// Hark says it.
    Hark(ServerFrame),
}

/// A frame with its name and its meaning.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) frame: Frame,
}

/// All of them. A new one is added here; `UPDATE_GOLDEN=1 cargo test -p hark-protocol` then writes its file. One that
/// has been released never changes.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = Vec::new();
    client_samples(&mut |name, meaning, frame| {
        samples.push(Sample {
            name,
            meaning,
            frame: Frame::Client(frame),
        });
    });
    server_samples(&mut |name, meaning, frame| {
        samples.push(Sample {
            name,
            meaning,
            frame: Frame::Hark(frame),
        });
    });
    samples
}

fn client_samples(add: &mut dyn FnMut(&'static str, &'static str, ClientFrame)) {
    let subscribe = |from| ClientFrame::Subscribe {
        id: Some(2),
        topic: topic("orders.eu"),
        from,
        token: None,
    };
    let publish = |message, idempotency| ClientFrame::Publish {
        id: Some(4),
        topic: topic("orders.eu"),
        message,
        idempotency,
    };
    let json_message = || Message {
        payload: json(r#"{"any":"json"}"#),
        headers: Headers::default(),
    };

    add(
        "auth",
        "The client says who it is.",
        ClientFrame::Auth {
            id: Some(1),
            token: "eyJhbGciOiJFZERTQSJ9.e30.c2ln".into(),
        },
    );
    add(
        "subscribe_now",
        "Subscribe to what is published from now on.",
        subscribe(SubscribeFrom::Now),
    );
    add(
        "subscribe_earliest",
        "Subscribe from the oldest message that is kept.",
        subscribe(SubscribeFrom::Earliest),
    );
    add(
        "subscribe_after",
        "Subscribe to everything after a cursor, here offset 1042 of epoch k3f9a1.",
        subscribe(SubscribeFrom::After(cursor("k3f9a1:1042"))),
    );
    add(
        "subscribe_last",
        "Subscribe from the newest 50.",
        subscribe(SubscribeFrom::Last(50)),
    );
    add(
        "subscribe_since_time",
        "Subscribe from the first message at or after a time.",
        subscribe(SubscribeFrom::SinceTime(1_769_860_800_000)),
    );
    add(
        "subscribe_since_ago",
        "Subscribe from the first message that is not older than five minutes.",
        subscribe(SubscribeFrom::SinceAgo(300_000)),
    );
    add(
        "subscribe_system_without_id",
        "Subscribe to a topic of the system, without an id.",
        ClientFrame::Subscribe {
            id: None,
            topic: topic("$sys.stats"),
            from: SubscribeFrom::Now,
            token: None,
        },
    );
    add(
        "subscribe_with_token",
        "Subscribe to a topic that a token, signed by the back end, lets this connection read.",
        ClientFrame::Subscribe {
            id: Some(2),
            topic: topic("orders.eu"),
            from: SubscribeFrom::Now,
            token: Some("eyJhbGciOiJFZERTQSJ9.e30.c2ln".into()),
        },
    );
    add(
        "unsubscribe",
        "No more of this topic.",
        ClientFrame::Unsubscribe {
            id: Some(3),
            topic: topic("orders.eu"),
        },
    );
    add(
        "publish_json",
        "Publish a JSON value and ask for a receipt.",
        publish(json_message(), Idempotency::None),
    );
    add(
        "publish_without_id",
        "Publish the JSON value null, without a receipt.",
        ClientFrame::Publish {
            id: None,
            topic: topic("a"),
            message: Message {
                payload: json("null"),
                headers: Headers::default(),
            },
            idempotency: Idempotency::None,
        },
    );
    add(
        "publish_bytes",
        "Publish the bytes 00 01 fe ff with their type.",
        publish(
            Message {
                payload: bytes(b"\x00\x01\xfe\xff", Some("image/png")),
                headers: Headers::default(),
            },
            Idempotency::None,
        ),
    );
    add(
        "publish_text",
        "Publish text; without content_type it is text/plain; charset=utf-8.",
        publish(
            Message {
                payload: bytes(
                    "Grüße, \"Ana\"\n".as_bytes(),
                    Some("text/plain; charset=utf-8"),
                ),
                headers: Headers::default(),
            },
            Idempotency::None,
        ),
    );
    add(
        "publish_headers",
        "Publish with headers, whose names and values are any text.",
        publish(
            Message {
                payload: json("[1,2.5,\"a\\nb\"]"),
                headers: headers(&[
                    ("trace", "00-4bf9"),
                    ("wer", "Jürgen \"J\"\n"),
                    ("empty", ""),
                ]),
            },
            Idempotency::None,
        ),
    );
    add(
        "publish_producer_seq",
        "Publish as number 77 of a producer, so that sending it again is safe.",
        publish(
            json_message(),
            Idempotency::Sequence {
                producer: ProducerId::parse("p81c2e77").unwrap(),
                seq: 77,
            },
        ),
    );
    add(
        "publish_message_id",
        "Publish under a key of the client's own choosing.",
        publish(
            json_message(),
            Idempotency::Key(MessageId::parse("order-4711").unwrap()),
        ),
    );
    let publish_all = |topics: &[&str], message, idempotency| ClientFrame::PublishAll {
        id: Some(4),
        publish: PublishAll::new(destinations(topics), message, idempotency).unwrap(),
    };
    add(
        "publish_topics",
        "Publish to two topics, without protection against being kept twice.",
        publish_all(
            &["orders.eu", "orders.us"],
            json_message(),
            IdempotencyInEach::None,
        ),
    );
    add(
        "publish_topics_producer_seqs",
        "Publish to three topics as number 77, 12 and 1 of a producer in them.",
        publish_all(
            &["orders.eu", "orders.us", "audit"],
            Message {
                payload: bytes(b"\x00\x01\xfe\xff", Some("image/png")),
                headers: headers(&[("trace", "00-4bf9")]),
            },
            IdempotencyInEach::Sequences {
                producer: ProducerId::parse("p81c2e77").unwrap(),
                seqs: vec![77, 12, 1],
            },
        ),
    );
    add(
        "publish_topics_message_id",
        "Publish to two topics under a key, the same in both.",
        publish_all(
            &["orders.eu", "orders.us"],
            json_message(),
            IdempotencyInEach::Key(MessageId::parse("order-4711").unwrap()),
        ),
    );
    add("ping", "Are you there?", ClientFrame::Ping { id: Some(5) });
    add(
        "ping_largest_id",
        "The largest id that every language can say exactly, 2^53 - 1.",
        ClientFrame::Ping {
            id: Some(9_007_199_254_740_991),
        },
    );
}

fn server_samples(add: &mut dyn FnMut(&'static str, &'static str, ServerFrame)) {
    let message = |prev, message| ServerFrame::Message {
        topic: topic("orders.eu"),
        record: Record {
            offset: 1043,
            prev,
            time_ms: 1_764_230_400_123,
            identity: None,
            message,
        },
    };
    let gap = |reason, range: Option<(u64, u64)>, at| ServerFrame::Gap {
        topic: topic("orders.eu"),
        reason,
        from: range.map(|(from, _)| from),
        to: range.map(|(_, to)| to),
        cursor: cursor(at),
    };
    let error = |id, code, message: &str| ServerFrame::Error {
        id,
        code,
        message: message.into(),
        expected_seq: None,
        retry_after_ms: None,
    };

    add(
        "welcome",
        "First thing on a connection: who Hark is and what it allows.",
        ServerFrame::Welcome {
            session: "s7k2".into(),
            version: "1.0.0".into(),
            heartbeat_ms: 25_000,
            max_message_bytes: 1_048_576,
            max_inflight: 1024,
        },
    );
    add(
        "authenticated",
        "The token is good, until 2026-01-31T12:00:00Z.",
        ServerFrame::Authenticated {
            id: Some(1),
            identity: "ana".into(),
            expires_at_ms: Some(1_769_860_800_000),
        },
    );
    add(
        "authenticated_for_good",
        "The token is good and does not run out; it came without an id.",
        ServerFrame::Authenticated {
            id: None,
            identity: "ana".into(),
            expires_at_ms: None,
        },
    );
    add(
        "subscribed",
        "The subscription stands, and goes on exactly at the cursor the client gave.",
        ServerFrame::Subscribed {
            id: Some(2),
            topic: topic("orders.eu"),
            cursor: cursor("k3f9a1:1042"),
            head: 1050,
            resumed: true,
        },
    );
    add(
        "subscribed_empty",
        "A subscription to a topic that nobody has published to.",
        ServerFrame::Subscribed {
            id: None,
            topic: topic("orders.eu"),
            cursor: cursor("k3f9a1:0"),
            head: 0,
            resumed: false,
        },
    );
    add(
        "message_json",
        "A message whose content is a JSON value.",
        message(
            None,
            Message {
                payload: json(r#"{"any":"json"}"#),
                headers: Headers::default(),
            },
        ),
    );
    add(
        "message_bytes",
        "A message whose content is bytes of a named type, with headers.",
        message(
            None,
            Message {
                payload: bytes(b"\x00\x01\xfe\xff", Some("image/png")),
                headers: headers(&[("trace", "00-4bf9"), ("wer", "Jürgen \"J\"\n")]),
            },
        ),
    );
    add(
        "message_bytes_untyped",
        "A message whose content is no bytes at all, of no named type.",
        message(
            None,
            Message {
                payload: bytes(b"", None),
                headers: Headers::default(),
            },
        ),
    );
    add(
        "message_text",
        "A message whose content is text: bytes of a type text/… that are UTF-8.",
        message(
            None,
            Message {
                payload: bytes("Grüße, \"Ana\"\n".as_bytes(), Some("text/html")),
                headers: Headers::default(),
            },
        ),
    );
    add(
        "message_text_of_control_characters",
        "Text that would be longer with its escapes than as base64 goes as base64, and is text all the same.",
        message(
            None,
            Message {
                payload: bytes(b"\x1b[1mred\x00\x01\x02", Some("text/plain")),
                headers: Headers::default(),
            },
        ),
    );
    add(
        "message_text_latin1",
        "Text of another charset goes as bytes.",
        message(
            None,
            Message {
                payload: bytes(b"Gr\xfc\xdfe", Some("text/plain; charset=iso-8859-1")),
                headers: Headers::default(),
            },
        ),
    );
    add(
        "message_prev",
        "A message of an engine whose offsets skip: the topic's record before is 1040.",
        message(
            Some(1040),
            Message {
                payload: json("true"),
                headers: Headers::default(),
            },
        ),
    );
    add(
        "message_identity",
        "A message of a topic whose rule tells who published it.",
        ServerFrame::Message {
            topic: topic("orders.eu"),
            record: Record {
                offset: 1043,
                prev: None,
                time_ms: 1_764_230_400_123,
                identity: Some(Identity::new("https://login.example", "ana")),
                message: Message {
                    payload: json(r#"{"say":"hello"}"#),
                    headers: Headers::default(),
                },
            },
        },
    );
    add(
        "caught_up",
        "What was kept has been sent; from here on it is live.",
        ServerFrame::CaughtUp {
            topic: topic("orders.eu"),
            cursor: cursor("k3f9a1:1050"),
        },
    );
    add(
        "lagging",
        "The client is slow: 3400 messages are kept behind its position.",
        ServerFrame::Lagging {
            topic: topic("orders.eu"),
            cursor: cursor("k3f9a1:1050"),
            behind: Some(3400),
        },
    );
    add(
        "lagging_uncounted",
        "The client is slow; how many messages are kept behind its position the log does not know.",
        ServerFrame::Lagging {
            topic: topic("orders.eu"),
            cursor: cursor("k3f9a1:1050"),
            behind: None,
        },
    );
    add(
        "gap_expired",
        "Offsets 1043 to 1049 are gone: retention took them.",
        gap(GapReason::Expired, Some((1043, 1049)), "k3f9a1:1049"),
    );
    add(
        "gap_lost",
        "Offsets 1048 to 1050 were lost to damage; the topic goes on in a new epoch.",
        gap(GapReason::Lost, Some((1048, 1050)), "m0x2:1047"),
    );
    add(
        "gap_other_epoch",
        "The cursor belongs to another sequence of offsets, so there is no range.",
        gap(GapReason::OtherEpoch, None, "m0x2:0"),
    );
    add(
        "gap_ahead",
        "The cursor is beyond anything that ever was; the position goes back to the head.",
        gap(GapReason::Ahead, None, "k3f9a1:1050"),
    );
    add(
        "gap_deleted",
        "The topic was deleted; the subscription goes on with the new sequence.",
        gap(GapReason::Deleted, None, "q9:0"),
    );
    add(
        "gap_skipped",
        "The topic prefers the newest to the complete, and the client was slow.",
        gap(GapReason::Skipped, Some((1051, 1999)), "k3f9a1:1999"),
    );
    add(
        "unsubscribed",
        "The subscription has ended; nothing of this topic follows.",
        ServerFrame::Unsubscribed {
            id: Some(3),
            topic: topic("orders.eu"),
        },
    );
    add(
        "published",
        "The receipt: the message is kept, at this cursor.",
        ServerFrame::Published {
            id: 4,
            topic: topic("orders.eu"),
            cursor: cursor("k3f9a1:1051"),
            duplicate: false,
        },
    );
    add(
        "published_duplicate",
        "The receipt of a message that had been kept before.",
        ServerFrame::Published {
            id: 4,
            topic: topic("orders.eu"),
            cursor: cursor("k3f9a1:1051"),
            duplicate: true,
        },
    );
    let kept = |topic, at, duplicate| TopicReceipt {
        topic: Destination::parse(topic),
        outcome: TopicOutcome::Kept {
            cursor: cursor(at),
            duplicate,
        },
    };
    add(
        "published_all",
        "The receipts of a publish to two topics: it is kept in both, in one of them since before.",
        ServerFrame::PublishedAll {
            id: 4,
            receipts: vec![
                kept("orders.eu", "k3f9a1:1051", false),
                kept("orders.us", "m0x2:9", true),
            ],
        },
    );
    let refused = |topic, code, message: &str, expected_seq| TopicReceipt {
        topic: Destination::parse(topic),
        outcome: TopicOutcome::Refused {
            code,
            message: message.into(),
            expected_seq,
        },
    };
    add(
        "published_all_in_part",
        "The receipts of a publish to several topics, some of which refused it.",
        ServerFrame::PublishedAll {
            id: 4,
            receipts: vec![
                kept("orders.eu", "k3f9a1:1051", false),
                refused(
                    "orders.us",
                    ErrorCode::OutOfSequence,
                    "expected 12",
                    Some(12),
                ),
                refused(
                    "orders..us",
                    ErrorCode::BadTopic,
                    "a topic name may not have an empty segment: check the dots",
                    None,
                ),
            ],
        },
    );
    add(
        "error",
        "A command was refused.",
        error(
            Some(4),
            ErrorCode::Forbidden,
            "ana may not publish to orders.eu",
        ),
    );
    add(
        "error_without_id",
        "What came was no frame, and held no id to answer to.",
        error(
            None,
            ErrorCode::BadFrame,
            "a frame needs `type`, which is missing",
        ),
    );
    add(
        "error_out_of_sequence",
        "The producer's number is not the next; 78 is.",
        ServerFrame::Error {
            id: Some(4),
            code: ErrorCode::OutOfSequence,
            message: "expected 78".into(),
            expected_seq: Some(78),
            retry_after_ms: None,
        },
    );
    add(
        "error_retry_after",
        "Refused for now: try again after 250 ms.",
        ServerFrame::Error {
            id: Some(4),
            code: ErrorCode::Busy,
            message: "a queue is full".into(),
            expected_seq: None,
            retry_after_ms: Some(250),
        },
    );
    add(
        "goodbye",
        "Hark restarts and is about to close; connect again after 1730 ms.",
        ServerFrame::Goodbye {
            reason: "restart".into(),
            retry_after_ms: 1730,
        },
    );
    add(
        "pong",
        "The answer to a ping.",
        ServerFrame::Pong { id: Some(5) },
    );
    add(
        "pong_without_id",
        "The answer to a ping without an id.",
        ServerFrame::Pong { id: None },
    );
}

fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

fn destinations(names: &[&str]) -> Vec<Destination> {
    names.iter().map(|name| Destination::parse(name)).collect()
}

fn cursor(text: &str) -> Cursor {
    text.parse().unwrap()
}

fn json(text: &'static str) -> Payload {
    Payload::Json(JsonText::check(Bytes::from_static(text.as_bytes())).unwrap())
}

fn bytes(data: &'static [u8], content_type: Option<&str>) -> Payload {
    Payload::Bytes {
        data: Bytes::from_static(data),
        content_type: content_type.map(Into::into),
    }
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers::new(
        pairs
            .iter()
            .map(|&(name, value)| (name.into(), value.into()))
            .collect(),
    )
    .unwrap()
}

impl Frame {
    /// As text and as bytes.
    pub(crate) fn encode(&self, subprotocol: Subprotocol) -> Bytes {
        match self {
            Self::Client(frame) => codec::encode_client(frame, subprotocol),
            Self::Hark(frame) => codec::encode_server(frame, subprotocol),
        }
        .as_bytes()
        .clone()
    }
}
