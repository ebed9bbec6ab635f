//! How much each may: what is refused on every transport, with which code and which word on when to come back, and that clients which heed it
//! lose nothing. Clients have addresses of their own by a proxy that is trusted.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use hark_client::{Client, FirstConnection, SubscribeFrom};
use hark_tests::{Broker, RawWs, Response, Setup, Tls, Wire, raw_http, upgrade, wait_until};
use serde_json::{Value, json};

use crate::identity::{Issuers, token};

/// A proxy on this machine says who the client is.
fn behind_proxy(flag: &str, limit: &str) -> Setup {
    Setup::new()
        .flag("trusted-proxy", "127.0.0.1")
        .flag(flag, limit)
}

/// A client at one address.
#[derive(Clone, Copy)]
struct Guest<'a> {
    broker: &'a Broker,
    address: &'a str,
    token: Option<&'a str>,
}

impl<'a> Guest<'a> {
    fn new(broker: &'a Broker, address: &'a str) -> Self {
        Self {
            broker,
            address,
            token: None,
        }
    }

    fn with(self, token: &'a str) -> Self {
        Self {
            token: Some(token),
            ..self
        }
    }

    fn ask(self, method: &str, path: &str, content_type: &str, body: &str) -> Response {
        let authorization = self.token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![
            ("x-forwarded-for", self.address),
            ("x-forwarded-proto", "https"),
        ];
        if !content_type.is_empty() {
            headers.push(("content-type", content_type));
        }
        let authorization = authorization.iter();
        headers.extend(authorization.map(|value| ("authorization", value.as_str())));
        let http = self.broker.http();
        http.request(method, path, &headers, body.as_bytes())
    }

    fn get(self, path: &str) -> Response {
        self.ask("GET", path, "", "")
    }

    fn publish(self, topic: &str) -> Response {
        let path = format!("/v1/topics/{topic}/messages");
        self.ask("POST", &path, "application/json", "1")
    }

    fn headers(self) -> String {
        let authorization = self
            .token
            .map(|token| format!("Authorization: Bearer {token}\r\n"));
        format!(
            "X-Forwarded-For: {}\r\nX-Forwarded-Proto: https\r\n{}",
            self.address,
            authorization.unwrap_or_default()
        )
    }

    fn session(self) -> RawWs {
        RawWs::open(self.broker, &self.headers(), None)
    }

    /// The answer to an upgrade that is refused.
    fn no_session(self) -> Response {
        raw_http(self.broker, &upgrade(self.broker, &self.headers()))
    }

    fn stream(self, path: &str) -> Streaming {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{}\r\n",
            self.broker.addr(),
            self.headers()
        );
        let mut raw = RawWs::connect_bare(self.broker, None);
        raw.write(request.as_bytes());
        let head = raw.read_response();
        Streaming { _raw: raw, head }
    }
}

/// An event stream, of which what it begins with is read.
struct Streaming {
    _raw: RawWs,
    head: Response,
}

impl Streaming {
    #[track_caller]
    fn goes_on(self) -> Self {
        assert_eq!(self.head.status, 200, "{:?}", self.head);
        let length = self.head.headers.get("content-length");
        assert!(length.is_none(), "it has ended: {:?}", self.head);
        self
    }

    /// It says when to come back, and that is all; anything but 200 is the end of all for a browser.
    #[track_caller]
    fn expect_sent_away(self) {
        let Response {
            status,
            headers,
            body,
        } = &self.head;
        assert_eq!(*status, 200, "{body}");
        assert_eq!(headers["content-type"], "text/event-stream");
        let ms = body
            .strip_prefix("retry: ")
            .and_then(|rest| rest.strip_suffix("\n\n"));
        let ms: u64 = ms.unwrap_or_else(|| panic!("{body:?}")).parse().unwrap();
        assert!(ms > 0, "{body}");
    }
}

/// A refusal that says when to come back, in both ways.
#[track_caller]
fn expect_later(answer: &Response, code: &str) {
    answer.expect_error(429, code);
    let seconds: u64 = answer.headers["retry-after"].parse().unwrap();
    let ms = answer.json()["retry_after_ms"].as_u64().unwrap();
    assert!(ms > 0 && seconds == ms.div_ceil(1000), "{answer:?}");
}

#[track_caller]
fn expect_refused(frame: &Value, code: &str) {
    assert_eq!(
        (&frame["type"], &frame["code"]),
        (&json!("error"), &json!(code)),
        "{frame}"
    );
    assert!(
        frame["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0),
        "{frame}"
    );
}

fn publish(id: u64, topic: &str) -> Value {
    json!({"type": "publish", "id": id, "topic": topic, "data": id})
}

fn ask(ws: &mut RawWs, command: &Value) -> Value {
    ws.send_json(command);
    loop {
        let answer = ws.read_json();
        if answer["id"] == command["id"] {
            return answer;
        }
    }
}

#[test]
fn commands_beyond_the_rate_are_refused_on_every_transport() {
    let broker = behind_proxy("limit-commands", "address=3/h").start();
    let guest = |address| Guest::new(&broker, address);

    // The upgrade is one.
    let mut ws = guest("192.0.2.1").session();
    for id in 1..=2 {
        assert_eq!(ask(&mut ws, &publish(id, "a"))["type"], "published");
    }
    for command in [
        publish(3, "a"),
        json!({"type": "publish", "id": 4, "topics": ["a", "b"], "data": 1}),
        json!({"type": "subscribe", "id": 5, "topic": "a"}),
        json!({"type": "unsubscribe", "id": 6, "topic": "a"}),
    ] {
        expect_refused(&ask(&mut ws, &command), "rate_limited");
    }
    // Whether Hark is there is always answered, and the session goes on.
    assert_eq!(
        ask(&mut ws, &json!({"type": "ping", "id": 7}))["type"],
        "pong"
    );
    expect_later(&guest("192.0.2.1").no_session(), "rate_limited");

    for _ in 0..3 {
        guest("192.0.2.2").publish("a").ok();
    }
    expect_later(&guest("192.0.2.2").publish("a"), "rate_limited");
    expect_later(&guest("192.0.2.2").get("/v1/topics"), "rate_limited");
    expect_later(&guest("192.0.2.2").get("/v1/topics/a"), "rate_limited");
    expect_later(
        &guest("192.0.2.2").get("/v1/topics/a/messages?wait=1"),
        "rate_limited",
    );
    expect_later(
        &guest("192.0.2.2").ask("DELETE", "/v1/topics/a", "", ""),
        "rate_limited",
    );
    guest("192.0.2.2")
        .stream("/v1/events?topic=a")
        .expect_sent_away();
    // What is no command is answered.
    guest("192.0.2.2").get("/healthz").ok();

    // Each message of several is one, and so is the request.
    let line = json!({"topic": "a", "data": 1}).to_string();
    let lines = format!("{line}\n").repeat(4);
    let list = format!("[{}]", [line.as_str(); 4].join(","));
    for (address, content_type, body) in [
        ("192.0.2.3", "application/x-ndjson", &lines),
        ("192.0.2.4", "application/json", &list),
    ] {
        let answer = guest(address)
            .ask("POST", "/v1/messages", content_type, body)
            .ok();
        let answers = match content_type {
            "application/json" => answer.json().as_array().unwrap().clone(),
            _ => answer.json_lines(),
        };
        let is_kept = |answer: &Value| answer["cursor"].is_string();
        assert_eq!(
            answers.iter().map(is_kept).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert_eq!(answers[2]["code"], "rate_limited", "{answers:?}");
        assert!(
            answers[2]["retry_after_ms"]
                .as_u64()
                .is_some_and(|ms| ms > 0)
        );
    }

    // An address of IPv6 is all of its /64.
    for last in 1..=3 {
        let address = format!("2001:db8::{last}");
        Guest::new(&broker, &address).publish("a").ok();
    }
    expect_later(&guest("2001:db8::4").publish("a"), "rate_limited");
    guest("2001:db8:0:1::4").publish("a").ok();
}

#[test]
fn bytes_beyond_the_rate_are_refused() {
    let broker = behind_proxy("limit-bytes", "address=1KiB/h").start();
    let long = |id| json!({"type": "publish", "id": id, "topic": "a", "data": "x".repeat(800)});
    let mut ws = Guest::new(&broker, "192.0.2.1").session();
    assert_eq!(ask(&mut ws, &long(1))["type"], "published");
    expect_refused(&ask(&mut ws, &long(2)), "rate_limited");
    // There is room for a short one still.
    assert_eq!(ask(&mut ws, &publish(3, "a"))["type"], "published");

    let guest = Guest::new(&broker, "192.0.2.2");
    let path = "/v1/topics/a/messages";
    let body = "x".repeat(800);
    guest.ask("POST", path, "text/plain", &body).ok();
    expect_later(
        &guest.ask("POST", path, "text/plain", &body),
        "rate_limited",
    );
}

#[test]
fn what_is_refused_is_taken_when_it_has_been_waited_for() {
    let broker = behind_proxy("limit-commands", "address=20/s").start();
    let mut ws = Guest::new(&broker, "192.0.2.1").session();
    let mut frames = Vec::new();
    for id in 1..=200 {
        let text = publish(id, "a").to_string();
        frames.extend(RawWs::fragment(hark_tests::Op::TEXT, true, text.as_bytes()));
    }
    ws.write(&frames);
    let mut refused = Vec::new();
    for _ in 1..=200 {
        let answer = ws.read_json();
        if answer["type"] == "error" {
            expect_refused(&answer, "rate_limited");
            refused.push(answer["id"].as_u64().unwrap());
        }
    }
    assert!(!refused.is_empty(), "200 commands came within the rate");
    wait_until("the first of them is taken", || {
        (ask(&mut ws, &publish(refused[0], "a"))["type"] == "published").then_some(())
    });
}

/// Nine are refused, and the tenth is not read before something has come back.
#[test]
fn who_sends_on_regardless_is_not_read_meanwhile() {
    let broker = behind_proxy("limit-commands", "address=60/m")
        .flag("max-inflight", 8)
        .start();
    let mut ws = Guest::new(&broker, "192.0.2.1").session();
    let began = Instant::now();
    for id in 1..=100 {
        ws.send_json(&publish(id, "a"));
    }
    let mut refused = 0;
    for _ in 1..=100 {
        refused += usize::from(ws.read_json()["type"] == "error");
    }
    assert!(refused > 0, "all came within the rate");
    // 59 are kept at once. The 41 behind them take four pauses, of a second each.
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(2),
        "{refused} were refused in {took:?}"
    );
}

#[test]
fn bad_credentials_are_answered_later_and_good_ones_at_once() {
    let issuers = Issuers::new();
    let broker = issuers
        .setup()
        .flag("trusted-proxy", "127.0.0.1")
        .flag("limit-failed-auths", "address=3/h")
        .start();
    let good = token("ana", 600);
    let guest = |address| Guest::new(&broker, address);
    let bad = |address| guest(address).with("garbage");
    let mine = "/v1/topics/user.ana.inbox/messages";

    for _ in 0..3 {
        bad("192.0.2.1")
            .get(mine)
            .expect_error(401, "unauthenticated");
    }
    let answer = bad("192.0.2.1").get(mine);
    expect_later(&answer, "rate_limited");
    assert_eq!(answer.headers["connection"], "close", "{answer:?}");
    expect_later(&bad("192.0.2.1").no_session(), "rate_limited");
    let stream = format!("/v1/events?topic=public.a&access_token={}", "garbage");
    guest("192.0.2.1").stream(&stream).expect_sent_away();
    let mut ws = guest("192.0.2.1").session();
    expect_refused(&auth(&mut ws, "garbage"), "rate_limited");
    expect_sent_away(&mut ws);

    // Whatever others from the same address have shown.
    guest("192.0.2.1").with(&good).get(mine).ok();
    guest("192.0.2.1").with(&good).session();
    let mut ws = guest("192.0.2.1").session();
    assert_eq!(auth(&mut ws, &good)["type"], "authenticated");
    guest("192.0.2.1").get("/v1/topics/public.a/messages").ok();

    bad("192.0.2.2")
        .get(mine)
        .expect_error(401, "unauthenticated");
    // A session that shows a bad one counts as well.
    for _ in 0..2 {
        let mut ws = guest("192.0.2.2").session();
        assert_eq!(auth(&mut ws, "garbage")["code"], "unauthenticated");
        assert_eq!(ws.expect_close(), 4401);
    }
    expect_later(&bad("192.0.2.2").get(mine), "rate_limited");

    // So does one that shows bad ones for its topics.
    let mut ws = guest("192.0.2.3").session();
    let subscribe = json!({"type": "subscribe", "id": 1, "topic": "door", "token": "garbage"});
    for _ in 0..3 {
        assert_eq!(ask(&mut ws, &subscribe)["code"], "unauthenticated");
    }
    expect_refused(&ask(&mut ws, &subscribe), "rate_limited");
    expect_sent_away(&mut ws);
    let log = broker.log();
    // As many as were refused, and not those that were told to wait.
    assert_eq!(log.matches("a credential was refused").count(), 9, "{log}");
}

/// Without a word about it.
#[test]
fn twenty_bad_credentials_a_minute_are_enough() {
    let issuers = Issuers::new();
    let broker = issuers.setup().flag("trusted-proxy", "127.0.0.1").start();
    let guest = Guest::new(&broker, "192.0.2.1").with("garbage");
    let mut refused = 0;
    wait_until("they are told to wait", || {
        let answer = guest.get("/v1/topics/a/messages");
        refused += 1;
        (answer.status == 429).then_some(())
    });
    assert!(refused > 20, "after {refused}");
}

fn auth(ws: &mut RawWs, token: &str) -> Value {
    ask(ws, &json!({"type": "auth", "id": 99, "token": token}))
}

/// It is told when to come back, and closed as one that may.
fn expect_sent_away(ws: &mut RawWs) {
    let goodbye = ws.read_json();
    assert_eq!(goodbye["type"], "goodbye", "{goodbye}");
    assert_eq!(goodbye["reason"], "rate_limited");
    assert!(goodbye["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0));
    assert_eq!(ws.expect_close(), 1013);
}

#[test]
fn an_identity_has_so_many_connections_wherever_they_are() {
    let issuers = Issuers::new();
    let broker = issuers
        .setup()
        .flag("trusted-proxy", "127.0.0.1")
        .flag("limit-connections", "identity=2")
        .start();
    let (ana, bob) = (token("ana", 600), token("bob", 600));
    let guest = |address, token| Guest::new(&broker, address).with(token);
    let events = "/v1/events?topic=user.ana.inbox";
    let held = (
        guest("192.0.2.1", ana.as_str()).session(),
        guest("192.0.2.2", ana.as_str()).stream(events).goes_on(),
    );

    let third = guest("192.0.2.3", ana.as_str());
    expect_later(&third.no_session(), "rate_limited");
    third.stream(events).expect_sent_away();
    expect_later(
        &third.get("/v1/topics/user.ana.inbox/messages?wait=1"),
        "rate_limited",
    );
    // Who it is turns out later.
    let mut ws = Guest::new(&broker, "192.0.2.3").session();
    expect_refused(&auth(&mut ws, &ana), "rate_limited");
    expect_sent_away(&mut ws);
    // A request comes and goes; and others are others.
    third.get("/v1/topics/user.ana.inbox/messages").ok();
    let _bob = guest("192.0.2.3", bob.as_str()).session();

    drop(held.0);
    let freed = wait_until("there is a place again", || {
        let mut ws = Guest::new(&broker, "192.0.2.3").session();
        (auth(&mut ws, &ana)["type"] == "authenticated").then_some(ws)
    });
    expect_later(&third.no_session(), "rate_limited");
    drop((freed, held.1));
    wait_until("both places are free", || {
        (third.no_session().status == 101).then_some(())
    });
}

#[test]
fn an_address_behind_a_proxy_has_so_many_connections() {
    let broker = behind_proxy("limit-connections", "address=2").start();
    let guest = Guest::new(&broker, "192.0.2.1");
    let events = "/v1/events?topic=a";
    let held = (guest.session(), guest.stream(events).goes_on());
    expect_later(&guest.no_session(), "rate_limited");
    guest.stream(events).expect_sent_away();
    guest.publish("a").ok();
    let _other = Guest::new(&broker, "192.0.2.2").session();
    drop(held);
    wait_until("there is a place again", || {
        (guest.no_session().status == 101).then_some(())
    });
}

#[test]
fn an_address_behind_a_proxy_begins_so_many_connections() {
    let broker = behind_proxy("limit-handshakes", "address=2/h").start();
    let guest = Guest::new(&broker, "192.0.2.1");
    let events = "/v1/events?topic=a";
    drop((guest.session(), guest.stream(events).goes_on()));
    expect_later(&guest.no_session(), "rate_limited");
    guest.stream(events).expect_sent_away();
    guest.publish("a").ok();
    Guest::new(&broker, "192.0.2.2").session();
}

#[test]
fn new_connections_have_a_rate_in_all() {
    let broker = Setup::new().flag("limit-handshakes", "all=3/h").start();
    let _held: Vec<RawWs> = (0..3).map(|_| RawWs::connect(&broker)).collect();
    let answer = raw_http(&broker, &upgrade(&broker, ""));
    answer.expect_error(429, "rate_limited");
    let seconds: u64 = answer.headers["retry-after"].parse().unwrap();
    assert!((1..=1200).contains(&seconds), "{answer:?}");
}

/// Where this machine has an address beside its own, as seen from others.
fn own_address() -> Ipv4Addr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the system only looks which way it would go.
    socket
        .connect("192.0.2.1:9")
        .expect("a network beside loopback");
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(address) if !address.is_loopback() => address,
        other => panic!("an address beside loopback's, not {other}"),
    }
}

#[test]
fn an_address_that_connects_itself_is_counted_when_it_is_accepted() {
    let own = own_address();
    let limited = |flag, limit: &str| Setup::new().listen(own).flag(flag, limit).start();
    let broker = limited("limit-connections", "address=2");
    let mut held: Vec<RawWs> = (0..2).map(|_| RawWs::connect(&broker)).collect();
    // Whatever is asked, and whoever it says it is.
    for request in [
        upgrade(&broker, "X-Forwarded-For: 192.0.2.77\r\n"),
        format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", broker.addr()),
    ] {
        let answer = raw_http(&broker, &request);
        answer.expect_error(429, "rate_limited");
        assert!(answer.headers["retry-after"].parse::<u64>().unwrap() > 0);
        assert_eq!(answer.headers["connection"], "close");
    }
    Guest::new(&broker, "192.0.2.77")
        .stream("/v1/events?topic=a")
        .expect_sent_away();
    assert_eq!(ask(&mut held[0], &publish(1, "a"))["type"], "published");
    held.pop();
    wait_until("there is a place again", || {
        (raw_http(&broker, &upgrade(&broker, "")).status == 101).then_some(())
    });

    let broker = limited("limit-handshakes", "address=2/h");
    drop((RawWs::connect(&broker), RawWs::connect(&broker)));
    raw_http(&broker, &upgrade(&broker, "")).expect_error(429, "rate_limited");
}

#[test]
fn what_would_begin_with_tls_is_refused_before_its_handshake() {
    let limited = |flag, limit: &str| {
        let setup = Setup::new().tls(Tls::new()).listen(own_address());
        setup.flag(flag, limit).start()
    };
    for (flag, limit) in [
        ("limit-handshakes", "address=2/h"),
        ("limit-connections", "address=2"),
    ] {
        let broker = limited(flag, limit);
        let _held = [RawWs::connect(&broker), RawWs::connect(&broker)];
        let client = broker.tls().unwrap().client();
        let shaken = Wire::new(broker.dial_tcp(None, None), Some(client));
        assert!(shaken.is_err(), "{flag}: {shaken:?}");
    }
}

#[test]
fn so_many_subscriptions_at_a_time() {
    let broker = behind_proxy("limit-subscriptions", "address=3").start();
    let guest = Guest::new(&broker, "192.0.2.1");
    let subscribe = |id, topic: &str| json!({"type": "subscribe", "id": id, "topic": topic});
    let mut one = guest.session();
    let mut other = guest.session();
    for topic in ["a", "b"] {
        assert_eq!(ask(&mut one, &subscribe(1, topic))["type"], "subscribed");
    }
    assert_eq!(ask(&mut other, &subscribe(1, "a"))["type"], "subscribed");
    expect_refused(
        &ask(&mut other, &subscribe(2, "b")),
        "too_many_subscriptions",
    );
    guest.stream("/v1/events?topic=a").expect_sent_away();

    let left = ask(
        &mut one,
        &json!({"type": "unsubscribe", "id": 3, "topic": "a"}),
    );
    assert_eq!(left["type"], "unsubscribed");
    let stream = guest.stream("/v1/events?topic=a").goes_on();
    expect_refused(
        &ask(&mut other, &subscribe(4, "b")),
        "too_many_subscriptions",
    );
    // What ends gives back what it had.
    drop((stream, one));
    wait_until("there is room for two", || {
        let answer = guest.stream("/v1/events?topic=a&topic=b");
        (!answer.head.headers.contains_key("content-length")).then_some(())
    });
}

/// Also those from before it was known whose they are.
#[test]
fn an_identity_has_so_many_subscriptions_from_the_beginning() {
    let issuers = Issuers::new();
    let broker = issuers
        .setup()
        .flag("limit-subscriptions", "identity=2")
        .start();
    let subscribe = |id, topic: &str| json!({"type": "subscribe", "id": id, "topic": topic});
    let ana = token("ana", 600);
    let mut one = RawWs::connect(&broker);
    for topic in ["public.a", "public.b"] {
        assert_eq!(ask(&mut one, &subscribe(1, topic))["type"], "subscribed");
    }
    assert_eq!(auth(&mut one, &ana)["type"], "authenticated");
    expect_refused(
        &ask(&mut one, &subscribe(2, "public.c")),
        "too_many_subscriptions",
    );
    let mut other = RawWs::connect(&broker);
    assert_eq!(
        ask(&mut other, &subscribe(3, "public.a"))["type"],
        "subscribed"
    );
    expect_refused(&auth(&mut other, &ana), "too_many_subscriptions");
    expect_sent_away(&mut other);
}

#[test]
fn so_many_new_topics_in_a_time() {
    let broker = behind_proxy("limit-new-topics", "address=2/h").start();
    let guest = Guest::new(&broker, "192.0.2.1");
    let mut ws = guest.session();
    guest.publish("a").ok();
    assert_eq!(ask(&mut ws, &publish(1, "b"))["type"], "published");

    expect_later(&guest.publish("c"), "rate_limited");
    expect_refused(&ask(&mut ws, &publish(2, "c")), "rate_limited");
    let all = json!({"type": "publish", "id": 3, "topics": ["a", "c"], "data": 1});
    let receipts = &ask(&mut ws, &all)["receipts"];
    assert!(receipts[0]["cursor"].is_string(), "{receipts}");
    assert_eq!(receipts[1]["code"], "rate_limited", "{receipts}");

    // Those that are there take more, and looking at what is not makes nothing.
    guest.publish("a").ok();
    assert_eq!(ask(&mut ws, &publish(4, "b"))["type"], "published");
    guest.get("/v1/topics/c/messages").ok();
    let topics = broker.http().get("/v1/topics").json();
    assert_eq!(topics["topics"].as_array().unwrap().len(), 2, "{topics}");
    // Somebody else may begin it; then it is there for all.
    Guest::new(&broker, "192.0.2.2").publish("c").ok();
    guest.publish("c").ok();
}

#[test]
fn a_proxy_that_hark_was_not_told_of_is_told_of_once() {
    // Where the proxy is on this machine nobody is counted by address.
    let broker = Setup::new().flag("limit-commands", "address=1/h").start();
    for n in 1..=3 {
        let address = format!("192.0.2.{n}");
        Guest::new(&broker, &address).publish("a").ok();
    }
    wait_until("it is told of", || {
        let log = broker.log();
        let told = log.matches("--trusted-proxy").count();
        assert!(told <= 1, "{log}");
        (told == 1 && log.contains("x-forwarded-for")).then_some(())
    });

    let broker = Setup::new().start();
    broker.http().publish("a", &json!(1)).ok();
    assert!(!broker.log().contains("--trusted-proxy"));
}

#[test]
fn limits_that_make_no_sense_are_refused_at_the_start() {
    for (flag, value, expected) in [
        ("limit-commands", "100/s", "identity, address, all"),
        ("limit-commands", "address=100", "100/s"),
        ("limit-commands", "identity=100/s", "--auth"),
        ("limit-connections", "all=5", "--max-connections"),
        ("limit-failed-auths", "identity=5/m", "address, all"),
        ("limit-bytes", "all=1XB/s", "100/s"),
    ] {
        let exit = Setup::new().flag(flag, value).try_start();
        let exit = exit.expect_err("it makes no sense");
        assert_eq!(exit.code, Some(2), "--{flag} {value}");
        assert!(
            exit.stderr.contains(expected),
            "--{flag} {value}: {}",
            exit.stderr
        );
        assert!(
            exit.stderr.contains(&format!("--{flag}")),
            "{}",
            exit.stderr
        );
    }
    let broker = Setup::new().env("HARK_LIMIT_COMMANDS", "all=1/h").start();
    broker.http().publish("a", &json!(1)).ok();
    expect_later(&broker.http().publish("a", &json!(1)), "rate_limited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_publishes_more_than_it_may_and_loses_nothing() {
    const MESSAGES: u64 = 600;
    let broker = Setup::new().flag("limit-commands", "all=200/s").start();
    let client = Client::connect(broker.ws_url()).await.unwrap();
    let mut receipts = Vec::new();
    for n in 1..=MESSAGES {
        receipts.push(client.publish("a", &n).send().await.unwrap());
    }
    for (n, receipt) in (1..).zip(receipts) {
        let receipt = receipt.await.unwrap();
        assert!(
            !receipt.duplicate && receipt.cursor.offset == n,
            "{n}: {receipt:?}"
        );
    }
    assert!(client.stats().publishes_resent > 0, "nothing was refused");
    assert_eq!(client.stats().connections, 1);

    let mut subscription = client
        .subscribe("a")
        .from(SubscribeFrom::Earliest)
        .await
        .unwrap();
    for n in 1..=MESSAGES {
        let message = subscription.next_message().await.unwrap();
        assert_eq!((message.offset(), message.json::<u64>().unwrap()), (n, n));
    }
}

/// It comes back when it was told to, and is let in when there is a place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_comes_back_when_there_is_a_place() {
    let broker = behind_proxy("limit-connections", "address=1").start();
    let first = Client::connect(broker.ws_url()).await.unwrap();
    first.publish("a", &1).receipt().await.unwrap();
    let second = Client::builder(broker.ws_url()).first_connection(FirstConnection::InBackground);
    let second = second.connect().await.unwrap();
    let waiting = second.publish("a", &2).send().await.unwrap();
    first.close(Duration::from_secs(30)).await.unwrap();
    let receipt = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert_eq!(receipt.unwrap().unwrap().cursor.offset, 2);
}
