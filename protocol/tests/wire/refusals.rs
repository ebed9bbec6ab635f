//! What is refused, with which code, and that the answer can be matched to the command.

use bytes::Bytes;
use hark_protocol::{
    ClientFrame, ErrorCode, FrameError, GapReason, ServerFrame, Subprotocol, codec,
};

use ErrorCode::{BadCursor, BadFrame, BadTopic, TooLarge};

fn read(text: impl Into<Bytes>) -> Result<ClientFrame, FrameError> {
    codec::decode_client(&text.into(), Subprotocol::Json)
}

fn read_binary(bytes: &[u8]) -> Result<ClientFrame, FrameError> {
    codec::decode_client(&Bytes::copy_from_slice(bytes), Subprotocol::Bincode)
}

/// What the refusal of `text` holds: its id, its code and, somewhere in its sentence, `hint`.
#[track_caller]
fn assert_refused(text: &str, id: Option<u64>, code: ErrorCode, hint: &str) {
    let error = read(text.to_owned()).expect_err(text);
    assert_eq!((error.id, error.code), (id, code), "{text}: {error}");
    assert!(
        error.message.contains(hint),
        "{text}: {error} does not say {hint:?}"
    );
}

#[test]
fn what_is_no_frame() {
    assert_refused("", None, BadFrame, "not JSON");
    assert_refused("hello", None, BadFrame, "not JSON");
    assert_refused("{", None, BadFrame, "not JSON");
    assert_refused("null", None, BadFrame, "expected an object");
    assert_refused(r#"["ping",1]"#, None, BadFrame, "expected an object");
    assert_refused("{}", None, BadFrame, "`type`");
    assert_refused(r#"{"type":"ping","id":7}{"#, Some(7), BadFrame, "not JSON");
    assert_refused(r#"{"type":"fetch","id":7}"#, Some(7), BadFrame, "subscribe");
    assert_refused(
        r#"{"type":"message","id":7}"#,
        Some(7),
        BadFrame,
        "a client says",
    );
    assert_refused(r#"{"type":"ping","id":"7"}"#, None, BadFrame, "`id`");
    assert_refused(r#"{"type":"ping","id":-7}"#, None, BadFrame, "`id`");
    assert_refused(r#"{"type":"ping","id":7.5}"#, None, BadFrame, "`id`");
    assert_refused(r#"{"type":5,"id":7}"#, Some(7), BadFrame, "`type`");
    assert_refused(r#"{"type":"auth","id":7}"#, Some(7), BadFrame, "`token`");
    assert_refused(
        r#"{"type":"unsubscribe","id":7}"#,
        Some(7),
        BadFrame,
        "`topic`",
    );
    assert_refused(
        r#"{"type":"unsubscribe","topic":null,"id":7}"#,
        Some(7),
        BadFrame,
        "`topic`",
    );
    assert_refused(
        r#"{"type":"subscribe","topic":["a"],"id":7}"#,
        Some(7),
        BadFrame,
        "`topic`",
    );
    assert_refused(
        r#"{"id":7,"type":"ping","type":"ping"}"#,
        Some(7),
        BadFrame,
        "twice",
    );
    assert_eq!(
        read(&b"{\"type\":\"ping\",\"id\":7,\"x\":\"\xff\"}"[..]).map_err(|e| e.code),
        Err(BadFrame)
    );
}

#[test]
fn what_a_newer_client_says_beside_is_skipped() {
    let frame = read(r#"{"type":"ping","id":7,"priority":{"a":[1]},"x":null}"#);
    assert_eq!(frame, Ok(ClientFrame::Ping { id: Some(7) }));
}

#[test]
fn topics() {
    for topic in ["", "a..b", "a b", "a.*"] {
        for kind in ["subscribe", "unsubscribe", "publish"] {
            let text = format!(r#"{{"type":"{kind}","id":7,"topic":"{topic}","data":1}}"#);
            assert_refused(&text, Some(7), BadTopic, "");
        }
    }
    assert_refused(
        r#"{"type":"publish","topic":"$sys.x","data":1}"#,
        None,
        BadTopic,
        "belongs to the system",
    );
    assert!(read(r#"{"type":"subscribe","topic":"$sys.x"}"#).is_ok());
}

#[test]
fn places_to_start_from() {
    for from in [
        "0",
        "true",
        "[]",
        "{}",
        r#""later""#,
        r#""k3f9a1:7""#,
        r#""after""#,
        r#"{"after":"k3f9a1"}"#,
        r#"{"after":"k3f9a1:07"}"#,
        r#"{"after":7}"#,
        r#"{"after":null}"#,
        r#"{"last":-1}"#,
        r#"{"last":"50"}"#,
        r#"{"last":1.5}"#,
        r#"{"since":"yesterday"}"#,
        r#"{"since":"-5m"}"#,
        r#"{"since":5}"#,
        r#"{"now":null}"#,
        r#"{"last":5,"after":"k3f9a1:7"}"#,
    ] {
        let text = format!(r#"{{"type":"subscribe","id":7,"topic":"a","from":{from}}}"#);
        assert_refused(&text, Some(7), BadCursor, "earliest");
    }
}

#[test]
fn what_a_message_may_hold() {
    let publish = |fields: &str| format!(r#"{{"type":"publish","id":7,"topic":"a",{fields}}}"#);
    for (fields, code, hint) in [
        (r#""seq":1"#, BadFrame, "`data`"),
        (r#""data":1,"data_base64":"""#, BadFrame, "exactly one"),
        (r#""data":1,"text":"a""#, BadFrame, "exactly one"),
        (r#""text":"a","data_base64":"""#, BadFrame, "exactly one"),
        (r#""text":null"#, BadFrame, "exactly one"),
        (r#""text":7"#, BadFrame, "`text`"),
        (r#""text":"\ud800""#, BadFrame, "`text`"),
        (
            r#""text":"a","content_type":"image/png""#,
            BadFrame,
            "`data_base64`",
        ),
        (
            r#""text":"a","content_type":"text/plain; charset=iso-8859-1""#,
            BadFrame,
            "iso-8859-1",
        ),
        (
            r#""text":"a","content_type":"text/plain\n""#,
            BadFrame,
            "control",
        ),
        (
            r#""data":1,"content_type":"a/b""#,
            BadFrame,
            "`data_base64`",
        ),
        (r#""data_base64":"@@@@""#, BadFrame, "base64"),
        (
            r#""data_base64":"","content_type":"a\nb""#,
            BadFrame,
            "control",
        ),
        (r#""data":1,"headers":[]"#, BadFrame, "`headers`"),
        (r#""data":1,"headers":{"a":1}"#, BadFrame, "`headers`"),
        (r#""data":1,"headers":{"":"x"}"#, BadFrame, "empty"),
        (r#""data":1,"headers":{"a":"x","a":"y"}"#, BadFrame, "twice"),
        (r#""data":1,"producer":"p""#, BadFrame, "together"),
        (r#""data":1,"seq":1"#, BadFrame, "together"),
        (r#""data":1,"producer":"p","seq":0"#, BadFrame, "1, 2, 3"),
        (r#""data":1,"producer":"p","seq":-1"#, BadFrame, "`seq`"),
        (r#""data":1,"producer":"","seq":1"#, BadFrame, "64 bytes"),
        (r#""data":1,"message_id":"""#, BadFrame, "64 bytes"),
        (
            r#""data":1,"message_id":"m","producer":"p","seq":1"#,
            BadFrame,
            "not both",
        ),
        (r#""data":1,"message_id":"m","seq":1"#, BadFrame, "not both"),
    ] {
        assert_refused(&publish(fields), Some(7), code, hint);
    }

    for content_type in ["text/markdown", "TEXT/plain; charset=\\\"UTF-8\\\""] {
        let fields = format!(r#""text":"a","content_type":"{content_type}""#);
        assert!(read(publish(&fields)).is_ok(), "{content_type}");
    }
    assert_eq!(
        read(publish(r#""text":"a""#)),
        read(publish(
            r#""data_base64":"YQ==","content_type":"text/plain; charset=utf-8""#
        )),
    );

    let content_type = |len| {
        publish(&format!(
            r#""data_base64":"","content_type":"{}""#,
            "c".repeat(len)
        ))
    };
    assert!(read(content_type(255)).is_ok());
    assert_refused(&content_type(256), Some(7), BadFrame, "255");

    let pairs = |n: usize| {
        (0..n)
            .map(|at| format!(r#""{at}":"v""#))
            .collect::<Vec<_>>()
            .join(",")
    };
    let headers = |pairs: String| publish(&format!(r#""data":1,"headers":{{{pairs}}}"#));
    assert!(read(headers(pairs(32))).is_ok());
    assert_refused(&headers(pairs(33)), Some(7), TooLarge, "33");
    assert_refused(&headers(pairs(50_000)), Some(7), TooLarge, "50000");
    assert!(read(headers(format!(r#""a":"{}""#, "v".repeat(4095)))).is_ok());
    assert_refused(
        &headers(format!(r#""a":"{}""#, "v".repeat(4096))),
        Some(7),
        TooLarge,
        "4097",
    );
}

#[test]
fn what_a_publish_to_several_topics_may_hold() {
    let publish = |fields: &str| format!(r#"{{"type":"publish","id":7,"data":1,{fields}}}"#);
    for (fields, code, hint) in [
        (r#""topics":[]"#, BadFrame, "1024"),
        (r#""topics":["a","b"],"topic":"a""#, BadFrame, "either"),
        (r#""topics":null"#, BadFrame, "`topic`"),
        (r#""topics":["a","b","a"]"#, BadFrame, "twice"),
        (r#""topics":["a..","a.."]"#, BadFrame, "twice"),
        (r#""topics":"a""#, BadFrame, "`topics`"),
        (r#""topics":{"a":1}"#, BadFrame, "`topics`"),
        (r#""topics":["a",1]"#, BadFrame, "`topics`"),
        (r#""topics":["a"],"topics":["b"]"#, BadFrame, "twice"),
        (
            r#""topics":["a"],"producer":"p","seq":1"#,
            BadFrame,
            "`seqs`",
        ),
        (r#""topics":["a"],"producer":"p""#, BadFrame, "together"),
        (r#""topics":["a"],"seqs":[1]"#, BadFrame, "together"),
        (r#""topics":["a"],"producer":"p","seqs":[]"#, BadFrame, "0"),
        (
            r#""topics":["a"],"producer":"p","seqs":[1,2]"#,
            BadFrame,
            "2",
        ),
        (
            r#""topics":["a"],"producer":"p","seqs":[0]"#,
            BadFrame,
            "1, 2, 3",
        ),
        (
            r#""topics":["a"],"producer":"p","seqs":[-1]"#,
            BadFrame,
            "`seqs`",
        ),
        (
            r#""topics":["a"],"producer":"p","seqs":["1"]"#,
            BadFrame,
            "`seqs`",
        ),
        (
            r#""topics":["a"],"producer":"p","seqs":1"#,
            BadFrame,
            "`seqs`",
        ),
        (
            r#""topics":["a"],"producer":"","seqs":[1]"#,
            BadFrame,
            "64 bytes",
        ),
        (
            r#""topics":["a"],"producer":"p","seqs":[1],"message_id":"m""#,
            BadFrame,
            "not both",
        ),
        (r#""topics":["a"],"message_id":"""#, BadFrame, "64 bytes"),
        (
            r#""topic":"a","producer":"p","seqs":[1]"#,
            BadFrame,
            "`topics`",
        ),
        (
            r#""topic":"a","producer":"p","seq":1,"seqs":[1]"#,
            BadFrame,
            "`topics`",
        ),
        (r#""topics":["a"],"headers":{"":"x"}"#, BadFrame, "empty"),
    ] {
        assert_refused(&publish(fields), Some(7), code, hint);
    }
    assert_refused(
        r#"{"type":"publish","id":7,"topics":["a"]}"#,
        Some(7),
        BadFrame,
        "`data`",
    );

    let topics = |n: usize| {
        let topics: Vec<String> = (0..n).map(|at| format!(r#""t{at}""#)).collect();
        format!(r#""topics":[{}]"#, topics.join(","))
    };
    assert!(read(publish(&topics(1024))).is_ok());
    assert_refused(&publish(&topics(1025)), Some(7), TooLarge, "1025");
    let seqs = format!(
        "{},\"producer\":\"p\",\"seqs\":[1{}]",
        topics(1),
        ",1".repeat(1024)
    );
    assert_refused(&publish(&seqs), Some(7), TooLarge, "1025");
}

#[test]
fn a_topic_that_is_none_is_refused_alone() {
    let text =
        r#"{"type":"publish","topics":["a","b..","$sys.x"],"data":1,"seqs":null,"topic":null}"#;
    let Ok(ClientFrame::PublishAll { id: None, publish }) = read(text) else {
        panic!("{text} was refused");
    };
    let legal: Vec<bool> = publish
        .topics()
        .iter()
        .map(|topic| topic.topic().is_ok())
        .collect();
    assert_eq!(legal, [true, false, false]);
    // A topic that a subscription names is still one.
    assert!(read(r#"{"type":"subscribe","topic":"a","topics":["b","b"]}"#).is_ok());
}

#[test]
fn receipts_are_one_or_the_other() {
    let read = |receipt: &str| {
        let text = format!(r#"{{"type":"published_all","id":1,"receipts":[{receipt}]}}"#);
        codec::decode_server(&text.into(), Subprotocol::Json)
    };
    assert!(read(r#"{"topic":"a","cursor":"1:1","duplicate":true,"new":[1]}"#).is_ok());
    assert!(read(r#"{"topic":"a","code":"tired","message":"…"}"#).is_ok());
    for bad in [
        r#"{"topic":"a"}"#,
        r#"{"topic":"a","cursor":"1:1"}"#,
        r#"{"topic":"a","code":"busy"}"#,
        r#"{"topic":"a","cursor":"1:1","duplicate":true,"code":"busy","message":""}"#,
        r#"{"cursor":"1:1","duplicate":true}"#,
        r#"{"topic":"a","cursor":"1","duplicate":true}"#,
        "1",
    ] {
        assert!(read(bad).is_err(), "{bad} was taken");
    }
}

#[test]
fn base64_may_come_without_its_padding() {
    let with = read(r#"{"type":"publish","topic":"a","data_base64":"AAE="}"#).unwrap();
    assert_eq!(
        read(r#"{"type":"publish","topic":"a","data_base64":"AAE"}"#),
        Ok(with)
    );
}

#[test]
fn a_kept_message_does_not_hold_on_to_its_frame() {
    for (text, len) in [
        (r#"{"type":"publish","topic":"a","data":{"a":1}}"#, 7),
        (
            "{\"type\":\"publish\",\"topic\":\"a\",\"data\":{\r\n\"a\":\n1}}",
            7,
        ),
        (r#"{"type":"publish","topic":"a","text":"hello"}"#, 5),
    ] {
        let frame = Bytes::from(text);
        let Ok(ClientFrame::Publish { message, .. }) =
            codec::decode_client(&frame, Subprotocol::Json)
        else {
            panic!("{text} was refused");
        };
        assert_eq!(message.payload.len(), len, "line breaks are taken out");
        let kept = match message.payload {
            hark_protocol::Payload::Json(json) => json.as_bytes().clone(),
            hark_protocol::Payload::Bytes { data, .. } => data,
        };
        assert!(
            !frame.as_ptr_range().contains(&kept.as_ptr()),
            "the payload is a copy"
        );
    }
}

#[test]
fn binary_frames() {
    let cases: &[(&[u8], Option<u64>, ErrorCode, &str)] = &[
        (b"", None, BadFrame, "empty"),
        (b"\x00", None, BadFrame, "0x00"),
        (b"\x08", None, BadFrame, "0x08"),
        (b"\x06\x01\x07\x00", Some(7), BadFrame, "bincode"),
        (b"\x8b\x00", None, BadFrame, "0x8b"),
        (b"{\"type\":\"ping\"}", None, BadFrame, "0x7b"),
        (b"\x05", None, BadFrame, "bincode"),
        (b"\x05\x02", None, BadFrame, "bincode"),
        (b"\x05\x01\x07\x00", Some(7), BadFrame, "3 bytes follow"),
        (b"\x03\x01\x07\x02ab\x00", Some(7), BadFrame, "5 bytes"),
        (b"\x03\x01\x07\x02\xff\xff", Some(7), BadFrame, "bincode"),
        (b"\x03\x01\x07\x03a b", Some(7), BadTopic, "' '"),
        (b"\x02\x01\x07\x01a\x05later", Some(7), BadCursor, "later"),
        (
            b"\x02\x01\x07\x01a\x06last:x",
            Some(7),
            BadCursor,
            "last:50",
        ),
        // A publish: id, topic, kind, payload, content type, headers, producer, seq, message_id.
        (
            b"\x04\x01\x07\x02$a\x01\x011\0\0\0\0\0",
            Some(7),
            BadTopic,
            "system",
        ),
        (
            b"\x04\x01\x07\x01a\x01\x02{]\0\0\0\0\0",
            Some(7),
            BadFrame,
            "JSON",
        ),
        (
            b"\x04\x01\x07\x01a\x01\x011\x01\x01t\0\0\0\0",
            Some(7),
            BadFrame,
            "kind 1 is JSON",
        ),
        (
            b"\x04\x01\x07\x01a\x02\x011\0\0\0\0\0",
            Some(7),
            BadFrame,
            "kind 2",
        ),
        (
            b"\x04\x01\x07\x01a\x01\x011\0\0\x01\x01p\0\0",
            Some(7),
            BadFrame,
            "together",
        ),
        (
            b"\x04\x01\x07\x01a\x01\x011\0\x01\0\0\0\0\0",
            Some(7),
            BadFrame,
            "empty",
        ),
        (
            b"\x04\x01\x07\x01a\x01\x011\0\0\x01\x01p\x01\0\0",
            Some(7),
            BadFrame,
            "1, 2, 3",
        ),
    ];
    for (bytes, id, code, hint) in cases {
        let error = read_binary(bytes).expect_err(hint);
        assert_eq!(
            (error.id, error.code),
            (*id, *code),
            "{bytes:02x?}: {error}"
        );
        assert!(
            error.message.contains(hint),
            "{bytes:02x?}: {error} does not say {hint:?}"
        );
    }
}

#[test]
fn what_a_newer_hark_says() {
    let read_json =
        |text: &'static str| codec::decode_server(&Bytes::from(text), Subprotocol::Json);
    let code = |frame: Result<ServerFrame, FrameError>| match frame {
        Ok(ServerFrame::Error { code, .. }) => code,
        other => panic!("{other:?} is no error frame"),
    };
    // A code or a reason that this build does not know is `Unknown`: the error is one all the same, and so is the gap.
    assert_eq!(
        code(read_json(
            r#"{"type":"error","code":"tired","message":"…"}"#
        )),
        ErrorCode::Unknown
    );
    let binary = Bytes::from_static(b"\x89\x00\x05tired\x00\x00\x00");
    assert_eq!(
        code(codec::decode_server(&binary, Subprotocol::Bincode)),
        ErrorCode::Unknown
    );
    for reason in GapReason::ALL {
        let text = format!(
            r#"{{"type":"gap","topic":"a","reason":"{}","cursor":"1:1"}}"#,
            reason.as_str()
        );
        assert!(codec::decode_server(&text.into(), Subprotocol::Json).is_ok());
    }
    let tired = Ok(ServerFrame::Gap {
        topic: "a".parse().unwrap(),
        reason: GapReason::Unknown,
        from: None,
        to: None,
        cursor: "1:1".parse().unwrap(),
    });
    let text = r#"{"type":"gap","topic":"a","reason":"tired","cursor":"1:1"}"#;
    assert_eq!(read_json(text), tired);
    let binary = Bytes::from_static(b"\x86\x01a\x05tired\x00\x00\x031:1");
    assert_eq!(codec::decode_server(&binary, Subprotocol::Bincode), tired);
    let newer = read_json(r#"{"type":"pong","id":1,"load":0.5}"#);
    assert_eq!(newer, Ok(ServerFrame::Pong { id: Some(1) }));
}
