//! What holds for every request and every answer: hosts, headers that are said once, answers for HTTP/1.0, refusals in JSON, and connections that
//! are kept. How a WebSocket begins is in `handshake`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hark_tests::{Broker, DEADLINE, Op, RawWs, Response, Setup, raw_http, upgrade};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/topics/a/messages";
const MANY: &str = "/v1/messages";

/// A connection that writes what it is told to and reads answers in every form.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(broker: &Broker) -> Self {
        let tcp = TcpStream::connect(broker.addr()).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self(BufReader::new(tcp))
    }

    fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "the connection has ended: {line:?}");
        line.truncate(line.len() - 2);
        line
    }

    /// The head of an answer, in lower case.
    fn head(&mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty()));
        lines.map(|line| line.to_ascii_lowercase()).collect()
    }

    /// The next chunk of an answer; empty at the end.
    fn chunk(&mut self) -> String {
        let len = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut chunk = vec![0; len];
        self.0.read_exact(&mut chunk).unwrap();
        assert_eq!(self.line(), "");
        String::from_utf8(chunk).unwrap()
    }

    /// A whole answer behind which the connection goes on.
    fn answer(&mut self) -> (Vec<String>, String) {
        let head = self.head();
        if head.iter().any(|line| line == "transfer-encoding: chunked") {
            let chunks =
                std::iter::from_fn(|| Some(self.chunk()).filter(|chunk| !chunk.is_empty()));
            return (head, chunks.collect());
        }
        let length = head
            .iter()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.unwrap_or_else(|| panic!("no length: {head:?}"));
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// All that comes until the broker closes the connection.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// The answer to a publish with these header lines in place of a content type; `host` is a line, too.
fn publish(broker: &Broker, path: &str, headers: &str, body: &str) -> Response {
    let length = body.len();
    raw_http(
        broker,
        &format!("POST {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}"),
    )
}

fn head_of(broker: &Broker, topic: &str) -> Value {
    let path = format!("/v1/topics/{topic}");
    broker.http().get(&path).ok().json()["head"].clone()
}

/// The first of two lines would win here, and the last one elsewhere.
#[test]
fn what_is_said_once_is_not_said_twice() {
    let broker = Broker::start();
    let own = format!("Origin: http://{}\r\n", broker.addr());
    for (name, lines) in [
        (
            "Hark-Producer",
            "Hark-Producer: a\r\nHark-Producer: b\r\nHark-Seq: 1\r\n",
        ),
        (
            "Hark-Seq",
            "Hark-Producer: a\r\nHark-Seq: 1\r\nHark-Seq: 2\r\n",
        ),
        (
            "Hark-Message-Id",
            "Hark-Message-Id: a\r\nhark-message-id: a\r\n",
        ),
        (
            "Content-Type",
            "Content-Type: text/plain\r\nContent-Type: application/json\r\n",
        ),
        ("Origin", &format!("{own}Origin: https://evil.example\r\n")),
        ("trace", "Hark-Header-Trace: 1\r\nHark-Header-Trace: 2\r\n"),
    ] {
        let answer = publish(
            &broker,
            MESSAGES,
            &format!("Host: localhost\r\n{lines}"),
            "1",
        );
        answer.expect_error(400, "bad_frame");
        assert!(answer.body.contains(name), "{name}: {answer:#?}");
    }
    for lines in [
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        &format!("{own}{own}"),
    ] {
        raw_http(&broker, &upgrade(&broker, lines)).expect_error(400, "bad_frame");
    }
    let resumed = "GET /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: a:1\r\nLast-Event-ID: a:2\r\n\r\n";
    raw_http(&broker, resumed).expect_error(400, "bad_frame");

    // A packing is a list, which may go on in another line (RFC 9110, section 8.4).
    let packed = "Host: localhost\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n";
    publish(&broker, MESSAGES, packed, "1").expect_error(415, "unsupported");
    assert_eq!(head_of(&broker, "a"), 0, "nothing of it was kept");
}

#[test]
fn a_host_that_is_none_is_refused() {
    for broker in [
        Broker::start(),
        Setup::new().env("HARK_INSECURE_NO_AUTH", "true").start(),
    ] {
        for bad in [
            "localhost:evil",
            "127.0.0.1:1@evil",
            "[localhost]",
            "localhost:99999",
            "localhost:",
            "localhost/",
            "[::1",
            "a b",
        ] {
            for path in ["/healthz", "/v1/topics", "/ws"] {
                let get = format!("GET {path} HTTP/1.1\r\nHost: {bad}\r\n\r\n");
                raw_http(&broker, &get).expect_error(400, "bad_frame");
            }
            publish(&broker, MESSAGES, &format!("Host: {bad}\r\n"), "1")
                .expect_error(400, "bad_frame");
        }
        assert_eq!(head_of(&broker, "a"), 0);
    }
    // The name in the first line counts (RFC 9112, section 3.2.2).
    let broker = Broker::start();
    let get = |target: &str| {
        let get = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        raw_http(&broker, &get)
    };
    get("http://evil.example/v1/topics").expect_error(403, "forbidden");
    get("http://localhost/v1/topics").ok();
}

/// A name that was not understood was meant to say something.
#[test]
fn a_header_of_hark_that_it_does_not_know_is_refused() {
    let broker = Broker::start();
    for path in [MESSAGES, MANY] {
        for name in [
            "Hark-Sequence",
            "hark-messageid",
            "Hark-",
            "Hark-Headers-Trace",
        ] {
            let lines = format!("Host: localhost\r\n{name}: 1\r\n");
            let body = r#"{"topic":"a","data":1}"#;
            let answer = publish(&broker, path, &lines, body);
            answer.expect_error(400, "bad_frame");
            let name = name.to_ascii_lowercase();
            assert!(answer.body.contains(&name), "{name}: {answer:#?}");
        }
    }
    assert_eq!(head_of(&broker, "a"), 0);
    let known = "Host: localhost\r\nHark-Message-Id: a\r\nHark-Header-Trace: b\r\n";
    publish(&broker, MESSAGES, known, "1").ok();
}

/// It may end up in an HTTP header at the other end.
#[test]
fn a_content_type_is_checked_as_on_a_websocket() {
    let broker = Broker::start();
    let long = "x".repeat(256);
    for bad in ["image/png\tx", "image/\u{fc}", &long] {
        let lines = format!("Host: localhost\r\nContent-Type: {bad}\r\n");
        publish(&broker, MESSAGES, &lines, "1").expect_error(400, "bad_frame");
    }
    assert_eq!(head_of(&broker, "a"), 0);
    let lines = format!("Host: localhost\r\nContent-Type: {}\r\n", &long[1..]);
    publish(&broker, MESSAGES, &lines, "1").ok();
    // White space is legal around parameters, and of JSON nothing but the JSON is kept.
    let lines = "Host: localhost\r\nContent-Type: application/json;\tcharset=utf-8\r\n";
    publish(&broker, MESSAGES, lines, "1").ok();
}

#[test]
fn lines_have_many_names() {
    let broker = Broker::start();
    let http = broker.http();
    for name in [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "Application/JSONL; charset=utf-8",
    ] {
        let headers = [("content-type", name)];
        let one = http.post(MESSAGES, &headers, "1\n2\n").ok().json_lines();
        assert_eq!(one.len(), 2, "{name}: {one:?}");
        let line = json!({"topic": "a", "data": name});
        let many = http.post(MANY, &headers, format!("{line}\n{line}")).ok();
        assert_eq!(many.json_lines().len(), 2, "{name}: {many:?}");
    }
    assert_eq!(head_of(&broker, "a"), 20);
}

/// Scripts that hang up on a page in plain text get the reason like everybody else.
#[test]
fn a_refused_preflight_says_why_in_json() {
    let setup = || Setup::new().flag("allowed-origin", "https://app.example");
    let broker = setup().start();
    let preflight = |origin: &str, method: &str, headers: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", headers),
        ];
        broker.http().request("OPTIONS", MANY, &headers, b"")
    };
    let app = "https://app.example";
    assert_eq!(preflight(app, "POST", "content-type").status, 200);
    let foreign = preflight("https://evil.example", "POST", "content-type");
    foreign.expect_error(403, "forbidden");
    assert!(
        foreign
            .body
            .contains("--allowed-origin https://evil.example"),
        "{foreign:#?}"
    );
    assert_eq!(foreign.headers["cache-control"], "no-store");
    preflight("null", "POST", "content-type").expect_error(403, "forbidden");
    preflight(app, "PATCH", "content-type").expect_error(400, "bad_frame");
}

/// Who follows the advice of a refusal is let in.
#[test]
fn a_refusal_that_advises_a_flag_advises_one_that_works() {
    let broker = Broker::start();
    let publish = |broker: &Broker, origin: &str| {
        let headers = [("origin", origin), ("content-type", "application/json")];
        broker.http().post(MESSAGES, &headers, "1")
    };
    for origin in [
        "https://app.example",
        "https://App.Example:443",
        "http://app.example:80",
        "http://localhost:3000",
        "http://[::1]:3000",
        "chrome-extension://abcdefgh",
    ] {
        let refused = publish(&broker, origin);
        refused.expect_error(403, "forbidden");
        let advice = refused.json()["message"].as_str().unwrap().to_owned();
        let (_, rest) = advice.split_once("--allowed-origin ").expect(&advice);
        let value = rest.split(' ').next().unwrap();
        let setup = Setup::new().flag("allowed-origin", value);
        publish(&setup.start(), origin).ok();
    }
    for origin in [
        "null",
        "nonsense",
        "https://app.example/path",
        "https://*.example",
    ] {
        let refused = publish(&broker, origin);
        refused.expect_error(403, "forbidden");
        assert!(
            !refused.body.contains("--allowed-origin"),
            "{origin}: {refused:#?}"
        );
        let exit = Setup::new().flag("allowed-origin", origin).try_start();
        assert_eq!(
            exit.expect_err("it cannot be met").code,
            Some(2),
            "{origin}"
        );
    }
}

/// It knows no chunks: what has no length ends with the connection.
#[test]
fn an_answer_for_http_1_0_has_no_chunks() {
    let broker = Broker::start();
    broker.http().publish("a", &json!("first")).ok();

    let mut events = Line::open(&broker);
    events.write("GET /v1/topics/a/events?from=earliest HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
    let head = events.head();
    assert!(head[0].starts_with("http/1.0 200"), "{head:?}");
    for no in ["transfer-encoding", "connection: keep-alive"] {
        assert!(!head.iter().any(|line| line.contains(no)), "{head:?}");
    }
    let mut first = String::new();
    events.0.read_line(&mut first).unwrap();
    assert!(first.starts_with("retry:"), "{first:?}");

    // More answers than are held back.
    let lines = "1\n".repeat(20_000);
    let mut many = Line::open(&broker);
    many.write(&format!(
        "POST {MESSAGES} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{lines}",
        lines.len()
    ));
    let head = many.head();
    assert!(head[0].starts_with("http/1.0 200"), "{head:?}");
    assert!(
        !head.iter().any(|line| line.contains("transfer-encoding")),
        "{head:?}"
    );
    let answers = many.rest();
    let receipts = answers.lines().map(serde_json::from_str::<Value>);
    assert_eq!(
        receipts
            .filter(|read| read
                .as_ref()
                .is_ok_and(|answer| answer["duplicate"] == false))
            .count(),
        20_000
    );

    // What has a length leaves the connection to the next request.
    let mut kept = Line::open(&broker);
    for _ in 0..2 {
        kept.write("GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
        assert!(kept.answer().1.contains("ok"));
    }
}

/// Whoever asks for a stream as if it were a WebSocket gets the stream, to the end of the connection: actix-http takes it for an upgrade, and
/// would announce chunks and not write them, or not the last.
#[test]
fn an_event_stream_that_is_asked_for_as_a_websocket_has_no_chunks() {
    let mut broker = Broker::start();
    broker.http().publish("a", &json!("first")).ok();
    for connection in ["Upgrade", "keep-alive", "close"] {
        let mut events = Line::open(&broker);
        events.write(&format!(
            "GET /v1/topics/a/events?from=earliest HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\nUpgrade: websocket\r\n\r\n"
        ));
        let head = events.head();
        assert!(head[0].starts_with("http/1.1 200"), "{head:?}");
        assert!(head.contains(&"connection: close".to_owned()), "{head:?}");
        let chunks = head
            .iter()
            .any(|line| line.starts_with("transfer-encoding"));
        assert!(!chunks, "{head:?}");
        let mut lines = Vec::new();
        while !lines.contains(&"event: caught_up\n".to_owned()) {
            let mut line = String::new();
            let read = events.0.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the stream has ended: {lines:?}");
            lines.push(line);
        }
        assert!(lines[0].starts_with("retry: "), "{lines:?}");
        // The others are gone by now: a broker that is to end would wait for none of them.
        if connection == "close" {
            broker.stop();
            let rest = events.rest();
            assert!(rest.contains("event: goodbye\n"), "{rest:?}");
            assert!(rest.ends_with("\n\n"), "{rest:?}");
        }
    }
}

/// Each batch on a connection of its own would pay for a new one each time.
#[test]
fn batches_of_lines_are_answered_on_one_connection() {
    let broker = Broker::start();
    let mut line = Line::open(&broker);
    let mut published = 0;
    for (path, body, lines) in [
        (MESSAGES, "{\"n\":1}\n".to_owned(), 1),
        (MESSAGES, "1\n2".to_owned(), 2),
        (MESSAGES, "not json\n\n".to_owned(), 1),
        (MANY, "{\"topic\":\"a\",\"data\":1}\n".repeat(1024), 1024),
        // More answers than are held back: they begin when all of the batch has been read.
        (MESSAGES, "1\n".repeat(20_000), 20_000),
        // As large as it may be, in few lines: more than the server reads ahead.
        (
            MESSAGES,
            format!("\"{}\"\n", "x".repeat(100_000)).repeat(10),
            10,
        ),
        (MANY, String::new(), 0),
    ] {
        for chunked in [false, true] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
            );
            let (how, body) = match chunked {
                false => (format!("Content-Length: {}", body.len()), body.clone()),
                true => {
                    let pieces = body.as_bytes().chunks(30_000);
                    let mut chunks: String = pieces
                        .map(|piece| {
                            format!(
                                "{:x}\r\n{}\r\n",
                                piece.len(),
                                std::str::from_utf8(piece).unwrap()
                            )
                        })
                        .collect();
                    chunks.push_str("0\r\n\r\n");
                    ("Transfer-Encoding: chunked".to_owned(), chunks)
                }
            };
            line.write(&format!("{head}{how}\r\n\r\n{body}"));
            let (head, answers) = line.answer();
            assert!(head[0].starts_with("http/1.1 200"), "{head:?}");
            assert!(
                !head.iter().any(|line| line == "connection: close"),
                "{head:?}"
            );
            assert_eq!(answers.lines().count(), lines, "{answers}");
            published += answers.matches("\"cursor\"").count();
        }
    }
    assert_eq!(head_of(&broker, "a"), published);
}

/// Who waits for each answer before the next line is not made to wait for the end.
#[test]
fn a_client_that_waits_for_each_answer_gets_it() {
    let broker = Broker::start();
    for announced in [false, true] {
        let mut line = Line::open(&broker);
        let how = match announced {
            true => "Content-Length: 20".to_owned(),
            false => "Transfer-Encoding: chunked".to_owned(),
        };
        line.write(&format!(
            "POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n{how}\r\n\r\n"
        ));
        for n in 0..10 {
            line.write(&match announced {
                true => format!("{n}\n"),
                false => format!("2\r\n{n}\n\r\n"),
            });
            if n == 0 {
                let head = line.head();
                assert!(head[0].starts_with("http/1.1 200"), "{head:?}");
            }
            let answer = line.chunk();
            assert!(answer.contains("\"cursor\""), "{n}: {answer}");
        }
        if !announced {
            line.write("0\r\n\r\n");
        }
        assert_eq!(line.chunk(), "");
    }
    assert_eq!(head_of(&broker, "a"), 20);
}

/// Or its answer would be a head and then frames within chunks, which no client can read.
#[test]
fn what_is_no_upgrade_to_a_websocket_is_refused_by_its_name() {
    let broker = Broker::start();
    let ask = |from: &str, to: &str| {
        let request = upgrade(&broker, "");
        assert!(request.contains(from), "{from:?} is not in {request:?}");
        raw_http(&broker, &request.replace(from, to))
    };
    for other in [
        "Upgrade: h2c",
        "Upgrade: notwebsocket",
        "Upgrade: websocket/13",
        "Upgrade: websockets, h2c",
        "Upgrade: ",
    ] {
        let refused = ask("Upgrade: websocket", other);
        refused.expect_error(426, "unsupported");
        assert_eq!(refused.headers["upgrade"], "websocket", "{refused:#?}");
        assert_eq!(
            refused.headers["sec-websocket-version"], "13",
            "{refused:#?}"
        );
    }
    for (from, to) in [
        ("HTTP/1.1", "HTTP/1.0"),
        (
            "Connection: Upgrade",
            "Connection: Upgrade\r\nTransfer-Encoding: chunked",
        ),
        (
            "Connection: Upgrade",
            "Connection: Upgrade\r\nContent-Length: 5",
        ),
        ("Connection: Upgrade", "Connection: keep-alive"),
    ] {
        ask(from, to).expect_error(400, "unsupported");
    }
    for fine in [
        "Upgrade: WebSocket\r\nContent-Length: 0",
        "Upgrade:   websocket  ",
    ] {
        assert_eq!(ask("Upgrade: websocket", fine).status, 101, "{fine}");
    }
    let post = "POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n1";
    raw_http(&broker, post).expect_error(400, "unsupported");
}

/// A list that names it is legal (RFC 9110, section 7.8): it gets a WebSocket whose frames can be read, or is told what to send.
#[test]
fn a_list_of_upgrades_gets_no_frames_in_chunks() {
    let broker = Broker::start();
    for list in [
        "Upgrade: websocket, h2c",
        "Upgrade: h2c,WebSocket",
        "Upgrade: h2c\r\nUpgrade: websocket",
        "Upgrade: websocket\r\nUpgrade: h2c",
    ] {
        let request = upgrade(&broker, "").replace("Upgrade: websocket", list);
        let refused = raw_http(&broker, &request);
        match refused.status {
            101 => {
                let mut raw = RawWs::open_with(&broker, request.as_bytes());
                assert_eq!(raw.read_json()["type"], "welcome", "{list}");
                raw.send(Op::TEXT, br#"{"type":"ping","id":1}"#);
                assert_eq!(raw.read_json()["type"], "pong", "{list}");
            }
            _ => refused.expect_error(426, "unsupported"),
        }
    }
}

/// Nor is one that never pauses and never ends.
#[test]
fn a_client_that_does_not_stop_is_answered_meanwhile() {
    let broker = Broker::start();
    let mut line = Line::open(&broker);
    line.write(&format!(
        "POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    let answered = AtomicBool::new(false);
    let mut tcp = line.0.get_ref().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while !answered.load(Ordering::Relaxed) && begun.elapsed() < DEADLINE {
                tcp.write_all(b"2\r\n1\n\r\n").unwrap();
                hark_tests::pause(Duration::from_millis(30));
            }
            tcp.write_all(b"0\r\n\r\n").unwrap();
        });
        let (head, first) = (line.head(), line.chunk());
        answered.store(true, Ordering::Relaxed);
        assert!(head[0].starts_with("http/1.1 200"), "{head:?}");
        assert!(first.contains("\"cursor\""), "{first}");
    });
    let mut last = String::new();
    while last != "0\r\n" {
        last.clear();
        line.0.read_line(&mut last).unwrap();
    }
}

/// What has been read ahead counts, though the rest never comes.
#[test]
fn lines_that_were_read_ahead_are_all_answered() {
    let broker = Setup::new().flag("stall-timeout", "500ms").start();
    let mut line = Line::open(&broker);
    line.write(&format!(
        "POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n{}12",
        "1\n".repeat(20_000)
    ));

    let (_, answers) = line.answer();

    let mut answers: Vec<&str> = answers.lines().collect();
    let last = answers.pop().unwrap();
    assert!(last.contains("send it without a pause"), "{last}");
    assert_eq!(answers.len(), 20_000);
    assert!(answers.iter().all(|answer| answer.contains("\"cursor\"")));
    assert_eq!(head_of(&broker, "a"), 20_000);
}
