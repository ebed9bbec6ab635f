//! Clients that nobody here wrote, as real subscribers through real trouble: npm's eventsource, Python's httpx-sse and websockets, and `curl -N`.
//!
//! Needs `tests/peers/setup.sh` to have been run.

use std::collections::HashMap;

use hark_tests::peers::{node, python};
use hark_tests::{Broker, Cli, Curl, Setup, Ws, publish_paced};
use serde_json::{Value, json};

/// What a client gives, one frame after the other, coming back by itself or by ours.
enum Client {
    /// A process that prints frames and comes back by itself.
    Process(Cli),
    /// `curl -N`, which is started again with the last ID it saw.
    Curl(Curl),
}

/// A client, and what it was given.
struct Reader {
    name: &'static str,
    client: Client,
    /// By topic: the data (or `text`, or `data_base64`) of its messages, whose offsets are 1, 2, 3 …
    messages: HashMap<String, Vec<Value>>,
    /// How often each other type of frame came.
    others: HashMap<String, usize>,
}

impl Reader {
    /// npm's eventsource.
    fn eventsource(url: &str) -> Self {
        let mut command = node("eventsource.mjs");
        command.arg(url);
        Self::new("eventsource", Client::Process(Cli::spawn(command)))
    }

    /// Python's httpx-sse.
    fn httpx_sse(url: &str) -> Self {
        let mut command = python("sse_subscriber.py");
        command.arg(url);
        Self::new("httpx-sse", Client::Process(Cli::spawn(command)))
    }

    /// Python's websockets.
    fn websockets(broker: &Broker, topic: &str, count: usize) -> Self {
        let mut command = python("subscriber.py");
        command.args([&broker.ws_url(), topic, &count.to_string()]);
        Self::new("websockets", Client::Process(Cli::spawn(command)))
    }

    /// `curl -N`.
    fn curl(url: &str) -> Self {
        Self::new("curl", Client::Curl(Curl::open(url, "")))
    }

    fn new(name: &'static str, client: Client) -> Self {
        Self {
            name,
            client,
            messages: HashMap::new(),
            others: HashMap::new(),
        }
    }

    /// Reads until a frame of this type has come so often.
    fn read_to(&mut self, kind: &str, times: usize) {
        while self.others.get(kind).copied().unwrap_or(0) < times {
            self.read_one();
        }
    }

    /// Reads until it has so many messages of `topic`.
    fn read_messages(&mut self, topic: &str, count: usize) {
        while self.of(topic).len() < count {
            self.read_one();
        }
    }

    fn of(&self, topic: &str) -> &[Value] {
        self.messages.get(topic).map_or(&[], Vec::as_slice)
    }

    fn read_one(&mut self) {
        let mut frame = self.frame();
        let kind = frame["type"].as_str().unwrap_or_default().to_owned();
        let told = || format!("{} was told {frame}", self.name);
        match kind.as_str() {
            "message" => {
                let topic = frame["topic"].as_str().expect("a topic").to_owned();
                let messages = self.messages.entry(topic).or_default();
                assert_eq!(
                    frame["offset"],
                    messages.len() + 1,
                    "once, and in order: {}",
                    told()
                );
                let there = |name: &&str| frame.get(name).is_some();
                let payload = PAYLOADS.into_iter().find(there).expect("a payload");
                messages.push(frame[payload].take());
            }
            "welcome" | "subscribed" | "caught_up" | "lagging" | "goodbye" => {
                *self.others.entry(kind).or_default() += 1;
            }
            _ => panic!("{}", told()),
        }
    }

    fn frame(&mut self) -> Value {
        match &mut self.client {
            Client::Process(process) => {
                let line = process.line();
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
            }
            Client::Curl(curl) => curl.frame_surely(),
        }
    }
}

/// Payloads that have something to break a line of `data:` with, or to be mistaken for a field.
fn awkward() -> Vec<Value> {
    let every_byte = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaanqKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w==";
    vec![
        json!({"data": "one\ntwo\n"}),
        json!({"data": "one\r\ntwo\rthree\n\n\r"}),
        json!({"data": "\u{2028}line\u{2029}paragraph\u{85}next\u{b}\u{c}\u{1c}\u{1d}\u{1e}"}),
        json!({"data": "🎺 👩‍🚀 \u{feff} \u{0} ü"}),
        json!({"data": ""}),
        json!({"data": "data: x\n\nid: 7\nevent: goodbye\n: \n\n"}),
        json!({"data": {" a\n": ["\r", null, {"b": -1.5e300}], "data": true}}),
        json!({"data": "\n🎺\r\n".repeat(20_000)}),
        json!({"data_base64": every_byte, "content_type": "application/octet-stream"}),
        json!({"data_base64": "", "content_type": "image/png"}),
        json!({"text": "", "content_type": "text/plain"}),
        json!({"text": "one\r\ntwo\u{2028}\n\ndata: x\n", "content_type": "text/markdown"}),
        json!({"text": "🎺\r\n".repeat(20_000)}),
        json!({"data_base64": "b25lCnR3bw0KDQo="}),
    ]
}

/// The fields of which a message has one.
const PAYLOADS: [&str; 3] = ["data", "text", "data_base64"];

fn payload(publish: &Value) -> &Value {
    let payload = PAYLOADS.iter().find_map(|name| publish.get(name));
    payload.expect("a payload")
}

/// Each comes back its own way: eventsource and websockets by themselves, httpx-sse in the loop of its README, curl with the last ID.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_clients_have_every_message_once_through_kill_9() {
    const STEADY: usize = 10_000;
    let mut broker = Setup::new().restarts().start();
    let url = broker.url("/v1/topics/a/events?from=earliest");
    let awkward = awkward();
    let total = awkward.len() + 1 + STEADY;

    // Given: subscribers that have read what is awkward, from history and live.
    let mut ws = Ws::connect(&broker).await;
    let (early, late) = awkward.split_at(awkward.len() / 2);
    for publish in early {
        publish_to(&mut ws, "a", publish).await;
    }
    let mut readers = [
        Reader::eventsource(&url),
        Reader::httpx_sse(&url),
        Reader::websockets(&broker, "a", total),
        Reader::curl(&url),
    ];
    for reader in &mut readers {
        reader.read_messages("a", early.len());
    }
    for publish in late {
        publish_to(&mut ws, "a", publish).await;
    }
    // JSON over several lines, as people write it.
    let lines = "{\r\n  \"a\": [1,\n    \"2\\n\"]\n}\n";
    let json = [("content-type", "application/json")];
    broker
        .http()
        .post("/v1/topics/a/messages", &json, lines)
        .ok();
    let mut expected: Vec<Value> = awkward.iter().map(payload).cloned().collect();
    expected.push(serde_json::from_str(lines).unwrap());
    for reader in &mut readers {
        reader.read_messages("a", expected.len());
        assert_eq!(reader.of("a"), expected, "{}", reader.name);
    }

    // When: the broker is killed while messages are on their way, twice.
    let publishing = tokio::spawn(publish_paced(broker.addr(), "a", 1, STEADY as u64, 1_000));
    for kill in 1..=2 {
        for reader in &mut readers {
            reader.read_messages("a", expected.len() + kill * STEADY / 5);
        }
        assert!(!publishing.is_finished(), "killed when all was over");
        broker.kill9();
        broker.start_again();
    }

    // Then: everybody has every message once, in order.
    let kept = publishing.await.unwrap();
    expected.extend(kept.into_iter().map(|(data, _)| data));
    assert_eq!(expected.len(), total);
    for reader in &mut readers {
        reader.read_messages("a", total);
        assert!(
            reader.of("a") == expected,
            "{} has something else",
            reader.name
        );
        if reader.name != "websockets" {
            assert_eq!(
                reader.others["subscribed"], 3,
                "{} had to come back after each kill, and after nothing else",
                reader.name
            );
        }
    }
}

async fn publish_to(ws: &mut Ws, topic: &str, publish: &Value) {
    let mut publish = publish.clone();
    publish["topic"] = json!(topic);
    ws.publish_frame(publish).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eventsource_follows_several_topics_through_kill_9() {
    const TOPICS: [&str; 3] = ["orders.eu", "orders.us", "a:b@c_d-e"];
    const STEADY: usize = 1_500;
    let mut broker = Setup::new().restarts().start();
    let query = TOPICS
        .map(|topic| format!("topic={topic}&from=earliest"))
        .join("&");
    let url = broker.url(&format!("/v1/events?{query}"));
    let mut readers = [Reader::eventsource(&url), Reader::curl(&url)];
    for reader in &mut readers {
        reader.read_to("subscribed", TOPICS.len());
    }

    let publishing: Vec<_> = (1..)
        .zip(TOPICS)
        .map(|(p, topic)| tokio::spawn(publish_paced(broker.addr(), topic, p, STEADY as u64, 300)))
        .collect();
    for reader in &mut readers {
        reader.read_messages(TOPICS[0], STEADY / 4);
    }
    broker.kill9();
    broker.start_again();

    for (publishing, topic) in publishing.into_iter().zip(TOPICS) {
        let kept = publishing.await.unwrap();
        let kept: Vec<Value> = kept.into_iter().map(|(data, _)| data).collect();
        for reader in &mut readers {
            reader.read_messages(topic, STEADY);
            assert!(reader.of(topic) == kept, "{} of {topic}", reader.name);
        }
    }
    for reader in &readers {
        assert_eq!(
            reader.others["subscribed"],
            2 * TOPICS.len(),
            "{} had to come back once",
            reader.name
        );
    }
}

/// A browser that is answered 503 once gives up for good. So a stream of a broker that stops ends, and is not refused until the broker is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_stopping_broker_end_and_come_back() {
    let mut broker = Setup::new().flag("drain", "2s").restarts().start();
    let url = broker.url("/v1/topics/a/events");
    let mut readers = [Reader::eventsource(&url), Reader::httpx_sse(&url)];
    let mut curl = Curl::open(&url, "");
    for reader in &mut readers {
        reader.read_to("subscribed", 1);
    }
    curl.expect("subscribed").expect("a stream");
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    curl.expect("message").expect("a stream");

    broker.stop();

    let goodbye = curl.expect("goodbye").expect("a word before the end");
    assert_eq!(goodbye["reason"], "restart", "{goodbye}");
    assert!(curl.retry.is_some(), "no word when to come back");
    assert_eq!(curl.read(), None, "nothing after goodbye");
    let last_event_id = curl.last_event_id.clone();
    let exit = curl.wait();
    assert_eq!(exit.code, Some(0), "the stream was cut: {}", exit.stderr);
    broker.start_again();
    Ws::connect(&broker).await.publish("a", json!(2)).await;
    for reader in &mut readers {
        reader.read_messages("a", 2);
        assert_eq!(reader.of("a"), [json!(1), json!(2)], "{}", reader.name);
        assert!(
            reader.others["goodbye"] >= 1,
            "{} was cut off without a word",
            reader.name
        );
    }
    let mut curl = Curl::open(&url, &last_event_id);
    let message = curl.expect("message").expect("a stream");
    assert_eq!(message["data"], 2, "{message}");
}

/// Python's own HTTP client, with one connection for all that it publishes.
#[test]
fn batches_by_python_go_on_one_connection() {
    let broker = Broker::start();
    let mut command = python("batches.py");
    command.args([&broker.addr().to_string(), "a", "6", "1000"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(broker.http().get("/v1/topics/a").ok().json()["head"], 6000);
}
