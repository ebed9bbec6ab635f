//! One reader on its way through every transport and both SDKs, with nothing to take along but its cursor, while messages come and the broker is
//! killed under it.
//!
//! Needs `tests/peers/setup.sh` to have been run.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hark_client::Client;
use hark_tests::peers::{node, python};
use hark_tests::{Acked, Cli, Curl, Http, Setup, Ws, pause, publish_paced};
use serde_json::{Value, json};
use tokio::sync::oneshot;

const TOPIC: &str = "journey";
const PUBLISHERS: u64 = 4;
const A_SECOND: u32 = 1_000;
const TOTAL: usize = 30_000;
/// How many messages each transport is to read.
const LEG: usize = TOTAL / 6;

/// What the reader has: a place, and the messages up to it.
struct Journey {
    cursor: String,
    messages: Vec<(u64, String)>,
    /// Told when there are so many messages, so that trouble can come while a transport is at work.
    milestones: Vec<(usize, oneshot::Sender<()>)>,
}

impl Journey {
    /// Takes a message, which has to be the next.
    fn take(&mut self, message: &Value) {
        assert_eq!(
            message["type"], "message",
            "after {}: {message}",
            self.cursor
        );
        let offset = message["offset"].as_u64().unwrap();
        let (epoch, before) = self.cursor.split_once(':').unwrap();
        assert_eq!(
            offset,
            before.parse::<u64>().unwrap() + 1,
            "once, and in order: {message}"
        );
        self.cursor = format!("{epoch}:{offset}");
        self.messages.push((offset, message["data"].to_string()));
        if self
            .milestones
            .first()
            .is_some_and(|(at, _)| *at == self.messages.len())
        {
            let (_, passed) = self.milestones.remove(0);
            passed.send(()).unwrap();
        }
    }

    /// Reads a leg, line by line, with a client that prints messages and what else it likes.
    fn with_process(&mut self, mut client: Cli, mut read: impl FnMut(&str) -> Option<Value>) {
        let goal = self.messages.len() + LEG;
        while self.messages.len() < goal {
            if let Some(message) = read(&client.line()) {
                self.take(&message);
            }
        }
        let exit = client.wait();
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    }

    fn by_websocket(&mut self, broker: &str) {
        let mut command = python("subscriber.py");
        let url = format!("ws://{broker}/ws");
        command.args([&url, TOPIC, &LEG.to_string(), &self.cursor]);
        self.with_process(Cli::spawn(command), |line| Some(parse(line)));
    }

    fn by_server_sent_events(&mut self, broker: &str) {
        let after = &self.cursor;
        let url = format!("http://{broker}/v1/topics/{TOPIC}/events?after={after}");
        let mut stream = Curl::open(&url, "");
        let goal = self.messages.len() + LEG;
        while self.messages.len() < goal {
            let frame = stream.frame_surely();
            if !["welcome", "subscribed", "caught_up", "lagging", "goodbye"]
                .contains(&frame["type"].as_str().unwrap())
            {
                self.take(&frame);
                assert_eq!(stream.last_event_id, self.cursor, "the ID is the cursor");
            }
        }
    }

    /// Asks for what follows, waiting for it for so many seconds, or coming back later when there is nothing.
    fn by_polling(&mut self, http: &Http, wait_s: u32) {
        let goal = self.messages.len() + LEG;
        while self.messages.len() < goal {
            let limit = (goal - self.messages.len()).min(1_000);
            let query = format!("after={}&limit={limit}&wait={wait_s}", self.cursor);
            let path = format!("/v1/topics/{TOPIC}/messages?{query}");
            let Ok(response) = http.try_get(&path) else {
                pause(Duration::from_millis(50));
                continue; // killed, and not back yet
            };
            let page = response.ok().json();
            assert!(page["gap"].is_null(), "{page}");
            for message in page["messages"].as_array().unwrap() {
                self.take(message);
            }
            assert_eq!(page["cursor"], self.cursor.as_str());
            if wait_s == 0 && page["caught_up"] == true {
                pause(Duration::from_millis(100));
            }
        }
    }

    async fn by_rust_sdk(&mut self, broker: &str) {
        let client = Client::connect(format!("ws://{broker}/ws")).await.unwrap();
        let after = self.cursor.parse().unwrap();
        let mut subscription = client.subscribe(TOPIC).after(after).await.unwrap();
        for _ in 0..LEG {
            let message = subscription.next_message().await.unwrap();
            let data = message.json::<Value>().unwrap();
            self.take(&json!({"type": "message", "offset": message.offset(), "data": data}));
            assert_eq!(subscription.cursor().to_string(), self.cursor);
        }
        client.close(Duration::from_secs(30)).await.unwrap();
    }

    fn by_javascript_sdk(&mut self, broker: &str) {
        let mut command = node("sdk_subscriber.mjs");
        let url = format!("http://{broker}");
        command.args([&url, TOPIC, &LEG.to_string(), &self.cursor]);
        self.with_process(Cli::spawn(command), |line| {
            let event = parse(line);
            (event["type"] != "caught_up").then_some(event)
        });
    }
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
}

/// Publishes so many messages, a publisher's share each, and gives what was acknowledged.
async fn publish(addr: SocketAddr) -> Acked {
    let share = TOTAL as u64 / PUBLISHERS;
    let pace = A_SECOND / u32::try_from(PUBLISHERS).unwrap();
    let publishing: Vec<_> = (1..=PUBLISHERS)
        .map(|p| tokio::spawn(publish_paced(addr, TOPIC, p, share, pace)))
        .collect();
    let mut acked = Acked::default();
    for publisher in publishing {
        for (data, receipt) in publisher.await.unwrap() {
            // A duplicate's receipt may name the place of a later message of the same producer.
            if receipt["duplicate"] == false {
                acked.receipt(&receipt, &data);
            }
        }
    }
    acked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_moves_through_every_transport_with_nothing_but_its_cursor() {
    let mut broker = Setup::new().restarts().start();
    let address = broker.addr().to_string();
    let http = broker.http();
    let described = http.get(&format!("/v1/topics/{TOPIC}")).ok().json();
    let (reads_streams, is_on_streams) = oneshot::channel();
    let (reads_with_sdk, is_with_sdk) = oneshot::channel();
    let mut journey = Journey {
        cursor: format!("{}:0", described["epoch"].as_str().unwrap()),
        messages: Vec::new(),
        milestones: vec![
            (LEG + LEG / 2, reads_streams),
            (4 * LEG + LEG / 10, reads_with_sdk),
        ],
    };
    let start = Instant::now();

    // When: messages come at their pace, a reader goes from one transport to the next …
    let runtime = tokio::runtime::Handle::current();
    let travelling = tokio::task::spawn_blocking(move || {
        journey.by_websocket(&address);
        journey.by_server_sent_events(&address);
        journey.by_polling(&http, 20);
        journey.by_polling(&http, 0);
        runtime.block_on(journey.by_rust_sdk(&address));
        journey.by_javascript_sdk(&address);
        journey
    });
    let publishing = tokio::spawn(publish(broker.addr()));

    // … and the broker is killed while it reads a stream, and while it reads with an SDK.
    for milestone in [is_on_streams, is_with_sdk] {
        milestone.await.expect("the reader goes on");
        assert!(!publishing.is_finished(), "killed when all was published");
        broker.kill9();
        broker.start_again();
    }
    let acked = publishing.await.unwrap();
    let journey = travelling.await.unwrap();
    println!("{TOTAL} messages in {:?}", start.elapsed());

    // Then: it has what the topic keeps, and that is what was published, once, each publisher's messages in their order.
    let kept = Ws::connect(&broker)
        .await
        .watch_to_caught_up(TOPIC, json!("earliest"))
        .await;
    kept.expect(1..=TOTAL as u64);
    assert!(
        journey.messages == kept.messages,
        "the reader has something else than the topic"
    );
    acked.check(&kept);
    for p in 1..=PUBLISHERS {
        let numbers: Vec<u64> = journey
            .messages
            .iter()
            .map(|(_, data)| parse(data))
            .filter(|data| data["p"] == p)
            .map(|data| data["n"].as_u64().unwrap())
            .collect();
        assert_eq!(
            numbers,
            (1..=TOTAL as u64 / PUBLISHERS).collect::<Vec<_>>(),
            "publisher {p}"
        );
    }
}
