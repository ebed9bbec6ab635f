//! Whatever comes from the network: what is answered, what ends the session and with which code, and that nothing else
//! suffers.

use std::time::Instant;

use hark_protocol::{MAX_FRAME_BYTES, Subprotocol};
use hark_tests::{Broker, DEADLINE, Op, RawWs, Ws, until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// Sends each text in turn and checks that it is refused with its code, that the session goes on, and that a message
/// published before and one published after arrive.
async fn refused(cases: &[(&str, &str)]) {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut other = Ws::connect(&broker).await;
    ws.subscribe("a", json!("now")).await;
    ws.expect("caught_up").await;

    for (text, code) in cases {
        other.publish("a", json!("before")).await;
        ws.send_text(text).await;
        // The two have nothing to do with each other and come in any order.
        let (mut message, mut error) = (ws.recv().await, ws.recv().await);
        if message["type"] == "error" {
            std::mem::swap(&mut message, &mut error);
        }
        assert_eq!(message["data"], "before", "{text} was answered {error}");
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{text} was answered {error}"
        );
        assert!(
            error["message"].as_str().is_some_and(|m| !m.is_empty()),
            "no sentence for people: {error}"
        );
        other.publish("a", json!("after")).await;
        assert_eq!(ws.message().await["data"], "after");
        ws.expect_quiet().await; // A good command, so that bad ones are never ten in a row.
    }
}

#[tokio::test]
async fn a_text_that_is_no_frame_is_answered_and_the_session_goes_on() {
    refused(&[
        ("", "bad_frame"),
        ("hello", "bad_frame"),
        ("{", "bad_frame"),
        (r#"{"type":"ping"} trailing"#, "bad_frame"),
        (r#"{"type":"ping"}{"type":"ping"}"#, "bad_frame"),
        ("null", "bad_frame"),
        ("[]", "bad_frame"),
        ("17", "bad_frame"),
        ("{}", "bad_frame"),
        (r#"{"id":1}"#, "bad_frame"),
        (r#"{"type":null}"#, "bad_frame"),
        (r#"{"type":"explode"}"#, "bad_frame"),
        (
            r#"{"type":"message","topic":"a","offset":1,"time":1,"data":1}"#,
            "bad_frame",
        ),
        (
            &format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
            "bad_frame",
        ),
    ])
    .await;
}

#[tokio::test]
async fn wrong_types_and_missing_fields_are_answered() {
    refused(&[
        (r#"{"type":"publish"}"#, "bad_frame"),
        (r#"{"type":"publish","topic":"a"}"#, "bad_frame"),
        (r#"{"type":"publish","data":1}"#, "bad_frame"),
        (r#"{"type":"publish","topic":7,"data":1}"#, "bad_frame"),
        (
            r#"{"type":"publish","topic":"a","data_base64":"%%%"}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","topic":"a","data_base64":5}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","topic":"a","data":1,"data_base64":"AA=="}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","topic":"a","data":1,"headers":[]}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","topic":"a","data":1,"headers":{"n":1}}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","topic":"a","data":1,"producer":"p"}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","topic":"a","data":1,"producer":"p","seq":"1"}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","topic":"a","data":1,"producer":"p","seq":-1}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","id":"x","topic":"a","data":1}"#,
            "bad_frame",
        ),
        (
            r#"{"type":"publish","id":-1,"topic":"a","data":1}"#,
            "bad_frame",
        ),
        (r#"{"type":"subscribe"}"#, "bad_frame"),
        (r#"{"type":"subscribe","topic":["a"]}"#, "bad_frame"),
        (r#"{"type":"unsubscribe"}"#, "bad_frame"),
    ])
    .await;
}

#[tokio::test]
async fn bad_topics_are_answered() {
    let long = format!(
        r#"{{"type":"publish","topic":"{}","data":1}}"#,
        "x".repeat(256)
    );
    refused(&[
        (r#"{"type":"publish","topic":"","data":1}"#, "bad_topic"),
        (r#"{"type":"publish","topic":"a..b","data":1}"#, "bad_topic"),
        (r#"{"type":"publish","topic":".a","data":1}"#, "bad_topic"),
        (r#"{"type":"publish","topic":"a b","data":1}"#, "bad_topic"),
        (r#"{"type":"publish","topic":"a/b","data":1}"#, "bad_topic"),
        (r#"{"type":"publish","topic":"ü","data":1}"#, "bad_topic"),
        (
            r#"{"type":"publish","topic":"a\u0000","data":1}"#,
            "bad_topic",
        ),
        (
            r#"{"type":"publish","topic":"$sys.x","data":1}"#,
            "bad_topic",
        ),
        (&long, "bad_topic"),
        (r#"{"type":"subscribe","topic":"a."}"#, "bad_topic"),
        (r#"{"type":"unsubscribe","topic":"a."}"#, "bad_topic"),
    ])
    .await;
}

#[tokio::test]
async fn bad_cursors_are_answered() {
    refused(&[
        (
            r#"{"type":"subscribe","topic":"b","from":{"after":"nonsense"}}"#,
            "bad_cursor",
        ),
        (
            r#"{"type":"subscribe","topic":"b","from":{"after":"a:-1"}}"#,
            "bad_cursor",
        ),
        (
            r#"{"type":"subscribe","topic":"b","from":{"after":"a:99999999999999999999"}}"#,
            "bad_cursor",
        ),
        (
            r#"{"type":"subscribe","topic":"b","from":{"after":""}}"#,
            "bad_cursor",
        ),
        (
            r#"{"type":"subscribe","topic":"b","from":{"since":"yesterday"}}"#,
            "bad_cursor",
        ),
        (
            r#"{"type":"subscribe","topic":"b","from":{"since":"2026-13-01T00:00:00Z"}}"#,
            "bad_cursor",
        ),
        (
            r#"{"type":"subscribe","topic":"b","from":"soon"}"#,
            "bad_cursor",
        ),
    ])
    .await;
}

#[tokio::test]
async fn the_answer_carries_the_id_of_the_command() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;

    for (command, code) in [
        (
            json!({"type": "publish", "topic": "a b", "data": 1}),
            "bad_topic",
        ),
        (
            json!({"type": "publish", "topic": "$sys", "data": 1}),
            "bad_topic",
        ),
        (json!({"type": "publish", "topic": "a"}), "bad_frame"),
        (json!({"type": "explode"}), "bad_frame"),
        (
            json!({"type": "subscribe", "topic": "a", "from": {"after": "?"}}),
            "bad_cursor",
        ),
        (
            json!({"type": "unsubscribe", "topic": "a"}),
            "not_subscribed",
        ),
    ] {
        let error = ws.ask(command.clone()).await;
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{command}"
        );
    }
}

#[tokio::test]
async fn a_second_subscribe_is_refused_and_the_first_goes_on() {
    let broker = Broker::start();
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let topic = subprotocol.name();
        let mut seen = ws.watch(topic, json!("now")).await;
        ws.publish(topic, json!(1)).await;

        let error = ws
            .ask(json!({"type": "subscribe", "topic": topic, "from": "earliest"}))
            .await;
        ws.publish(topic, json!(2)).await;

        assert_eq!(error["code"], "already_subscribed", "{error}");
        ws.follow(&mut seen, |seen| seen.position == 2).await;
        seen.expect([1, 2]);
        ws.unsubscribe(topic).await;
        ws.expect_quiet().await;
    }
}

#[tokio::test]
async fn ten_bad_frames_in_a_row_end_the_session_and_nine_do_not() {
    let broker = Broker::start();
    for subprotocol in Subprotocol::ALL {
        let bad = || match subprotocol {
            Subprotocol::Json => Message::text("nonsense"),
            Subprotocol::Bincode => Message::binary(vec![0xff; 16]),
        };
        let mut ws = Ws::connect_as(&broker, subprotocol).await;

        for _ in 0..3 {
            for _ in 0..9 {
                ws.send_message(bad()).await;
                assert_eq!(ws.expect("error").await["code"], "bad_frame");
            }
            ws.expect_quiet().await;
        }
        for _ in 0..10 {
            ws.send_message(bad()).await;
        }

        assert_eq!(ws.expect_close().await.code, Some(4400));
    }
}

#[tokio::test]
async fn any_bytes_on_the_binary_subprotocol_get_an_answer() {
    let broker = Broker::start();
    let mut ws = Ws::connect_as(&broker, Subprotocol::Bincode).await;
    let mut good = Ws::connect_as(&broker, Subprotocol::Bincode).await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;

    for len in 0..200 {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                // xorshift: any bytes, and the same ones each time.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        ws.send_message(Message::binary(bytes.clone())).await;
        let id = ws.new_id();
        ws.send(&json!({"type": "ping", "id": id})).await;
        // Random bytes may even be a good command; then that is answered, or nothing is.
        ws.answer(id).await;
    }
    good.publish("a", json!("still here")).await;
}

#[tokio::test]
async fn a_frame_of_the_wrong_kind_ends_the_session() {
    let broker = Broker::start();

    let mut json_client = Ws::connect(&broker).await;
    json_client
        .send_message(Message::binary(br#"{"type":"ping"}"#.to_vec()))
        .await;
    assert_eq!(json_client.expect_close().await.code, Some(1003));

    let mut binary_client = Ws::connect_as(&broker, Subprotocol::Bincode).await;
    binary_client
        .send_message(Message::text(r#"{"type":"ping"}"#))
        .await;
    assert_eq!(binary_client.expect_close().await.code, Some(1003));
}

#[tokio::test]
async fn text_that_is_not_utf8_ends_the_session() {
    let broker = Broker::start();
    let whole: &[u8] = b"{\"type\":\"ping\",\"x\":\"\xff\xfe\"}";

    let mut raw = RawWs::connect(&broker);
    raw.send(Op::TEXT, whole);
    assert_eq!(raw.expect_close(), 1007);

    let mut raw = RawWs::connect(&broker);
    raw.send_fragment(Op::TEXT, false, &whole[..21]);
    raw.send_fragment(Op::CONTINUATION, true, &whole[21..]);
    assert_eq!(raw.expect_close(), 1007, "in fragments");
}

#[tokio::test]
async fn violations_of_the_websocket_protocol_end_the_session() {
    let broker = Broker::start();
    let ping = br#"{"type":"ping"}"#;
    type Violation = fn(&mut RawWs, &[u8]);
    let violations: [(&str, Violation); 12] = [
        ("RSV1", |raw, ping| raw.send_with_first_byte(0xc1, ping)),
        ("RSV2", |raw, ping| raw.send_with_first_byte(0xa1, ping)),
        ("RSV3", |raw, ping| raw.send_with_first_byte(0x91, ping)),
        ("reserved data kind 3", |raw, ping| {
            raw.send_with_first_byte(0x83, ping)
        }),
        ("reserved control kind 11", |raw, _| {
            raw.send_with_first_byte(0x8b, b"")
        }),
        ("reserved control kind 15", |raw, _| {
            raw.send_with_first_byte(0x8f, b"")
        }),
        ("no mask", |raw, ping| raw.send_unmasked(Op::TEXT, ping)),
        ("a control frame of 126 bytes", |raw, _| {
            raw.send(Op::PING, &[0; 126])
        }),
        ("a control frame in fragments", |raw, _| {
            raw.send_fragment(Op::PING, false, b"x")
        }),
        ("a continuation of nothing", |raw, ping| {
            raw.send_fragment(Op::CONTINUATION, true, ping)
        }),
        ("a new message within fragments", |raw, ping| {
            raw.send_fragment(Op::TEXT, false, b"{");
            raw.send(Op::TEXT, ping);
        }),
        ("a close code that must not be sent", |raw, _| {
            raw.send(Op::CLOSE, &1005_u16.to_be_bytes())
        }),
    ];

    let codes = violations.map(|(name, violate)| {
        let mut raw = RawWs::connect(&broker);
        violate(&mut raw, ping);
        (name, raw.expect_close())
    });

    assert_eq!(codes, violations.map(|(name, _)| (name, 1002)));
    Ws::connect(&broker).await.expect_quiet().await;
}

#[tokio::test]
async fn fragments_make_one_message_and_a_ping_may_come_between() {
    let broker = Broker::start();
    let mut raw = RawWs::connect(&broker);
    let text = r#"{"type":"publish","id":1,"topic":"a","data":"grüße"}"#.as_bytes();
    let umlaut = text.iter().position(|byte| *byte == 0xc3).unwrap();

    raw.send_fragment(Op::TEXT, false, &text[..5]);
    raw.send(Op::PING, b"between");
    assert_eq!(raw.read_frame(), (Op::PONG, b"between".to_vec()));
    raw.send_fragment(Op::CONTINUATION, false, &text[5..=umlaut]); // cuts a character in two
    raw.send_fragment(Op::CONTINUATION, false, b"");
    raw.send_fragment(Op::CONTINUATION, true, &text[umlaut + 1..]);

    assert_eq!(raw.read_json()["type"], "published");
    let history = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    assert_eq!(history.data(), [r#""grüße""#]);
}

/// A publish whose frame has exactly this many bytes.
fn publish_of(frame_bytes: usize) -> String {
    let empty = json!({"type": "publish", "id": 1, "topic": "a", "data": ""}).to_string();
    let data = "x".repeat(frame_bytes - empty.len());
    json!({"type": "publish", "id": 1, "topic": "a", "data": data}).to_string()
}

#[tokio::test]
async fn a_frame_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let broker = Broker::start();
    let mut reader = Ws::connect(&broker).await;
    let mut seen = reader.watch("a", json!("now")).await;

    let mut raw = RawWs::connect(&broker);
    raw.send(Op::TEXT, publish_of(MAX_FRAME_BYTES).as_bytes());
    assert_eq!(raw.read_json()["type"], "published");
    let mut over = RawWs::connect(&broker);
    over.send(Op::TEXT, publish_of(MAX_FRAME_BYTES + 1).as_bytes());
    assert_eq!(over.expect_close(), 1009);

    reader.follow(&mut seen, |seen| seen.position == 1).await;
    let late = reader_of_history(&broker).await;
    assert_eq!(seen.messages, late, "the same live and from the log");
    reader.expect_quiet().await;
}

async fn reader_of_history(broker: &Broker) -> Vec<(u64, String)> {
    Ws::connect(broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await
        .messages
}

#[tokio::test]
async fn fragments_at_the_limit_are_taken_and_one_byte_more_is_not() {
    let broker = Broker::start();

    for (bytes, taken) in [(MAX_FRAME_BYTES, true), (MAX_FRAME_BYTES + 1, false)] {
        let mut raw = RawWs::connect(&broker);
        let text = publish_of(bytes);
        let (start, rest) = text.as_bytes().split_at(400_000);
        let (middle, end) = rest.split_at(400_000);
        raw.send_fragment(Op::TEXT, false, start);
        raw.send_fragment(Op::CONTINUATION, false, middle);
        raw.send_fragment(Op::CONTINUATION, true, end);
        if taken {
            assert_eq!(raw.read_json()["type"], "published");
        } else {
            assert_eq!(raw.expect_close(), 1009);
        }
    }
}

/// Streams up to 200 MB at the broker, or until it hangs up, and gives the most memory it had resident meanwhile beyond
/// what it had before.
fn pour(broker: &Broker, raw: &mut RawWs, chunk: &[u8]) -> u64 {
    let before = broker.rss_bytes();
    let mut most = before;
    let end = Instant::now() + DEADLINE;
    for poured in 0..200_000_000 / chunk.len() {
        if raw.try_write(chunk).is_err() || Instant::now() > end {
            break;
        }
        if poured % 16 == 0 {
            most = most.max(broker.rss_bytes());
        }
    }
    most.max(broker.rss_bytes()) - before
}

/// What the broker may take for a frame it refuses: the limit of one message, and what its allocator rounds up to.
const BOUNDED: u64 = 24 << 20;

#[tokio::test]
async fn a_frame_that_announces_two_to_the_62_bytes_is_refused_at_its_header() {
    let broker = Broker::start();
    let mut polite = RawWs::connect(&broker);
    polite.announce(Op::TEXT, 1 << 62);
    assert_eq!(polite.expect_close(), 1009, "before any of its bytes");

    let mut rude = RawWs::connect(&broker);
    rude.announce(Op::BINARY, 1 << 62);
    let grown = pour(&broker, &mut rude, &[0; 256 * 1024]);

    assert!(grown < BOUNDED, "the broker grew by {grown} bytes");
    Ws::connect(&broker)
        .await
        .publish("a", json!("still here"))
        .await;
}

#[tokio::test]
async fn fragments_without_end_are_bounded() {
    let broker = Broker::start();
    for (name, size) in [("large", 100_000), ("small", 100), ("empty", 0)] {
        let mut raw = RawWs::connect(&broker);
        raw.send_fragment(Op::TEXT, false, b"{");
        let fragment = RawWs::fragment(Op::CONTINUATION, false, &vec![b'x'; size]);
        let chunk = fragment.repeat(256 * 1024 / fragment.len() + 1);
        let grown = pour(&broker, &mut raw, &chunk);
        assert!(
            grown < BOUNDED,
            "the broker grew by {grown} bytes over {name} fragments"
        );
    }

    let mut polite = RawWs::connect(&broker);
    polite.send_fragment(Op::TEXT, false, &[b'x'; 600_000]);
    polite.send_fragment(Op::CONTINUATION, false, &[b'x'; 600_000]);
    assert_eq!(polite.expect_close(), 1009);
    Ws::connect(&broker)
        .await
        .publish("a", json!("still here"))
        .await;
}

#[tokio::test]
async fn a_header_that_never_ends_holds_nothing_up() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let half: Vec<RawWs> = (0..50)
        .map(|n| {
            let mut raw = RawWs::connect(&broker);
            raw.write(&[0x81, 0xff, 0, 0, 0][..1 + n % 5]);
            raw
        })
        .collect();

    ws.publish("a", json!(1)).await;

    drop(half);
    ws.publish("a", json!(2)).await;
}

#[tokio::test]
async fn a_session_that_vanishes_leaves_nothing_behind() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let files = || {
        std::fs::read_dir(format!("/proc/{}/fd", broker.pid()))
            .unwrap()
            .count()
    };
    ws.publish("a", json!(0)).await;
    let before = files();

    for n in 0..50 {
        let mut raw = RawWs::connect(&broker);
        raw.send_json(&json!({"type": "subscribe", "topic": "a", "from": "earliest"}));
        if n % 2 == 0 {
            raw.announce(Op::TEXT, 1000); // and leaves in the middle of it
        }
        drop(raw);
    }

    until("the broker has closed its ends", async || {
        (files() <= before).then_some(())
    })
    .await;
    ws.publish("a", json!(1)).await;
}

#[tokio::test]
async fn many_bad_commands_do_not_cost_what_stands_between_them() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut seen = Ws::connect(&broker).await;
    let mut watch = seen.watch("a", json!("now")).await;

    for n in 0..500 {
        ws.send_text("nonsense").await;
        ws.send(&json!({"type": "publish", "topic": "a", "data": n}))
            .await;
    }

    seen.follow(&mut watch, |seen| seen.position == 500).await;
    assert_eq!(
        watch.data(),
        (0..500).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    let errors = async {
        let mut errors = 0;
        while errors < 500 {
            let frame: Value = ws.recv().await;
            assert_eq!(frame["code"], "bad_frame", "{frame}");
            errors += 1;
        }
    };
    errors.await;
    ws.expect_quiet().await;
}
