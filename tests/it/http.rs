//! Publishing and reading over HTTP, beside the WebSocket and together with it.

use std::io::Write as _;

use hark_tests::{Acked, Broker, Seen, Setup, Ws, raw_http};
use serde_json::{Value, json};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const MESSAGES: &str = "/v1/topics/a/messages";

/// A broker, and a reader of the topic `a` that is live.
async fn given() -> (Broker, Ws) {
    let broker = Broker::start();
    let mut reader = Ws::connect(&broker).await;
    reader.subscribe("a", json!("now")).await;
    reader.expect("caught_up").await;
    (broker, reader)
}

#[tokio::test]
async fn a_post_is_kept_and_passed_on() {
    let (broker, mut reader) = given().await;

    let receipt = broker.http().publish("a", &json!({"n": 1})).ok().json();

    let message = reader.message().await;
    assert_eq!(message["data"], json!({"n": 1}));
    assert_eq!(receipt["duplicate"], false);
    assert!(
        receipt["cursor"].as_str().unwrap().ends_with(":1"),
        "{receipt}"
    );
}

#[tokio::test]
async fn the_content_type_says_what_a_body_is() {
    let (broker, mut reader) = given().await;
    let form = "application/x-www-form-urlencoded";
    let cases = [
        (Some("application/json"), "[1, 2]", json!({"data": [1, 2]})),
        (
            Some("application/json; charset=utf-8"),
            "null",
            json!({"data": null}),
        ),
        (None, r#"{"n":1}"#, json!({"data": {"n": 1}})),
        (Some(form), r#"{"n":1}"#, json!({"data": {"n": 1}})),
        (Some(form), "17", json!({"data": 17})),
        (
            Some("application/octet-stream"),
            "{}",
            json!({"data_base64": "e30="}),
        ),
        (Some("text/plain"), "hark", json!({"text": "hark"})),
        (
            Some("image/png"),
            "hark",
            json!({"data_base64": "aGFyaw=="}),
        ),
    ];

    for (content_type, body, expected) in cases {
        let headers: Vec<(&str, &str)> = content_type
            .into_iter()
            .map(|name| ("content-type", name))
            .collect();
        broker.http().post(MESSAGES, &headers, body).ok();

        let message = reader.message().await;
        for field in ["data", "text", "data_base64"] {
            assert_eq!(
                message.get(field),
                expected.get(field),
                "{content_type:?} {body}: {message}"
            );
        }
        if let (Some(content_type), true) = (content_type, message.get("data").is_none()) {
            assert_eq!(message["content_type"], content_type, "{message}");
        }
    }
}

/// `curl -d hello` sends a form's content type and means text.
#[tokio::test]
async fn what_curl_sends_is_text_where_it_is_not_json() {
    let (broker, mut reader) = given().await;
    let form = [("content-type", "application/x-www-form-urlencoded")];

    for headers in [&form[..], &[]] {
        broker.http().post(MESSAGES, headers, "hello, world").ok();
        let message = reader.message().await;
        assert_eq!(message["text"], "hello, world", "{message}");
        assert_eq!(message["content_type"], "text/plain; charset=utf-8");
    }
}

#[tokio::test]
async fn bad_bodies_and_topics_are_refused() {
    let (broker, mut reader) = given().await;
    let http = broker.http();
    let long = format!("/v1/topics/{}/messages", "x".repeat(256));

    http.post(MESSAGES, &JSON, "{")
        .expect_error(400, "bad_frame");
    http.post(MESSAGES, &JSON, "")
        .expect_error(400, "bad_frame");
    http.post(MESSAGES, &JSON, "1 2")
        .expect_error(400, "bad_frame");
    http.post(MESSAGES, &JSON, [0x22, 0xff, 0x22])
        .expect_error(400, "bad_frame");
    http.post("/v1/topics/a..b/messages", &JSON, "1")
        .expect_error(400, "bad_topic");
    http.post("/v1/topics/$sys/messages", &JSON, "1")
        .expect_error(400, "bad_topic");
    http.post("/v1/topics/a%20b/messages", &JSON, "1")
        .expect_error(400, "bad_topic");
    http.post(&long, &JSON, "1").expect_error(400, "bad_topic");

    http.publish("a", &json!("good")).ok();
    assert_eq!(reader.message().await["data"], "good");
    reader.expect_quiet().await;
}

#[tokio::test]
async fn a_topic_may_be_percent_encoded() {
    let broker = Broker::start();
    broker
        .http()
        .post("/v1/topics/user%3A7%40x/messages", &JSON, "1")
        .ok();
    assert_eq!(
        broker
            .http()
            .history("user:7@x", "from=earliest")
            .ok()
            .json()["messages"][0]["topic"],
        "user:7@x"
    );
}

#[tokio::test]
async fn a_body_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let broker = Broker::start();
    let bytes = [("content-type", "application/octet-stream")];

    broker.http().post(MESSAGES, &bytes, vec![7; 1 << 20]).ok();
    broker
        .http()
        .post(MESSAGES, &bytes, vec![7; (1 << 20) + 1])
        .expect_error(413, "too_large");

    // Without the announcement of a length, too.
    let mut chunked = format!(
        "POST {MESSAGES} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        broker.addr()
    );
    for _ in 0..16 {
        chunked.push_str(&format!("{:x}\r\n{}\r\n", 65_536, "x".repeat(65_536)));
    }
    chunked.push_str("1\r\nx\r\n0\r\n\r\n");
    assert_eq!(raw_http(&broker, &chunked).status, 413);
    assert_eq!(
        broker.http().history("a", "from=earliest").ok().json()["messages"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn ndjson_is_answered_line_by_line() {
    let (broker, mut reader) = given().await;
    let body = "{\"n\":1}\nnot json\n{\"n\":2}\n\"\u{fc}\"\n{\"n\":\n[3]";

    let answers = broker
        .http()
        .post(MESSAGES, &NDJSON, body)
        .ok()
        .json_lines();

    assert_eq!(answers.len(), 6, "{answers:?}");
    for (n, good) in [true, false, true, true, false, true]
        .into_iter()
        .enumerate()
    {
        let answer = &answers[n];
        if good {
            assert_eq!(answer["duplicate"], false, "line {}: {answer}", n + 1);
        } else {
            assert_eq!(answer["code"], "bad_frame", "line {}: {answer}", n + 1);
            assert!(answer["message"].is_string(), "line {}: {answer}", n + 1);
        }
    }
    for expected in [json!({"n": 1}), json!({"n": 2}), json!("ü"), json!([3])] {
        assert_eq!(reader.message().await["data"], expected);
    }
    reader.expect_quiet().await;
}

#[tokio::test]
async fn many_lines_are_kept_in_their_order() {
    let broker = Broker::start();
    let body: String = (0..5000).map(|n| format!("{{\"n\":{n}}}\n")).collect();

    let answers = broker
        .http()
        .post(MESSAGES, &NDJSON, &body)
        .ok()
        .json_lines();

    assert_eq!(answers.len(), 5000);
    let mut acked = Acked::default();
    for (n, answer) in answers.iter().enumerate() {
        acked.kept(&answer["cursor"], &json!({"n": n}));
    }
    let seen = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    seen.expect(1..=5000);
    acked.check(&seen);
    assert!(
        seen.data()
            .into_iter()
            .eq((0..5000).map(|n| format!("{{\"n\":{n}}}")))
    );
}

#[tokio::test]
async fn history_reads_page_by_page() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut acked = Acked::default();
    for n in 0..95 {
        acked.receipt(&ws.publish("a", json!(n)).await, &json!(n));
    }
    let http = broker.http();

    let mut seen: Vec<Value> = Vec::new();
    let mut query = "from=earliest&limit=10".to_owned();
    loop {
        let response = http.history("a", &query).ok();
        let page = response.json();
        let messages = page["messages"].as_array().unwrap();
        assert!(messages.len() <= 10, "{page}");
        assert_eq!(page.get("gap").filter(|gap| !gap.is_null()), None, "{page}");
        assert_eq!(
            response.headers["hark-cursor"],
            page["cursor"].as_str().unwrap()
        );
        seen.extend(messages.iter().cloned());
        assert_eq!(page["cursor"], acked.cursor(seen.len() as u64));
        if page["caught_up"] == true {
            break;
        }
        assert!(
            !messages.is_empty(),
            "neither caught up nor going on: {page}"
        );
        query = format!("after={}&limit=10", page["cursor"].as_str().unwrap());
    }

    let live = ws.watch_to_caught_up("a", json!("earliest")).await;
    assert_eq!(seen.len(), 95);
    for (message, (offset, data)) in seen.iter().zip(&live.messages) {
        assert_eq!(
            (message["type"].as_str(), message["topic"].as_str()),
            (Some("message"), Some("a")),
            "{message}"
        );
        assert_eq!(
            (message["offset"].as_u64(), &message["data"].to_string()),
            (Some(*offset), data)
        );
        assert!(message["time"].is_u64());
    }
}

#[tokio::test]
async fn history_starts_where_it_is_told_to() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut acked = Acked::default();
    for n in 1..=20 {
        acked.receipt(&ws.publish("a", json!(n)).await, &json!(n));
    }
    let cases = [
        ("from=earliest".to_owned(), 1),
        ("from=now".to_owned(), 21),
        ("from=last:5".to_owned(), 16),
        ("from=last:500".to_owned(), 1),
        ("from=since:1h".to_owned(), 1),
        ("from=since:2999-01-01T00:00:00Z".to_owned(), 21),
        (format!("after={}", acked.cursor(0)), 1),
        (format!("after={}", acked.cursor(13)), 14),
        (format!("after={}", acked.cursor(20)), 21),
        (
            format!("after={}", acked.cursor(19).replace(':', "%3A")),
            20,
        ),
    ];
    for (query, first) in cases {
        let page = broker.http().history("a", &query).ok().json();
        let offsets: Vec<u64> = page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["offset"].as_u64().unwrap())
            .collect();
        assert_eq!(offsets, (first..=20).collect::<Vec<_>>(), "{query}");
        assert_eq!(
            (&page["cursor"], &page["caught_up"]),
            (&json!(acked.cursor(20)), &json!(true)),
            "{query}"
        );
    }
}

#[tokio::test]
async fn history_names_its_gaps() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let receipt = ws.publish("a", json!(1)).await;
    let head = receipt["cursor"].as_str().unwrap();
    let epoch = head.split(':').next().unwrap();

    let ahead = broker
        .http()
        .history("a", &format!("after={epoch}:9"))
        .ok()
        .json();
    assert_eq!(
        (&ahead["gap"]["reason"], &ahead["cursor"]),
        (&json!("ahead"), &json!(head)),
        "{ahead}"
    );
    assert_eq!(ahead["messages"], json!([]));

    let other = broker.http().history("a", "after=zzz:9").ok().json();
    assert_eq!(other["gap"]["reason"], "other_epoch", "{other}");
    assert_eq!(other["messages"][0]["data"], 1, "{other}");
    assert_eq!(other["cursor"], head, "{other}");
}

#[tokio::test]
async fn history_of_a_topic_nobody_has_used_is_empty() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let idle = ws.watch_to_caught_up("never", json!("now")).await;

    for query in ["from=earliest", "from=now", "from=last:3"] {
        let page = broker.http().history("never", query).ok().json();
        assert_eq!(
            (&page["messages"], &page["caught_up"]),
            (&json!([]), &json!(true)),
            "{query}: {page}"
        );
        assert_eq!(page["cursor"], idle.cursor(), "{query}: {page}");
    }
}

#[tokio::test]
async fn bad_queries_are_refused() {
    let broker = Broker::start();
    for query in [
        "after=nonsense",
        "after=",
        "from=soon",
        "from=last:x",
        "from=since:yesterday",
    ] {
        broker
            .http()
            .history("a", query)
            .expect_error(400, "bad_cursor");
    }
    for query in [
        "from=earliest&limit=x",
        "from=earliest&limit=-1",
        "from=earliest&limit=0",
        "limit=1000000000",
    ] {
        let response = broker.http().history("a", query);
        assert_eq!(response.status, 400, "{query}: {response:#?}");
        assert!(
            response.json()["code"].is_string(),
            "{query}: {response:#?}"
        );
    }
    broker
        .http()
        .history("a..b", "from=earliest")
        .expect_error(400, "bad_topic");
}

#[tokio::test]
async fn a_large_history_comes_in_pieces_that_fit_together() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let frames = (0..300).map(|n| json!({"topic": "a", "data": {"n": n, "x": "x".repeat(20_000)}}));
    ws.publish_all(frames, 64).await;

    let mut offsets = Vec::new();
    let mut query = "from=earliest&limit=1000".to_owned();
    loop {
        let page = broker.http().history("a", &query).ok().json();
        offsets.extend(
            page["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|message| message["offset"].as_u64().unwrap()),
        );
        if page["caught_up"] == true {
            break;
        }
        query = format!("after={}&limit=1000", page["cursor"].as_str().unwrap());
    }
    assert_eq!(offsets, (1..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_is_the_same_on_every_transport() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for n in 1..=10 {
        ws.publish("a", json!(n)).await;
    }

    let page = broker
        .http()
        .history("a", "from=earliest&limit=4")
        .ok()
        .json();
    let mut reader = Ws::connect(&broker).await;
    let subscribed = reader
        .subscribe("a", json!({"after": page["cursor"]}))
        .await;
    assert_eq!(subscribed["resumed"], true);
    let mut seen = Seen::start("a", &subscribed);
    reader.follow(&mut seen, |seen| seen.position == 8).await;
    let rest = broker
        .http()
        .history("a", &format!("after={}", seen.cursor()))
        .ok()
        .json();

    assert_eq!(seen.offsets()[..4], [5, 6, 7, 8]);
    assert_eq!(rest["messages"].as_array().unwrap().len(), 2);
    let receipt = broker.http().publish("a", &json!(11)).ok().json();
    let after = broker
        .http()
        .history(
            "a",
            &format!("after={}", receipt["cursor"].as_str().unwrap()),
        )
        .ok()
        .json();
    assert_eq!(
        (&after["messages"], &after["cursor"]),
        (&json!([]), &receipt["cursor"])
    );
}

#[tokio::test]
async fn no_foreign_page_publishes_here() {
    let broker = Setup::new()
        .flag("allowed-origin", "https://app.example")
        .start();
    let own = format!("http://{}", broker.addr());
    let publish = |origin: &str| {
        let headers = [("content-type", "text/plain"), ("origin", origin)];
        broker.http().post(MESSAGES, &headers, "1")
    };

    publish("https://evil.example").expect_error(403, "forbidden");
    publish("null").expect_error(403, "forbidden");
    publish(&own).ok();
    publish("https://app.example").ok();

    let page = broker.http().history("a", "from=earliest").ok().json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 2);
}

/// It is not even worked for.
#[tokio::test]
async fn a_foreign_page_cannot_read_an_answer() {
    let broker = Broker::start();
    let response = broker.http().request(
        "GET",
        "/v1/topics/a/messages?from=earliest",
        &[("origin", "https://evil.example")],
        b"",
    );
    response.expect_error(403, "forbidden");
    assert!(
        !response.headers.contains_key("access-control-allow-origin"),
        "{response:#?}"
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_so_in_json() {
    let broker = Broker::start();
    let http = broker.http();

    for path in [
        "/nowhere",
        "/v1/nowhere",
        "/v1/topics/a/nowhere",
        "/v2/topics",
    ] {
        let response = http.get(path);
        assert_eq!(response.status, 404, "{path}: {response:#?}");
        assert!(
            response.json()["code"].is_string() && response.json()["message"].is_string(),
            "{response:#?}"
        );
    }
    for (method, path) in [
        ("PUT", MESSAGES),
        ("DELETE", MESSAGES),
        ("POST", "/v1/topics"),
        ("POST", "/healthz"),
    ] {
        let response = http.request(method, path, &[], b"1");
        assert_eq!(response.status, 405, "{method} {path}: {response:#?}");
        assert!(response.json()["code"].is_string(), "{response:#?}");
        assert!(
            response.headers.contains_key("allow"),
            "RFC 9110, section 15.5.6: {response:#?}"
        );
    }
}

#[tokio::test]
async fn topics_are_listed_with_what_they_hold() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["b.two", "a.one", "b.two"] {
        ws.publish(topic, json!(1)).await;
    }

    let topics = broker.http().get("/v1/topics").ok().json();

    let text = topics.to_string();
    assert!(text.contains("a.one") && text.contains("b.two"), "{topics}");
}

#[tokio::test]
async fn healthz_is_there_for_everybody() {
    let broker = Broker::start();
    broker.http().get("/healthz").ok();
}

/// As health checks and proxies ask: the same answer, without its body. What is asked at one moment is not kept for the next.
#[tokio::test]
async fn head_is_answered_wherever_a_page_is() {
    let (broker, _reader) = given().await;
    let http = broker.http();
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/demo",
        "/hark.js",
        "/v1/topics",
        "/v1/topics/orders",
        MESSAGES,
        "/v1/messages?topic=orders",
    ] {
        let (page, head) = (
            http.request("GET", path, &[], b"").ok(),
            http.request("HEAD", path, &[], b"").ok(),
        );
        assert_eq!(head.body, "", "{path}");
        assert!(!page.body.is_empty(), "{path}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(
                head.headers.get(name),
                page.headers.get(name),
                "{path}: {name}"
            );
        }
        let is_in_the_binary = path == "/demo" || path == "/hark.js";
        let expected = if is_in_the_binary {
            "no-cache"
        } else {
            "no-store"
        };
        assert_eq!(page.headers["cache-control"], expected, "{path}");
    }
    for path in ["/ws", "/v1/events?topic=a", "/nothing"] {
        let refused = http.request("HEAD", path, &[], b"").status;
        assert!((400..500).contains(&refused), "{path}: {refused}");
    }
}

/// Kept as it is it would be taken for what it holds.
#[tokio::test]
async fn a_packed_body_is_refused() {
    let (broker, _reader) = given().await;
    for path in [MESSAGES, "/v1/messages"] {
        let post = |encoding| {
            let headers = [
                ("content-encoding", encoding),
                ("content-type", "application/x-ndjson"),
            ];
            broker.http().request("POST", path, &headers, b"")
        };
        post("gzip").expect_error(415, "unsupported");
        post("identity").ok();
    }
}

/// A key to which a line's number could not be added would leave all lines but the first without one.
#[tokio::test]
async fn a_key_too_long_for_lines_is_refused_before_any_is_kept() {
    let (broker, _reader) = given().await;
    let http = broker.http();
    let post = |len| {
        let key = "k".repeat(len);
        let headers = [NDJSON[0], ("hark-message-id", key.as_str())];
        http.request("POST", MESSAGES, &headers, b"1\n2\n3\n")
    };
    post(54).expect_error(413, "too_large");
    for duplicate in [false, true] {
        let answers = post(53).ok();
        let said = format!("\"duplicate\":{duplicate}");
        assert_eq!(answers.body.matches(&said).count(), 3, "{}", answers.body);
    }
}

/// The last line of a body that is cut off may look whole: `123` of `12345678`.
#[tokio::test]
async fn a_body_that_is_cut_off_publishes_no_part_of_a_line() {
    let (broker, mut reader) = given().await;
    let head = format!(
        "POST {MESSAGES} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n",
        broker.addr()
    );
    let mut connection = std::net::TcpStream::connect(broker.addr()).unwrap();
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(b"{\"n\":1}\n123").unwrap();
    assert_eq!(reader.message().await["data"], json!({"n": 1}));
    drop(connection);

    broker.http().publish("a", &json!("after")).ok();
    assert_eq!(reader.message().await["data"], "after");
}

/// A value that stands in a large body is kept by itself: what was around it is not held on to.
#[tokio::test]
async fn blanks_around_a_value_are_not_kept() {
    let (broker, _reader) = given().await;
    let mut body = vec![b' '; 1_000_000];
    body.push(b'1');
    broker.http().post(MESSAGES, &JSON, &body).ok();
    let before = broker.rss_bytes();
    for _ in 0..200 {
        broker.http().post(MESSAGES, &JSON, &body).ok();
    }
    let grown = broker.rss_bytes().saturating_sub(before);
    assert!(
        grown < 50_000_000,
        "{grown} bytes for 200 values of one byte"
    );
}
