//! Deleting topics: what was deleted is gone, whoever was there or comes back is told, and nothing else is lost by it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hark_client::{Client, Event, GapReason, SubscribeFrom};
use hark_protocol::Subprotocol;
use hark_tests::{Broker, Cli, DEADLINE, Ended, Http, RawWs, Response, Seen, Setup, Ws, within};
use rand::RngExt as _;
use serde_json::{Value, json};

fn delete(http: &Http, topic: &str) -> Response {
    http.request("DELETE", &format!("/v1/topics/{topic}"), &[], b"")
}

/// Deletes a topic that holds something, and gives the epoch with which it goes on.
fn deleted(http: &Http, topic: &str) -> String {
    let answer = delete(http, topic).ok().json();
    assert_eq!(
        (&answer["topic"], &answer["deleted"]),
        (&json!(topic), &json!(true))
    );
    answer["epoch"].as_str().unwrap().to_owned()
}

fn describe(http: &Http, topic: &str) -> Value {
    http.get(&format!("/v1/topics/{topic}")).ok().json()
}

fn names(http: &Http) -> Vec<String> {
    let listed = http.get("/v1/topics").ok().json();
    let topics = listed["topics"].as_array().unwrap();
    let name = |topic: &Value| topic["topic"].as_str().unwrap().to_owned();
    topics.iter().map(name).collect()
}

/// Checks that a frame is the gap of a deleted topic, and gives its cursor.
#[track_caller]
fn expect_deleted(frame: &Value, epoch: &str) {
    let expected = json!({"type": "gap", "topic": frame["topic"], "reason": "deleted", "cursor": format!("{epoch}:0")});
    assert_eq!(*frame, expected);
}

/// On disk, and in memory.
fn setup() -> Setup {
    Setup::new().flag("memory-topics", "mem.>")
}

#[tokio::test]
async fn a_topic_that_is_deleted_goes_on_empty_in_another_epoch() {
    let broker = setup().start();
    let http = broker.http();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["disk.a", "mem.a"] {
        for n in 1..=5 {
            ws.publish(topic, json!(n)).await;
        }
        let before = describe(&http, topic);
        assert_eq!(
            (&before["topic"], &before["first"], &before["head"]),
            (&json!(topic), &json!(1), &json!(5))
        );
        assert!(before["bytes"].as_u64().unwrap() > 5, "{before}");
        assert!(
            http.get("/v1/topics").ok().json()["topics"]
                .as_array()
                .unwrap()
                .contains(&before)
        );

        let epoch = deleted(&http, topic);

        assert_ne!(before["epoch"], epoch);
        let empty = json!({"topic": topic, "epoch": epoch, "first": 1, "head": 0, "bytes": 0});
        assert_eq!(describe(&http, topic), empty);
        assert!(!names(&http).contains(&topic.to_owned()));
        let history = http.history(topic, "from=earliest").ok().json();
        assert_eq!(
            history,
            json!({"messages": [], "cursor": format!("{epoch}:0"), "caught_up": true})
        );

        let receipt = ws.publish(topic, json!("new")).await;
        assert_eq!(receipt["cursor"], format!("{epoch}:1"));
        let history = http.history(topic, "from=earliest").ok().json();
        assert_eq!(history["messages"][0]["data"], "new");
        assert!(names(&http).contains(&topic.to_owned()));
    }
}

#[tokio::test]
async fn deleting_nothing_says_so_and_changes_nothing() {
    let broker = setup().start();
    let http = broker.http();
    for topic in ["disk.a", "mem.a"] {
        let unused = describe(&http, topic);
        assert_eq!(
            unused,
            json!({"topic": topic, "epoch": unused["epoch"], "first": 1, "head": 0, "bytes": 0})
        );
        let nothing = |epoch: &Value| json!({"topic": topic, "deleted": false, "epoch": epoch});
        assert_eq!(delete(&http, topic).ok().json(), nothing(&unused["epoch"]));
        assert_eq!(describe(&http, topic), unused);
        Ws::connect(&broker).await.publish(topic, json!(1)).await;
        assert_eq!(describe(&http, topic)["epoch"], unused["epoch"]);

        let epoch = deleted(&http, topic);
        assert_eq!(delete(&http, topic).ok().json(), nothing(&json!(epoch)));
    }
    assert_eq!(names(&http), [""; 0]);
}

#[tokio::test]
async fn subscribers_that_are_live_are_told_and_stay() {
    let broker = setup().start();
    let http = broker.http();
    for topic in ["disk.a", "mem.a"] {
        let mut readers = Vec::new();
        for subprotocol in Subprotocol::ALL {
            for _ in 0..3 {
                let mut ws = Ws::connect_as(&broker, subprotocol).await;
                let seen = ws.watch_to_caught_up(topic, json!("now")).await;
                readers.push((ws, seen));
            }
        }
        let mut publisher = Ws::connect(&broker).await;
        for round in 0..5 {
            for n in 1..=3 {
                publisher.publish(topic, json!([round, n])).await;
            }
            let epoch = deleted(&http, topic);
            for (ws, seen) in &mut readers {
                for n in 1..=3 {
                    let message = ws.message().await;
                    assert_eq!(
                        (&message["offset"], &message["data"]),
                        (&json!(n), &json!([round, n]))
                    );
                    seen.take(&message);
                }
                let gap = ws.expect("gap").await;
                expect_deleted(&gap, &epoch);
                seen.take(&gap);
                ws.expect_quiet().await;
            }
        }
        for (ws, _) in &mut readers {
            ws.unsubscribe(topic).await;
        }
    }
}

/// One that does not read has a page of the old sequence on its way when the topic is deleted, again and again.
#[tokio::test]
async fn a_subscriber_that_lags_is_told_when_it_reads_on() {
    let broker = setup().start();
    let http = broker.http();
    let mut publisher = Ws::connect(&broker).await;
    for topic in ["disk.a", "mem.a"] {
        let data = "x".repeat(1000);
        let mut laggards = Vec::new();
        for n in 0..4 {
            if n == 2 {
                let messages = (0..4000).map(|_| json!({"topic": topic, "data": data}));
                publisher.publish_all(messages, 256).await;
            }
            let mut raw = RawWs::connect_small(&broker);
            raw.send_json(&json!({"type": "subscribe", "topic": topic, "from": "earliest"}));
            let seen = Seen::start(topic, &raw.read_json());
            laggards.push((raw, seen));
        }
        let mut epoch = String::new();
        for n in 0..4 {
            epoch = deleted(&http, topic);
            publisher.publish(topic, json!(n)).await;
        }
        for (raw, seen) in &mut laggards {
            loop {
                let frame = raw.read_json();
                seen.take(&frame);
                if frame["type"] == "gap" {
                    assert_eq!(frame["reason"], "deleted", "{frame}");
                }
                if seen.epoch == epoch && seen.position == 1 {
                    break;
                }
            }
            assert!(seen.gaps.len() <= 4, "{:?}", seen.gaps);
            assert_eq!(seen.data().last(), Some(&"3"));
            let old = seen.data().iter().filter(|data| data.len() > 100).count();
            assert!(old < 4000, "it lagged");
        }
    }
}

#[tokio::test]
async fn who_comes_back_with_a_cursor_of_a_deleted_epoch_is_told() {
    let mut broker = setup().restarts().start();
    let mut cursors = HashMap::new();
    let mut now = HashMap::new();
    for topic in ["disk.a", "mem.a"] {
        let mut ws = Ws::connect(&broker).await;
        let old: &mut Vec<String> = cursors.entry(topic).or_default();
        // One that only looked, one that was beyond what ever was; of two epochs.
        for _ in 0..2 {
            let epoch = describe(&broker.http(), topic)["epoch"].clone();
            for offset in [0, 1, 3, 5, 900] {
                old.push(format!("{}:{offset}", epoch.as_str().unwrap()));
            }
            for n in 1..=5 {
                ws.publish(topic, json!(n)).await;
            }
            now.insert(topic, deleted(&broker.http(), topic));
        }
        ws.publish(topic, json!("new")).await;
    }
    let ends: [Option<fn(&mut Broker)>; 3] = [None, Some(Broker::stop), Some(Broker::kill9)];
    for end in ends {
        if let Some(end) = end {
            end(&mut broker);
            broker.start_again();
        }
        for topic in ["disk.a", "mem.a"] {
            if end.is_some() && topic == "mem.a" {
                continue; // It begins anew at every start, and says `other_epoch`.
            }
            let epoch = &now[topic];
            for cursor in &cursors[topic] {
                let mut ws = Ws::connect(&broker).await;
                let subscribed = ws.subscribe(topic, json!({"after": cursor})).await;
                assert_eq!(
                    (&subscribed["cursor"], &subscribed["resumed"]),
                    (&json!(cursor), &json!(false))
                );
                expect_deleted(&ws.expect("gap").await, epoch);
                let message = ws.message().await;
                assert_eq!(
                    (&message["offset"], &message["data"]),
                    (&json!(1), &json!("new"))
                );
                ws.expect("caught_up").await;

                let page = broker
                    .http()
                    .history(topic, &format!("after={cursor}"))
                    .ok()
                    .json();
                expect_deleted(&page["gap"], epoch);
                assert_eq!(page["messages"][0]["data"], "new");
                assert_eq!(page["cursor"], format!("{epoch}:1"));
            }
        }
    }
}

#[tokio::test]
async fn numbers_and_keys_are_forgotten_with_the_messages() {
    let broker = setup().start();
    let http = broker.http();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["disk.a", "mem.a"] {
        let counted = |seq: u64| json!({"topic": topic, "data": seq, "producer": "p", "seq": seq});
        let keyed = || json!({"topic": topic, "data": "k", "message_id": "k"});
        for seq in 1..=3 {
            ws.publish_frame(counted(seq)).await;
        }
        ws.publish_frame(keyed()).await;

        let epoch = deleted(&http, topic);

        for seq in [4, 3] {
            let mut command = counted(seq);
            command["type"] = json!("publish");
            let refused = ws.ask(command).await;
            assert_eq!(
                (&refused["code"], &refused["expected_seq"]),
                (&json!("out_of_sequence"), &json!(1)),
                "{refused}"
            );
        }
        for (offset, message) in [(1, counted(1)), (2, keyed()), (3, counted(2))] {
            let receipt = ws.publish_frame(message).await;
            assert_eq!(
                (&receipt["cursor"], &receipt["duplicate"]),
                (&json!(format!("{epoch}:{offset}")), &json!(false))
            );
        }
    }
}

#[tokio::test]
async fn deleting_makes_room_for_other_topics() {
    for name in ["disk", "mem"] {
        let broker = setup().flag("max-topics", 2).start();
        let mut ws = Ws::connect(&broker).await;
        let topic = |n: u64| format!("{name}.{n}");
        for n in 0..2 {
            ws.publish(&topic(n), json!(1)).await;
        }
        let publish = json!({"type": "publish", "topic": topic(2), "data": 1});
        assert_eq!(ws.ask(publish.clone()).await["code"], "too_many_topics");
        deleted(&broker.http(), &topic(0));
        assert_eq!(ws.ask(publish).await["type"], "published");
    }
}

#[tokio::test]
async fn only_who_may_publish_may_delete() {
    let broker = Broker::start();
    let http = broker.http();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let path = "/v1/topics/a";
    let evil = ("origin", "https://evil.example");

    for headers in [
        &[evil][..],
        &[("host", "evil.example")],
        &[("origin", "null")],
    ] {
        http.request("DELETE", path, headers, b"")
            .expect_error(403, "forbidden");
    }
    http.request("GET", path, &[("host", "evil.example")], b"")
        .expect_error(403, "forbidden");
    for method in ["POST", "PUT", "PATCH"] {
        let response = http.request(method, path, &[], b"1");
        assert_eq!(response.status, 405, "{response:#?}");
        assert_eq!(response.headers["allow"], "GET, HEAD, DELETE");
    }
    for name in ["a..b", "a%20b", &"x".repeat(256)] {
        delete(&http, name).expect_error(400, "bad_topic");
        http.get(&format!("/v1/topics/{name}"))
            .expect_error(400, "bad_topic");
    }
    delete(&http, "$sys").expect_error(400, "bad_topic");
    assert_eq!(describe(&http, "$sys")["head"], 0);
    assert_eq!(describe(&http, "a")["head"], 1, "it is still there");

    let own = format!("http://{}", broker.addr());
    let response = http.request("DELETE", path, &[("origin", &own)], b"").ok();
    assert_eq!(response.json()["deleted"], true);
}

#[tokio::test]
async fn the_command_line_describes_and_deletes() {
    let broker = Broker::start();
    for topic in ["orders.eu", "orders.us"] {
        Ws::connect(&broker).await.publish(topic, json!(1)).await;
    }
    let run = |args: &[&str]| {
        let exit = Cli::run(&broker, args);
        assert_eq!(exit.code, Some(0), "{args:?}: {exit:#?}");
        exit.stdout
    };
    let json = |text: &str| -> Value { serde_json::from_str(text).unwrap() };

    let described = json(&run(&["topics", "describe", "orders.eu", "--json"]));
    assert_eq!(described, describe(&broker.http(), "orders.eu"));
    let listed = run(&["topics", "--json", "--prefix", "orders.e"]);
    assert_eq!(json(&listed), described);
    let answer = json(&run(&["topics", "--json", "delete", "orders.eu"]));
    assert_eq!(
        (&answer["deleted"], &answer["topic"]),
        (&json!(true), &json!("orders.eu"))
    );
    assert_eq!(
        json(&run(&["topics", "delete", "orders.eu", "--json"]))["deleted"],
        false
    );
    assert_eq!(names(&broker.http()), ["orders.us"]);

    for args in [
        &["topics", "delete"][..],
        &["topics", "delete", "a..b"],
        &["topics", "delete", "orders.*"],
        &["topics", "--prefix", "orders", "delete", "orders.us"],
    ] {
        let exit = Cli::run(&broker, args);
        assert_eq!(exit.code, Some(2), "{args:?}: {exit:#?}");
    }
    let refused = Cli::run(&broker, &["topics", "delete", "$sys"]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.stderr.contains("system"), "{refused:#?}");
    assert_eq!(names(&broker.http()), ["orders.us"]);
}

/// Whatever a room is doing when it breaks, every request is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_breaks_while_its_topic_is_deleted_leaves_nobody_waiting() {
    const ROUNDS: u64 = 60;
    let broker = setup().faults().start();
    let addr = broker.addr();
    for topic in ["disk.a", "mem.a"] {
        let stop = Arc::new(AtomicBool::new(false));
        let breaker = tokio::spawn({
            let stop = stop.clone();
            async move {
                let mut ws = Ws::try_connect(addr, None).await.unwrap();
                let mut faults = ["room-panic", "room-panic-after-commit"].iter().cycle();
                while !stop.load(Ordering::Relaxed) {
                    let fault = faults.next().unwrap();
                    ws.ask(json!({"type": "publish", "topic": topic, "data": 0, "headers": {"hark-fault": fault}}))
                        .await;
                    let sound: u32 = rand::rng().random_range(0..5);
                    for _ in 0..sound {
                        ws.ask(json!({"type": "publish", "topic": topic, "data": 1}))
                            .await;
                    }
                }
            }
        });
        let mut reader = Ws::connect(&broker).await;
        let mut seen = reader.watch(topic, json!("now")).await;
        let http = Arc::new(broker.http());
        let mut outcomes = BTreeMap::new();
        for _ in 0..ROUNDS {
            let http = http.clone();
            let answer = tokio::task::spawn_blocking(move || delete(&http, topic))
                .await
                .unwrap();
            let what = match answer.status {
                200 => answer.json()["deleted"].to_string(),
                503 => answer.json()["code"].to_string(),
                _ => panic!("{answer:#?}"),
            };
            *outcomes.entry(what).or_insert(0) += 1;
        }
        stop.store(true, Ordering::Relaxed);
        breaker.await.unwrap();
        println!("{topic}: {outcomes:?}");

        // The subscriber has followed, whatever happened.
        let mut publisher = Ws::connect(&broker).await;
        let end = publisher.publish(topic, json!("end")).await["cursor"].clone();
        reader.follow(&mut seen, |seen| end == seen.cursor()).await;
        assert!(
            seen.gaps.iter().all(|gap| gap["reason"] == "deleted"),
            "{:?}",
            seen.gaps
        );
    }
}

/// The SDK's user sees a gap that says why, and nothing else of it: what is published is kept, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_goes_on_behind_a_deleted_topic() {
    let mut broker = Setup::new().restarts().start();
    let client = Client::connect(broker.ws_url()).await.unwrap();
    let mut subscription = client
        .subscribe("a")
        .from(SubscribeFrom::Earliest)
        .await
        .unwrap();
    let publish = async |data: u64| {
        let receipt = client.publish("a", &data).receipt().await.unwrap();
        assert!(!receipt.duplicate);
        receipt.cursor
    };
    for (round, restart) in [false, false, true, true].into_iter().enumerate() {
        let round = round as u64;
        let mut last = None;
        for n in 0..3 {
            last = Some(publish(round * 10 + n).await);
        }
        let mut expected = round * 10;
        while expected < round * 10 + 3 {
            match next(&mut subscription).await {
                Event::Message(message) => {
                    assert_eq!(message.json::<u64>().unwrap(), expected);
                    expected += 1;
                }
                Event::CaughtUp(_) => {}
                Event::Gap(gap) => panic!("{gap:?}"),
            }
        }
        assert_eq!(Some(subscription.cursor()), last);

        let epoch = deleted(&broker.http(), "a");
        if restart {
            // Whether it was told before or is told when it comes back.
            broker.kill9();
            broker.start_again();
        }
        let gap = loop {
            match next(&mut subscription).await {
                Event::Gap(gap) => break gap,
                Event::CaughtUp(_) => {}
                Event::Message(message) => panic!("{message:?}"),
            }
        };
        assert_eq!(
            (gap.reason, gap.from, gap.to),
            (GapReason::Deleted, None, None)
        );
        assert_eq!(gap.cursor.to_string(), format!("{epoch}:0"));
        assert_eq!(subscription.cursor(), gap.cursor);
    }
    assert_eq!(publish(99).await.offset, 1);
}

async fn next(subscription: &mut hark_client::Subscription) -> Event {
    use futures_util::StreamExt as _;
    within("an event", subscription.next())
        .await
        .unwrap()
        .unwrap()
}

/// What everybody saw and was told, for the final reckoning.
#[derive(Default)]
struct Ledger {
    /// What each place holds, of all topics: it may have one meaning.
    places: BTreeMap<(String, String, u64), String>,
    /// What was acknowledged, and where.
    acked: Vec<(String, String, u64, String)>,
    /// Epochs that were deleted as far as somebody was told.
    epochs: HashMap<String, HashSet<String>>,
}

impl Ledger {
    fn saw(&mut self, topic: &str, epoch: &str, offset: u64, data: String) {
        let place = (topic.to_owned(), epoch.to_owned(), offset);
        self.epochs
            .entry(topic.to_owned())
            .or_default()
            .insert(epoch.to_owned());
        if let Some(before) = self.places.insert(place.clone(), data.clone()) {
            assert_eq!(before, data, "two messages at {place:?}");
        }
    }
}

#[derive(Clone, Copy)]
enum Manner {
    /// Reads what comes.
    Eager,
    /// Pauses again and again, so that it lags.
    Slow,
    /// Hangs up again and again, and comes back with its cursor.
    Restless,
}

/// Follows a topic to its end, through whatever happens.
async fn follow(
    addr: SocketAddr,
    topic: String,
    manner: Manner,
    subprotocol: Subprotocol,
    ledger: Arc<Mutex<Ledger>>,
) -> Seen {
    let mut seen: Option<Seen> = None;
    loop {
        let ended =
            follow_until_trouble(addr, &topic, manner, subprotocol, &ledger, &mut seen).await;
        match (ended, seen.take()) {
            (Ok(true), Some(seen)) => return seen,
            (_, before) => seen = before,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `Ok(true)` at the end, `Ok(false)` when it hung up.
async fn follow_until_trouble(
    addr: SocketAddr,
    topic: &str,
    manner: Manner,
    subprotocol: Subprotocol,
    ledger: &Mutex<Ledger>,
    seen: &mut Option<Seen>,
) -> Result<bool, Ended> {
    let mut ws = Ws::try_connect(addr, Some(subprotocol))
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
    let mut left: u32 = rand::rng().random_range(1..400);
    loop {
        let frame = ws.next().await?;
        if frame["type"] == "goodbye" {
            continue;
        }
        seen.take(&frame);
        match frame["type"].as_str() {
            Some("gap") => {
                assert_eq!(frame["reason"], "deleted", "{frame}");
                assert!(frame["cursor"].as_str().unwrap().ends_with(":0"), "{frame}");
            }
            Some("message") => {
                let data = frame["data"].to_string();
                let is_end = frame["data"] == "end";
                ledger
                    .lock()
                    .unwrap()
                    .saw(topic, &seen.epoch, seen.position, data);
                if is_end {
                    return Ok(true);
                }
            }
            _ => {}
        }
        left -= 1;
        if left == 0 {
            left = rand::rng().random_range(1..400);
            match manner {
                Manner::Eager => {}
                Manner::Slow => tokio::time::sleep(Duration::from_millis(100)).await,
                Manner::Restless => return Ok(false),
            }
        }
    }
}

/// Deletes topics at random until told to stop; says how many deletes were sent, and how many did delete something.
fn delete_at_random(
    addr: SocketAddr,
    topics: &[String],
    stop: &AtomicBool,
    deletes: &AtomicU64,
) -> u64 {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(DEADLINE))
        .build();
    let agent = ureq::Agent::from(config);
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let topic = &topics[rand::rng().random_range(0..topics.len())];
        deletes.fetch_add(1, Ordering::Relaxed);
        let answer = agent
            .delete(format!("http://{addr}/v1/topics/{topic}"))
            .call();
        match answer {
            Ok(mut response) if response.status() == 200 => {
                let body: Value = response.body_mut().read_json().unwrap();
                done += u64::from(body["deleted"] == true);
            }
            Ok(response) => assert_eq!(response.status(), 503, "{response:?}"),
            // The broker has been killed; but it may not leave anybody waiting.
            Err(ureq::Error::Timeout(timeout)) => panic!("no answer: {timeout}"),
            Err(_) => {}
        }
        std::thread::park_timeout(Duration::from_millis(rand::rng().random_range(0..40)));
    }
    done
}

/// The heart of it: publishers, subscribers of every kind, deletes of all their topics, and the broker killed in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_under_load_and_kill_9_lose_nothing_untold() {
    const TOPICS: usize = 3;
    const PUBLISHERS: u64 = 2;
    const EACH: u64 = 4000;
    const KILLS: u64 = 4;
    let mut broker = Setup::new().restarts().start();
    let addr = broker.addr();
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("t.{n}")).collect();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut readers = Vec::new();
    for topic in &topics {
        for manner in [Manner::Eager, Manner::Slow, Manner::Restless] {
            for subprotocol in Subprotocol::ALL {
                let reading = follow(addr, topic.clone(), manner, subprotocol, ledger.clone());
                readers.push((topic.clone(), tokio::spawn(reading)));
            }
        }
    }
    let progress = Arc::new(AtomicU64::new(0));
    let publishers: Vec<_> = topics
        .iter()
        .flat_map(|topic| (0..PUBLISHERS).map(move |p| (topic.clone(), p)))
        .map(|(topic, p)| {
            let (url, progress, ledger) = (broker.ws_url(), progress.clone(), ledger.clone());
            tokio::spawn(async move {
                let client = Client::connect(url).await.unwrap();
                let padding = "x".repeat(300);
                let mut waiting = std::collections::VecDeque::new();
                for n in 1..=EACH {
                    let data = json!({"p": p, "n": n, "x": padding});
                    let receipt = client.publish(&topic, &data).send().await.unwrap();
                    waiting.push_back((data.to_string(), receipt));
                    if waiting.len() == 200 || n == EACH {
                        for (data, receipt) in waiting.drain(..) {
                            let receipt = within("a receipt", receipt).await.unwrap();
                            progress.fetch_add(1, Ordering::Relaxed);
                            // The receipt of a duplicate may be that of a later message of the same producer.
                            if !receipt.duplicate {
                                let (epoch, offset) = (receipt.cursor.epoch, receipt.cursor.offset);
                                let acked = (topic.clone(), epoch.to_string(), offset, data);
                                ledger.lock().unwrap().acked.push(acked);
                            }
                        }
                    }
                }
            })
        })
        .collect();
    let (stop, deletes) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let deleters: Vec<_> = (0..2)
        .map(|_| {
            let (topics, stop, deletes) = (topics.clone(), stop.clone(), deletes.clone());
            tokio::task::spawn_blocking(move || delete_at_random(addr, &topics, &stop, &deletes))
        })
        .collect();

    let total = TOPICS as u64 * PUBLISHERS * EACH;
    for kill in 1..=KILLS {
        let goal = total * kill / (KILLS + 2);
        hark_tests::until("more is published", async || {
            (progress.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
        broker.kill9();
        broker.start_again();
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    for deleter in deleters {
        done += deleter.await.unwrap();
    }
    let mut ends = HashMap::new();
    for topic in &topics {
        let mut ws = Ws::connect(&broker).await;
        let end = ws.publish(topic, json!("end")).await["cursor"].clone();
        ends.insert(topic.clone(), end);
    }
    let mut seen_by = BTreeMap::new();
    for (topic, reader) in readers {
        let seen = reader.await.unwrap();
        assert_eq!(ends[&topic], seen.cursor(), "everybody ends at the end");
        *seen_by.entry(topic).or_insert(0) += seen.messages.len();
    }

    let mut ledger = std::mem::take(&mut *ledger.lock().unwrap());
    let acked = std::mem::take(&mut ledger.acked);
    let acknowledged = acked.len();
    for (topic, epoch, offset, data) in acked {
        ledger.saw(&topic, &epoch, offset, data);
    }
    for topic in &topics {
        // What is there now: all that was acknowledged in this epoch.
        let all = Ws::connect(&broker)
            .await
            .watch_to_caught_up(topic, json!("earliest"))
            .await;
        assert_eq!(ends[topic], all.cursor());
        let kept: HashSet<u64> = all.offsets().into_iter().collect();
        for (_, _, offset) in ledger
            .places
            .keys()
            .filter(|(of, epoch, _)| of == topic && *epoch == all.epoch)
        {
            assert!(
                kept.contains(offset),
                "{offset} of {topic} is gone, and nobody was told"
            );
        }
        // And nothing is kept twice in one sequence.
        for epoch in &ledger.epochs[topic] {
            let of_epoch = ledger
                .places
                .iter()
                .filter(|((of, e, _), _)| of == topic && e == epoch);
            let mut once = HashSet::new();
            for ((_, _, offset), data) in of_epoch {
                assert!(
                    once.insert(data),
                    "{data} came twice to {topic}, again at {epoch}:{offset}"
                );
            }
        }
    }
    // Every other epoch is one that somebody wanted deleted.
    let epochs: usize = ledger.epochs.values().map(HashSet::len).sum();
    let sent = deletes.load(Ordering::Relaxed);
    println!(
        "{acknowledged} acknowledged, {done} of {sent} deletes did delete, {epochs} epochs seen, read: {seen_by:?}"
    );
    assert!(epochs <= TOPICS + usize::try_from(sent).unwrap());
    assert!(done > 20, "there were deletes under load: {done}");
}
