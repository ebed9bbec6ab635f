//! Clients that outlive connections, in the plainest way the wire allows: a publisher that sends again whatever was not
//! answered, and a subscriber that comes back with its cursor. No SDK, so that the two can be told apart.

use std::net::SocketAddr;
use std::time::Duration;

use hark_protocol::Subprotocol;
use serde_json::{Value, json};

use crate::{Ended, Seen, Ws};

/// How many publishes of `publish_surely` are unanswered at most.
const WINDOW: u64 = 64;

/// Publishes `{"p": p, "n": 1}` to `total`, numbered under producer `p{p}`, through whatever happens to the broker; gives
/// each message with its receipt.
pub async fn publish_surely(
    addr: SocketAddr,
    topic: &str,
    p: u64,
    total: u64,
) -> Vec<(Value, Value)> {
    let mut kept: Vec<(Value, Value)> = Vec::new();
    while (kept.len() as u64) < total {
        let ended = publish_until_trouble(addr, topic, p, total, &mut kept).await;
        if ended.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    kept
}

async fn publish_until_trouble(
    addr: SocketAddr,
    topic: &str,
    p: u64,
    total: u64,
    kept: &mut Vec<(Value, Value)>,
) -> Result<(), Ended> {
    let mut ws = Ws::try_connect(addr, None).await.map_err(Ended::from)?;
    let mut sent = kept.len() as u64;
    while (kept.len() as u64) < total {
        while sent < total && sent - (kept.len() as u64) < WINDOW {
            sent += 1;
            let data = message(p, sent);
            ws.try_feed(&json!({
                "type": "publish", "id": sent, "topic": topic, "data": data, "producer": format!("p{p}"), "seq": sent
            }))
            .await?;
        }
        ws.flush().await?;
        let answer = ws.next().await?;
        match answer["type"].as_str() {
            Some("published") => {
                let n = kept.len() as u64 + 1;
                assert_eq!(
                    answer["id"], n,
                    "receipts come in the order of the publishes: {answer}"
                );
                kept.push((message(p, n), answer));
            }
            Some("goodbye") => {}
            Some("error") => {
                let again = ["busy", "log_unavailable"]
                    .contains(&answer["code"].as_str().unwrap_or_default());
                assert!(
                    again,
                    "not an error that sending again would help: {answer}"
                );
                return Ok(()); // What follows it may be out of sequence; all are sent again, in order.
            }
            _ => panic!("not an answer to a publish: {answer}"),
        }
    }
    Ok(())
}

fn message(p: u64, n: u64) -> Value {
    json!({"p": p, "n": n})
}

/// Reads `topic` from its beginning until `done`, through whatever happens to the broker.
pub async fn subscribe_surely(
    addr: SocketAddr,
    topic: &str,
    subprotocol: Option<Subprotocol>,
    done: impl Fn(&Seen) -> bool,
) -> Seen {
    let mut seen: Option<Seen> = None;
    loop {
        let ended = subscribe_until_trouble(addr, topic, subprotocol, &done, &mut seen).await;
        match (ended, &seen) {
            (Ok(()), Some(_)) => return seen.expect("subscribed"),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn subscribe_until_trouble(
    addr: SocketAddr,
    topic: &str,
    subprotocol: Option<Subprotocol>,
    done: &impl Fn(&Seen) -> bool,
    seen: &mut Option<Seen>,
) -> Result<(), Ended> {
    let mut ws = Ws::try_connect(addr, subprotocol)
        .await
        .map_err(Ended::from)?;
    let from = seen.as_ref().map_or(json!("earliest"), Seen::after);
    let subscribed = ws
        .try_ask(json!({"type": "subscribe", "topic": topic, "from": from}))
        .await?;
    assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
    let seen = match seen {
        Some(seen) => {
            seen.resume(&subscribed);
            seen
        }
        none => none.insert(Seen::start(topic, &subscribed)),
    };
    while !done(seen) {
        let frame = ws.next().await?;
        if frame["type"] != "goodbye" {
            seen.take(&frame);
        }
    }
    Ok(())
}
