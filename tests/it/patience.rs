//! Who is silent, and who only seems so: a client that sends slowly, and everybody in front of a broker that stood still itself.

use std::time::Duration;

use futures_util::future::join_all;
use hark_tests::{Op, RawWs, Setup, Ws, pause};
use serde_json::json;

/// Every byte is a sign of life, though the client never answers a ping and never comes to the end of a message.
#[test]
fn whoever_sends_slowly_is_not_silent() {
    let broker = Setup::new().flag("heartbeat", "2s").start();
    let mut slow = RawWs::connect(&broker);
    let publish = json!({"type": "publish", "id": 1, "topic": "a", "data": "x".repeat(1000)});
    let frame = RawWs::fragment(Op::TEXT, true, publish.to_string().as_bytes());

    // Twice as long as silence is put up with.
    for piece in frame.chunks(frame.len().div_ceil(40)) {
        slow.write(piece);
        pause(Duration::from_millis(250));
    }

    assert_eq!(slow.read_json()["type"], "published");
    assert_eq!(slow.expect_close(), 4500, "when it really is silent");
}

/// As in a virtual machine that is paused: for the broker all have been silent for as long as it stood still.
#[tokio::test]
async fn a_broker_that_stood_still_ends_nobody_who_answers() {
    let broker = Setup::new().flag("heartbeat", "1s").start();
    let mut lively = Vec::new();
    for _ in 0..20 {
        let mut ws = Ws::connect(&broker).await;
        ws.subscribe("a", json!("now")).await;
        ws.expect("caught_up").await;
        lively.push(ws);
    }
    let mut mute = RawWs::connect(&broker);

    broker.signal("STOP");
    tokio::time::sleep(Duration::from_secs(5)).await;
    broker.signal("CONT");

    // Who does not answer is ended all the same: so verdicts have fallen.
    let end = tokio::task::spawn_blocking(move || mute.expect_close());
    let watch = async {
        let code = end.await.unwrap();
        Ws::connect(&broker).await.publish("a", json!("over")).await;
        code
    };
    let messages = join_all(lively.iter_mut().map(Ws::message));
    let (messages, code) = tokio::join!(messages, watch);
    assert_eq!(code, 4500);
    assert!(messages.iter().all(|message| message["data"] == "over"));
}

#[test]
fn a_broker_that_stood_still_waits_for_the_rest_of_a_body() {
    let broker = Setup::new().flag("stall-timeout", "3s").start();
    let mut raw = RawWs::connect_bare(&broker, None);
    let head =
        "POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    raw.write(format!("{head}1").as_bytes());
    // So that it has been read when the broker stands still.
    broker.http().get("/healthz").ok();

    broker.signal("STOP");
    pause(Duration::from_secs(6));
    broker.signal("CONT");
    pause(Duration::from_millis(500));
    raw.write(b"2");

    let answer = raw.read_response();
    assert_eq!(answer.status, 200, "{answer:#?}");
}
