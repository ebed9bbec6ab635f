//! Server-Sent Events: one topic and several, resumed wherever they were left, slow readers, and what a browser must not be told.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use hark_tests::{Broker, DEADLINE, EventStream, Http, Seen, Setup, Ws, until, wait_until};
use serde_json::{Value, json};

const EVENTS: &str = "/v1/topics/a/events";

fn publish(broker: &Broker, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    publish_over(&broker.http(), topic, numbers);
}

fn publish_over(http: &Http, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    let lines: String = numbers
        .map(|n| format!("{{\"topic\":\"{topic}\",\"data\":{n}}}\n"))
        .collect();
    let answers = http.post("/v1/messages", &[], lines).ok();
    for answer in answers.json_lines() {
        assert_eq!(answer["duplicate"], false, "{answer}");
    }
}

/// Takes an event of a topic down, and checks that its id is the cursor it leaves the reader at.
fn take(seen: &mut Seen, event: &hark_tests::Event) {
    seen.take(&event.data);
    assert_eq!(event.id.as_deref(), Some(seen.cursor().as_str()));
}

#[test]
fn a_stream_begins_with_where_it_is_and_goes_on_live() {
    let broker = Broker::start();

    let mut events = EventStream::open(&broker, EVENTS);
    let welcome = events.expect("welcome");
    let subscribed = events.expect("subscribed");
    let caught_up = events.expect("caught_up");

    assert_eq!(events.retries, [2000]);
    assert_eq!(welcome.id, None);
    assert_eq!(welcome.data["heartbeat_ms"], 25_000);
    assert_eq!(subscribed.id.as_deref(), subscribed.data["cursor"].as_str());
    assert_eq!(caught_up.id, subscribed.id, "an empty topic has a cursor");

    let mut seen = Seen::start("a", &subscribed.data);
    publish(&broker, "a", 1..=3);
    for _ in 1..=3 {
        take(&mut seen, &events.expect("message"));
    }
    assert_eq!(seen.data(), ["1", "2", "3"]);
}

#[test]
fn every_form_of_start_means_what_it_means_everywhere() {
    let broker = Broker::start();
    publish(&broker, "a", 1..=5);
    let cursor = broker.http().history("a", "limit=2").ok().json()["cursor"].clone();
    let cursor = cursor.as_str().unwrap();
    let cases = [
        (format!("{EVENTS}?from=earliest"), None, 1),
        (format!("{EVENTS}?from=last:2"), None, 4),
        (format!("{EVENTS}?from=since:1h"), None, 1),
        (format!("{EVENTS}?after={cursor}"), None, 3),
        (format!("{EVENTS}?from={cursor}"), None, 3),
        (EVENTS.to_owned(), Some(cursor), 3),
        // A browser comes back with the query it began with.
        (format!("{EVENTS}?from=earliest"), Some(cursor), 3),
        (format!("{EVENTS}?from=last:4"), Some(""), 2),
        (format!("/v1/events?topic=a&after={cursor}"), None, 3),
        ("/v1/events?topic=a".to_owned(), Some(cursor), 3),
    ];
    for (path, last_event_id, first) in cases {
        let mut events = EventStream::open_after(&broker, &path, last_event_id);
        events.expect("welcome");
        let subscribed = events.expect("subscribed");
        let mut seen = Seen::start("a", &subscribed.data);
        for _ in first..=5 {
            take(&mut seen, &events.expect("message"));
        }
        assert_eq!(seen.offsets(), (first..=5).collect::<Vec<_>>(), "{path}");
        events.expect("caught_up");
    }
}

#[test]
fn payloads_with_line_breaks_are_one_event_each() {
    let broker = Broker::start();
    let mut events = EventStream::open(&broker, EVENTS);
    events.begin();
    let text = "one\ntwo\r\nthree\rfour\u{2028}five: six\n\ndata: seven\n";
    let pretty = "{\n  \"a\": [\r\n1,\n\n2]\n}";
    let http = broker.http();

    http.publish("a", &json!(text)).ok();
    let path = "/v1/topics/a/messages";
    http.post(path, &[("content-type", "application/json")], pretty)
        .ok();
    http.post(
        path,
        &[("content-type", "text/plain"), ("hark-header-note", "x: y")],
        text,
    )
    .ok();

    assert_eq!(events.expect("message").data["data"], text);
    assert_eq!(events.expect("message").data["data"], json!({"a": [1, 2]}));
    let plain = events.expect("message").data;
    assert_eq!(plain["headers"]["note"], "x: y");
    assert_eq!(plain["content_type"], "text/plain");
    assert_eq!(plain["text"], text);
}

/// Reads a stream of the topics `a` and `b` until both have come to their heads, and gives the last id.
fn follow(events: &mut EventStream, seen: &mut [Seen; 2], heads: [u64; 2]) -> String {
    let mut last_id = None;
    while seen[0].position < heads[0] || seen[1].position < heads[1] {
        let event = events.event();
        match event.name.as_str() {
            "message" | "gap" | "caught_up" => {
                let at = usize::from(event.data["topic"] == "b");
                seen[at].take(&event.data);
                last_id = event.id;
            }
            "lagging" => assert_eq!(event.id, None, "{event:?}"),
            _ => panic!("{event:?}"),
        }
    }
    last_id.expect("an event of a topic has an id")
}

#[test]
fn several_topics_are_resumed_from_one_id() {
    let mut broker = Setup::new().restarts().start();
    publish(&broker, "a", 1..=300);
    publish(&broker, "b", 1..=10);
    let path = "/v1/events?topic=b&topic=a&from=earliest";

    let mut events = EventStream::open(&broker, path);
    events.expect("welcome");
    let first = events.expect("subscribed");
    let second = events.expect("subscribed");
    assert_eq!(first.data["topic"], "b", "in the order asked for");
    let mut seen = [
        Seen::start("a", &second.data),
        Seen::start("b", &first.data),
    ];
    follow(&mut events, &mut seen, [150, 10]);
    publish(&broker, "b", 11..=20);
    let id = follow(&mut events, &mut seen, [300, 20]);
    drop(events);

    // Whatever is published meanwhile, and through a kill, in another order of the topics.
    publish(&broker, "b", 21..=25);
    broker.kill9();
    broker.start_again();
    publish(&broker, "a", 301..=302);
    let path = "/v1/events?topic=a&topic=b";
    let mut events = EventStream::open_after(&broker, path, Some(&id));
    events.expect("welcome");
    seen[0].resume(&events.expect("subscribed").data);
    seen[1].resume(&events.expect("subscribed").data);
    follow(&mut events, &mut seen, [302, 25]);

    // The same in a query, by its own name.
    let after = format!("/v1/events?topic=a&topic=b&after={id}");
    let mut again = EventStream::open(&broker, &after);
    again.expect("welcome");
    assert_eq!(again.expect("subscribed").data["cursor"], id_of(&id, 0));
    assert_eq!(again.expect("subscribed").data["cursor"], id_of(&id, 1));
}

/// The cursor of the `at`th topic in an id whose topics are in one epoch.
fn id_of(id: &str, at: usize) -> String {
    let (list, _) = id.split_once('~').expect("the id of several topics");
    let (epoch, _) = list.split_once(':').expect("an epoch");
    let offset = list.split(',').nth(at).expect("a cursor of each topic");
    format!("{epoch}:{}", offset.rsplit(':').next().unwrap())
}

#[test]
fn each_topic_can_have_its_own_start() {
    let broker = Broker::start();
    publish(&broker, "a", 1..=5);
    publish(&broker, "b", 1..=5);
    let cursor = broker.http().history("a", "limit=3").ok().json()["cursor"].clone();
    let from = format!("from={}&from=last:1&from=now", cursor.as_str().unwrap());

    let mut events = EventStream::open(
        &broker,
        &format!("/v1/events?topic=a&topic=b&topic=c&{from}"),
    );
    events.expect("welcome");
    let mut began: Vec<(String, u64)> = Vec::new();
    let mut messages = Vec::new();
    while messages.len() < 3 {
        let event = events.event();
        let topic = event.data["topic"].as_str().unwrap().to_owned();
        match event.name.as_str() {
            "subscribed" => {
                let cursor = event.data["cursor"].as_str().unwrap();
                let offset = cursor.split_once(':').unwrap().1;
                began.push((topic, offset.parse().unwrap()));
            }
            "message" => messages.push((topic, event.data["offset"].as_u64().unwrap())),
            _ => {}
        }
    }
    messages.sort();

    let named = |list: &[(&str, u64)]| -> Vec<(String, u64)> {
        list.iter().map(|&(t, n)| (t.to_owned(), n)).collect()
    };
    assert_eq!(began, named(&[("a", 3), ("b", 4), ("c", 0)]));
    assert_eq!(messages, named(&[("a", 4), ("a", 5), ("b", 5)]));
}

#[test]
fn a_gap_is_an_event_and_moves_the_id() {
    let broker = Setup::new().flag("retention-messages", 10).start();
    let first = broker.http().publish("a", &json!(0)).ok().json();
    let first = first["cursor"].as_str().unwrap().to_owned();
    let long = json!({"topic": "a", "data": "x".repeat(2000)}).to_string() + "\n";
    let lines = long.repeat(500);
    broker.http().post("/v1/messages", &[], lines).ok();
    let described = || broker.http().get("/v1/topics/a").ok().json();
    wait_until("retention has taken what is too much", || {
        (described()["first"].as_u64() >= Some(100)).then_some(())
    });

    let mut events = EventStream::open_after(&broker, EVENTS, Some(&first));
    events.expect("welcome");
    let mut seen = Seen::start("a", &events.expect("subscribed").data);
    let gap = events.expect("gap");
    take(&mut seen, &gap);
    assert_eq!(gap.data["reason"], "expired");
    while seen.position < 501 {
        take(&mut seen, &events.event());
    }

    let elsewhere = format!("zz:{}", seen.position);
    let mut events = EventStream::open_after(&broker, EVENTS, Some(&elsewhere));
    events.expect("welcome");
    events.expect("subscribed");
    assert_eq!(events.expect("gap").data["reason"], "other_epoch");
}

#[test]
fn a_deleted_topic_goes_on_in_its_new_sequence() {
    let broker = Broker::start();
    publish(&broker, "a", 1..=3);
    let mut events = EventStream::open(&broker, EVENTS);
    let subscribed = events.begin();
    let mut seen = Seen::start("a", &subscribed.data);

    broker
        .http()
        .request("DELETE", "/v1/topics/a", &[], b"")
        .ok();
    publish(&broker, "a", 7..=8);

    let gap = events.expect("gap");
    assert_eq!(gap.data["reason"], "deleted");
    take(&mut seen, &gap);
    for _ in 7..=8 {
        take(&mut seen, &events.expect("message"));
    }
    assert_eq!(seen.offsets(), [1, 2]);
    assert_eq!(seen.data(), ["7", "8"]);
}

/// What a browser would give up for is said before the stream begins; all of it has a code and a sentence.
#[test]
fn what_can_never_be_is_refused() {
    let broker = Broker::start();
    let http = broker.http();
    let mut events = EventStream::open(&broker, "/v1/events?topic=a&topic=b");
    events.expect("welcome");
    let id = events.expect("subscribed").id.unwrap();
    let many: String = (0..33).map(|n| format!("topic=t{n}&")).collect();
    for (path, last_event_id, status, code) in [
        ("/v1/events", "", 400, "bad_topic"),
        (
            &format!("/v1/events?{many}"),
            "",
            429,
            "too_many_subscriptions",
        ),
        ("/v1/events?topic=a&topic=a", "", 409, "already_subscribed"),
        ("/v1/events?topic=a..b", "", 400, "bad_topic"),
        ("/v1/topics/a..b/events", "", 400, "bad_topic"),
        ("/v1/topics/a/events?after=7", "", 400, "bad_cursor"),
        ("/v1/topics/a/events?from=tomorrow", "", 400, "bad_cursor"),
        (
            "/v1/topics/a/events?from=now&after=k:1",
            "",
            400,
            "bad_cursor",
        ),
        ("/v1/topics/a/events?wait=1", "", 400, "bad_frame"),
        ("/v1/topics/a/events?topic=b", "", 400, "bad_frame"),
        (
            "/v1/topics/a/events?after=k:1&after=k:1",
            "",
            400,
            "bad_frame",
        ),
        ("/v1/topics/a/events", "rubbish", 400, "bad_cursor"),
        ("/v1/topics/a/events", &id, 400, "bad_cursor"),
        ("/v1/events?topic=a&topic=c", &id, 400, "bad_cursor"),
        ("/v1/events?topic=a&topic=b&topic=c", &id, 400, "bad_cursor"),
        ("/v1/events?topic=a&topic=b", "k:1", 400, "bad_cursor"),
        (
            "/v1/events?topic=a&topic=b&from=now&from=now&from=now",
            "",
            400,
            "bad_cursor",
        ),
    ] {
        http.request("GET", path, &[("last-event-id", last_event_id)], b"")
            .expect_error(status, code);
    }
    for method in ["POST", "PUT", "DELETE"] {
        let refused = http.request(method, EVENTS, &[], b"x");
        refused.expect_error(405, "unsupported");
        assert_eq!(refused.headers["allow"], "GET");
    }
}

#[test]
fn a_quiet_stream_says_that_it_is_there() {
    let broker = Setup::new().flag("heartbeat", "100ms").start();
    let mut events = EventStream::open(&broker, EVENTS);
    assert_eq!(events.expect("welcome").data["heartbeat_ms"], 100);
    events.expect("subscribed");
    events.expect("caught_up");

    let http = broker.http();
    let message = std::thread::scope(|scope| {
        scope.spawn(|| {
            hark_tests::pause(std::time::Duration::from_millis(450));
            publish_over(&http, "a", 1..=1);
        });
        events.expect("message")
    });

    assert_eq!(message.data["data"], 1);
    assert!(events.comments >= 2, "{} comments", events.comments);
}

/// 200 with `retry` and an end: a browser takes every other status for the end of all.
#[test]
fn a_broker_that_ends_says_goodbye_and_when_to_come_back() {
    let mut broker = Setup::new().restarts().start();
    let mut events = EventStream::open(&broker, EVENTS);
    let id = events.begin().id;

    broker.signal("TERM");
    let goodbye = events.expect("goodbye");
    assert_eq!(goodbye.id, None);
    assert_eq!(goodbye.data["reason"], "restart");
    let retry = goodbye.data["retry_after_ms"].as_u64().unwrap();
    assert_eq!(events.retries, [2000, retry]);
    assert_eq!(events.try_next(), None);
    assert_eq!(broker.wait().code, Some(0));

    broker.start_again();
    publish(&broker, "a", 1..=1);
    let mut events = EventStream::open_after(&broker, EVENTS, id.as_deref());
    events.expect("welcome");
    assert_eq!(events.expect("subscribed").data["resumed"], true);
    assert_eq!(events.expect("message").data["data"], 1);
}

/// A room that dies under a stream is joined again, from where the stream is.
#[test]
fn a_room_that_dies_is_nothing_to_a_stream() {
    let broker = Setup::new().faults().start();
    let mut events = EventStream::open(&broker, EVENTS);
    let mut seen = Seen::start("a", &events.begin().data);
    publish(&broker, "a", 1..=2);
    let fault = [("hark-header-hark-fault", "room-panic-after-commit")];

    for n in [3, 4] {
        let body = n.to_string();
        broker
            .http()
            .post("/v1/topics/a/messages", &fault, body)
            .expect_error(503, "busy");
    }
    publish(&broker, "a", 5..=6);

    while seen.position < 6 {
        take(&mut seen, &events.expect("message"));
    }
    assert_eq!(seen.data(), ["1", "2", "3", "4", "5", "6"]);
}

/// One that reads nothing costs a bounded number of bytes, nobody waits for it, and it misses nothing.
#[tokio::test]
async fn a_stream_that_is_not_read_lags_and_catches_up() {
    let broker = Broker::start();
    let mut slow: Vec<TcpStream> = (0..10).map(|_| open_unread(&broker)).collect();
    let mut reader = Ws::connect(&broker).await;
    let mut seen = reader.watch("a", json!("now")).await;
    let before = broker.rss_bytes();

    let mut publisher = Ws::connect(&broker).await;
    let messages =
        (1..=8000).map(|n| json!({"topic": "a", "data": {"n": n, "x": "x".repeat(2000)}}));
    publisher.publish_all(messages, 64).await;
    reader.follow(&mut seen, |seen| seen.position == 8000).await;
    let each = broker.rss_bytes().saturating_sub(before) / slow.len() as u64;
    println!("a stream that is not read costs {each} bytes");
    assert!(each < 4 << 20, "each costs {each} bytes");

    for tcp in &mut slow {
        read_all(tcp, 8000);
    }
}

/// The event has no id: a reader that comes back goes on behind the last message it has.
#[tokio::test]
async fn a_stream_that_falls_behind_is_told() {
    let broker = Broker::start();
    let mut events = EventStream::open(&broker, EVENTS);
    let mut seen = Seen::start("a", &events.begin().data);
    seen.caught_up = 1;
    let mut publisher = Ws::connect(&broker).await;
    let messages =
        (1..=8000).map(|n| json!({"topic": "a", "data": {"n": n, "x": "x".repeat(2000)}}));
    publisher.publish_all(messages, 64).await;

    while seen.position < 8000 {
        let event = events.event();
        match event.name.as_str() {
            "lagging" => {
                assert_eq!(event.id, None, "{event:?}");
                assert!(event.data["behind"].as_u64() > Some(0), "{event:?}");
                seen.take(&event.data);
            }
            _ => take(&mut seen, &event),
        }
    }

    assert!(!seen.lagging.is_empty());
    seen.expect(1..=8000);
}

fn open_unread(broker: &Broker) -> TcpStream {
    let mut tcp = TcpStream::connect(broker.addr()).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {EVENTS} HTTP/1.1\r\nHost: {}\r\n\r\n", broker.addr());
    tcp.write_all(request.as_bytes()).unwrap();
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("caught_up") {
        let mut bytes = [0; 512];
        let n = tcp.read(&mut bytes).unwrap();
        assert!(n > 0, "the stream has ended");
        read.extend_from_slice(&bytes[..n]);
    }
    tcp
}

/// Reads until the message with this offset, and checks that each comes once and in order. (The pieces of the transfer coding cut lines
/// anywhere; the ids are counted, which are too short to be looked for in payloads.)
fn read_all(tcp: &mut TcpStream, last: u64) {
    let mut text = String::new();
    let mut next = 1;
    while next <= last {
        let mut bytes = vec![0; 1 << 20];
        let n = tcp.read(&mut bytes).unwrap();
        assert!(n > 0, "the stream has ended before {next}");
        text.push_str(&String::from_utf8_lossy(&bytes[..n]));
        while let Some(at) = text.find("\"offset\":") {
            let digits: String = text[at + 9..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            if text.len() < at + 9 + digits.len() + 1 {
                break; // the number may go on
            }
            assert_eq!(digits, next.to_string());
            next += 1;
            text.drain(..at + 9);
        }
    }
}

#[tokio::test]
async fn a_reader_that_goes_leaves_its_rooms() {
    let broker = Setup::new()
        .flag("log", "debug")
        .flag("room-idle", "200ms")
        .start();
    let mut events = EventStream::open(&broker, EVENTS);
    events.begin();

    drop(events);

    until("the broker has noticed", async || {
        broker.log().contains("an event stream ended").then_some(())
    })
    .await;
    let value: Value = broker.http().get("/v1/topics/a").ok().json();
    assert_eq!(value["head"], 0);
}

/// Topics that are deleted while streams of them and of others still begin.
#[test]
fn a_topic_that_is_deleted_while_streams_begin_harms_none() {
    let broker = Setup::new().flag("room-idle", "50ms").start();
    let http = broker.http();
    let done = std::sync::atomic::AtomicBool::new(false);
    let others: String = (0..31).map(|n| format!("&topic=cold{n}")).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                publish_over(&http, "a", 1..=1);
                http.request("DELETE", "/v1/topics/a", &[], b"").ok();
            }
        });
        for _ in 0..300 {
            let mut events = EventStream::open(&broker, &format!("/v1/events?topic=a{others}"));
            events.expect("welcome");
            for _ in 0..32 {
                while events.event().name != "subscribed" {}
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

/// Whoever goes while it joins leaves nothing behind: not its seat, nor the queue that hangs on it.
#[test]
fn who_goes_while_it_joins_leaves_nothing_behind() {
    const CROWD: u64 = 8000;
    /// A seat with a stream's queue has nearly four KiB, and would be kept for a minute.
    const MOST_BYTES_EACH: u64 = 1024;
    let broker = Broker::start();
    let come_and_go = |count: u64| {
        for n in 0..count {
            let mut tcp = TcpStream::connect(broker.addr()).unwrap();
            let request = format!("GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            tcp.write_all(request.as_bytes()).unwrap();
            if n % 2 == 0 {
                // By now it is served, but maybe has not joined.
                assert!(tcp.read(&mut [0; 64]).unwrap() > 0);
            }
        }
    };
    come_and_go(500);
    let before = broker.rss_bytes();
    come_and_go(CROWD);
    let left = || broker.rss_bytes().saturating_sub(before) / CROWD;
    println!("{CROWD} streams that came and went: {} bytes each", left());
    // What is on its way out takes a moment more.
    wait_until("nothing of them is left", || {
        (left() < MOST_BYTES_EACH).then_some(())
    });
}
