//! Behind Debian's nginx, with the configuration that the README shows: every transport works, nginx may be restarted, and addresses are believed
//! from trusted proxies alone.
//!
//! Needs `tests/peers/setup.sh` to have been run.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hark_protocol::Subprotocol;
use hark_tests::peers::program;
use hark_tests::{
    Broker, Curl, NGINX_CONF, Nginx, Setup, Sse, Ws, pause, publish_paced, subscribe_surely, until,
};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_behind_nginx() {
    let broker = Broker::start();
    let nginx = Nginx::in_front_of(&broker);
    let http = nginx.http();

    // WebSockets, in either subprotocol and without.
    for subprotocol in [None, Some(Subprotocol::Json), Some(Subprotocol::Bincode)] {
        let topic = format!("ws.{}", subprotocol.map_or("none", |s| s.name()));
        let mut ws = Ws::try_connect(nginx.addr(), subprotocol).await.unwrap();
        ws.subscribe(&topic, json!("now")).await;
        ws.expect("caught_up").await;
        ws.send(&json!({"type": "publish", "topic": topic, "data": {"n": 1}}))
            .await;
        assert_eq!(ws.message().await["data"], json!({"n": 1}));
        let large = "x".repeat(1_000_000);
        ws.send(&json!({"type": "publish", "topic": topic, "data": large}))
            .await;
        assert_eq!(ws.message().await["data"], large);
    }

    // Publishing: one message as large as may be, and bodies of many messages that are larger than nginx would let through.
    let json = [("content-type", "application/json")];
    let largest = json!("x".repeat((1 << 20) - 2));
    http.post("/v1/topics/posted/messages", &json, largest.to_string())
        .ok();
    let line = json!("y".repeat(9_998)).to_string();
    let lines = format!("{line}\n").repeat(300);
    let ndjson = [("content-type", "application/x-ndjson")];
    let answers = http
        .post("/v1/topics/posted/messages", &ndjson, &lines)
        .ok();
    assert_eq!(answers.json_lines().len(), 300);
    let frame = json!({"topic": "posted", "data": "y".repeat(9_000)});
    let lines = format!("{frame}\n").repeat(300);
    let answers = http.post("/v1/messages", &ndjson, &lines).ok().json_lines();
    assert_eq!(answers.len(), 300);
    assert!(
        answers.iter().all(|answer| answer["cursor"].is_string()),
        "{answers:?}"
    );
    assert_eq!(http.get("/v1/topics/posted").ok().json()["head"], 601);

    // Server-sent events: each is there while the stream is open, and nothing has to follow it.
    let mut stream = Curl::open(&nginx.url("/v1/topics/streamed/events"), "");
    stream.expect("caught_up").expect("a stream");
    for n in 1..=3 {
        http.publish("streamed", &json!(n)).ok();
        assert_eq!(stream.frame().expect("a stream")["data"], n);
        assert!(stream.is_running());
    }

    // A long-poll ends when there is something, not before and not only when its time is over.
    let polling = Instant::now();
    let waiting = {
        let http = nginx.http();
        std::thread::spawn(move || http.history("polled", "from=now&wait=50").ok())
    };
    // Whoever polls from `now` has to be there first. Nothing tells but that the answer is not there yet: so messages follow until it is.
    let mut published = 0;
    while !waiting.is_finished() {
        published += 1;
        http.publish("polled", &json!(published)).ok();
        assert!(
            polling.elapsed() < Duration::from_secs(40),
            "the long-poll does not end"
        );
    }
    let page = waiting.join().unwrap().json();
    let messages = page["messages"].as_array().unwrap();
    assert!(
        !messages.is_empty() && messages.len() <= published,
        "{page}"
    );
    let cursor = page["cursor"].as_str().unwrap();
    let (_, offset) = cursor.split_once(':').unwrap();
    let rest = published - offset.parse::<usize>().unwrap();
    let page = http
        .history("polled", &format!("after={cursor}&limit=1000&wait=0"))
        .ok()
        .json();
    assert_eq!(page["messages"].as_array().unwrap().len(), rest, "{page}");
}

/// Hark's heartbeat has to come more often than nginx loses patience: 25 seconds against 60. Here both are made shorter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_outlive_nginxs_patience() {
    const PATIENCE: &str = "proxy_read_timeout 2s;";

    // Given: a heartbeat that comes in time …
    let broker = Setup::new().flag("heartbeat", "500ms").start();
    let nginx = Nginx::with(&broker, PATIENCE);
    let mut ws = Ws::try_connect(nginx.addr(), None).await.unwrap();
    ws.subscribe("a", json!("now")).await;
    ws.expect("caught_up").await;
    let idle = tokio::spawn(async move { ws.message().await });
    let mut stream = Curl::open(&nginx.url("/v1/topics/a/events"), "");
    stream.expect("caught_up").expect("a stream");

    // … when nothing is said for more than twice as long as nginx waits, but for the heartbeat's comments …
    for comment in 1..=10 {
        assert_eq!(stream.read(), Some(Sse::Comment), "comment {comment}");
    }

    // … then both connections are still there.
    broker.http().publish("a", &json!("still there")).ok();
    assert_eq!(idle.await.unwrap()["data"], "still there");
    assert_eq!(stream.frame().expect("a stream")["data"], "still there");

    // Without a heartbeat they would not be.
    let broker = Broker::start();
    let nginx = Nginx::with(&broker, PATIENCE);
    let mut ws = Ws::try_connect(nginx.addr(), None).await.unwrap();
    let heartbeat_ms = ws.welcome["heartbeat_ms"].as_u64().unwrap();
    assert_eq!(
        heartbeat_ms, 25_000,
        "with less than nginx's 60 s to spare twice"
    );
    let mut stream = Curl::open(&nginx.url("/v1/topics/a/events"), "");
    assert_eq!(stream.expect("caught_up").expect("a stream")["topic"], "a");
    assert_eq!(stream.read(), None);
    assert_eq!(ws.next().await.unwrap_err().code, None);
}

/// A client that looks at nginx from 127.0.0.2, with these header lines.
async fn session_from_elsewhere(to: SocketAddr, headers: &[(&'static str, &str)]) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())
        .unwrap();
    let tcp = socket.connect(to).await.unwrap();
    let mut request = format!("ws://{to}/ws").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (mut ws, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    let welcome = futures_util::StreamExt::next(&mut ws)
        .await
        .unwrap()
        .unwrap();
    let welcome: Value = serde_json::from_str(welcome.to_text().unwrap()).unwrap();
    welcome["session"].as_str().unwrap().to_owned()
}

/// What the debug log calls the session's `peer`, without the port.
async fn peer(broker: &Broker, session: &str) -> String {
    let told = until("the log tells of the session", async || {
        let lines: Vec<Value> = broker
            .log()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let mut fields = lines.iter().map(|line| &line["fields"]);
        let begun =
            fields.find(|fields| fields["session"] == session && fields["peer"].is_string());
        begun.map(|fields| fields["peer"].as_str().unwrap().to_owned())
    })
    .await;
    match told.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => told,
    }
}

#[tokio::test]
async fn addresses_are_believed_from_trusted_proxies_alone() {
    let spoofed: &[(&str, &str)] = &[
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-for", "203.0.113.8, 198.51.100.1"),
        ("forwarded", "for=203.0.113.9"),
        ("x-real-ip", "203.0.113.10"),
    ];
    let logging = || {
        Setup::new()
            .flag("log", "debug")
            .env("HARK_LOG_JSON", "true")
    };

    // A proxy that nobody has declared is the peer itself, whatever it says.
    let broker = logging().start();
    let nginx = Nginx::in_front_of(&broker);
    for headers in [&[], spoofed] {
        let session = session_from_elsewhere(nginx.addr(), headers).await;
        assert_eq!(peer(&broker, &session).await, "127.0.0.1", "{headers:?}");
        let session = session_from_elsewhere(broker.addr(), headers).await;
        assert_eq!(peer(&broker, &session).await, "127.0.0.2", "{headers:?}");
    }

    // A trusted one is believed as to who came to it, not as to what that one said.
    let broker = logging().flag("trusted-proxy", "127.0.0.1/32").start();
    let nginx = Nginx::in_front_of(&broker);
    for headers in [&[], spoofed] {
        for to in [nginx.addr(), broker.addr()] {
            let session = session_from_elsewhere(to, headers).await;
            assert_eq!(
                peer(&broker, &session).await,
                "127.0.0.2",
                "{headers:?} to {to}"
            );
        }
    }

    // Two proxies, one behind the other, both trusted; and the standard's own header (RFC 7239).
    let broker = logging()
        .flag("trusted-proxy", "127.0.0.0/30")
        .flag("trusted-proxy", "10.0.0.0/8")
        .start();
    for (name, value, told) in [
        (
            "x-forwarded-for",
            "203.0.113.7, 198.51.100.1, 10.1.2.3",
            "198.51.100.1",
        ),
        ("x-forwarded-for", "2001:db8::7, 10.1.2.3", "2001:db8::7"),
        (
            "forwarded",
            "for=203.0.113.7;proto=https, for=10.1.2.3",
            "203.0.113.7",
        ),
        ("forwarded", "For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
    ] {
        let session = session_from_elsewhere(broker.addr(), &[(name, value)]).await;
        assert_eq!(peer(&broker, &session).await, told, "{name}: {value}");
    }
}

/// A long-poll reader made of `curl` alone: asks after its cursor, and asks again whatever became of that.
fn poll_surely(url: &str, count: usize) -> Vec<Value> {
    let (mut messages, mut cursor) = (Vec::new(), None);
    while messages.len() < count {
        let query = match &cursor {
            None => "from=earliest".to_owned(),
            Some(cursor) => format!("after={cursor}"),
        };
        let asked = format!("{url}?{query}&wait=10&limit=1000");
        let output = program("curl")
            .args(["--silent", "--fail", &asked])
            .output()
            .unwrap();
        if output.status.success() {
            let mut page: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(page["gap"].is_null(), "{page}");
            cursor = page["cursor"].as_str().map(str::to_owned);
            messages.append(page["messages"].as_array_mut().unwrap());
        } else {
            pause(Duration::from_millis(50));
        }
    }
    messages
}

/// A publisher made of `curl` alone, which counts its messages and sends each again until there is a receipt.
fn post_surely(url: &str, p: u64, count: u64) {
    for n in 1..=count {
        let body = json!({"p": p, "n": n}).to_string();
        loop {
            let output = program("curl")
                .args([
                    "--silent",
                    "--fail",
                    "--header",
                    "Content-Type: application/json",
                ])
                .args(["--header", &format!("Hark-Producer: p{p}")])
                .args(["--header", &format!("Hark-Seq: {n}")])
                .args(["--data", &body, url])
                .output()
                .unwrap();
            if output.status.success() {
                break;
            }
            pause(Duration::from_millis(50));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_nginx_loses_nothing_and_repeats_nothing() {
    const BY_WEBSOCKET: u64 = 3_000;
    const BY_POST: u64 = 150;
    const TOTAL: u64 = BY_WEBSOCKET + BY_POST;
    let broker = Broker::start();
    let mut nginx = Nginx::in_front_of(&broker);
    let addr = nginx.addr();
    let messages_url = nginx.url("/v1/topics/a/messages");

    // Given: readers and publishers of every kind …
    let by_websocket = tokio::spawn(async move {
        subscribe_surely(addr, "a", None, |seen| seen.position == TOTAL).await
    });
    let mut stream = Curl::open(&nginx.url("/v1/topics/a/events?from=earliest"), "");
    let by_stream = tokio::task::spawn_blocking(move || {
        let mut messages = Vec::new();
        while (messages.len() as u64) < TOTAL {
            let frame = stream.frame_surely();
            match frame["type"].as_str() {
                Some("message") => messages.push(frame),
                Some("gap") => panic!("{frame}"),
                _ => {}
            }
        }
        messages
    });
    let url = messages_url.clone();
    let by_poll =
        tokio::task::spawn_blocking(move || poll_surely(&url, usize::try_from(TOTAL).unwrap()));
    let publishing = tokio::spawn(publish_paced(addr, "a", 1, BY_WEBSOCKET, 500));
    let posting = tokio::task::spawn_blocking(move || post_surely(&messages_url, 2, BY_POST));

    // … when nginx is stopped and killed under all of them …
    for trouble in 1..=4 {
        until("messages have gone through", async || {
            let head = broker.http().get("/v1/topics/a").ok().json()["head"]
                .as_u64()
                .unwrap();
            (head >= trouble * BY_WEBSOCKET / 8).then_some(())
        })
        .await;
        assert!(
            !publishing.is_finished(),
            "all is over before trouble {trouble}"
        );
        match trouble % 2 {
            0 => nginx.kill9(),
            _ => nginx.stop(),
        }
        nginx.start_again();
    }

    // … then everything is kept once, each publisher's in its order, and every reader has it so.
    publishing.await.unwrap();
    posting.await.unwrap();
    let seen = by_websocket.await.unwrap();
    assert_eq!(broker.http().get("/v1/topics/a").ok().json()["head"], TOTAL);
    seen.expect(1..=TOTAL);
    for (p, count) in [(1, BY_WEBSOCKET), (2, BY_POST)] {
        let data: Vec<Value> = seen
            .data()
            .into_iter()
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        let of_p: Vec<u64> = data
            .iter()
            .filter(|data| data["p"] == p)
            .map(|data| data["n"].as_u64().unwrap())
            .collect();
        assert_eq!(of_p, (1..=count).collect::<Vec<_>>(), "publisher {p}");
    }
    for (how, messages) in [
        ("server-sent events", by_stream.await.unwrap()),
        ("long-polls", by_poll.await.unwrap()),
    ] {
        let got: Vec<(u64, String)> = messages
            .iter()
            .map(|frame| (frame["offset"].as_u64().unwrap(), frame["data"].to_string()))
            .collect();
        assert!(got == seen.messages, "by {how} came something else");
    }
}

/// What people copy is what is tested.
#[test]
fn the_readme_shows_this_configuration() {
    let readme = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .join("README.md"),
    )
    .unwrap();
    assert!(
        readme.contains(&format!("```nginx\n{NGINX_CONF}```")),
        "README.md has tests/peers/nginx.conf in a block of nginx"
    );
}
