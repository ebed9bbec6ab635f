//! One message to many topics: kept in each as if it had been published there alone, with one answer for all.

use std::time::Duration;

use hark_client::{Client, PublishError};
use hark_protocol::Subprotocol;
use hark_tests::{Broker, Preload, Setup, Ws};
use serde_json::{Value, json};

use crate::fairness::commits;
use crate::publish_many::data;

fn topics(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("many.{n}")).collect()
}

/// Publishes and gives the receipts, which must be those of these topics.
async fn publish(ws: &mut Ws, mut frame: Value) -> Vec<Value> {
    frame["type"] = json!("publish");
    let answer = ws.ask(frame.clone()).await;
    assert_eq!(answer["type"], "published_all", "{answer}");
    let receipts = answer["receipts"].as_array().unwrap().clone();
    let of: Vec<&Value> = receipts.iter().map(|receipt| &receipt["topic"]).collect();
    let asked: Vec<&Value> = frame["topics"].as_array().unwrap().iter().collect();
    assert_eq!(of, asked, "in the order of the topics");
    receipts
}

/// What each receipt says: the offset, or the code.
fn said(receipts: &[Value]) -> Vec<String> {
    let said = |receipt: &Value| match receipt["code"].as_str() {
        Some(code) => code.to_owned(),
        None => {
            let cursor = receipt["cursor"].as_str().unwrap();
            let duplicate = receipt["duplicate"].as_bool().unwrap();
            let offset = cursor.split_once(':').unwrap().1;
            format!("{offset}{}", if duplicate { " again" } else { "" })
        }
    };
    receipts.iter().map(said).collect()
}

#[tokio::test]
async fn a_message_is_kept_in_a_thousand_topics_and_passed_on_in_each() {
    for subprotocol in Subprotocol::ALL {
        let broker = Broker::start();
        let topics = topics(1024);
        let mut reader = Ws::connect(&broker).await;
        for topic in [&topics[0], &topics[1023]] {
            reader.subscribe(topic, json!("now")).await;
            reader.expect("caught_up").await;
        }
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        for round in 1..=2 {
            let frame = json!({"topics": topics, "data": round, "headers": {"k": "v"}});
            let receipts = publish(&mut ws, frame).await;
            assert!(
                said(&receipts)
                    .iter()
                    .all(|said| *said == round.to_string())
            );
        }
        for round in [1, 1, 2, 2] {
            let message = reader.message().await;
            assert_eq!(
                (&message["data"], &message["headers"]["k"]),
                (&json!(round), &json!("v"))
            );
        }
        for topic in &topics[500..510] {
            assert_eq!(data(&broker, topic), [json!(1), json!(2)]);
        }
        // The session goes on with one topic, or with two such messages at once.
        ws.publish(&topics[0], json!(3)).await;
        let twice = [4, 5].map(|n| json!({"topics": topics, "data": n}));
        let answers = ws.publish_all(twice, 2).await;
        assert_eq!(
            answers[1]["receipts"][0]["cursor"]
                .as_str()
                .unwrap()
                .split(':')
                .next_back(),
            Some("5")
        );
        ws.expect_quiet().await;
    }
}

#[tokio::test]
async fn each_topic_succeeds_or_fails_by_itself_and_only_what_failed_is_sent_again() {
    let broker = Setup::new().flag("max-topics", 2).start();
    for (n, subprotocol) in Subprotocol::ALL.into_iter().enumerate() {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let counted = |topics: &[&str], seqs: &[u64]| json!({"topics": topics, "data": n, "producer": format!("p{n}"), "seqs": seqs});
        let offset = (n + 1).to_string();
        let again = format!("{offset} again");
        let (again, offset) = (again.as_str(), offset.as_str());

        let first = counted(&["a", "a..", "b", "$sys.x"], &[1, 1, 2, 1]);
        let receipts = publish(&mut ws, first).await;
        assert_eq!(
            said(&receipts),
            [offset, "bad_topic", "out_of_sequence", "bad_topic"]
        );
        assert_eq!(receipts[2]["expected_seq"], 1);
        for (receipt, why) in [(&receipts[1], "dots"), (&receipts[3], "system")] {
            assert!(receipt["message"].as_str().unwrap().contains(why));
        }
        let second = publish(&mut ws, counted(&["a", "b"], &[1, 1])).await;
        assert_eq!(said(&second), [again, offset]);
        let third = publish(&mut ws, counted(&["one.too.many", "b"], &[1, 1])).await;
        assert_eq!(said(&third), ["too_many_topics", again]);
        ws.expect_quiet().await;
    }
    for topic in ["a", "b"] {
        assert_eq!(data(&broker, topic), [json!(0), json!(1)]);
    }
}

#[tokio::test]
async fn a_key_is_known_again_in_each_topic() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let keyed = |topics: &[&str]| json!({"topics": topics, "data": 1, "message_id": "k"});
    assert_eq!(
        said(&publish(&mut ws, keyed(&["a", "b"])).await),
        ["1", "1"]
    );
    let more = publish(&mut ws, keyed(&["b", "c"])).await;
    assert_eq!(said(&more), ["1 again", "1"]);
    // One number more in each, whichever way it is published.
    let one = json!({"topic": "a", "data": 2, "producer": "p", "seq": 1});
    ws.publish_frame(one).await;
    let all = json!({"topics": ["a", "b"], "data": 3, "producer": "p", "seqs": [2, 1]});
    assert_eq!(said(&publish(&mut ws, all).await), ["3", "2"]);
}

#[tokio::test]
async fn what_is_wrong_with_the_frame_is_one_error_and_nothing_is_kept() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for (wrong, code) in [
        (json!({"topics": []}), "bad_frame"),
        (json!({"topics": ["a", "b", "a"]}), "bad_frame"),
        (json!({"topics": ["a"], "topic": "a"}), "bad_frame"),
        (
            json!({"topics": ["a"], "producer": "p", "seq": 1}),
            "bad_frame",
        ),
        (
            json!({"topics": ["a"], "producer": "p", "seqs": [1, 2]}),
            "bad_frame",
        ),
        (
            json!({"topic": "a", "producer": "p", "seqs": [1]}),
            "bad_frame",
        ),
        (json!({"topics": topics(1025)}), "too_large"),
    ] {
        let mut frame = wrong;
        frame["type"] = json!("publish");
        frame["data"] = json!(1);
        let answer = ws.ask(frame).await;
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!(code)),
            "{answer}"
        );
    }
    ws.expect_quiet().await;
    // Every one of them is no topic: an answer comes all the same.
    let receipts = publish(&mut ws, json!({"topics": ["a..", "$b"], "data": 1})).await;
    assert_eq!(said(&receipts), ["bad_topic", "bad_topic"]);
    assert_eq!(
        broker.http().get("/v1/topics").ok().json()["topics"],
        json!([])
    );
}

#[tokio::test]
async fn without_an_id_no_receipts_come() {
    let broker = Broker::start();
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let frame = json!({"type": "publish", "topics": ["a", "b", "c.."], "data": 1});
        ws.send(&frame).await;
        let receipts = publish(&mut ws, json!({"topics": ["a", "b"], "data": 2})).await;
        assert_eq!(said(&receipts)[0], said(&receipts)[1]);
        ws.expect_quiet().await;
    }
    assert_eq!(data(&broker, "a"), [json!(1), json!(2), json!(1), json!(2)]);
}

#[tokio::test]
async fn what_one_session_publishes_stays_in_its_order_in_every_topic() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    // In turn to one topic, to all, and to some: more than fits in the envelopes that may be on their way.
    let mut expected: Vec<Vec<Value>> = vec![Vec::new(); 7];
    let mut frames = Vec::new();
    for n in 0..600 {
        let to: Vec<usize> = match n % 3 {
            0 => vec![n % 7],
            1 => (0..7).collect(),
            _ => (0..7).filter(|topic| topic % 2 == n % 2).collect(),
        };
        for &topic in &to {
            expected[topic].push(json!(n));
        }
        let names: Vec<String> = to.iter().map(|topic| format!("t{topic}")).collect();
        frames.push(match n % 3 {
            0 => json!({"topic": names[0], "data": n}),
            _ => json!({"topics": names, "data": n}),
        });
    }

    let answers = ws.publish_all(frames, 600).await;

    assert!(answers.iter().all(|answer| answer["type"] != "error"));
    for (topic, expected) in expected.iter().enumerate() {
        assert_eq!(data(&broker, &format!("t{topic}")), *expected);
    }
}

#[tokio::test]
async fn a_message_for_a_thousand_topics_takes_a_few_commits() {
    let preload = Preload::new();
    let broker = preload.under(Setup::new().flag("workers", 1)).start();
    let mut ws = Ws::connect(&broker).await;
    let frame = json!({"topics": topics(1000), "data": "x"});
    publish(&mut ws, frame.clone()).await;
    // So long that all of them are on their way before a second commit begins, however busy the machine is.
    preload.slow_syncs(Duration::from_millis(50));
    for _ in 0..3 {
        let before = commits(&broker);
        publish(&mut ws, frame.clone()).await;
        let taken = commits(&broker) - before;
        assert!(taken <= 6, "{taken} commits");
    }
}

#[tokio::test]
async fn each_topic_counts_in_max_inflight() {
    let preload = Preload::new();
    let broker = preload.under(Setup::new()).start();
    let mut ws = Ws::connect(&broker).await;
    assert_eq!(ws.welcome["max_inflight"], 1024);
    let topics = topics(1024);
    publish(&mut ws, json!({"topics": topics, "data": 1})).await;
    preload.slow_syncs(Duration::from_millis(300));
    let before = commits(&broker);
    let frame = json!({"type": "publish", "id": 1, "topics": topics, "data": 2});
    ws.try_feed(&frame).await.unwrap();
    // Beyond them goes one more; then Hark reads on only when one of them is answered, and that is when it is kept.
    ws.send(&json!({"type": "publish", "topic": "beyond", "data": 3}))
        .await;
    ws.send(&json!({"type": "ping", "id": 2})).await;
    ws.answer(2).await;
    assert!(commits(&broker) > before, "the ping was read at once");
    let answer = ws.answer(1).await;
    assert_eq!(answer["receipts"].as_array().map(Vec::len), Some(1024));
}

#[tokio::test]
async fn a_large_message_to_many_topics_counts_once() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    // Beyond the bytes that may be staged, if it were counted for each; the log has room for less than it would be.
    let large = "x".repeat(512 * 1024);
    let mut left = topics(160);
    let mut rounds = 0;
    while !left.is_empty() {
        rounds += 1;
        assert!(rounds < 100, "{} topics do not take it", left.len());
        let receipts = publish(
            &mut ws,
            json!({"topics": left, "data": large, "message_id": "k"}),
        )
        .await;
        let failed = receipts.iter().filter(|receipt| receipt["code"] == "busy");
        left = failed
            .map(|receipt| receipt["topic"].as_str().unwrap().to_owned())
            .collect();
    }
    for topic in ["many.0", "many.159"] {
        assert_eq!(data(&broker, topic).len(), 1);
    }
}

/// The SDK sends again what was not answered, topic by topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_publishes_to_many_topics_through_kill_9() {
    const MESSAGES: u64 = 300;
    const TOPICS: usize = 20;
    let mut broker = Setup::new().restarts().start();
    let client = Client::connect(broker.ws_url()).await.unwrap();
    let publishing = tokio::spawn(async move {
        let mut pending = Vec::new();
        for n in 1..=MESSAGES {
            let to = client.publish_all(topics(TOPICS), &n);
            pending.push(to.send().await.unwrap());
            if n % 7 == 0 {
                drop(client.publish("many.3", &-1).send().await.unwrap());
            }
        }
        for receipts in pending {
            let receipts = receipts.await;
            assert_eq!(receipts.len(), TOPICS);
            assert!(receipts.iter().all(Result::is_ok), "{receipts:?}");
        }
        client
    });
    for kill in 1..=3 {
        hark_tests::subscribe_surely(broker.addr(), "many.0", None, |seen| {
            seen.position >= kill * MESSAGES / 5
        })
        .await;
        broker.kill9();
        broker.start_again();
    }
    let client = publishing.await.unwrap();
    assert!(client.stats().connections > 1);
    for topic in topics(TOPICS) {
        let mut kept = data(&broker, &topic);
        kept.retain(|n| *n != json!(-1));
        let expected: Vec<Value> = (1..=MESSAGES).map(Value::from).collect();
        assert_eq!(kept, expected, "{topic}");
    }

    let receipts = client
        .publish_all(["ok", "not..ok", "$sys"], "x")
        .receipts()
        .await
        .unwrap();
    assert!(receipts[0].is_ok());
    assert!(matches!(receipts[1], Err(PublishError::BadTopic(_))));
    assert!(matches!(receipts[2], Err(PublishError::SystemTopic(_))));
    let twice = client.publish_all(["a", "b", "a"], "x").receipts().await;
    assert!(matches!(twice, Err(PublishError::TopicTwice(topic)) if topic.as_str() == "a"));
}
