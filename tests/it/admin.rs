//! What administrators do while Hark runs: revoke, read settings again, list and end sessions. Each must reach every transport at once, cost those
//! who stay nothing, and leave a line of the audit.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use hark_client::Client;
use hark_tests::{
    Broker, Cli, DEADLINE, Ended, EventStream, RawWs, Response, Ws, hark, until, wait_until, within,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::identity::{
    Issuers, PUBLIC, SECRET, SHARED, ask, but, by_secret, claims, now_s, publish, subscribe, token,
    write_private,
};

/// More than is waited for, and less than what would end it anyway.
const SOON: Duration = Duration::from_secs(40);

const RULES: &str = r#"
[[issuer]]
name = "https://shared.example"
audience = ["hark"]
algorithm = "HS256"
secret_file = "secret"
leeway = "0s"

[[issuer]]
name = "https://public.example"
audience = ["hark"]
algorithm = "EdDSA"
jwks_file = "keys.json"
leeway = "0s"

[api_keys]
file = "api-keys.toml"

[revocations]
file = "revoked.jsonl"

[[rule]]
who = "anonymous"
subscribe = ["lobby"]

[[rule]]
who = "*"
publish = ["room.*"]
subscribe = ["room.*"]

[[rule]]
who = "https://shared.example root"
admin = true
manage = [">"]

[[rule]]
who = "https://shared.example watcher"
monitor = true
"#;

fn setup() -> Issuers {
    let issuers = Issuers::with(RULES);
    write_private(&issuers.dir.path().join("api-keys.toml"), b"");
    write_private(
        &issuers.dir.path().join("revoked.jsonl"),
        b"# nothing yet\n",
    );
    issuers
}

/// Makes an API key; gives it with its id.
fn api_key(issuers: &Issuers, subject: &str) -> (String, String) {
    let exit = run_key(issuers, &["make", "--subject", subject]);
    let key = exit.trim().to_owned();
    let id = key[5..13].to_owned();
    (key, id)
}

fn run_key(issuers: &Issuers, args: &[&str]) -> String {
    let mut command = hark();
    let file = issuers.dir.path().join("api-keys.toml");
    command.arg("key").args(args).arg("--keys").arg(file);
    let mut cli = Cli::spawn(command);
    cli.end_input();
    let exit = cli.wait();
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    exit.stdout
}

/// A token of `subject` that can be revoked by this id.
fn with_id(subject: &str, id: &str) -> String {
    by_secret(SECRET, &but(claims(SHARED, subject), json!({"jti": id})))
}

fn eddsa(issuers: &Issuers, subject: &str) -> String {
    let header = json!({"alg": "EdDSA", "kid": "k1"});
    issuers.by_pair(&header, &claims(PUBLIC, subject))
}

fn as_root(broker: &Broker, method: &str, path: &str, body: &Value) -> Response {
    by(broker, &token("root", 600), method, path, body)
}

fn by(broker: &Broker, token: &str, method: &str, path: &str, body: &Value) -> Response {
    let bearer = format!("Bearer {token}");
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let headers = [("authorization", bearer.as_str())];
    broker
        .http()
        .request(method, path, &headers, body.as_bytes())
}

fn revoke(broker: &Broker, line: &Value) -> Value {
    as_root(broker, "POST", "/v1/revocations", line).ok().json()
}

fn sessions(broker: &Broker, query: &str) -> Vec<Value> {
    let listed = as_root(broker, "GET", &format!("/v1/sessions{query}"), &Value::Null);
    listed.ok().json()["sessions"].as_array().unwrap().clone()
}

fn open(broker: &Broker, token: &str) -> RawWs {
    let header = format!("Authorization: Bearer {token}\r\n");
    RawWs::open(broker, &header, None)
}

fn events(broker: &Broker, token: &str) -> EventStream {
    let mut events = EventStream::open(
        broker,
        &format!("/v1/topics/room.1/events?access_token={token}"),
    );
    events.begin();
    events
}

/// A long-poll that is under way; its answer.
fn long_poll(broker: &Broker, token: &str) -> std::thread::JoinHandle<Response> {
    let path = format!("/v1/topics/room.1/messages?wait=55&from=now&access_token={token}");
    let http = broker.http();
    let polling = std::thread::spawn(move || http.get(&path));
    wait_until("the long-poll waits", || {
        let all = sessions(broker, "");
        let mut polls = all.iter().filter(|one| one["transport"] == "long_poll");
        polls.next().map(drop)
    });
    polling
}

fn warnings(broker: &Broker) -> Vec<Value> {
    let ready = broker.http().get("/readyz");
    assert_eq!(ready.status, 200, "it is ready all the same");
    let warnings = ready.json()["warnings"].as_array().cloned();
    warnings.unwrap_or_default()
}

/// Replaces a file as a whole.
fn replace(issuers: &Issuers, name: &str, text: &str) {
    let new = issuers.dir.path().join("new");
    write_private(&new, text.as_bytes());
    fs::rename(new, issuers.dir.path().join(name)).unwrap();
}

#[test]
fn what_is_revoked_ends_on_every_transport_at_once() {
    let issuers = setup();
    let broker = issuers.setup().start();
    let (bad, good) = (with_id("ana", "t1"), with_id("ana", "t2"));
    let mut publisher = open(&broker, &good);
    let large = "x".repeat(500_000);
    let large = json!({"type": "publish", "id": 4, "topic": "room.2", "data": large});
    for _ in 0..40 {
        assert_eq!(ask(&mut publisher, &large), "ok");
    }
    let descriptors = broker.descriptors();
    let mut by_header = open(&broker, &bad);
    let mut by_frame = RawWs::connect(&broker);
    let auth = json!({"type": "auth", "id": 1, "token": bad});
    assert_eq!(ask(&mut by_frame, &auth), "ok");
    let mut stream = events(&broker, &bad);
    let polling = long_poll(&broker, &bad);
    let header = format!("Authorization: Bearer {bad}\r\n");
    let mut blocked = RawWs::open(&broker, &header, Some(4096));
    blocked.send_json(&json!({"type": "subscribe", "topic": "room.2", "from": "earliest"}));
    let mut other = open(&broker, &good);
    assert_eq!(ask(&mut other, &subscribe("room.1")), "ok");

    let revoked = revoke(&broker, &json!({"jti": "t1", "issuer": SHARED}));

    let began = Instant::now();
    assert_eq!(revoked["ended"], 5, "{revoked}");
    assert_eq!(by_header.expect_close(), 4401);
    assert_eq!(by_frame.expect_close(), 4401);
    assert_eq!(stream.expect("error").data["code"], "unauthenticated");
    assert!(stream.try_next().is_none(), "the stream ends");
    polling.join().unwrap().expect_error(401, "unauthenticated");
    drop((by_header, by_frame, stream));
    wait_until("the blocked connection is cut", || {
        (broker.descriptors() <= descriptors + 1).then_some(())
    });
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    drop(blocked);
    let path = "/v1/topics/room.1/messages";
    by(&broker, &bad, "GET", path, &Value::Null).expect_error(401, "unauthenticated");

    by(&broker, &good, "GET", path, &Value::Null).ok();
    assert_eq!(ask(&mut other, &publish("room.1")), "ok");
    // Lifted, it is good again.
    let id = revoked["id"].as_str().unwrap();
    let lift = format!("/v1/revocations/{id}");
    assert_eq!(
        as_root(&broker, "DELETE", &lift, &Value::Null).ok().json()["lifted"],
        true
    );
    by(&broker, &bad, "GET", path, &Value::Null).ok();
    assert_eq!(
        as_root(&broker, "DELETE", &lift, &Value::Null).ok().json()["lifted"],
        false
    );
}

/// A request that goes on and on is judged line by line.
#[test]
fn lines_that_keep_coming_are_refused_once_their_token_is_revoked() {
    let issuers = setup();
    let broker = issuers.setup().start();
    let bad = with_id("ana", "t1");
    let mut tcp = TcpStream::connect(broker.addr()).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    let line = "{\"topic\":\"room.1\",\"data\":1}\n";
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {bad}\r\nTransfer-Encoding: chunked\r\n\r\n",
        broker.addr()
    );
    let mut heard = String::new();
    let mut until = |tcp: &mut TcpStream, what: &str| {
        while !heard.contains(what) {
            let mut bytes = [0; 4096];
            let read = tcp.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "{what} does not come: {heard}");
            heard.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
    };
    tcp.write_all(format!("{head}{chunk}").as_bytes()).unwrap();
    until(&mut tcp, "\"cursor\"");

    revoke(&broker, &json!({"jti": "t1"}));

    tcp.write_all(chunk.as_bytes()).unwrap();
    until(&mut tcp, "\"unauthenticated\"");
    let topic = as_root(&broker, "GET", "/v1/topics/room.1", &Value::Null);
    assert_eq!(topic.ok().json()["head"], 1);
}

#[test]
fn each_kind_of_revocation_covers_what_it_says_and_nothing_else() {
    let issuers = setup();
    let (key, key_id) = api_key(&issuers, "shop");
    let (other_key, _) = api_key(&issuers, "shop");
    let broker = issuers.setup().start();
    let later = now_s() + 5;
    let new = by_secret(SECRET, &but(claims(SHARED, "bob"), json!({"iat": later})));
    let no_iat = by_secret(SECRET, &but(claims(SHARED, "bob"), json!({"iat": null})));
    let rows = [
        ("bob's", token("bob", 600)),
        ("bob's, newer", new),
        ("bob's, of no time", no_iat),
        ("bob's, of another issuer", eddsa(&issuers, "bob")),
        ("ana's", token("ana", 600)),
        ("the key", key),
        ("another key", other_key),
    ];
    let refused = |expected: &[&str]| {
        for (name, token) in &rows {
            let path = "/v1/topics/room.1/messages";
            let answer = by(&broker, token, "GET", path, &Value::Null);
            let status = if expected.contains(name) { 401 } else { 200 };
            assert_eq!(answer.status, status, "{name}: {answer:?}");
        }
    };
    refused(&[]);

    let bobs = json!({"issuer": SHARED, "subject": "bob"});
    let line = revoke(&broker, &bobs);
    assert!(line["issued_before"].is_string(), "before now: {line}");
    refused(&["bob's", "bob's, of no time"]);
    revoke(&broker, &json!({"key": key_id}));
    refused(&["bob's", "bob's, of no time", "the key"]);
    revoke(&broker, &json!({"issuer": PUBLIC, "key": "k1"}));
    refused(&[
        "bob's",
        "bob's, of no time",
        "the key",
        "bob's, of another issuer",
    ]);

    let certificate = json!({"certificate": "ab".repeat(32), "until": now_s() + 60});
    revoke(&broker, &certificate);
    let all = as_root(&broker, "GET", "/v1/revocations", &Value::Null);
    assert_eq!(all.ok().json()["revocations"].as_array().unwrap().len(), 4);
    // Page by page.
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/revocations?limit=3&after={after}");
        let page = as_root(&broker, "GET", &path, &Value::Null).ok().json();
        seen.extend(page["revocations"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 4);
    // The same again is the same.
    let again = revoke(&broker, &json!({"key": key_id}));
    assert!(seen.iter().any(|line| line["id"] == again["id"]));

    for bad in [
        json!({}),
        json!({"jti": "a", "key": "b"}),
        json!({"subject": "a"}),
        json!({"jti": "a", "id": "mine"}),
        json!({"certificate": "abc"}),
        json!("jti"),
    ] {
        as_root(&broker, "POST", "/v1/revocations", &bad).expect_error(400, "bad_frame");
    }
    let ana = token("ana", 600);
    for (method, path) in [
        ("GET", "/v1/revocations"),
        ("POST", "/v1/revocations"),
        ("DELETE", "/v1/revocations/x"),
        ("GET", "/v1/sessions"),
        ("DELETE", "/v1/sessions/x"),
        ("DELETE", "/v1/sessions?identity=bob"),
    ] {
        let body = match method {
            "POST" => json!({"jti": "x"}),
            _ => Value::Null,
        };
        by(&broker, &ana, method, path, &body).expect_error(403, "forbidden");
        let nobody = broker.http().request(method, path, &[], b"");
        nobody.expect_error(401, "unauthenticated");
    }
}

#[test]
fn what_was_revoked_stays_revoked_through_kill_9() {
    let issuers = setup();
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().join("data");
    let setup = || issuers.setup().data_dir(&dir).restarts();
    let mut broker = setup().start();
    let bad = with_id("ana", "t1");
    let line = revoke(&broker, &json!({"jti": "t1"}));

    broker.kill9();
    broker.start_again();

    let path = "/v1/topics/room.1/messages";
    by(&broker, &bad, "GET", path, &Value::Null).expect_error(401, "unauthenticated");
    let listed = as_root(&broker, "GET", "/v1/revocations", &Value::Null);
    assert_eq!(listed.json()["revocations"][0]["id"], line["id"]);
    broker.stop();

    // What cannot be read is not taken for nothing.
    let file = dir.join("revoked.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.lines().next().unwrap()).unwrap();
    let exit = setup().try_start().expect_err("it does not start");
    assert!(
        exit.stderr.contains("revoked.jsonl") && exit.stderr.contains("was written with 1"),
        "{}",
        exit.stderr
    );
    fs::remove_file(&file).unwrap();
    let broker = setup().start();
    assert!(
        broker.log().contains("it is good again"),
        "{}",
        broker.log()
    );
    by(&broker, &bad, "GET", path, &Value::Null).ok();
}

/// A thousand sessions, by two keys; one of them is revoked while messages come as fast as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_sessions_those_of_a_revoked_key_end_and_the_others_miss_nothing() {
    const SESSIONS: usize = 1000;
    let issuers = setup();
    let keys = [api_key(&issuers, "stays"), api_key(&issuers, "goes")];
    let broker = issuers.setup().start();
    let connect = async |at: usize| {
        let mut ws = Ws::connect(&broker).await;
        let auth = json!({"type": "auth", "token": keys[at % 2].0});
        assert_eq!(ws.ask(auth).await["type"], "authenticated");
        ws
    };
    let (mut stays, mut goes) = (Vec::new(), Vec::new());
    for at in 0..SESSIONS {
        let mut ws = connect(at).await;
        ws.subscribe("room.1", json!("now")).await;
        match at % 2 {
            0 => stays.push(tokio::spawn(read_to_the_last(ws))),
            _ => goes.push(tokio::spawn(read_to_the_end(ws))),
        }
    }
    let (begun, mut count) = watch::channel(0_u64);
    let (is_over, over) = watch::channel(false);
    let mut publisher = connect(0).await;
    let publishing = tokio::spawn(async move {
        let mut is_last = false;
        while !is_last {
            is_last = *over.borrow();
            let n = *begun.borrow() + 1;
            begun.send_replace(n);
            let data = json!({"n": n, "last": is_last});
            publisher.publish("room.1", data).await;
        }
    });
    let mut passed = async |n: u64| {
        let reached = within("messages", count.wait_for(|count| *count >= n)).await;
        *reached.unwrap()
    };
    passed(50).await;

    let line = json!({"key": keys[1].1});
    let revoked = tokio::task::block_in_place(|| revoke(&broker, &line));
    let begun_by_then = passed(50).await;
    passed(begun_by_then + 50).await;
    is_over.send_replace(true);
    publishing.await.unwrap();

    assert_eq!(revoked["ended"], SESSIONS / 2);
    for reading in goes {
        let (seen, ended) = within("the end of one", reading).await.unwrap();
        assert_eq!(ended.code, Some(4401), "{ended:?}");
        assert!(
            seen <= begun_by_then,
            "it was sent {seen}, and {begun_by_then} had begun when its key was revoked"
        );
    }
    for reading in stays {
        within("the last message", reading).await.unwrap();
    }
}

async fn read_to_the_last(mut ws: Ws) {
    let mut seen = 0_u64;
    loop {
        let frame = ws.recv().await;
        match frame["type"].as_str() {
            Some("message") => seen += 1,
            Some("caught_up" | "lagging") => continue,
            _ => panic!("who stays is told of nothing else: {frame}"),
        }
        assert_eq!(frame["data"]["n"], seen, "nothing is missed");
        if frame["data"]["last"] == true {
            return;
        }
    }
}

/// The last that it was sent, and how it ended.
async fn read_to_the_end(mut ws: Ws) -> (u64, Ended) {
    let mut seen = 0;
    loop {
        match ws.next().await {
            Ok(frame) if frame["type"] == "message" => seen = frame["data"]["n"].as_u64().unwrap(),
            Ok(_) => {}
            Err(ended) => return (seen, ended),
        }
    }
}

#[test]
fn settings_are_read_again_as_a_whole_or_not_at_all() {
    let issuers = setup();
    let (key, key_id) = api_key(&issuers, "shop");
    let broker = issuers.setup().start();
    let mut ana = open(&broker, &token("ana", 600));
    assert_eq!(ask(&mut ana, &subscribe("room.1")), "ok");
    let mut stream = events(&broker, &token("ana", 600));
    let mut shop = open(&broker, &key);
    let mut nobody = RawWs::connect(&broker);
    assert_eq!(ask(&mut nobody, &subscribe("public.a")), "unauthenticated");
    assert_eq!(warnings(&broker), [] as [Value; 0]);

    // Both are wrong: the one that is not is not taken either.
    let more = format!("{RULES}\n[[rule]]\nwho = \"anonymous\"\nsubscribe = [\"public.>\"]\n");
    replace(&issuers, "revoked.jsonl", "{\"jti\":\n");
    replace(&issuers, "auth.toml", &more);
    broker.signal("HUP");
    wait_until("it is warned of", || {
        (warnings(&broker).len() == 1).then_some(())
    });
    assert_eq!(ask(&mut nobody, &subscribe("public.a")), "unauthenticated");
    assert_eq!(ask(&mut ana, &publish("room.1")), "ok");
    let log = broker.log();
    assert!(
        log.contains("revoked.jsonl") && log.contains("line 1"),
        "{log}"
    );

    // Mended, by a file that nobody has to be told of.
    replace(&issuers, "revoked.jsonl", "");
    wait_until("the warning is gone", || {
        warnings(&broker).is_empty().then_some(())
    });
    assert_eq!(ask(&mut nobody, &subscribe("public.a")), "ok");
    assert_eq!(ask(&mut ana, &publish("room.1")), "ok");

    // A key that is revoked in its file.
    run_key(&issuers, &["revoke", &key_id]);
    assert_eq!(shop.expect_close(), 4401);

    // A right that is gone ends what stood on it, and leaves the rest.
    let less = more.replace("subscribe = [\"room.*\"]\n", "");
    replace(&issuers, "auth.toml", &less);
    broker.signal("HUP");
    assert_eq!(stream_to_its_end(&mut stream), "forbidden");
    loop {
        let frame = ana.read_json();
        if frame["type"] == "unsubscribed" {
            assert_eq!(frame["topic"], "room.1");
            break;
        }
    }
    assert_eq!(ask(&mut ana, &publish("room.1")), "ok");
    assert_eq!(ask(&mut ana, &subscribe("room.1")), "forbidden");

    // By a file of the configuration.
    let line = json!({"issuer": SHARED, "subject": "ana", "issued_before": now_s() + 60});
    replace(&issuers, "revoked.jsonl", &format!("# stolen\n{line}\n"));
    assert_eq!(ana.expect_close(), 4401);
    let path = "/v1/topics/public.a/messages";
    let ana = token("ana", 600);
    by(&broker, &ana, "GET", path, &Value::Null).expect_error(401, "unauthenticated");
    let log = broker.log();
    assert!(
        log.contains("SIGHUP") && log.contains("files have changed"),
        "{log}"
    );
}

/// Also of messages that a room still holds in memory as it told them before.
#[tokio::test]
async fn who_published_is_told_or_not_as_the_file_says_now() {
    let issuers = setup();
    let topic = "room.1";
    let rules = |told: bool| {
        let more = format!("[[topic]]\npattern = \"room.*\"\nidentity = {told}\n");
        format!("{RULES}\n{more}")
    };
    let broker = issuers.setup().start();
    let ana = token("ana", 600);
    let path = format!("/v1/topics/{topic}/messages");
    let publish = || by(&broker, &ana, "POST", &path, &json!(1)).ok();
    let page = || {
        let page = by(
            &broker,
            &ana,
            "GET",
            &format!("{path}?from=earliest"),
            &Value::Null,
        );
        let messages = page.ok().json()["messages"].as_array().unwrap().clone();
        let identities = messages.iter().map(|message| message["identity"].clone());
        identities.collect::<Vec<_>>()
    };
    let mut live = connect_as(&broker, &ana).await;
    live.subscribe(topic, json!("now")).await;
    live.expect("caught_up").await;
    let who = json!({"issuer": SHARED, "subject": "ana"});
    publish();
    assert_eq!(live.message().await["identity"], Value::Null);
    for (count, told) in [(1, true), (2, false), (3, true)] {
        let expected = if told { &who } else { &Value::Null };
        // Who reads before anything else is published has it from the log, and who subscribes too.
        replace(&issuers, "auth.toml", &rules(told));
        broker.signal("HUP");
        wait_until("the page tells it so", || {
            (page() == vec![expected.clone(); count]).then_some(())
        });
        let mut ws = connect_as(&broker, &ana).await;
        ws.subscribe(topic, json!("earliest")).await;
        for _ in 0..count {
            assert_eq!(ws.message().await["identity"], *expected);
        }
        ws.expect("caught_up").await;
        publish();
        assert_eq!(ws.message().await["identity"], *expected);
        assert_eq!(live.message().await["identity"], *expected);
        assert_eq!(page(), vec![expected.clone(); count + 1]);
    }
}

async fn connect_as(broker: &Broker, token: &str) -> Ws {
    let mut ws = Ws::connect(broker).await;
    let answer = ws.ask(json!({"type": "auth", "token": token})).await;
    assert_eq!(answer["type"], "authenticated", "{answer}");
    ws
}

/// The code of its last event.
fn stream_to_its_end(stream: &mut EventStream) -> String {
    let mut last = Value::Null;
    while let Some(event) = stream.try_next() {
        last = event.data["code"].clone();
    }
    last.as_str().unwrap_or_default().to_owned()
}

/// What Kubernetes does with a ConfigMap or a Secret: the files are links through a link to a folder, which is led to another one.
#[test]
fn links_that_are_led_elsewhere_are_noticed() {
    let issuers = setup();
    let dir = issuers.dir.path();
    let names = [
        "auth.toml",
        "secret",
        "keys.json",
        "api-keys.toml",
        "revoked.jsonl",
    ];
    let version = |name: &str| {
        fs::create_dir(dir.join(name)).unwrap();
        for file in names {
            fs::copy(dir.join(file), dir.join(name).join(file)).unwrap();
        }
    };
    let lead_to = |name: &str| {
        symlink(name, dir.join("..new")).unwrap();
        fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    };
    version("..1");
    version("..2");
    let line = json!({"jti": "t1"}).to_string();
    fs::write(dir.join("..2/revoked.jsonl"), line).unwrap();
    lead_to("..1");
    for file in names {
        fs::remove_file(dir.join(file)).unwrap();
        symlink(Path::new("..data").join(file), dir.join(file)).unwrap();
    }
    let broker = issuers.setup().start();
    let mut ws = open(&broker, &with_id("ana", "t1"));
    assert_eq!(ask(&mut ws, &publish("room.1")), "ok");

    lead_to("..2");

    assert_eq!(ws.expect_close(), 4401);
    assert_eq!(warnings(&broker), [] as [Value; 0]);
}

#[test]
fn whoever_was_let_in_by_a_key_that_is_gone_is_ended() {
    let issuers = setup();
    let broker = issuers.setup().start();
    let mut old = open(&broker, &eddsa(&issuers, "ana"));
    let mut other = open(&broker, &token("ana", 600));
    assert_eq!(ask(&mut old, &publish("room.1")), "ok");

    // Of the same name: it is the key that counts.
    let successor = setup();
    let keys = fs::read_to_string(successor.dir.path().join("keys.json")).unwrap();
    replace(&issuers, "keys.json", &keys);

    assert_eq!(old.expect_close(), 4401);
    assert_eq!(ask(&mut other, &publish("room.1")), "ok");
    let mut new = open(&broker, &eddsa(&successor, "ana"));
    assert_eq!(ask(&mut new, &publish("room.1")), "ok");
}

#[test]
fn sessions_are_listed_and_ended() {
    let issuers = setup();
    let broker = issuers.setup().start();
    let header = |token: &str| format!("Authorization: Bearer {token}\r\nUser-Agent: tests/1\r\n");
    let mut ana = RawWs::open(&broker, &header(&token("ana", 600)), None);
    assert_eq!(ask(&mut ana, &subscribe("room.1")), "ok");
    let mut namesake = RawWs::open(&broker, &header(&eddsa(&issuers, "ana")), None);
    let mut bob = RawWs::open(&broker, &header(&token("bob", 600)), None);
    let mut stream = events(&broker, &token("bob", 600));
    let mut nobody = RawWs::connect(&broker);

    let all = sessions(&broker, "");
    assert_eq!(all.len(), 5, "{all:#?}");
    let anas = sessions(&broker, &format!("?identity=ana&issuer={SHARED}"));
    let [one] = &anas[..] else {
        panic!("{anas:#?}");
    };
    for (field, value) in [
        ("transport", json!("websocket")),
        ("identity", json!("ana")),
        ("issuer", json!(SHARED)),
        ("user_agent", json!("tests/1")),
        ("subscriptions", json!(1)),
    ] {
        assert_eq!(one[field], value, "{one}");
    }
    assert!(one["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(one["since"].is_string());
    assert_eq!(sessions(&broker, "?identity=anonymous").len(), 1);
    // Page by page, each once.
    let mut paged = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let path = format!("/v1/sessions{query}");
        let page = as_root(&broker, "GET", &path, &Value::Null).ok().json();
        paged.extend(page["sessions"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => query = format!("?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);

    // Who may look may not end.
    let watcher = token("watcher", 600);
    by(&broker, &watcher, "GET", "/v1/sessions", &Value::Null).ok();
    let one = format!("/v1/sessions/{}", one["id"].as_str().unwrap());
    by(&broker, &watcher, "DELETE", &one, &Value::Null).expect_error(403, "forbidden");
    as_root(&broker, "DELETE", "/v1/sessions", &Value::Null).expect_error(400, "bad_frame");

    let ended = as_root(&broker, "DELETE", &one, &Value::Null).ok().json();
    assert_eq!(ended["ended"], true);
    let mut goodbye = ana.read_json();
    while goodbye["type"] != "goodbye" {
        goodbye = ana.read_json();
    }
    assert_eq!(goodbye["reason"], "administrator");
    assert!(goodbye["retry_after_ms"].as_u64().unwrap() >= 1000);
    assert_eq!(ana.expect_close(), 4503);
    wait_until("it is gone from the list", || {
        sessions(&broker, &format!("?identity=ana&issuer={SHARED}"))
            .is_empty()
            .then_some(())
    });
    let again = as_root(&broker, "DELETE", &one, &Value::Null).ok().json();
    assert_eq!(again["ended"], false);
    // It is no more than that.
    let mut ana = open(&broker, &token("ana", 600));
    assert_eq!(ask(&mut ana, &publish("room.1")), "ok");
    assert_eq!(ask(&mut namesake, &publish("room.1")), "ok");

    let polling = long_poll(&broker, &token("bob", 600));
    let bobs = "/v1/sessions?identity=bob&final=true";
    let ended = as_root(&broker, "DELETE", bobs, &Value::Null).ok().json();
    assert_eq!(ended["ended"], 3);
    assert_eq!(bob.expect_close(), 4403);
    assert_eq!(stream_to_its_end(&mut stream), "forbidden");
    polling.join().unwrap().expect_error(403, "forbidden");

    let mut stream = events(&broker, &token("bob", 600));
    let polling = long_poll(&broker, &token("bob", 600));
    let bobs = "/v1/sessions?identity=bob";
    as_root(&broker, "DELETE", bobs, &Value::Null).ok();
    let mut event = stream.event();
    while event.name == "message" {
        event = stream.event();
    }
    assert_eq!(event.name, "goodbye");
    assert_eq!(event.data["reason"], "administrator");
    assert!(stream.try_next().is_none());
    assert!(*stream.retries.last().unwrap() >= 1000);
    let answer = polling.join().unwrap();
    answer.expect_error(503, "busy");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(ask(&mut nobody, &json!({"type": "ping", "id": 9})), "ok");
}

#[test]
fn without_authentication_sessions_can_be_listed_and_ended_and_nothing_revoked() {
    let broker = Broker::start();
    let mut ws = RawWs::connect(&broker);
    let http = broker.http();
    let listed = http.get("/v1/sessions").ok().json();
    assert_eq!(listed["sessions"][0]["identity"], "anonymous");
    let id = listed["sessions"][0]["id"].as_str().unwrap();

    let ended = http.request("DELETE", &format!("/v1/sessions/{id}"), &[], b"");
    assert_eq!(ended.json()["ended"], true);
    assert_eq!(ws.expect_close(), 4503);

    http.get("/v1/revocations").expect_error(501, "unsupported");
    http.post("/v1/revocations", &[], r#"{"jti":"a"}"#)
        .expect_error(501, "unsupported");
    broker.signal("HUP");
    wait_until("it says that there is nothing to read", || {
        broker.log().contains("SIGHUP: hark goes on").then_some(())
    });
}

#[test]
fn the_command_line_lists_ends_and_revokes() {
    let issuers = setup();
    let broker = issuers.setup().start();
    let root = token("root", 600);
    let run = |args: &[&str]| -> Vec<Value> {
        let mut command = hark();
        command
            .args(args)
            .args(["--url", &broker.url("")])
            .env("HARK_TOKEN", &root);
        let mut cli = Cli::spawn(command);
        cli.end_input();
        let exit = cli.wait();
        assert_eq!(exit.code, Some(0), "{args:?}: {exit:#?}");
        let lines = exit.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let mut first = open(&broker, &with_id("ana", "t1"));
    let mut second = open(&broker, &with_id("ana", "t2"));
    let mut third = open(&broker, &with_id("ana", "t3"));

    let listed = run(&["sessions", "--identity", "ana"]);
    assert_eq!(listed.len(), 3);
    let revoked = run(&["revoke", "token", "t1", "--issuer", SHARED]);
    assert_eq!(revoked[0]["ended"], 1);
    assert_eq!(first.expect_close(), 4401);
    let lines = run(&["revoke", "list"]);
    assert_eq!(lines[0]["jti"], "t1");
    let id = lines[0]["id"].as_str().unwrap();
    assert_eq!(run(&["revoke", "lift", id])[0]["lifted"], true);
    let until = (now_s() + 60).to_string();
    let args = [
        "revoke", "subject", "bob", "--issuer", SHARED, "--until", &until,
    ];
    assert_eq!(run(&args)[0]["ended"], 0);

    let welcome_of_second = sessions(&broker, "?identity=ana");
    assert_eq!(welcome_of_second.len(), 2);
    let id = welcome_of_second[0]["id"].as_str().unwrap();
    assert_eq!(run(&["kick", id])[0]["ended"], true);
    assert_eq!(
        run(&["kick", "--identity", "ana", "--final"])[0]["ended"],
        1
    );
    let mut codes = [second.expect_close(), third.expect_close()];
    codes.sort_unstable();
    assert_eq!(codes, [4403, 4503]);
}

/// Who did what from where, and nothing that could be shown in its place.
#[test]
fn each_act_of_an_administrator_leaves_a_line_of_the_audit() {
    let issuers = setup();
    let (key, key_id) = api_key(&issuers, "shop");
    let broker = issuers.setup().env("HARK_LOG_JSON", "1").start();
    let root = token("root", 600);
    by(&broker, &root, "DELETE", "/v1/topics/room.1", &Value::Null).ok();
    revoke(&broker, &json!({"jti": "t1"}));
    as_root(
        &broker,
        "DELETE",
        "/v1/sessions/s1?final=true",
        &Value::Null,
    )
    .ok();
    as_root(&broker, "DELETE", "/v1/revocations/r1", &Value::Null).ok();
    by(
        &broker,
        &token("ana", 600),
        "DELETE",
        "/v1/sessions?identity=bob",
        &Value::Null,
    )
    .expect_error(403, "forbidden");
    broker.signal("HUP");
    let bad = with_id("ana", "t1");
    by(&broker, &bad, "GET", "/v1/topics", &Value::Null).expect_error(401, "unauthenticated");
    let mut ws = RawWs::connect(&broker);
    ws.send_json(&json!({"type": "auth", "id": 1, "token": bad}));
    assert_eq!(ws.expect_close(), 4401);
    run_key(&issuers, &["revoke", &key_id]);

    let audit = || -> Vec<Value> {
        let log = broker.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let is_audit = |line: &Value| {
            line["target"]
                .as_str()
                .is_some_and(|target| target.starts_with("audit"))
        };
        lines.filter(is_audit).collect()
    };
    wait_until("the key's end is read", || {
        let all = audit();
        let mut read = all
            .iter()
            .filter(|line| line["fields"]["why"] == "files have changed");
        read.next().map(drop)
    });
    let key_refused = by(&broker, &key, "GET", "/v1/topics", &Value::Null);
    key_refused.expect_error(401, "unauthenticated");

    let all = audit();
    let one = |what: &str| {
        let mut of = all.iter().filter(|line| line["fields"]["what"] == what);
        let line = of
            .next()
            .unwrap_or_else(|| panic!("no line of {what}: {all:#?}"));
        assert!(of.next().is_none(), "{what} has one line");
        line["fields"].clone()
    };
    for (what, on, result) in [
        ("delete a topic", "room.1", "done"),
        ("revoke", "the token t1", "done"),
        ("end a session", "the session s1", "done"),
        ("lift a revocation", "the revocation r1", "done"),
    ] {
        let line = one(what);
        assert_eq!(line["on"], on);
        assert_eq!(line["result"], result);
        assert_eq!(
            (&line["issuer"], &line["subject"]),
            (&json!(SHARED), &json!("root"))
        );
        assert!(line["from"].as_str().unwrap().starts_with("127.0.0.1"));
    }
    let refused = one("end sessions");
    assert_eq!(refused["subject"], "ana");
    assert!(refused["result"].as_str().unwrap().contains("forbidden"));
    let why = |why: &str| {
        all.iter()
            .filter(|line| line["fields"]["why"] == why)
            .count()
    };
    assert_eq!((why("SIGHUP"), why("files have changed")), (1, 1));
    let revoked = all
        .iter()
        .filter(|line| line["fields"]["reason"] == "what was shown is revoked");
    assert_eq!(revoked.count(), 2, "{all:#?}");
    let shown = wait_until("the key's own line", || {
        let all = audit();
        let mut of = all
            .into_iter()
            .filter(|line| line["fields"]["key"] == *key_id);
        of.next()
    });
    assert!(
        shown["fields"]["reason"]
            .as_str()
            .unwrap()
            .contains("revoked")
    );
    let log = broker.log();
    for secret in [&bad, &root, &key] {
        assert!(!log.contains(secret.as_str()));
    }
}

/// Each client does what the code says: it comes back, or is told that it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_comes_back_or_is_told_that_it_is_over() {
    let issuers = setup();
    let broker = issuers.setup().start();
    let ana = token("ana", 600);
    let client = Client::builder(broker.ws_url()).token(&ana).connect().await;
    let client = client.unwrap();
    client.publish("room.1", &1).receipt().await.unwrap();
    let end = |query: &str| {
        let path = format!("/v1/sessions?identity=ana{query}");
        tokio::task::block_in_place(|| as_root(&broker, "DELETE", &path, &Value::Null)).ok();
    };

    end("");
    within("it comes back", client.publish("room.1", &2).receipt())
        .await
        .unwrap();

    end("&final=true");
    let over = until("it is over", async || {
        client.publish("room.1", &3).receipt().await.err()
    })
    .await;
    assert!(over.to_string().contains("administrator"), "{over}");
}
