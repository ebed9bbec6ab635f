//! What is fuzzed: a function for each way in which bytes from the network are read, and what they start from. Each takes any bytes,
//! and panics if what it holds is broken: nothing panics, what was read can be written and is read as the same, and how a stream
//! was cut on its way makes no difference.
//!
//! Two things call them: cargo-fuzz (`make fuzz`), and a plain test (`broker/tests/fuzz.rs`). Whoever adds a reader of bytes adds its
//! function here, a line to [`ALL`], a file to `fuzz_targets/` and its `[[bin]]` to `Cargo.toml`; where it is private to the broker, a
//! door beside it, as `broker/src/http/fuzzing.rs` is one. What a fuzzer has found becomes a seed.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use bytes::Bytes;
use hark_broker::edge::{chunked_body, read_head};
use hark_broker::session::fuzzing::Came;
use hark_broker::{http, session};
use hark_protocol::codec::json::AnyPublish;
use hark_protocol::{
    ClientFrame, Cursor, CursorSet, Encoded, Epoch, FrameError, JsonText, MAX_LIST_MESSAGES,
    Payload, ServerFrame, Subprotocol, SubscribeFrom, TopicName, TopicPattern, codec,
};

/// The longest sentence of a refusal: it may quote, but not everything.
const MAX_REFUSAL_BYTES: usize = 1000;
/// The last millisecond that RFC 3339 can say in every time zone.
const LAST_MS: u64 = 253_402_207_200_999;

/// A function that is fuzzed.
#[derive(Debug)]
pub struct Target {
    /// Its name, which is that of its file in `fuzz_targets/`.
    pub name: &'static str,
    /// Reads bytes; panics if something is broken.
    pub run: fn(&[u8]),
    /// What mutations start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident: $seeds:expr;)*) => {
        /// Everything that is fuzzed.
        pub const ALL: &[Target] = &[$(Target { name: stringify!($name), run: $name, seeds: $seeds }),*];
    };
}

targets! {
    client_frame_json: || golden("client", Subprotocol::Json);
    client_frame_bincode: || golden("client", Subprotocol::Bincode);
    server_frame_json: || golden("hark", Subprotocol::Json);
    server_frame_bincode: || golden("hark", Subprotocol::Bincode);
    json_text: || texts(&["{\"any\": [1, -2.5e3, \"\\u00e9\\n\", null, true]}", " {\r\n \"a\" : 1 }\n", "\"\\ud834\\udd1e\""]);
    cursor: || texts(&["k3f9a1:1042", "1:0", "3w5e11264sgsf:18446744073709551615"]);
    cursor_set: || texts(&["\x00k3:12", "\x01k3:12,5~0", "\x02k3:12,5,q9:0~0", "\x07k3:12,5,q9:0,7~0"]);
    subscribe_from: || texts(&["now", "earliest", "last:50", "since:5m", "since:1h 30m", "since:7d", "since:4444444442403 h0s", "since:2026-01-31T12:00:00Z",
        "since:2026-01-31T13:00:00.5+01:00", "k3f9a1:1042"]);
    topic: || texts(&["orders.eu.42\norders.eu.42", "orders.*.42\norders.eu.42", "orders.>\norders.eu.42", "$sys.>\n$sys.a", ">\n$sys.a",
        "a:b@c-d_E.*.>\na:b@c-d_E.1.2.3"]);
    http_query: || [texts(&["\x00topic=a&topic=b.c&limit=10&wait=55", "\x00topic=a&after=k3f9a1:1042", "\x01topic=a&from=last:50",
        "\x00topic=a&topic=b&from=k3%3A1&from=earliest", "\x01topic=a\nk3:7", "\x01topic=a&topic=b\nk3:7,12~0", "\x00topic=a&from=since:5m%201s"]), vec![vec![b'x'; 1200]]].concat();
    http_head: || texts(&["host: localhost:4275\norigin: http://localhost:4275\nsec-websocket-protocol: a, hark.v1.bincode",
        "host: [::1]:4275\nforwarded: for=192.0.2.7;proto=https, For=\"[2001:db8::1]:4711\"", "x-forwarded-for: 203.0.113.9, 10.1.2.3\nhost: 127.0.0.1",
        "hark-producer: p81c\nhark-seq: 77\nhark-header-trace: 00-4bf9\ncontent-type: application/json; charset=utf-8",
        "hark-message-id: order-4711\ncontent-type: text/plain"]);
    http_lines: || texts(&["\x00{\"a\":1}\n{\"b\":2}\r\n\r\n \n\"last\"", "\x01{\"a\":1}\n\n{\"b\":2}\n", "\x05 1 \n"]);
    http_messages: messages;
    websocket: websocket_streams;
    edge_head: || texts(&["GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\n\r\n",
        "POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n", "GET / HTTP/1.0\n\n"]);
    edge_chunks: || texts(&["\x015;x=\"y\"\r\nhello\r\n0\r\nA: b\r\n\r\nGET", "\x040\r\n\r\n", "\x03A \r\n0123456789\r\n00\r\n\r\n"]);
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The golden files of what clients say, or Hark: every frame there is, and more than one of some.
fn golden(says: &str, subprotocol: Subprotocol) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/golden");
    let files = std::fs::read_dir(&folder).expect("the golden files");
    let mut frames: Vec<Vec<u8>> = files
        .map(|file| std::fs::read(file.expect("a golden file").path()).expect("a golden file"))
        .map(|file| serde_json::from_slice(&file).expect("JSON"))
        .filter(|file: &serde_json::Value| file["says"] == says)
        .map(|file| match subprotocol {
            Subprotocol::Json => file["json"].as_str().expect("a text").into(),
            Subprotocol::Bincode => from_hex(file["bincode"].as_str().expect("bytes")),
        })
        .collect();
    assert!(
        !frames.is_empty(),
        "no golden files in {}",
        folder.display()
    );
    frames.sort();
    frames
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Lines and lists of messages.
fn messages() -> Vec<Vec<u8>> {
    let lines: Vec<_> = golden("client", Subprotocol::Json)
        .into_iter()
        .filter(|frame| frame.windows(9).any(|part| part == b"\"publish\""))
        .collect();
    let list = [b"[", lines.join(&b',').as_slice(), b"]"].concat();
    [lines, vec![list], texts(&["\t\t\t2\t\t\t"])].concat()
}

/// Streams of frames as a client masks them.
fn websocket_streams() -> Vec<Vec<u8>> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let frame = |first: u8, payload: &[u8]| {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | len as u8),
            len => {
                bytes.push(0x80 | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        bytes.extend(
            payload
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        bytes
    };
    let announced = [&[0x82, 0xff][..], &(1_u64 << 62).to_be_bytes(), &MASK].concat();
    let streams = [
        vec![
            frame(0x81, b"Hello"),
            frame(0x89, b""),
            frame(0x88, b"\x03\xe8bye"),
        ],
        vec![
            frame(0x01, b"Hel"),
            frame(0x8a, b"x"),
            frame(0x00, b""),
            frame(0x80, b"lo"),
        ],
        vec![frame(0x82, &[7; 300]), frame(0x82, &[8; 126])],
        vec![frame(0x02, &[7; 900]), frame(0x80, &[8; 200])],
        vec![frame(0xc1, b"rsv"), frame(0x83, b"reserved")],
        vec![frame(0x81, b"Hello"), announced],
    ];
    // In front: how it is cut.
    streams
        .iter()
        .map(|frames| [&[3], frames.concat().as_slice()].concat())
        .collect()
}

fn check_refusal(sentence: &str) {
    assert!(!sentence.is_empty(), "a refusal says why");
    assert!(
        sentence.len() <= MAX_REFUSAL_BYTES,
        "a refusal of {} bytes: {sentence}",
        sentence.len()
    );
}

/// A refusal of something in a head may quote all of it: a head has a bound of its own.
fn check_refusal_of_head(sentence: &str, head: &[u8]) {
    assert!(!sentence.is_empty(), "a refusal says why");
    assert!(
        sentence.len() <= MAX_REFUSAL_BYTES + 3 * head.len(),
        "a refusal of {} bytes to {}: {sentence}",
        sentence.len(),
        head.len()
    );
}

fn other_form(form: Subprotocol) -> Subprotocol {
    match form {
        Subprotocol::Json => Subprotocol::Bincode,
        Subprotocol::Bincode => Subprotocol::Json,
    }
}

/// What was read can be written and is read as the same, and is written as the same again.
fn check_frame<F: PartialEq + std::fmt::Debug>(
    frame: &F,
    form: Subprotocol,
    encode: fn(&F, Subprotocol) -> Encoded,
    decode: fn(&Bytes, Subprotocol) -> Result<F, FrameError>,
) {
    let written = encode(frame, form);
    let read = decode(written.as_bytes(), form);
    assert_eq!(read.as_ref(), Ok(frame), "as {form:?}");
    assert_eq!(read.map(|read| encode(&read, form)), Ok(written.clone()));
    if let Encoded::Text(text) = written {
        assert!(
            !text.contains(['\n', '\r']),
            "a frame is on one line: {text}"
        );
    }
}

fn client_frame(bytes: &[u8], form: Subprotocol) {
    match codec::decode_client(&Bytes::copy_from_slice(bytes), form) {
        Ok(frame) => {
            for form in [form, other_form(form)] {
                check_frame(&frame, form, codec::encode_client, codec::decode_client);
            }
        }
        Err(error) => check_refusal(&error.message),
    }
}

/// In JSON a time has a calendar, which ends; and a client that reads bincode takes Hark's word for what it calls JSON.
fn can_be_said_in_json(frame: &ServerFrame) -> bool {
    match frame {
        ServerFrame::Authenticated {
            expires_at_ms: Some(ms),
            ..
        } => *ms <= LAST_MS,
        ServerFrame::Message { record, .. } => match &record.message.payload {
            Payload::Json(text) => JsonText::check(text.as_bytes().clone()).as_ref() == Ok(text),
            Payload::Bytes { .. } => true,
        },
        _ => true,
    }
}

fn server_frame(bytes: &[u8], form: Subprotocol) {
    match codec::decode_server(&Bytes::copy_from_slice(bytes), form) {
        Ok(frame) => {
            check_frame(&frame, form, codec::encode_server, codec::decode_server);
            if form == Subprotocol::Json || can_be_said_in_json(&frame) {
                let form = other_form(form);
                check_frame(&frame, form, codec::encode_server, codec::decode_server);
            }
        }
        Err(error) => check_refusal(&error.message),
    }
}

/// What a client says, as JSON.
pub fn client_frame_json(bytes: &[u8]) {
    client_frame(bytes, Subprotocol::Json);
}

/// What a client says, as bincode.
pub fn client_frame_bincode(bytes: &[u8]) {
    client_frame(bytes, Subprotocol::Bincode);
}

/// What Hark says, as JSON: read by the client.
pub fn server_frame_json(bytes: &[u8]) {
    server_frame(bytes, Subprotocol::Json);
}

/// What Hark says, as bincode: read by the client.
pub fn server_frame_bincode(bytes: &[u8]) {
    server_frame(bytes, Subprotocol::Bincode);
}

/// A payload that is said to be JSON.
pub fn json_text(bytes: &[u8]) {
    match JsonText::check(Bytes::copy_from_slice(bytes)) {
        Ok(text) => {
            assert!(!text.as_str().contains(['\n', '\r']), "{text:?}");
            assert_eq!(JsonText::check(text.as_bytes().clone()).as_ref(), Ok(&text));
            assert_eq!(JsonText::from_checked(text.as_bytes().clone()), Ok(text));
        }
        Err(error) => check_refusal(&error.to_string()),
    }
}

/// A cursor has one spelling.
pub fn cursor(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
    if let Ok(epoch) = text.parse::<Epoch>() {
        assert_eq!(epoch.to_string(), text);
    }
}

/// Cursors of several topics: the first byte says how many, and in which order they are asked for.
pub fn cursor_set(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    let mut topics: Vec<TopicName> = ["b.c", "a", "$sys.x", "Z"]
        .iter()
        .take(1 + usize::from(first & 3))
        .map(|name| TopicName::parse(name).expect("a topic"))
        .collect();
    let turn = usize::from(first >> 2) % topics.len();
    topics.rotate_left(turn);
    let set = CursorSet::of(&topics);
    let written = |cursors: &[Cursor]| {
        let mut text = String::new();
        set.write(cursors, &mut text);
        text
    };
    // Nothing that does not know the topics finds their hash, so it is put behind what was given as well.
    let some = Cursor {
        epoch: Epoch::new(1),
        offset: 0,
    };
    let any = written(&vec![some; topics.len()]);
    let hash = any.split_once('~').map(|(_, hash)| hash);
    let list = text.split('~').next().unwrap_or_default();
    let with_hash = hash.map_or(list.to_owned(), |hash| format!("{list}~{hash}"));
    for text in [text, &with_hash] {
        match set.read(text) {
            Ok(cursors) => {
                assert_eq!(cursors.len(), topics.len());
                assert_eq!(set.read(&written(&cursors)), Ok(cursors));
            }
            Err(error) => check_refusal(&error.to_string()),
        }
    }
}

/// Where a subscription starts, as in a query.
pub fn subscribe_from(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(from) = text.parse::<SubscribeFrom>() {
        assert_eq!(from.to_string().parse(), Ok(from), "{text:?} as {from}");
    }
}

/// A pattern and a topic, on a line each.
pub fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (pattern, name) = text.split_once('\n').unwrap_or((text, text));
    let parsed = TopicPattern::parse(pattern);
    match TopicName::parse(name) {
        Ok(topic) => {
            assert_eq!(topic.as_str(), name);
            assert_eq!(topic.is_system(), name.starts_with('$'));
            let itself = TopicPattern::parse(name).expect("each topic is a pattern");
            assert!(itself.matches(&topic), "{name}");
            if let Ok(parsed) = parsed {
                assert_eq!(
                    parsed.matches(&topic),
                    matches(pattern, name),
                    "{pattern} on {name}"
                );
            }
        }
        Err(error) => check_refusal(&error.to_string()),
    }
}

/// What a pattern means, said anew: no wildcard stands for a topic of the system.
fn matches(pattern: &str, name: &str) -> bool {
    fn segments(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([">"], [_, ..]) | ([], []) => true,
            ([wanted, pattern @ ..], [found, name @ ..]) => {
                (*wanted == "*" || wanted == found) && segments(pattern, name)
            }
            _ => false,
        }
    }
    let (pattern, segments_of_name): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), name.split('.').collect());
    let wild = matches!(pattern[0], "*" | ">");
    !(wild && name.starts_with('$')) && segments(&pattern, &segments_of_name)
}

/// The query of a read; the first byte says whether it is for a stream. Behind a line break: `Last-Event-ID`.
pub fn http_query(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let Some(Ok(query)) = parts.next().map(std::str::from_utf8) else {
        return;
    };
    match http::fuzzing::query(query, first & 1 == 1, parts.next()) {
        Some(Ok(asked)) => {
            assert!((1..=32).contains(&asked.topics.len()), "{asked:?}");
            assert_eq!(asked.from.len(), asked.topics.len(), "{asked:?}");
            assert!((1..=1000).contains(&asked.limit), "{asked:?}");
            assert!(asked.wait.as_secs() <= 55, "{asked:?}");
        }
        Some(Err(error)) => check_refusal_of_head(&error.to_string(), bytes),
        None => {}
    }
}

/// The lines of a head: who it is from, what it offers, how a message is known.
pub fn http_head(bytes: &[u8]) {
    let lines: Vec<(&[u8], &[u8])> = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
        .collect();
    let head = http::fuzzing::head(&lines);
    let client = &head.client;
    let is_address = client.parse::<IpAddr>().is_ok() || client.parse::<SocketAddr>().is_ok();
    assert!(is_address, "{client:?} is no address");
    if let Ok(headers) = &head.headers {
        assert!(headers.iter().len() <= 32, "{headers:?}");
    }
    let refusals = [
        head.admitted.err(),
        head.subprotocol.err(),
        head.headers.err(),
        head.idempotency.err(),
    ];
    for refusal in refusals.into_iter().flatten() {
        check_refusal_of_head(&refusal.to_string(), bytes);
    }
}

/// A stream cut into pieces of as many bytes as its first byte says; 0: uncut.
fn cut(bytes: &[u8]) -> Option<(Vec<Bytes>, &[u8])> {
    let (size, stream) = bytes.split_first()?;
    let size = match usize::from(*size) {
        0 => stream.len().max(1),
        size => size,
    };
    let pieces = stream.chunks(size).map(Bytes::copy_from_slice).collect();
    Some((pieces, stream))
}

/// A body cut into lines (NDJSON).
pub fn http_lines(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    let Some((pieces, body)) = cut(bytes) else {
        return;
    };
    let lines = RUNTIME.with(|runtime| runtime.block_on(http::fuzzing::lines(pieces)));
    // The lines of a body that is too short to have one that is too long.
    let expected: Vec<_> = body
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .map(|line| Ok(Bytes::copy_from_slice(line)))
        .collect();
    assert_eq!(lines, expected);
}

/// Messages for any topics: a line, or a list.
pub fn http_messages(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let (line, id) = http::fuzzing::line(body.clone());
    match &line {
        Ok(publish) => {
            let frame = match publish.clone() {
                AnyPublish::One(publish) => ClientFrame::Publish {
                    id,
                    topic: publish.topic,
                    message: publish.message,
                    idempotency: publish.idempotency,
                },
                AnyPublish::All(publish) => ClientFrame::PublishAll { id, publish },
            };
            check_frame(
                &frame,
                Subprotocol::Json,
                codec::encode_client,
                codec::decode_client,
            );
        }
        Err(error) => check_refusal(&error.to_string()),
    }
    match http::fuzzing::list(&body) {
        Ok(list) => {
            assert!(list.len() <= MAX_LIST_MESSAGES);
            // By itself a message is the same as in a line, but for the column of what is wrong with it.
            if body.trim_ascii_start().first() != Some(&b'[') {
                let [(of_list, id_of_list)] = list.as_slice() else {
                    panic!("{} messages of one", list.len());
                };
                assert_eq!(of_list.as_ref().ok(), line.as_ref().ok());
                assert_eq!(*id_of_list, id);
            }
        }
        Err(error) => check_refusal(&error.to_string()),
    }
}

/// WebSocket frames out of a stream: cut anyhow, they are those of the stream in one piece, and those that actix-http finds in it, as far
/// as they are within bounds.
pub fn websocket(bytes: &[u8]) {
    const MAX_MESSAGE_BYTES: usize = 1000;
    let Some((pieces, stream)) = cut(bytes) else {
        return;
    };
    for text in [true, false] {
        let (came, violation) = session::fuzzing::messages(pieces.clone(), text, MAX_MESSAGE_BYTES);
        let whole = vec![Bytes::copy_from_slice(stream)];
        let whole = session::fuzzing::messages(whole, text, MAX_MESSAGE_BYTES);
        assert_eq!((&came, &violation), (&whole.0, &whole.1));
        for one in &came {
            match one {
                Came::Message(bytes) => {
                    assert!(bytes.len() <= MAX_MESSAGE_BYTES);
                    assert!(!text || std::str::from_utf8(bytes).is_ok());
                }
                Came::Ping(bytes) => assert!(bytes.len() <= 125),
                Came::Pong | Came::Close => {}
            }
        }
        if let Some((code, reason)) = violation {
            assert!((1000..5000).contains(&code), "{code}");
            assert!(reason.len() <= 123, "{reason}");
        }
    }
}

pub fn edge_head(bytes: &[u8]) {
    match read_head(bytes) {
        Ok(Some(head)) => {
            let alone = &bytes[..head.bytes];
            assert_eq!(
                read_head(alone),
                Ok(Some(head)),
                "what follows does not matter"
            );
            assert_eq!(read_head(&alone[..alone.len() - 1]), Ok(None));
        }
        Ok(None) => {}
        Err(refusal) => check_refusal(refusal.message),
    }
}

pub fn edge_chunks(bytes: &[u8]) {
    let Some((pieces, stream)) = cut(bytes) else {
        return;
    };
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
    let found = chunked_body(&pieces);
    assert_eq!(found, chunked_body(&[stream]));
    if let Some((end, data_bytes)) = found {
        assert!(data_bytes < end as u64 && end <= stream.len());
        assert_eq!(chunked_body(&[&stream[..end]]), found);
    }
}
