//! The end of a session, whoever brings it about: every whole frame that arrived before it is handed to its room, and answered as far as
//! somebody is there to hear it.

use std::time::Duration;

use hark_tests::{Broker, Op, Preload, RawWs, Setup, Ws, until};
use serde_json::{Value, json};

/// The frames of publishes with these ids, one behind the other.
fn publishes(ids: impl Iterator<Item = u64>) -> Vec<u8> {
    ids.flat_map(|id| {
        let publish = json!({"type": "publish", "id": id, "topic": "a", "data": id});
        RawWs::fragment(Op::TEXT, true, publish.to_string().as_bytes())
    })
    .collect()
}

fn close_frame() -> Vec<u8> {
    RawWs::fragment(Op::CLOSE, true, &1000_u16.to_be_bytes())
}

/// Reads receipts, in the order of their ids from 1, until the close frame; gives how many there were, and the code.
fn read_to_the_close(raw: &mut RawWs) -> (u64, u16) {
    let mut receipts = 0;
    loop {
        match raw.read_frame() {
            (Op::TEXT, text) => {
                let frame: Value = serde_json::from_slice(&text).unwrap();
                if frame["type"] == "goodbye" {
                    continue;
                }
                receipts += 1;
                assert_eq!(
                    (&frame["type"], &frame["id"]),
                    (&json!("published"), &json!(receipts)),
                    "{frame}"
                );
            }
            (Op::CLOSE, payload) => {
                return (receipts, u16::from_be_bytes([payload[0], payload[1]]));
            }
            (Op::PING, _) => {}
            other => panic!("a receipt or the end was expected, not {other:?}"),
        }
    }
}

/// Waits until this many are kept, and checks that they are those from 1, in their order.
async fn expect_kept(broker: &Broker, messages: u64) {
    until("all that arrived is kept", async || {
        let head = broker.http().get("/v1/topics/a").json()["head"].as_u64();
        (head == Some(messages)).then_some(())
    })
    .await;
    let expected: Vec<String> = (1..=messages).map(|id| id.to_string()).collect();
    let mut ws = Ws::connect(broker).await;
    let kept = ws.watch_to_caught_up("a", json!("earliest")).await;
    assert_eq!(kept.data(), expected);
}

#[tokio::test]
async fn what_is_published_right_before_a_close_is_kept_and_answered() {
    let broker = Broker::start();
    for session in 0..200_u64 {
        let mut raw = RawWs::connect(&broker);
        let publish = json!({"type": "publish", "id": 1, "topic": "a", "data": session + 1});
        let publish = RawWs::fragment(Op::TEXT, true, publish.to_string().as_bytes());
        if session % 2 == 0 {
            raw.write(&[publish, close_frame()].concat());
        } else {
            raw.write(&publish);
            raw.write(&close_frame());
        }
        assert_eq!(read_to_the_close(&mut raw), (1, 1000), "session {session}");
    }
    expect_kept(&broker, 200).await;
}

#[tokio::test]
async fn what_stands_behind_max_inflight_is_kept_and_answered_before_a_close() {
    let broker = Setup::new().flag("max-inflight", 4).start();
    let mut raw = RawWs::connect(&broker);
    raw.write(&[publishes(1..=500), close_frame()].concat());
    assert_eq!(read_to_the_close(&mut raw), (500, 1000));
    expect_kept(&broker, 500).await;
}

/// A log that stands still must not hold up who wants to go: after half a second the close comes without the receipts.
#[tokio::test]
async fn a_close_does_not_wait_for_a_log_that_stands_still() {
    let disk = Preload::new();
    let broker = disk.under(Setup::new()).start();
    disk.expect_loaded(1);
    let mut raw = RawWs::connect(&broker);
    disk.slow_syncs(Duration::from_secs(8));
    raw.write(&[publishes(1..=3), close_frame()].concat());
    assert_eq!(read_to_the_close(&mut raw), (0, 1000));
    disk.slow_syncs(Duration::ZERO);
    expect_kept(&broker, 3).await;
}

/// Whoever shuts its writing side, or is gone, without a close frame.
#[tokio::test]
async fn what_was_sent_before_a_client_vanished_is_kept() {
    let disk = Preload::new();
    let broker = disk.under(Setup::new().flag("max-inflight", 1)).start();
    disk.expect_loaded(1);
    // So that all but the first stand behind it when the end comes.
    disk.slow_syncs(Duration::from_millis(100));
    let mut raw = RawWs::connect(&broker);
    raw.write(&publishes(1..=30));
    raw.shut_writing();
    expect_kept(&broker, 30).await;
}

#[tokio::test]
async fn what_was_sent_before_a_violation_is_kept() {
    let broker = Setup::new().flag("max-inflight", 100).start();
    let mut raw = RawWs::connect(&broker);
    // A frame without a mask (RFC 6455, section 5.1), and one that comes too late.
    let unmasked = vec![0x81, 0];
    raw.write(&[publishes(1..=30), unmasked, publishes(31..=31)].concat());
    assert_eq!(raw.expect_close(), 1002);
    expect_kept(&broker, 30).await;
}

#[tokio::test]
async fn what_was_read_before_hark_ends_is_kept() {
    let disk = Preload::new();
    let setup = Setup::new().flag("max-inflight", 1).restarts();
    let data = tempfile::tempdir().unwrap();
    let mut broker = disk.under(setup.data_dir(data.path())).start();
    disk.expect_loaded(1);
    disk.slow_syncs(Duration::from_millis(50));
    let mut raw = RawWs::connect(&broker);
    raw.write(&publishes(1..=30));
    // The others have come with it, and stand behind it.
    assert_eq!(raw.read_json()["id"], 1);

    broker.signal("TERM");

    let mut last = 1;
    let code = loop {
        match raw.read_frame() {
            (Op::TEXT, text) => {
                let frame: Value = serde_json::from_slice(&text).unwrap();
                match frame["type"].as_str() {
                    Some("published") => {
                        last += 1;
                        assert_eq!(frame["id"], last, "{frame}");
                    }
                    other => assert_eq!(other, Some("goodbye"), "{frame}"),
                }
            }
            (Op::CLOSE, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
            _ => {}
        }
    };
    assert_eq!(code, 1012);
    println!("answered before the end: {last} of 30");
    assert_eq!(broker.wait().code, Some(0));
    broker.start_again();
    expect_kept(&broker, 30).await;
}
