//! Beneath HTTP: one request at a time, every head in its time, every refusal an answer, the end of input after the answer, and bounds on
//! what a connection that does not read can hold. Raw sockets, since no client sends such things.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use hark_tests::{Broker, DEADLINE, Op, Preload, RawWs, Setup, Wire, pause, upgrade, wait_until};
use serde_json::{Value, json};

fn open(broker: &Broker) -> Wire {
    broker.dial(None, None)
}

/// One that has next to no room for what it does not read.
fn open_small(broker: &Broker) -> Wire {
    broker.dial(None, Some(2048))
}

/// All that comes until the broker ends the connection.
fn read_to_the_end(tcp: &mut Wire) -> String {
    let mut text = Vec::new();
    let begun = Instant::now();
    if let Err(error) = tcp.read_to_end(&mut text) {
        assert!(begun.elapsed() < DEADLINE, "not ended: {error}");
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn read_until(tcp: &mut Wire, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let n = tcp.read(&mut byte).unwrap();
        assert!(n > 0, "ended after {:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(path: &str, content_type: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Asks, closes the side that asks, and gives all that is answered.
fn ask_and_close(broker: &Broker, request: &str) -> String {
    let mut tcp = open(broker);
    tcp.write_all(request.as_bytes()).unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    read_to_the_end(&mut tcp)
}

fn descriptors(broker: &Broker) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", broker.pid()))
        .unwrap()
        .count()
}

#[test]
fn who_closes_its_side_when_it_has_asked_is_answered() {
    let broker = Broker::start();
    let answer = ask_and_close(
        &broker,
        &post("/v1/topics/a/messages", "application/json", "7"),
    );
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(":1\""),
        "{answer}"
    );

    // The last line has no end of its own.
    let lines = "{\"topic\":\"a\",\"data\":1}\n{\"topic\":\"a\",\"data\":2}";
    for path in ["/v1/messages", "/v1/topics/a/messages"] {
        let answer = ask_and_close(&broker, &post(path, "application/x-ndjson", lines));
        assert_eq!(answer.matches("\"cursor\"").count(), 2, "{answer}");
    }
    let answer = ask_and_close(&broker, &get("/v1/topics/a/messages?from=now&wait=1"));
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"caught_up\":true"),
        "{answer}"
    );
    let two = get("/healthz") + &get("/readyz");
    let answer = ask_and_close(&broker, &two);
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(broker.http().get("/v1/topics/a").ok().json()["head"], 5);
}

/// What came whole of a body counts, and the answer says that the rest is missing.
#[test]
fn lines_in_front_of_an_early_end_are_kept_and_answered() {
    let broker = Broker::start();
    let head =
        "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
    let line = "{\"topic\":\"a\",\"data\":1}\n";
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{line}\r\n9\r\n{{\"top",
        line.len()
    );
    let counted = format!("{head}Content-Length: 1000\r\n\r\n{line}{{\"top");
    for (n, request) in [chunked, counted].into_iter().enumerate() {
        let answer = ask_and_close(&broker, &request);
        assert!(answer.contains(&format!(":{}\"", n + 1)), "{answer}");
        assert!(answer.contains("ended early"), "{answer}");
    }
    // Of one message that is not whole nothing is kept.
    let half =
        "POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n123";
    let answer = ask_and_close(&broker, half);
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("ended early"),
        "{answer}"
    );
    assert_eq!(broker.http().get("/v1/topics/a").ok().json()["head"], 2);
}

#[test]
fn a_stream_goes_on_for_who_closed_its_side_and_ends_for_who_is_gone() {
    let broker = Setup::new().flag("heartbeat", "1h").start();
    let mut reads_on = open(&broker);
    reads_on
        .write_all(get("/v1/topics/a/events").as_bytes())
        .unwrap();
    reads_on.shutdown(Shutdown::Write).unwrap();
    read_until(&mut reads_on, "caught_up");
    let before = descriptors(&broker);
    let mut gone = open(&broker);
    gone.write_all(get("/v1/topics/a/events").as_bytes())
        .unwrap();
    read_until(&mut gone, "caught_up");
    assert_eq!(descriptors(&broker), before + 1);
    drop(gone);

    // Long before a heartbeat would find it.
    wait_until("the broker has let go of who is gone", || {
        (descriptors(&broker) == before).then_some(())
    });
    broker.http().publish("a", &json!("still here")).ok();
    read_until(&mut reads_on, "still here");
}

#[test]
fn requests_behind_one_another_are_answered_in_their_order() {
    let broker = Broker::start();
    let mut tcp = open(&broker);
    let mut asks = String::new();
    for n in 0..2000 {
        asks += &post("/v1/topics/a/messages", "application/json", &n.to_string());
    }
    let mut writes = tcp.try_clone().unwrap();
    let writer = std::thread::spawn(move || writes.write_all(asks.as_bytes()).unwrap());
    for n in 1..=2000 {
        let head = read_until(&mut tcp, "\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let body = read_until(&mut tcp, "}");
        assert!(body.contains(&format!(":{n}\"")), "{n}: {body}");
    }
    writer.join().unwrap();
}

/// What waits behind a request that is not answered yet has a bound, costs no processor, and is answered in its turn.
#[test]
fn a_crowd_of_requests_behind_a_wait_is_answered_after_it_and_costs_nothing() {
    let broker = Broker::start();
    let mut tcp = open(&broker);
    tcp.write_all(get("/v1/topics/a/messages?wait=3&from=now").as_bytes())
        .unwrap();
    let mut writes = tcp.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        writes
            .write_all(get("/healthz").repeat(20_000).as_bytes())
            .unwrap();
        writes.shutdown(Shutdown::Write).unwrap();
    });
    pause(Duration::from_millis(500));
    let before = broker.cpu_time();
    pause(Duration::from_secs(1));
    let spent = broker.cpu_time() - before;
    assert!(spent < Duration::from_millis(500), "{spent:?} in a second");

    let answers = read_to_the_end(&mut tcp);
    writer.join().unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 20_001);
    assert!(answers.find("caught_up") < answers.find("\"status\""));
}

/// Answers that are not taken: nobody's are made before there is room, and a connection holds one.
#[test]
fn who_asks_and_does_not_read_makes_the_broker_hold_little() {
    let broker = Broker::start();
    let large = "x".repeat(100_000);
    for _ in 0..12 {
        broker.http().publish("large", &json!(large)).ok();
    }
    let before = broker.rss_bytes();
    let asks = [
        get("/healthz").repeat(3000),
        get("/v1/topics/large/messages?limit=1000").repeat(20),
    ];
    let mut crowd = Vec::new();
    for n in 0..200 {
        let mut tcp = open_small(&broker);
        tcp.set_nonblocking(true).unwrap();
        // As much as the broker takes.
        let ask = asks[n % 2].as_bytes();
        let mut at = 0;
        while at < ask.len() {
            match tcp.write(&ask[at..]) {
                Ok(bytes) => at += bytes,
                Err(_) => break,
            }
        }
        crowd.push(tcp);
    }
    // Others are served meanwhile.
    for _ in 0..20 {
        broker.http().publish("small", &json!(1)).ok();
        let grown = broker.rss_bytes().saturating_sub(before);
        assert!(grown < 200 << 20, "{} MiB", grown >> 20);
        pause(Duration::from_millis(100));
    }
    let page = broker.http().get("/v1/topics/small/messages").ok().json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 20);
    drop(crowd);
}

/// An honest client that writes eight bytes at a time.
#[test]
fn a_body_in_small_writes_is_taken() {
    let broker = Broker::start();
    let mut tcp = open(&broker);
    tcp.set_nodelay(true).unwrap();
    let body = format!("\"{}\"", "y".repeat(900_000));
    for piece in post("/v1/topics/a/messages", "application/json", &body)
        .as_bytes()
        .chunks(8)
    {
        tcp.write_all(piece).unwrap();
    }
    let answer = read_until(&mut tcp, "}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_is_no_request_is_answered_with_a_status_and_a_body() {
    let broker = Broker::start();
    let long = "x".repeat(64 * 1024);
    let lines = "A: b\r\n".repeat(200);
    for (request, status, code) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_frame"),
        ("nonsense\r\n\r\n".to_owned(), 400, "bad_frame"),
        (
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
            400,
            "bad_frame",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
            400,
            "bad_frame",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +7\r\n\r\n".to_owned(),
            400,
            "bad_frame",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            400,
            "bad_frame",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            501,
            "unsupported",
        ),
        ("POST / HTTP/1.0\r\n\r\n".to_owned(), 411, "bad_frame"),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{long}: b\r\n\r\n"),
            431,
            "too_large",
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
            431,
            "too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"),
            431,
            "too_large",
        ),
        (long.clone(), 431, "too_large"),
    ] {
        let mut tcp = open(&broker);
        // It may be ended while it is still written.
        drop(tcp.write_all(request.as_bytes()));
        let answer = read_to_the_end(&mut tcp);
        let shown = &request[..request.len().min(80)];
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown:?}: {answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("connection: close"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["code"], code, "{shown:?}");
        assert!(body["message"].as_str().unwrap().len() > 20, "{body}");
    }
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

/// A body in chunks whose ornaments have no end, to a route that reads it and to one that does not.
#[test]
fn chunks_hold_little_but_data() {
    let broker = Broker::start();
    for path in ["/v1/topics/a/messages", "/nowhere"] {
        let mut tcp = open(&broker);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;"
        );
        tcp.write_all(head.as_bytes()).unwrap();
        let mut taken = 0;
        while taken < 64 << 20 && tcp.write_all(&[b'x'; 64 * 1024]).is_ok() {
            taken += 64 * 1024;
        }
        assert!(
            taken < 32 << 20,
            "{path}: {} MiB of an extension were taken",
            taken >> 20
        );
        let answer = read_to_the_end(&mut tcp);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{path}: {answer}"
        );
    }
}

#[test]
fn a_websocket_among_other_upgrades_works() {
    let broker = Broker::start();
    for headers in [
        "Upgrade: h2c, websocket\r\n",
        "Upgrade: websocket, h2c\r\n",
        "Upgrade: h2c\r\nUpgrade: websocket\r\n",
        "Upgrade: WebSocket\r\nContent-Length: 0\r\n",
    ] {
        let request = upgrade(&broker, "").replace("Upgrade: websocket\r\n", headers);
        assert!(request.contains(headers), "{request}");
        let mut ws = RawWs::open_with(&broker, request.as_bytes());
        assert_eq!(ws.read_json()["type"], "welcome", "{headers}");
        ws.send_json(&json!({"type": "ping", "id": 7}));
        assert_eq!(
            ws.read_json(),
            json!({"type": "pong", "id": 7}),
            "{headers}"
        );
    }
}

#[test]
fn a_connection_is_one_descriptor() {
    let broker = Broker::start();
    broker.http().publish("a", &json!(1)).ok();
    // Whatever else it needs it has by then.
    let few: Vec<_> = (0..5).map(|_| RawWs::connect(&broker)).collect();
    let mut more = Vec::new();
    wait_until("nothing else comes or goes", || {
        let before = descriptors(&broker);
        more = (0..20).map(|_| RawWs::connect(&broker)).collect();
        (descriptors(&broker) == before + 20).then_some(())
    });
    let all = descriptors(&broker);
    drop((few, more));
    wait_until("they are gone", || {
        (descriptors(&broker) <= all - 25).then_some(())
    });
}

#[test]
fn beyond_the_most_connections_each_is_told_so() {
    let broker = Setup::new().flag("max-connections", 3).start();
    let mut held: Vec<_> = (0..3).map(|_| RawWs::connect(&broker)).collect();
    // More than are told so at once, one behind the other.
    for _ in 0..20 {
        let mut tcp = open(&broker);
        tcp.write_all(get("/v1/topics/a/messages").as_bytes())
            .unwrap();
        let answer = read_to_the_end(&mut tcp);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.to_lowercase().contains("retry-after: 1\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\"code\":\"busy\""), "{answer}");
    }
    let mut stream = open(&broker);
    stream
        .write_all(get("/v1/events?topic=a").as_bytes())
        .unwrap();
    let answer = read_to_the_end(&mut stream);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nretry: 1000\n\n"),
        "{answer}"
    );

    // Those that were there notice nothing, and where one goes there is room.
    held[0].send_json(&json!({"type": "ping"}));
    assert_eq!(held[0].read_json()["type"], "pong");
    drop(held.pop());
    wait_until("there is room again", || {
        let mut tcp = open(&broker);
        tcp.write_all(get("/healthz").as_bytes()).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        let answer = read_to_the_end(&mut tcp);
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn more_connections_than_open_files_are_refused_at_the_start() {
    let exit = Setup::new()
        .flag("max-connections", 4_000_000_000_u32)
        .try_start()
        .expect_err("there cannot be so many");
    assert!(exit.stderr.contains("ulimit -n"), "{}", exit.stderr);
}

/// A load balancer that asks on a new connection sees that Hark is about to end.
#[test]
fn while_hark_ends_a_new_connection_is_told_so() {
    let broker = Setup::new().flag("drain", "30s").start();
    // It does not close, so that there is a drain to look at.
    let mut stays = RawWs::connect_small(&broker);
    stays.send_json(&json!({"type": "subscribe", "topic": "a"}));
    stays.read_json();
    stays.read_json();
    let large = "x".repeat(500_000);
    for _ in 0..10 {
        broker.http().publish("a", &json!(large)).ok();
    }
    broker.signal("TERM");
    wait_until("it says so", || {
        broker.log().contains("told to end").then_some(())
    });
    for (path, expected) in [
        ("/readyz", "\"status\":\"stopping\""),
        ("/v1/topics/a/messages", "about to end"),
    ] {
        let mut tcp = open(&broker);
        tcp.write_all(get(path).as_bytes()).unwrap();
        let answer = read_to_the_end(&mut tcp);
        if path == "/readyz" {
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains(expected), "{answer}");
        }
        assert!(
            answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
    let answer = ask_and_close(
        &broker,
        &post("/v1/topics/a/messages", "application/json", "7"),
    );
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("about to end"),
        "{answer}"
    );
}

/// RFC 6455, section 7.1.1: the server closes the TCP connection when both close frames are there, whoever was first. It used to take a
/// second.
#[test]
fn after_both_close_frames_the_connection_ends_at_once() {
    let broker = Broker::start();
    let quickest = |close: &dyn Fn(&mut RawWs)| {
        let once = |_| {
            let mut ws = RawWs::connect(&broker);
            close(&mut ws);
            let begun = Instant::now();
            ws.expect_end();
            begun.elapsed()
        };
        (0..5).map(once).min().unwrap()
    };
    let client_first = quickest(&|ws| {
        ws.send(Op::CLOSE, &1000_u16.to_be_bytes());
        assert_eq!(ws.expect_close(), 1000);
    });
    assert!(
        client_first < Duration::from_millis(500),
        "{client_first:?}"
    );
    let hark_first = quickest(&|ws| {
        ws.send(Op::BINARY, b"not on this subprotocol");
        assert_eq!(ws.expect_close(), 1003);
        ws.send(Op::CLOSE, &1003_u16.to_be_bytes());
    });
    assert!(hark_first < Duration::from_millis(500), "{hark_first:?}");
}

/// One that takes a little now and then. The kernel ends one that takes nothing, and on this machine also one that takes a little; so that it is
/// seen that the broker does, the kernel is not told to.
#[test]
fn who_takes_less_than_a_page_in_time_is_cut() {
    let kernel = Preload::new();
    kernel.patient_kernel();
    let broker = kernel
        .under(Setup::new().flag("stall-timeout", "1s"))
        .start();
    kernel.expect_loaded(1);
    let large = "x".repeat(500_000);
    for _ in 0..4 {
        broker.http().publish("a", &json!(large)).ok();
    }
    for path in ["/v1/topics/a/events?from=earliest", "/v1/topics/a/messages"] {
        let mut tcp = open_small(&broker);
        tcp.write_all(get(path).as_bytes()).unwrap();
        let begun = Instant::now();
        let mut piece = [0; 700];
        while matches!(tcp.read(&mut piece), Ok(1..)) {
            assert!(begun.elapsed() < DEADLINE, "it may trickle on and on");
            pause(Duration::from_millis(200));
        }
    }
    assert!(
        broker.log().contains("less than a page"),
        "{}",
        broker.log()
    );
}

/// What the kernel holds for clients that take nothing is outside of the broker's memory, and has a bound of its own.
#[test]
fn what_the_kernel_holds_for_clients_has_a_bound() {
    let broker = Setup::new().flag("max-unsent-bytes", 300_000).start();
    let large = "x".repeat(500_000);
    for _ in 0..4 {
        broker.http().publish("a", &json!(large)).ok();
    }
    let stopped: Vec<_> = (0..6)
        .map(|_| {
            let mut tcp = open_small(&broker);
            tcp.write_all(get("/v1/topics/a/events?from=earliest").as_bytes())
                .unwrap();
            tcp
        })
        .collect();
    wait_until("some of them are ended", || {
        broker
            .log()
            .contains("the kernel holds too much")
            .then_some(())
    });
    // One that reads is served on.
    let mut events = hark_tests::EventStream::open(&broker, "/v1/topics/a/events?from=earliest");
    events.expect("welcome");
    events.expect("subscribed");
    for _ in 0..4 {
        events.expect("message");
    }
    drop(stopped);
}

also_over_tls! {
    who_closes_its_side_when_it_has_asked_is_answered,
    lines_in_front_of_an_early_end_are_kept_and_answered,
    a_stream_goes_on_for_who_closed_its_side_and_ends_for_who_is_gone,
    requests_behind_one_another_are_answered_in_their_order,
    a_crowd_of_requests_behind_a_wait_is_answered_after_it_and_costs_nothing,
    who_asks_and_does_not_read_makes_the_broker_hold_little,
    a_body_in_small_writes_is_taken,
    what_is_no_request_is_answered_with_a_status_and_a_body,
    chunks_hold_little_but_data,
    a_websocket_among_other_upgrades_works,
    a_connection_is_one_descriptor,
    beyond_the_most_connections_each_is_told_so,
    while_hark_ends_a_new_connection_is_told_so,
    after_both_close_frames_the_connection_ends_at_once,
    who_takes_less_than_a_page_in_time_is_cut,
    what_the_kernel_holds_for_clients_has_a_bound,
}
