//! What reading and writing allocate, counted. A binary of its own, since it counts with the allocator.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure")]

#[path = "wire/samples.rs"]
#[allow(dead_code, reason = "the golden files need more of it")]
mod samples;

use allocation_counter::measure;
use bytes::Bytes;
use hark_protocol::{MAX_FRAME_BYTES, ServerFrame, Subprotocol, codec};
use samples::Frame;

/// The most that may be allocated at any moment while a frame is read: a few copies of the largest frame, namely a
/// string without its escapes, the value it ends up in, and room to grow while that is found out.
const MOST_BYTES: u64 = 4 * MAX_FRAME_BYTES as u64;
/// The most for a frame that only announces much: its few hundred bytes and a sentence.
const MOST_BYTES_OF_SMALL: u64 = 8 * 1024;

/// The most bytes that were allocated at one moment by any decoder that reads `bytes`.
fn most_bytes_to_read(bytes: Vec<u8>) -> u64 {
    let bytes = Bytes::from(bytes);
    let client = |subprotocol| {
        measure(|| {
            drop(std::hint::black_box(codec::decode_client(
                &bytes,
                subprotocol,
            )))
        })
        .bytes_max
    };
    let server = |subprotocol| {
        measure(|| {
            drop(std::hint::black_box(codec::decode_server(
                &bytes,
                subprotocol,
            )))
        })
        .bytes_max
    };
    Subprotocol::ALL
        .into_iter()
        .flat_map(|s| [client(s), server(s)])
        .max()
        .unwrap_or(0)
}

/// Lengths as bincode writes them (`fb` u16, `fc` u32, `fd` u64), from just over what is there to beyond everything.
fn huge_lengths() -> Vec<Vec<u8>> {
    let mut lengths = vec![b"\xfb\xff\xff".to_vec()];
    for length in [1 << 20, 1 << 22, 1 << 24, 1 << 28, u32::MAX] {
        lengths.push([b"\xfc", &u32::to_le_bytes(length)[..]].concat());
    }
    for length in [
        1 << 33,
        1 << 40,
        1 << 47,
        1 << 62,
        i64::MAX as u64,
        u64::MAX,
    ] {
        lengths.push([b"\xfd", &u64::to_le_bytes(length)[..]].concat());
    }
    lengths
}

#[test]
fn a_huge_length_at_any_place_of_any_frame_allocates_nothing() {
    for sample in samples::all() {
        let frame = sample.frame.encode(Subprotocol::Bincode);
        for at in 1..=frame.len() {
            for length in huge_lengths() {
                let rest = frame.get(at + 1..).unwrap_or_default();
                let most = most_bytes_to_read([&frame[..at], &length, rest].concat());
                let name = sample.name;
                assert!(
                    most <= MOST_BYTES_OF_SMALL,
                    "{most} bytes for {name} with {length:02x?} at {at}"
                );
            }
        }
    }
}

#[test]
fn a_huge_length_in_a_full_frame_stays_within_the_limit() {
    for kind in (0x01..=0x07_u8).chain(0x81..=0x8e) {
        for length in huge_lengths() {
            for skipped in 0..12 {
                let mut frame = [&[kind][..], &b"\x01".repeat(skipped), &length].concat();
                frame.resize(MAX_FRAME_BYTES, 0);
                let most = most_bytes_to_read(frame);
                assert!(
                    most <= MOST_BYTES,
                    "{most} bytes for 0x{kind:02x} with {length:02x?} at {skipped}"
                );
            }
        }
    }
}

#[test]
fn a_full_frame_of_json_stays_within_the_limit() {
    let fill = |start: &str, part: &str, end: &str| {
        let parts = (MAX_FRAME_BYTES - start.len() - end.len()) / part.len();
        format!("{start}{}{end}", part.repeat(parts)).into_bytes()
    };
    for (bomb, text) in [
        (
            "a legal frame",
            fill(r#"{"type":"publish","topic":"a","data":""#, "a", r#""}"#),
        ),
        (
            "a legal frame of text",
            fill(r#"{"type":"publish","topic":"a","text":""#, "a", r#""}"#),
        ),
        (
            "a legal frame of text with escapes",
            fill(r#"{"type":"publish","topic":"a","text":""#, "\\n", r#""}"#),
        ),
        (
            "headers without end",
            fill(
                r#"{"type":"publish","headers":{"#,
                r#""":"","#,
                r#""":""}}"#,
            ),
        ),
        (
            "one endless header",
            fill(r#"{"type":"publish","headers":{"a":""#, "\\n", r#""}}"#),
        ),
        (
            "an endless topic",
            fill(r#"{"type":"publish","topic":""#, "a", r#"","data":1}"#),
        ),
        (
            "an endless from",
            fill(
                r#"{"type":"subscribe","topic":"a","from":""#,
                "\\n",
                r#""}"#,
            ),
        ),
        (
            "an endless type",
            fill(r#"{"type":""#, "\u{1f980}", r#""}"#),
        ),
        (
            "an endless token with an escape",
            fill(r#"{"type":"auth","token":"\n"#, "a", r#""}"#),
        ),
        ("a string for a frame", fill("\"", "\u{7f}", "\"")),
        (
            "a string for headers",
            fill(r#"{"type":"publish","headers":""#, "\u{7f}", r#""}"#),
        ),
        (
            "a string for a number",
            fill(r#"{"type":"ping","id":""#, "a", r#""}"#),
        ),
        (
            "control characters quoted",
            fill(r#"{"type":""#, "\\u0001", r#""}"#),
        ),
        (
            "open arrays in data",
            fill(r#"{"type":"publish","topic":"a","data":"#, "[", ""),
        ),
        (
            "topics without end",
            fill(
                r#"{"type":"publish","data":1,"topics":["a""#,
                r#","b""#,
                "]}",
            ),
        ),
        (
            "one endless topic of several",
            fill(r#"{"type":"publish","data":1,"topics":[""#, "\\n", r#""]}"#),
        ),
        (
            "a string for topics",
            fill(
                r#"{"type":"publish","data":1,"topics":""#,
                "\u{7f}",
                r#""}"#,
            ),
        ),
        (
            "numbers without end",
            fill(
                r#"{"type":"publish","data":1,"topics":["a"],"producer":"p","seqs":[1"#,
                ",1",
                "]}",
            ),
        ),
        (
            "a string for one of the numbers",
            fill(
                r#"{"type":"publish","data":1,"topics":["a"],"producer":"p","seqs":[""#,
                "\\u0001",
                r#""]}"#,
            ),
        ),
        (
            "receipts without end",
            fill(
                r#"{"type":"published_all","id":1,"receipts":[{}"#,
                ",{}",
                "]}",
            ),
        ),
        ("open arrays", fill("", "[", "")),
        ("open objects", fill("", r#"{"id":"#, "")),
    ] {
        let most = most_bytes_to_read(text);
        println!("{bomb}: {most} bytes");
        assert!(most <= MOST_BYTES, "{bomb}: {most} bytes");
    }
}

#[test]
fn a_message_is_written_with_one_allocation() {
    for sample in samples::all() {
        let Frame::Hark(ServerFrame::Message { topic, record }) = &sample.frame else {
            continue;
        };
        for subprotocol in Subprotocol::ALL {
            let mut frame = None;
            let counted =
                measure(|| frame = Some(codec::encode_message(topic, record, subprotocol)));
            let len = frame.map(|frame| frame.len() as u64);
            assert_eq!(counted.count_total, 1, "{} as {subprotocol:?}", sample.name);
            assert_eq!(
                Some(counted.bytes_total),
                len,
                "{} as {subprotocol:?}",
                sample.name
            );
        }
    }
}
