//! Clients that outlive connections, in the plainest way the wire allows: a publisher that sends again whatever was not
//! answered, and a subscriber that comes back with its cursor. No SDK, so that the two can be told apart.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hark_protocol::Subprotocol;
use serde_json::{Value, json};

use crate::{Ended, Seen, Ws};

/// How many publishes of `publish_surely` are unanswered at most.
const WINDOW: u64 = 64;

/// When each message is to be published.
#[derive(Debug, Clone, Copy)]
struct Pace {
    start: Instant,
    /// From one message to the next; zero: all at once.
    interval: Duration,
}

impl Pace {
    fn due(&self, n: u64) -> Instant {
        let n = u32::try_from(n).expect("not so many messages");
        self.start + self.interval * n
    }
}

/// Publishes `{"p": p, "n": 1}` to `total`, numbered under producer `p{p}`, through whatever happens to the broker; gives
/// each message with its receipt.
pub async fn publish_surely(
    addr: SocketAddr,
    topic: &str,
    p: u64,
    total: u64,
) -> Vec<(Value, Value)> {
    publish_at(addr, topic, p, total, Duration::ZERO).await
}

/// Like `publish_surely`, so many a second. What could not be published in its time follows as fast as it can.
pub async fn publish_paced(
    addr: SocketAddr,
    topic: &str,
    p: u64,
    total: u64,
    per_second: u32,
) -> Vec<(Value, Value)> {
    publish_at(addr, topic, p, total, Duration::from_secs(1) / per_second).await
}

async fn publish_at(
    addr: SocketAddr,
    topic: &str,
    p: u64,
    total: u64,
    interval: Duration,
) -> Vec<(Value, Value)> {
    let pace = Pace {
        start: Instant::now(),
        interval,
    };
    let mut kept: Vec<(Value, Value)> = Vec::new();
    while (kept.len() as u64) < total {
        let ended = publish_until_trouble(addr, topic, p, total, pace, &mut kept).await;
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
    pace: Pace,
    kept: &mut Vec<(Value, Value)>,
) -> Result<(), Ended> {
    let mut ws = Ws::try_connect(addr, None).await.map_err(Ended::from)?;
    let mut sent = kept.len() as u64;
    while (kept.len() as u64) < total {
        if sent == kept.len() as u64 {
            tokio::time::sleep_until(pace.due(sent + 1).into()).await;
        }
        while sent < total
            && sent - (kept.len() as u64) < WINDOW
            && pace.due(sent + 1) <= Instant::now()
        {
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
