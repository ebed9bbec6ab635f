//! Long-polls and plain polls, of one topic and of several: they answer when there is something, and never twice or too late.

use std::time::{Duration, Instant};

use hark_tests::{Broker, Http, Setup};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/topics/a/messages";

/// Asks in a thread of its own, and publishes once the question is on its way.
fn ask_then<T>(broker: &Broker, path: &str, then: impl FnOnce(&Http) -> T) -> (Value, Duration, T) {
    let http = broker.http();
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let asking = scope.spawn(|| http.get(path).ok().json());
        // Whether it waits by then or not, it must be answered the same.
        hark_tests::pause(Duration::from_millis(100));
        let then = then(&http);
        let answer = asking.join().unwrap();
        (answer, begun.elapsed(), then)
    })
}

#[test]
fn a_long_poll_is_answered_when_something_comes() {
    let broker = Broker::start();

    let (page, took, _) = ask_then(&broker, &format!("{MESSAGES}?from=now&wait=55"), |http| {
        http.publish("a", &json!("first")).ok()
    });

    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(page["messages"][0]["data"], "first");
    assert_eq!(page["caught_up"], true);
    let cursor = page["cursor"].as_str().unwrap();
    assert!(cursor.ends_with(":1"), "{page}");
}

#[test]
fn it_is_answered_at_once_where_there_is_something() {
    let broker = Broker::start();
    let receipt = broker.http().publish("a", &json!(1)).ok().json();
    let (epoch, _) = receipt["cursor"].as_str().unwrap().split_once(':').unwrap();
    let begun = Instant::now();

    let history = |query: &str| broker.http().history("a", query).ok().json();
    let page = history("wait=55");
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    let gap = history(&format!("after={epoch}:7&wait=55"));
    assert_eq!(gap["gap"]["reason"], "ahead");
    assert_eq!(gap["cursor"], receipt["cursor"]);
    let gap = history("after=zz:7&wait=55");
    assert_eq!(gap["gap"]["reason"], "other_epoch");

    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn after_its_time_it_is_answered_with_nothing_and_the_same_place() {
    let broker = Broker::start();
    let receipt = broker.http().publish("a", &json!(1)).ok().json();
    let cursor = receipt["cursor"].as_str().unwrap();

    let begun = Instant::now();
    let answer = broker
        .http()
        .history("a", &format!("after={cursor}&wait=1"))
        .ok();

    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(answer.headers["hark-cursor"], cursor);
    assert_eq!(
        answer.json(),
        json!({"messages": [], "cursor": cursor, "caught_up": true})
    );
}

#[test]
fn one_of_several_topics_is_enough() {
    let broker = Broker::start();
    let path = "/v1/messages?topic=b&topic=a&from=now";
    let now = broker.http().get(path).ok().json();
    let cursor = now["cursor"].as_str().unwrap();

    let waiting = format!("/v1/messages?topic=a&topic=b&after={cursor}&wait=55");
    let (answer, _, _) = ask_then(&broker, &waiting, |http| {
        http.publish("b", &json!("x")).ok()
    });

    assert_eq!(answer["pages"][0]["topic"], "a");
    assert_eq!(answer["pages"][0]["messages"], json!([]));
    assert_eq!(answer["pages"][1]["topic"], "b");
    assert_eq!(answer["pages"][1]["messages"][0]["data"], "x");
    // The cursor of all is good for a stream too.
    let next = answer["cursor"].as_str().unwrap();
    let mut events =
        hark_tests::EventStream::open_after(&broker, "/v1/events?topic=a&topic=b", Some(next));
    events.expect("welcome");
    assert_eq!(events.expect("subscribed").data["resumed"], true);
}

/// Page by page, with a writer all the while: every message once, in order, whether a page comes from the tail or from the log.
#[test]
fn polling_beside_a_writer_misses_nothing() {
    let broker = Broker::start();
    let total = 4000_u64;
    let http = broker.http();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for hundred in 0..total / 100 {
                let lines: String = (1..=100)
                    .map(|n| format!("{{\"topic\":\"a\",\"data\":{}}}\n", hundred * 100 + n))
                    .collect();
                http.post("/v1/messages", &[], lines).ok();
            }
        });
        for limit in [7, 100, 1000] {
            let http = &http;
            scope.spawn(move || {
                let mut next = 1;
                let mut query = format!("limit={limit}&wait=10");
                while next <= total {
                    let page = http.history("a", &query).ok().json();
                    for message in page["messages"].as_array().unwrap() {
                        assert_eq!(message["offset"], next);
                        assert_eq!(message["data"], next);
                        next += 1;
                    }
                    assert_eq!(page.get("gap"), None);
                    let cursor = page["cursor"].as_str().unwrap();
                    query = format!("after={cursor}&limit={limit}&wait=10");
                }
            });
        }
    });
}

#[test]
fn a_topic_that_is_deleted_under_it_is_told() {
    let broker = Broker::start();
    let cursor = broker.http().publish("a", &json!(1)).ok().json()["cursor"].clone();
    let path = format!("{MESSAGES}?after={}&wait=55", cursor.as_str().unwrap());

    let (page, _, _) = ask_then(&broker, &path, |http| {
        http.request("DELETE", "/v1/topics/a", &[], b"").ok()
    });

    assert_eq!(page["gap"]["reason"], "deleted", "{page}");
}

#[test]
fn a_broker_that_ends_answers_first() {
    let mut broker = Setup::new().restarts().start();
    let path = format!("{MESSAGES}?from=now&wait=55");

    let (page, took, _) = ask_then(&broker, &path, |_| broker.signal("TERM"));

    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(page["messages"], json!([]));
    assert_eq!(broker.wait().code, Some(0));
}

#[test]
fn bad_questions_are_refused() {
    let broker = Broker::start();
    let http = broker.http();
    for query in [
        "wait=-1",
        "wait=56",
        "wait=1.5",
        "wait=",
        "wait=99999999999999999999",
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "wait=1&wait=1",
    ] {
        http.history("a", query).expect_error(400, "bad_frame");
        http.get(&format!("/v1/messages?topic=a&{query}"))
            .expect_error(400, "bad_frame");
    }
    http.history("a", "after=k:1&from=now")
        .expect_error(400, "bad_cursor");
    http.history("a", "topic=b").expect_error(400, "bad_frame");
    http.get("/v1/messages").expect_error(400, "bad_topic");
    http.get("/v1/messages?topic=a&topic=b&after=k:1")
        .expect_error(400, "bad_cursor");
    let refused = http.request("PUT", "/v1/messages", &[], b"x");
    refused.expect_error(405, "unsupported");
    assert_eq!(refused.headers["allow"], "GET, HEAD, POST");
    // A topic that nobody has published to is empty.
    let empty = http.history("nobody", "").ok().json();
    assert_eq!(empty["messages"], json!([]));
}

/// However many topics one read is of, it has about a mebibyte; what there was no room for comes with the next.
#[test]
fn a_read_of_many_topics_has_a_bound() {
    let broker = Broker::start();
    let http = broker.http();
    let topics: Vec<String> = (0..32).map(|n| format!("t{n}")).collect();
    let large = vec![7_u8; 900_000];
    for topic in &topics {
        let path = format!("/v1/topics/{topic}/messages");
        http.post(&path, &[("content-type", "image/png")], &large)
            .ok();
    }
    let asked: String = topics
        .iter()
        .map(|topic| format!("topic={topic}&"))
        .collect();
    let mut seen = Vec::new();
    let mut query = "from=earliest".to_owned();
    while seen.len() < 32 {
        let answer = http.get(&format!("/v1/messages?{asked}{query}")).ok();
        assert!(answer.body.len() < 4 << 20, "{} bytes", answer.body.len());
        let answer = answer.json();
        let before = seen.len();
        for page in answer["pages"].as_array().unwrap() {
            let messages = page["messages"].as_array().unwrap();
            seen.extend(messages.iter().map(|message| message["topic"].clone()));
            assert_eq!(
                page["caught_up"],
                seen.contains(&page["topic"]),
                "{}",
                page["topic"]
            );
        }
        assert!(seen.len() > before, "each answer has something");
        query = format!("after={}", answer["cursor"].as_str().unwrap());
    }
    let once: std::collections::BTreeSet<String> = seen.iter().map(Value::to_string).collect();
    assert_eq!((seen.len(), once.len()), (32, 32));
}
