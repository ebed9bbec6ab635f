//! Many topics with a few messages each: all of it is there after a stop and after a kill, and memory stays bounded. The
//! figures for up to a million come from `make growth`.

use hark_tests::{Broker, Setup, Ws};
use serde_json::{Value, json};

const TOPICS: usize = 1200;
const MESSAGES_EACH: u64 = 3;
/// A million topics have 200 MB; these few come nowhere near, whatever else the machine does.
const MOST_MEMORY: u64 = 150 << 20;

fn name(topic: usize) -> String {
    format!("users.{topic:06}.inbox")
}

/// One message to each topic, many at a time.
async fn fill(broker: &Broker, n: u64) {
    let mut ws = Ws::connect(broker).await;
    let publish =
        |topic| json!({"topic": name(topic), "data": {"n": n, "to": topic, "x": "x".repeat(60)}});
    let answers = ws.publish_all((0..TOPICS).map(publish), 300).await;
    for answer in answers {
        assert_eq!(answer["type"], "published", "{answer}");
        assert!(
            answer["cursor"]
                .as_str()
                .unwrap()
                .ends_with(&format!(":{n}")),
            "{answer}"
        );
    }
}

/// Every topic is listed, in order, with all its messages, and the messages of some are read.
fn check(broker: &Broker) {
    let http = broker.http();
    let mut listed: Vec<Value> = Vec::new();
    loop {
        let after = listed.last().map_or(String::new(), |topic| {
            format!("&after={}", topic["topic"].as_str().unwrap())
        });
        let page = http
            .get(&format!("/v1/topics?limit=500{after}"))
            .ok()
            .json();
        match page["topics"].as_array().unwrap() {
            none if none.is_empty() => break,
            some => listed.extend(some.iter().cloned()),
        }
    }
    assert_eq!(listed.len(), TOPICS);
    for (topic, found) in listed.iter().enumerate() {
        assert_eq!(found["topic"], name(topic));
        assert_eq!(
            (&found["first"], &found["head"]),
            (&json!(1), &json!(MESSAGES_EACH)),
            "{found}"
        );
    }
    for topic in (0..TOPICS).step_by(40) {
        let path = format!("/v1/topics/{}/messages?from=earliest", name(topic));
        let page = http.get(&path).ok().json();
        let seen: Vec<_> = page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["data"]["n"])
            .collect();
        assert_eq!(seen, [&json!(1), &json!(2), &json!(3)], "{page}");
        assert_eq!(page["messages"][0]["data"]["to"], topic);
    }
}

#[tokio::test]
async fn many_topics_are_all_there_again_and_cost_little_memory() {
    let mut broker = Setup::new().flag("room-idle", "1s").restarts().start();
    fill(&broker, 1).await;
    fill(&broker, 2).await;
    broker.stop();
    broker.start_again();
    fill(&broker, 3).await;
    check(&broker);
    assert!(
        broker.rss_bytes() < MOST_MEMORY,
        "{} bytes",
        broker.rss_bytes()
    );

    broker.kill9();
    broker.start_again();
    check(&broker);
    broker.stop();
    broker.start_again();
    check(&broker);
    assert!(
        broker.rss_bytes() < MOST_MEMORY,
        "{} bytes",
        broker.rss_bytes()
    );
}
