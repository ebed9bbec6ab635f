//! Publishing again is safe: by a producer's numbers, or by a key of the client's own choosing.

use hark_protocol::Subprotocol;
use hark_tests::{Acked, Broker, Setup, Ws};
use serde_json::{Value, json};

fn numbered(producer: &str, seq: u64, data: Value) -> Value {
    json!({"type": "publish", "topic": "a", "data": data, "producer": producer, "seq": seq})
}

fn keyed(key: &str, data: Value) -> Value {
    json!({"type": "publish", "topic": "a", "data": data, "message_id": key})
}

fn offset_of(receipt: &Value) -> u64 {
    let (_, offset) = receipt["cursor"].as_str().unwrap().split_once(':').unwrap();
    offset.parse().unwrap()
}

async fn data_of(broker: &Broker) -> Vec<String> {
    let seen = Ws::connect(broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    seen.messages.into_iter().map(|(_, data)| data).collect()
}

#[tokio::test]
async fn a_number_that_was_taken_is_a_duplicate() {
    for subprotocol in Subprotocol::ALL {
        let broker = Broker::start();
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let mut other = Ws::connect(&broker).await;
        let mut seen = other.watch("a", json!("now")).await;
        for seq in 1..=5 {
            let receipt = ws.publish_frame(numbered("p", seq, json!(seq))).await;
            assert_eq!(receipt["duplicate"], false, "{receipt}");
        }

        for seq in [5, 1, 3] {
            let receipt = ws.publish_frame(numbered("p", seq, json!("again"))).await;
            assert_eq!(receipt["duplicate"], true, "{receipt}");
            assert_eq!(offset_of(&receipt), seq, "where it was kept: {receipt}");
        }

        other.follow(&mut seen, |seen| seen.position == 5).await;
        other.expect_quiet().await;
        assert_eq!(data_of(&broker).await, ["1", "2", "3", "4", "5"]);
    }
}

#[tokio::test]
async fn a_number_too_large_is_out_of_sequence() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish_frame(numbered("p", 1, json!(1))).await;

    for (producer, seq, expected) in [("p", 3, 2), ("p", u64::MAX, 2), ("new", 2, 1)] {
        let error = ws.ask(numbered(producer, seq, json!("no"))).await;
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!("out_of_sequence")),
            "{error}"
        );
        assert_eq!(error["expected_seq"], expected, "{error}");
    }

    ws.publish_frame(numbered("p", 2, json!(2))).await;
    ws.publish_frame(numbered("new", 1, json!(3))).await;
    assert_eq!(data_of(&broker).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn producers_count_for_themselves_and_per_topic() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for seq in 1..=3 {
        for producer in ["p", "q"] {
            for topic in ["a", "b"] {
                let mut frame = numbered(producer, seq, json!(format!("{producer}{seq}")));
                frame["topic"] = json!(topic);
                let receipt = ws.publish_frame(frame).await;
                assert_eq!(receipt["duplicate"], false, "{receipt}");
            }
        }
    }
    assert_eq!(
        data_of(&broker).await,
        ["p1", "q1", "p2", "q2", "p3", "q3"].map(|data| format!("\"{data}\""))
    );
}

#[tokio::test]
async fn a_window_sent_twice_at_once_is_kept_once() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let window = || (1..=200).map(|seq| numbered("p", seq, json!(seq)));

    let answers = ws.publish_all(window().chain(window()), 400).await;

    let duplicates: Vec<&Value> = answers.iter().map(|answer| &answer["duplicate"]).collect();
    let expected: Vec<Value> = (0..400).map(|n| json!(n >= 200)).collect();
    assert_eq!(duplicates, expected.iter().collect::<Vec<_>>());
    assert_eq!(
        data_of(&broker).await,
        (1..=200).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn one_producer_in_two_sessions_is_one_producer() {
    let broker = Broker::start();
    let mut first = Ws::connect(&broker).await;
    let mut second = Ws::connect_as(&broker, Subprotocol::Bincode).await;

    first.publish_frame(numbered("p", 1, json!(1))).await;
    assert_eq!(
        second.publish_frame(numbered("p", 1, json!("again"))).await["duplicate"],
        true
    );
    second.publish_frame(numbered("p", 2, json!(2))).await;
    assert_eq!(
        first.publish_frame(numbered("p", 2, json!("again"))).await["duplicate"],
        true
    );

    assert_eq!(data_of(&broker).await, ["1", "2"]);
}

#[tokio::test]
async fn producers_are_known_again_after_a_restart() {
    let mut broker = Setup::new().restarts().start();
    let mut ws = Ws::connect(&broker).await;
    let mut acked = Acked::default();
    for seq in 1..=50 {
        acked.receipt(
            &ws.publish_frame(numbered("p", seq, json!(seq))).await,
            &json!(seq),
        );
    }
    ws.publish_frame(numbered("quiet", 1, json!("quiet"))).await;

    broker.kill9();
    broker.start_again();

    let mut ws = Ws::connect(&broker).await;
    for seq in 40..=60 {
        let receipt = ws.publish_frame(numbered("p", seq, json!(seq))).await;
        assert_eq!(receipt["duplicate"], seq <= 50, "{seq}: {receipt}");
    }
    assert_eq!(
        ws.publish_frame(numbered("quiet", 1, json!("quiet"))).await["duplicate"],
        true
    );
    assert_eq!(
        ws.ask(numbered("p", 62, json!(62))).await["expected_seq"],
        61
    );
    let data = data_of(&broker).await;
    assert_eq!(data.len(), 61);
    assert_eq!(data.iter().filter(|data| *data == "45").count(), 1);
}

/// Two producers and a key by turns, so that no place follows from another: exact while the broker runs, and after a restart as far as
/// the newest records tell. Nobody is ever told the place of another message.
#[tokio::test]
async fn a_duplicate_is_told_its_own_place() {
    for memory in [false, true] {
        let mut broker = match memory {
            true => Setup::new().flag("memory-topics", "a").start(),
            false => Setup::new().restarts().start(),
        };
        let mut ws = Ws::connect(&broker).await;
        let mut frames = Vec::new();
        for seq in 1..=300 {
            frames.push(numbered("p", seq, json!(["p", seq])));
            frames.push(numbered("q", seq, json!(["q", seq])));
            if seq % 3 == 0 {
                frames.push(keyed(&format!("k{seq}"), json!(["k", seq])));
            }
        }
        let count = frames.len() as u64;
        let firsts = ws.publish_all(frames.clone(), 64).await;
        let expected: Vec<u64> = (1..=count).collect();
        let offsets = |answers: &[Value]| answers.iter().map(offset_of).collect::<Vec<_>>();
        assert_eq!(offsets(&firsts), expected);

        let again = ws.publish_all(frames.clone(), 64).await;
        assert_eq!(offsets(&again), expected);
        assert!(again.iter().all(|answer| answer["duplicate"] == true));

        if memory {
            continue;
        }
        broker.kill9();
        broker.start_again();
        let mut ws = Ws::connect_as(&broker, Subprotocol::Bincode).await;
        let again = ws.publish_all(frames, 64).await;
        assert!(again.iter().all(|answer| answer["duplicate"] == true));
        assert_eq!(
            offsets(&again),
            expected,
            "all of it is new enough to be read"
        );
    }
}

/// A place that nobody knows any more is offset 0 of the topic's epoch: a cursor as any other, that names no message.
#[tokio::test]
async fn a_duplicate_whose_place_is_forgotten_names_no_message() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish_frame(numbered("p", 1, json!(1))).await;
    let epoch = broker.http().get("/v1/topics/a").ok().json()["epoch"].clone();
    // More runs than are kept of a producer: each message of it is one, with another in between.
    const RUNS: u64 = 10_000;
    let frames = (2..=RUNS).flat_map(|seq| {
        [
            numbered("p", seq, json!(seq)),
            json!({"type": "publish", "topic": "a", "data": 0}),
        ]
    });
    ws.publish_all(frames, 1000).await;

    let receipt = ws.publish_frame(numbered("p", 1, json!("again"))).await;
    assert_eq!(receipt["duplicate"], true, "{receipt}");
    let nowhere = format!("{}:0", epoch.as_str().unwrap());
    assert_eq!(receipt["cursor"], nowhere, "{receipt}");
    let newest = ws.publish_frame(numbered("p", RUNS, json!("again"))).await;
    assert_eq!(offset_of(&newest), 2 * RUNS - 2, "{newest}");
    // It is a cursor: whoever goes on from it has everything.
    let mut reader = Ws::connect(&broker).await;
    let seen = reader.watch("a", json!({"after": nowhere})).await;
    assert_eq!(seen.start, 0);
}

/// Producers and keys of all topics together have one bound. A page that loads is a new producer, so those are taken as long as somebody
/// can be forgotten; here nobody can, since all have just been heard. What is known goes on.
#[tokio::test]
async fn what_is_remembered_of_producers_has_one_bound() {
    const BOUND: u64 = 1024 * 1024;
    let broker = Setup::new().flag("max-producers-bytes", BOUND).start();
    let mut ws = Ws::connect(&broker).await;
    let page = |n: u64| {
        let topic = format!("t.{}", n % 50);
        json!({"type": "publish", "topic": topic, "data": n, "producer": format!("page-{n:056}"), "seq": 1})
    };
    let answers = ws.publish_all((0..4000).map(page), 200).await;
    let taken = answers
        .iter()
        .filter(|answer| answer["type"] == "published");
    let taken = taken.count() as u64;
    // Each has some 400 bytes; the first of them all are taken, and most of the others not.
    assert!((BOUND / 600..BOUND / 300).contains(&taken), "{taken}");
    assert!(
        answers[..1000]
            .iter()
            .all(|answer| answer["type"] == "published")
    );
    let refused: Vec<&Value> = answers
        .iter()
        .filter(|answer| answer["type"] != "published")
        .collect();
    for answer in &refused {
        assert_eq!(answer["code"], "busy", "{answer}");
    }
    let said = refused[0]["message"].as_str().unwrap();
    assert!(said.contains("--max-producers-bytes"), "{said}");

    // Those who are known are known, and go on; whoever gives no number is not concerned.
    for n in 0..50 {
        let again = ws.publish_frame(page(n)).await;
        assert_eq!(again["duplicate"], true, "{again}");
        let mut next = page(n);
        next["seq"] = json!(2);
        assert_eq!(ws.publish_frame(next).await["duplicate"], false);
    }
    let plain = json!({"type": "publish", "topic": "t.0", "data": 0});
    assert_eq!(ws.publish_frame(plain).await["duplicate"], false);
}

/// The answers to numbers from 1 on of the one producer of `a`: what was kept before is a duplicate, what was not follows it without
/// a hole, and everything lies where its number says, since there is nobody else. Of duplicates from before the restart that may be
/// unknown, but for the newest. Gives how many were duplicates.
fn check_in_place(answers: &[Value]) -> u64 {
    let duplicates = answers
        .iter()
        .take_while(|answer| answer["duplicate"] == true)
        .count() as u64;
    for (seq, answer) in (1..).zip(answers) {
        assert_eq!(answer["type"], "published", "{seq}: {answer}");
        assert_eq!(answer["duplicate"], seq <= duplicates, "{seq}: {answer}");
        let offset = offset_of(answer);
        let may_be_unknown = seq < duplicates;
        assert!(
            offset == seq || may_be_unknown && offset == 0,
            "{seq}: {answer}"
        );
    }
    duplicates
}

/// A client that has lost its connection knows of a part of what it sent that it was kept, and of the rest nothing. It may send
/// again all it has.
#[tokio::test]
async fn thousands_that_are_sent_again_after_kill_9_are_kept_once() {
    const ROUNDS: u64 = 6;
    const WINDOW: u64 = 1024;
    /// How many receipts of a window are read before the kill: that leaves hundreds unanswered, whatever of them was kept.
    const READ: [u64; 3] = [1, 100, 300];
    let mut broker = Setup::new().restarts().start();
    let all = |sent| (1..=sent).map(|seq| numbered("p", seq, json!(seq)));
    let (mut sent, mut again, mut duplicates, mut unanswered, mut kept_unanswered) =
        (0, 0, 0, 0, 0);
    for (round, subprotocol) in (0..ROUNDS).zip(Subprotocol::ALL.into_iter().cycle()) {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        for seq in sent + 1..=sent + WINDOW {
            let mut frame = numbered("p", seq, json!(seq));
            frame["id"] = json!(ws.new_id());
            ws.try_feed(&frame).await.unwrap();
        }
        ws.flush().await.unwrap();
        let read = READ[usize::try_from(round).unwrap() % READ.len()];
        for seq in sent + 1..=sent + read {
            let receipt = ws.expect("published").await;
            assert_eq!(receipt["duplicate"], false, "{seq}: {receipt}");
        }
        broker.kill9();
        broker.start_again();
        let answered = sent + read;
        sent += WINDOW;

        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let answers = ws.publish_all(all(sent), WINDOW).await;

        assert_eq!(answers.len() as u64, sent);
        let found = check_in_place(&answers);
        assert!(
            found >= answered,
            "{answered} were answered, and {found} are there"
        );
        again += sent;
        duplicates += found;
        unanswered += sent - answered;
        kept_unanswered += found - answered;
    }
    println!(
        "{again} sent again after {ROUNDS} kills, {duplicates} of them duplicates; of {unanswered} that a kill left unanswered {kept_unanswered} \
         had been kept"
    );
    assert!(again >= 2000 && duplicates >= 2000 && unanswered >= 2000);
    let expected: Vec<String> = (1..=ROUNDS * WINDOW).map(|n| n.to_string()).collect();
    assert_eq!(data_of(&broker).await, expected);
}

#[tokio::test]
async fn a_key_that_was_used_is_a_duplicate() {
    for subprotocol in Subprotocol::ALL {
        let broker = Broker::start();
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let first = ws.publish_frame(keyed("order-1", json!(1))).await;
        let second = ws.publish_frame(keyed("order-2", json!(2))).await;

        let again = ws.publish_frame(keyed("order-1", json!("again"))).await;
        let mut elsewhere = keyed("order-1", json!("elsewhere"));
        elsewhere["topic"] = json!("b");
        let elsewhere = ws.publish_frame(elsewhere).await;

        assert_eq!(
            (&first["duplicate"], &second["duplicate"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(again["duplicate"], true);
        assert_eq!(again["cursor"], first["cursor"], "where it was kept");
        assert_eq!(elsewhere["duplicate"], false, "keys are per topic");
        assert_eq!(data_of(&broker).await, ["1", "2"]);
    }
}

#[tokio::test]
async fn the_last_ten_thousand_keys_are_remembered() {
    let broker = Setup::new().flag("memory-topics", "a").start();
    let mut ws = Ws::connect(&broker).await;
    let mut others = 0;
    let mut more = |count: u64| {
        let start = others;
        others += count;
        (start..others)
            .map(|n| keyed(&format!("other-{n}"), json!(n)))
            .collect::<Vec<_>>()
    };
    ws.publish_frame(keyed("first", json!("first"))).await;

    ws.publish_all(more(9_999), 512).await;
    let known = ws.publish_frame(keyed("first", json!("again"))).await;
    ws.publish_all(more(10_000), 512).await;
    let forgotten = ws.publish_frame(keyed("first", json!("new"))).await;

    // Less than two minutes have passed, or this says nothing: then the key may be forgotten sooner.
    assert_eq!(known["duplicate"], true, "{known}");
    assert_eq!(forgotten["duplicate"], false, "{forgotten}");
}

#[tokio::test]
async fn http_takes_producers_and_keys_as_headers() {
    let broker = Broker::start();
    let http = broker.http();
    let post = |headers: &[(&str, &str)]| {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        http.post("/v1/topics/a/messages", &headers, "1")
    };

    let first = post(&[("hark-producer", "p"), ("hark-seq", "1")])
        .ok()
        .json();
    let again = post(&[("hark-producer", "p"), ("hark-seq", "1")])
        .ok()
        .json();
    let ahead = post(&[("hark-producer", "p"), ("hark-seq", "3")]);
    let second = post(&[("hark-producer", "p"), ("hark-seq", "2")])
        .ok()
        .json();
    let key = post(&[("hark-message-id", "m")]).ok().json();
    let key_again = post(&[("hark-message-id", "m")]).ok().json();

    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&json!(false), &json!(true))
    );
    ahead.expect_error(409, "out_of_sequence");
    assert_eq!(ahead.json()["expected_seq"], 2);
    assert_eq!(second["duplicate"], false);
    assert_eq!(
        (&key["duplicate"], &key_again["duplicate"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(key["cursor"], key_again["cursor"]);
    assert_eq!(data_of(&broker).await.len(), 3);
}

#[tokio::test]
async fn a_producer_may_change_its_transport() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish_frame(numbered("p", 1, json!(1))).await;

    let headers = [
        ("content-type", "application/json"),
        ("hark-producer", "p"),
        ("hark-seq", "1"),
    ];
    let over_http = broker
        .http()
        .post("/v1/topics/a/messages", &headers, "1")
        .ok()
        .json();

    assert_eq!(over_http["duplicate"], true, "{over_http}");
}

#[tokio::test]
async fn bad_producers_and_keys_over_http_are_refused() {
    let broker = Broker::start();
    let long = "x".repeat(65);
    let cases: [&[(&str, &str)]; 6] = [
        &[("hark-producer", "p")],
        &[("hark-seq", "1")],
        &[("hark-producer", "p"), ("hark-seq", "one")],
        &[("hark-producer", &long), ("hark-seq", "1")],
        &[("hark-message-id", &long)],
        &[("hark-message-id", "")],
    ];
    for headers in cases {
        let all = [headers, &[("content-type", "application/json")]].concat();
        let response = broker.http().post("/v1/topics/a/messages", &all, "1");
        assert!(
            (400..500).contains(&response.status),
            "{headers:?}: {response:#?}"
        );
        assert!(response.json()["code"].is_string(), "{response:#?}");
    }
    assert_eq!(data_of(&broker).await, Vec::<String>::new());
}
