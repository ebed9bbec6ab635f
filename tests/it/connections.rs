//! HTTP connections: kept alive for the next request, ended when it dawdles; and what pages of other origins are told (CORS).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hark_tests::{Broker, DEADLINE, Setup};

const PUBLISH: &str =
    "POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n";

struct Line(TcpStream);

impl Line {
    fn open(broker: &Broker) -> Self {
        let tcp = TcpStream::connect(broker.addr()).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(tcp)
    }

    fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until a receipt's end.
    fn receipt(&mut self) -> String {
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut bytes = [0; 1024];
            let n = self.0.read(&mut bytes).unwrap();
            assert!(n > 0, "the connection has ended after {text:?}");
            text.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        }
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text
    }

    /// Waits until the broker ends it, and gives how long that took.
    fn ended(&mut self) -> Duration {
        let begun = Instant::now();
        let mut rest = Vec::new();
        // Cut, it may end with an error instead of an end.
        drop(self.0.read_to_end(&mut rest));
        assert!(begun.elapsed() < DEADLINE, "it was not ended");
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
            "{rest:?}"
        );
        begun.elapsed()
    }
}

#[test]
fn a_publisher_keeps_its_connection() {
    let broker = Broker::start();
    let mut line = Line::open(&broker);
    for n in 1..=100 {
        line.write(PUBLISH);
        line.write("7");
        let receipt = line.receipt();
        assert!(receipt.contains(&format!(":{n}\"")), "{receipt}");
    }
}

/// Every head has its time, not only a connection's first.
#[test]
fn a_request_that_dawdles_is_ended_the_second_as_well_as_the_first() {
    let broker = Setup::new().flag("keep-alive", "1s").start();

    let mut first = Line::open(&broker);
    first.write("GET /healthz HT");
    let mut second = Line::open(&broker);
    second.write(PUBLISH);
    second.write("7");
    second.receipt();
    second.write("POST /v1/top");
    let mut idle = Line::open(&broker);
    idle.write(PUBLISH);
    idle.write("7");
    idle.receipt();
    // Meanwhile one that is in order goes on.
    let mut busy = Line::open(&broker);
    let begun = Instant::now();

    std::thread::scope(|scope| {
        scope.spawn(|| idle.ended());
        scope.spawn(|| first.ended());
        let second = scope.spawn(|| second.ended());
        while !second.is_finished() {
            busy.write(PUBLISH);
            busy.write("7");
            busy.receipt();
            hark_tests::pause(Duration::from_millis(100));
        }
        assert!(begun.elapsed() < DEADLINE);
    });
}

#[test]
fn a_stream_and_a_wait_are_not_idle() {
    let broker = Setup::new()
        .flag("keep-alive", "100ms")
        .flag("heartbeat", "1h")
        .start();
    let mut events = hark_tests::EventStream::open(&broker, "/v1/topics/a/events");
    events.begin();

    // Longer than a connection without a request lives: what is asked for so long is being answered.
    let waited = broker.http().history("a", "from=now&wait=13").ok().json();

    assert_eq!(waited["caught_up"], true);
    broker.http().publish("a", &1.into()).ok();
    assert_eq!(events.expect("message").data["data"], 1);
}

#[test]
fn pages_of_allowed_origins_are_told_so_and_no_others() {
    let broker = Setup::new()
        .flag("allowed-origin", "https://app.example")
        .start();
    let http = broker.http();
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        http.request(method, path, headers, b"")
    };
    let preflight = |origin: &str| {
        ask(
            "OPTIONS",
            "/v1/messages",
            &[
                ("origin", origin),
                ("access-control-request-method", "POST"),
                (
                    "access-control-request-headers",
                    "content-type,hark-producer",
                ),
            ],
        )
    };

    let allowed = preflight("https://app.example");
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert_eq!(
        allowed.headers["access-control-allow-origin"],
        "https://app.example"
    );
    let named = allowed.headers["access-control-allow-headers"].to_lowercase();
    assert!(named.contains("hark-producer"), "{named}");
    let foreign = preflight("https://evil.example");
    assert_eq!(foreign.headers.get("access-control-allow-origin"), None);

    let read = ask(
        "GET",
        "/v1/topics/a/messages",
        &[("origin", "https://app.example")],
    )
    .ok();
    assert_eq!(
        read.headers["access-control-allow-origin"],
        "https://app.example"
    );
    for answer in [&allowed, &read] {
        let with_credentials = answer.headers.get("access-control-allow-credentials");
        assert_eq!(with_credentials, None, "{answer:?}");
    }
    let exposed = read.headers["access-control-expose-headers"].to_lowercase();
    assert!(exposed.contains("hark-cursor"), "{exposed}");
    let read = ask(
        "GET",
        "/v1/topics/a/messages",
        &[("origin", "https://evil.example")],
    );
    assert_eq!(read.headers.get("access-control-allow-origin"), None);
    // Errors too can be read by the page they are for.
    let error = ask(
        "GET",
        "/v1/topics/a..b/messages",
        &[("origin", "https://app.example")],
    );
    assert_eq!(error.status, 400);
    assert_eq!(
        error.headers["access-control-allow-origin"],
        "https://app.example"
    );

    let plain = Broker::start();
    let none = plain.http().request(
        "GET",
        "/v1/topics/a/messages",
        &[("origin", "https://app.example")],
        b"",
    );
    assert_eq!(none.headers.get("access-control-allow-origin"), None);
    plain
        .http()
        .request(
            "OPTIONS",
            "/v1/messages",
            &[("origin", "https://app.example")],
            b"",
        )
        .expect_error(403, "forbidden");
}

#[test]
fn a_proxy_that_is_no_network_is_refused_at_the_start() {
    let exit = Setup::new()
        .flag("trusted-proxy", "nginx")
        .try_start()
        .expect_err("it is no address");
    assert!(exit.stderr.contains("10.0.0.0/8"), "{}", exit.stderr);
}

#[test]
fn an_origin_that_no_browser_sends_is_refused_at_the_start() {
    for origin in [
        "http://localhost:3000/",
        "localhost:3000",
        "http://a b",
        "null",
        "",
    ] {
        let exit = Setup::new()
            .flag("allowed-origin", origin)
            .try_start()
            .expect_err("it can never be met");
        assert_eq!(exit.code, Some(2), "{origin:?}");
        assert!(
            exit.stderr.contains("https://app.example"),
            "{}",
            exit.stderr
        );
    }
}

/// One that sends its body byte by byte is given up, though it never pauses.
#[test]
fn a_body_that_trickles_is_given_up() {
    let broker = Setup::new().flag("stall-timeout", "1s").start();
    let mut line = Line::open(&broker);
    line.write(
        "POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
    );
    let begun = Instant::now();
    while line.0.write_all(b"1").is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it is taken on and on");
        hark_tests::pause(Duration::from_millis(200));
    }
    assert_eq!(broker.http().get("/v1/topics/a").ok().json()["head"], 0);
}

/// Lines that stop in their midst: those before are answered and kept, and the last answer says why there is no other.
#[test]
fn lines_that_stop_are_answered_to_the_end() {
    let broker = Setup::new().flag("stall-timeout", "500ms").start();
    for path in ["/v1/messages", "/v1/topics/a/messages"] {
        let mut line = Line::open(&broker);
        line.write(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
             Content-Type: application/x-ndjson\r\n\r\n"
        ));
        line.write("17\r\n{\"topic\":\"a\",\"data\":1}\n\r\n5\r\n{\"top\r\n");
        let mut answer = String::new();
        while !answer.ends_with("0\r\n\r\n") {
            let mut bytes = [0; 1024];
            let n = line.0.read(&mut bytes).unwrap();
            assert!(n > 0, "the answer has no end: {answer:?}");
            answer.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        }
        assert!(answer.contains("\"cursor\""), "{answer}");
        assert!(answer.contains("send it without a pause"), "{answer}");
    }
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}
