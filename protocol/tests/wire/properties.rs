//! What holds for any frame and for any bytes: both forms say the same, and nothing that comes in panics.

use bytes::Bytes;
use hark_protocol::{
    ClientFrame, Destination, ErrorCode, Headers, Idempotency, IdempotencyInEach, Identity,
    JsonText, MAX_FRAME_BYTES, Message, Payload, PublishAll, Record, ServerFrame, Subprotocol,
    TopicOutcome, TopicReceipt, codec,
};
use proptest::prelude::*;

use crate::any_frame;
use crate::samples::{self, Frame};

/// Reads `bytes` with every decoder there is. Total: each gives a value or an error.
fn read_with_all(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    for subprotocol in Subprotocol::ALL {
        for error in [
            codec::decode_client(&bytes, subprotocol).err(),
            codec::decode_server(&bytes, subprotocol).err(),
        ]
        .into_iter()
        .flatten()
        {
            assert!(
                error.message.len() < 400,
                "a refusal quotes too much: {}",
                error.message.len()
            );
        }
    }
}

/// A frame's bytes with some of them replaced, cut out or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let frames = samples::all();
    let valid = prop_oneof![
        any_frame::frame(),
        (0..frames.len()).prop_map(move |at| frames[at].frame.clone())
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 1..8);
    (
        valid,
        prop::sample::select(Subprotocol::ALL.to_vec()),
        changes,
    )
        .prop_map(|(frame, subprotocol, changes)| {
            let mut bytes = frame.encode(subprotocol).to_vec();
            for (at, change, byte) in changes {
                let at = at.index(bytes.len().max(1));
                match change {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => bytes.truncate(at),
                    _ if at < bytes.len() => bytes.extend_from_within(at..),
                    _ => {}
                }
                bytes.truncate(64 * 1024);
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        // More with PROPTEST_CASES.
        cases: ProptestConfig::default().cases.max(2_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_frame_survives_both_forms(frame in any_frame::frame()) {
        for subprotocol in Subprotocol::ALL {
            let bytes = frame.encode(subprotocol);
            prop_assert_eq!(frame.decode_alike(&bytes, subprotocol), Ok(frame.clone()));
            if subprotocol == Subprotocol::Json {
                prop_assert!(!bytes.contains(&b'\n') && !bytes.contains(&b'\r'));
            }
            // One allocation, neither grown nor too large.
            let len = bytes.len();
            prop_assert_eq!(bytes.try_into_mut().map(|bytes| bytes.capacity()), Ok(len));
        }
    }

    #[test]
    fn what_is_written_as_text_is_text_and_no_longer_than_base64(frame in any_frame::frame()) {
        let payload = match &frame {
            Frame::Hark(ServerFrame::Message { record, .. }) => &record.message.payload,
            Frame::Client(ClientFrame::Publish { message, .. }) => &message.payload,
            _ => return Ok(()),
        };
        if matches!(payload, Payload::Json(_)) {
            return Ok(()); // it may hold what this reader of JSON does not take
        }
        let json: serde_json::Value = serde_json::from_slice(&frame.encode(Subprotocol::Json)).unwrap();
        let fields = ["data", "data_base64", "text"].map(|name| json.get(name).is_some());
        prop_assert_eq!(fields.iter().filter(|there| **there).count(), 1);
        let base64_len = payload.len().div_ceil(3) * 4;
        let escaped_len = |text: &str| serde_json::to_string(text).unwrap().len() - 2;
        let goes_as_text = payload.text().filter(|text| escaped_len(text) <= base64_len);
        prop_assert_eq!(json.get("text").and_then(|text| text.as_str()), goes_as_text);
    }

    #[test]
    fn encoded_for_all_is_encoded_for_one(frame in any_frame::frame()) {
        if let Frame::Hark(ServerFrame::Message { topic, record }) = &frame {
            for subprotocol in Subprotocol::ALL {
                let once = codec::encode_message(topic, record, subprotocol);
                prop_assert_eq!(once.as_bytes(), &frame.encode(subprotocol));
            }
        }
    }

    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        read_with_all(&bytes);
    }

    #[test]
    fn any_body_behind_a_known_type_gives_a_value_or_an_error(
        kind in prop_oneof![0x01..=0x07_u8, 0x81..=0x8e_u8],
        body in prop::collection::vec(prop_oneof![0..4_u8, 250..=255_u8, any::<u8>()], 0..200),
    ) {
        read_with_all(&[&[kind], body.as_slice()].concat());
    }

    #[test]
    fn any_text_gives_a_value_or_an_error(text in any::<String>()) {
        read_with_all(text.as_bytes());
    }

    #[test]
    fn damaged_frames_give_a_value_or_an_error(bytes in mutated()) {
        read_with_all(&bytes);
    }
}

#[test]
fn every_start_of_a_frame_is_refused() {
    for sample in samples::all() {
        for subprotocol in Subprotocol::ALL {
            let whole = sample.frame.encode(subprotocol);
            for end in 0..whole.len() {
                let start = whole.slice(..end);
                let read = sample.frame.decode_alike(&start, subprotocol);
                assert!(read.is_err(), "{end} bytes of {} were taken", sample.name);
            }
        }
    }
}

#[test]
fn bytes_behind_a_frame_are_refused() {
    for sample in samples::all() {
        for subprotocol in Subprotocol::ALL {
            let mut bytes = sample.frame.encode(subprotocol).to_vec();
            bytes.extend_from_slice(b"\x00");
            let read = sample.frame.decode_alike(&bytes.into(), subprotocol);
            assert_eq!(
                read.map_err(|e| e.code),
                Err(ErrorCode::BadFrame),
                "{}",
                sample.name
            );
        }
    }
}

/// The most headers: 32 pairs and 4 KiB.
fn largest_headers() -> Headers {
    let pairs = (0..32).map(|at| (format!("{at:064}").into(), "v".repeat(64).into()));
    Headers::new(pairs.collect()).unwrap()
}

#[test]
fn the_largest_frames_survive_both_forms() {
    let topic: hark_protocol::TopicName = "t".repeat(255).parse().unwrap();
    let json = format!("\"{}\"", "j".repeat(MAX_FRAME_BYTES - 2));
    let payloads = [
        Payload::Json(JsonText::check(json.into()).unwrap()),
        Payload::Bytes {
            data: vec![0xff; MAX_FRAME_BYTES].into(),
            content_type: Some("c".repeat(255).into()),
        },
        Payload::plain_text("t".repeat(MAX_FRAME_BYTES)),
        // Six bytes each with their escapes, two each, and just as long as base64.
        Payload::plain_text("\0".repeat(MAX_FRAME_BYTES)),
        Payload::plain_text("\n".repeat(MAX_FRAME_BYTES)),
        Payload::plain_text("aa\n".repeat(MAX_FRAME_BYTES / 3)),
    ];
    for payload in payloads {
        let message = Message {
            payload,
            headers: largest_headers(),
        };
        let record = Record {
            offset: u64::MAX,
            prev: Some(u64::MAX),
            time_ms: u64::MAX,
            identity: Some(Identity::new(&"i".repeat(255), &"s".repeat(255))),
            message: message.clone(),
        };
        let seq = u64::MAX;
        let producer = hark_protocol::ProducerId::parse(&"p".repeat(64)).unwrap();
        let frames = [
            Frame::Hark(ServerFrame::Message {
                topic: topic.clone(),
                record,
            }),
            Frame::Client(ClientFrame::Publish {
                id: Some(u64::MAX),
                topic: topic.clone(),
                message,
                idempotency: Idempotency::Sequence { producer, seq },
            }),
        ];
        for frame in frames {
            for subprotocol in Subprotocol::ALL {
                let bytes = frame.encode(subprotocol);
                assert!(
                    frame.decode_alike(&bytes, subprotocol) == Ok(frame.clone()),
                    "{subprotocol:?}"
                );
                assert!(
                    bytes.len() < 2 * MAX_FRAME_BYTES,
                    "clients are told that 2 MiB are enough"
                );
            }
        }
    }
}

#[test]
fn the_most_topics_survive_both_forms() {
    let names: Vec<String> = (0..1024)
        .map(|n| format!("{n:04}{}", "t".repeat(251)))
        .collect();
    let topics: Vec<Destination> = names.iter().map(|name| Destination::parse(name)).collect();
    let refused = |topic: &Destination| TopicReceipt {
        topic: topic.clone(),
        outcome: TopicOutcome::Refused {
            code: ErrorCode::OutOfSequence,
            message: "m".repeat(300),
            expected_seq: Some(u64::MAX),
        },
    };
    let receipts = topics.iter().map(refused).collect();
    let publish = PublishAll::new(
        topics,
        Message {
            payload: Payload::Json(JsonText::check(Bytes::from_static(b"1")).unwrap()),
            headers: largest_headers(),
        },
        IdempotencyInEach::Sequences {
            producer: hark_protocol::ProducerId::parse(&"p".repeat(64)).unwrap(),
            seqs: vec![u64::MAX; 1024],
        },
    );
    let frames = [
        Frame::Client(ClientFrame::PublishAll {
            id: Some(u64::MAX),
            publish: publish.unwrap(),
        }),
        Frame::Hark(ServerFrame::PublishedAll {
            id: u64::MAX,
            receipts,
        }),
    ];
    for frame in frames {
        for subprotocol in Subprotocol::ALL {
            let bytes = frame.encode(subprotocol);
            assert!(bytes.len() < MAX_FRAME_BYTES, "{}", bytes.len());
            assert!(frame.decode_alike(&bytes, subprotocol) == Ok(frame.clone()));
        }
    }
}

#[test]
fn deep_json_does_not_overflow_the_stack() {
    let deep = MAX_FRAME_BYTES / 2 - 100;
    let data = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let publish = Bytes::from(format!(r#"{{"type":"publish","topic":"a","data":{data}}}"#));
    let frame = codec::decode_client(&publish, Subprotocol::Json).unwrap();
    let binary = codec::encode_client(&frame, Subprotocol::Bincode);
    assert!(codec::decode_client(binary.as_bytes(), Subprotocol::Bincode) == Ok(frame));

    // Where nothing deep may stand, and where nothing may stand at all.
    for text in [
        "[".repeat(MAX_FRAME_BYTES),
        r#"{"a":"#.repeat(MAX_FRAME_BYTES / 5),
        format!(r#"{{"type":"publish","topic":{data}}}"#),
        format!(r#"{{"type":"publish","headers":{data}}}"#),
        format!(r#"{{"type":"subscribe","topic":"a","from":{data}}}"#),
        format!(r#"{{"type":"ping","id":{data}}}"#),
    ] {
        read_with_all(text.as_bytes());
    }
}
