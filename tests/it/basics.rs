//! The main thing, on one page: subscribe, publish, receive, in both subprotocols at one URL.

use hark_protocol::Subprotocol;
use hark_tests::{Broker, Op, RawWs, Ws};
use serde_json::{Value, json};

#[tokio::test]
async fn a_message_goes_from_one_client_to_another() {
    let broker = Broker::start();
    let mut ana = Ws::connect(&broker).await;
    let subscribed = ana.subscribe("orders.eu", json!("now")).await;
    assert_eq!(
        ana.expect("caught_up").await["cursor"],
        subscribed["cursor"]
    );
    let mut ben = Ws::connect(&broker).await;

    let receipt = ben
        .publish("orders.eu", json!({"any": ["json", 1, null, "ü\n"]}))
        .await;

    let message = ana.message().await;
    assert_eq!(message["topic"], "orders.eu");
    assert_eq!(message["offset"], 1);
    assert_eq!(message["data"], json!({"any": ["json", 1, null, "ü\n"]}));
    assert!(
        message["time"]
            .as_u64()
            .is_some_and(|ms| ms > 1_700_000_000_000),
        "milliseconds since 1970: {message}"
    );
    assert_eq!(receipt["topic"], "orders.eu");
    assert_eq!(receipt["duplicate"], false);
    let epoch = subscribed["cursor"]
        .as_str()
        .unwrap()
        .split(':')
        .next()
        .unwrap();
    assert_eq!(receipt["cursor"], format!("{epoch}:1"));
    ana.expect_quiet().await;
    ben.expect_quiet().await;
}

#[tokio::test]
async fn frames_have_the_fields_of_the_wire_and_no_others() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let fields = |frame: &Value| {
        frame
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let sorted = |text: &str| {
        let mut names: Vec<_> = text.split(' ').collect();
        names.sort_unstable();
        names.join(" ")
    };

    let subscribed = ws.subscribe("a", json!("now")).await;
    let caught_up = ws.expect("caught_up").await;
    let receipt = ws.publish("a", json!(1)).await;
    let message = ws.message().await;
    let unsubscribed = ws.unsubscribe("a").await;

    assert_eq!(
        fields(&ws.welcome),
        sorted("type session version heartbeat_ms max_message_bytes max_inflight")
    );
    assert_eq!(
        fields(&subscribed),
        sorted("type id topic cursor head resumed")
    );
    assert_eq!(fields(&caught_up), sorted("type topic cursor"));
    assert_eq!(fields(&receipt), sorted("type id topic cursor duplicate"));
    assert_eq!(fields(&message), sorted("type topic offset time data"));
    assert_eq!(fields(&unsubscribed), sorted("type id topic"));
}

#[tokio::test]
async fn both_subprotocols_see_each_others_messages() {
    let broker = Broker::start();
    let mut json_client = Ws::connect_as(&broker, Subprotocol::Json).await;
    let mut binary_client = Ws::connect_as(&broker, Subprotocol::Bincode).await;
    for ws in [&mut json_client, &mut binary_client] {
        ws.subscribe("a", json!("now")).await;
        ws.expect("caught_up").await;
    }
    let contents = [
        json!({"data": {"deep": [1, 2.5, "x"]}}),
        json!({"data": null}),
        json!({"data": "text", "headers": {"trace": "abc", "tenant": "ü"}}),
        json!({"data_base64": "AP/+gA=="}),
        json!({"data_base64": "aGFyaw==", "content_type": "image/png"}),
        json!({"text": "hark\n", "content_type": "text/plain"}),
        json!({"data_base64": "", "headers": {"empty": ""}}),
    ];

    for (at, content) in contents.iter().enumerate() {
        let mut frame = content.clone();
        frame["topic"] = json!("a");
        let from = if at % 2 == 0 {
            &mut json_client
        } else {
            &mut binary_client
        };
        from.publish_frame(frame).await;
    }

    for ws in [&mut json_client, &mut binary_client] {
        for (offset, content) in (1..).zip(&contents) {
            let mut message = ws.message().await;
            assert_eq!(message["offset"], offset);
            for field in ["type", "topic", "offset", "time"] {
                message
                    .as_object_mut()
                    .unwrap()
                    .remove(field)
                    .expect("a message has it");
            }
            assert_eq!(&message, content);
        }
        ws.expect_quiet().await;
    }
}

#[tokio::test]
async fn the_publisher_can_subscribe_to_its_own_topic() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.subscribe("me", json!("now")).await;
    ws.expect("caught_up").await;

    ws.publish("me", json!(1)).await;

    assert_eq!(ws.message().await["data"], 1);
    ws.expect_quiet().await;
}

#[tokio::test]
async fn one_session_has_many_topics() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["a", "b", "c"] {
        ws.subscribe(topic, json!("now")).await;
        ws.expect("caught_up").await;
    }

    for topic in ["c", "a", "b", "unheard"] {
        ws.publish(topic, json!(topic)).await;
        if topic != "unheard" {
            let message = ws.message().await;
            assert_eq!(
                (&message["topic"], &message["data"]),
                (&json!(topic), &json!(topic))
            );
            assert_eq!(message["offset"], 1, "each topic counts for itself");
        }
    }
    ws.expect_quiet().await;
}

#[tokio::test]
async fn unsubscribed_is_the_last_of_a_topic() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.subscribe("a", json!("now")).await;
    ws.expect("caught_up").await;
    ws.publish("a", json!(1)).await;

    ws.unsubscribe("a").await;
    ws.publish("a", json!(2)).await;

    assert_eq!(ws.message().await["data"], 1);
    ws.expect_quiet().await;
}

#[tokio::test]
async fn a_publish_without_id_wants_no_receipt() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.subscribe("a", json!("now")).await;
    ws.expect("caught_up").await;

    ws.send(&json!({"type": "publish", "topic": "a", "data": 1}))
        .await;
    let second = ws.publish("a", json!(2)).await;

    assert_eq!(ws.message().await["data"], 1);
    assert_eq!(ws.message().await["data"], 2);
    assert!(second["cursor"].as_str().unwrap().ends_with(":2"));
    ws.expect_quiet().await;
}

#[tokio::test]
async fn receipts_come_in_order_with_many_in_flight() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;

    // More than `max_inflight` are sent before the first answer is looked for.
    let receipts = ws
        .publish_all((0..3000).map(|n| json!({"topic": "a", "data": n})), 3000)
        .await;

    for (offset, receipt) in (1..).zip(&receipts) {
        assert_eq!(receipt["type"], "published", "{receipt}");
        assert!(
            receipt["cursor"]
                .as_str()
                .unwrap()
                .ends_with(&format!(":{offset}")),
            "{receipt}"
        );
    }
    let history = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    assert_eq!(
        history.data(),
        (0..3000).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn json_is_passed_on_as_it_was_written() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut raw = RawWs::connect(&broker);
    raw.send_json(&json!({"type": "subscribe", "topic": "a"}));
    assert_eq!(raw.read_json()["type"], "subscribed");
    assert_eq!(raw.read_json()["type"], "caught_up");

    // Large numbers, exponents, escapes, key order and doubled keys are the publisher's business; a line break is not.
    let data = r#"{"z":1e400,"a":123456789012345678901234567890,"z":"\u00fc\/",  "k":[ ]}"#;
    let broken = data.replace("  ", "\r\n \n");
    ws.send_text(&format!(
        r#"{{"type":"publish","topic":"a","data":{broken}}}"#
    ))
    .await;

    let (op, payload) = raw.read_frame();
    assert_eq!(op, Op::TEXT);
    let text = String::from_utf8(payload).unwrap();
    let kept = broken.replace(['\r', '\n'], "");
    assert!(text.contains(&kept), "{text} does not hold {kept}");
}

#[tokio::test]
async fn pings_are_answered_at_both_levels() {
    let broker = Broker::start();
    let mut raw = RawWs::connect(&broker);

    raw.send(Op::PING, b"are you there");
    assert_eq!(raw.read_frame(), (Op::PONG, b"are you there".to_vec()));

    raw.send_json(&json!({"type": "ping", "id": 5}));
    assert_eq!(raw.read_json(), json!({"type": "pong", "id": 5}));
    raw.send_json(&json!({"type": "ping"}));
    assert_eq!(raw.read_json()["type"], "pong");
}

#[tokio::test]
async fn hark_pings_and_ends_who_does_not_answer() {
    let broker = hark_tests::Setup::new().flag("heartbeat", "1s").start();
    let mut silent = RawWs::connect(&broker);
    let mut lively = Ws::connect(&broker).await;
    lively.subscribe("a", json!("now")).await;
    lively.expect("caught_up").await;

    let (op, _) = silent.read_frame();
    assert_eq!(op, Op::PING);
    // It reads, but says nothing, not even a pong: 4500, connect again.
    let end = tokio::task::spawn_blocking(move || silent.expect_close());
    let reading = async {
        // Who answers pings (the library does, while it reads) is not ended.
        lively.expect("message").await
    };
    let watch = async {
        let code = end.await.unwrap();
        Ws::connect(&broker).await.publish("a", json!("over")).await;
        code
    };
    let (message, code) = tokio::join!(reading, watch);
    assert_eq!(code, 4500);
    assert_eq!(message["data"], "over");
}

#[tokio::test]
async fn a_close_is_answered() {
    let broker = Broker::start();

    for payload in [
        &1000_u16.to_be_bytes()[..],
        &1001_u16.to_be_bytes(),
        b"\x03\xe8bye",
        b"",
    ] {
        let mut raw = RawWs::connect(&broker);
        raw.send(Op::CLOSE, payload);
        assert_eq!(raw.read_frame().0, Op::CLOSE, "{payload:?}");
        raw.expect_end();
    }
}

#[tokio::test]
async fn any_id_is_echoed() {
    let broker = Broker::start();
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        for id in [0, 1, 1 << 53, u64::MAX] {
            ws.send(&json!({"type": "publish", "id": id, "topic": "a", "data": null}))
                .await;
            let receipt = ws.expect("published").await;
            assert_eq!(receipt["id"], id, "{receipt}");
        }
    }
}
