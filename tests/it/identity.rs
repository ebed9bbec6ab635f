//! Who may do what, on every transport: one table of credentials against all ways in, and what becomes of those that are let in when what they have
//! shown runs out.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hark_tests::{Broker, Cli, EventStream, RawWs, Setup, hark, raw_http, upgrade, wait_until};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// By a secret.
pub(crate) const SHARED: &str = "https://shared.example";
/// By a set of public keys.
pub(crate) const PUBLIC: &str = "https://public.example";
const UNKNOWN_KEY: &str = "unknown kid";
pub(crate) const RULES: &str = r#"
[cookie]
name = "hark_session"

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

[[rule]]
who = "anonymous"
subscribe = ["public.>"]

[[rule]]
who = "*"
publish = ["user.{sub}.>", "room.*"]
subscribe = ["user.{sub}.>", "room.*"]
manage = ["user.{sub}.>"]

[[rule]]
who = "https://shared.example watcher"
monitor = true
"#;

/// Who signs, and a folder with all that the broker is told of it.
pub(crate) struct Issuers {
    pub(crate) dir: TempDir,
    pair: Ed25519KeyPair,
}

impl Issuers {
    pub(crate) fn new() -> Self {
        Self::with(RULES)
    }

    pub(crate) fn with(rules: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "EdDSA", "use": "sig", "x": x}]});
        write_private(&dir.path().join("secret"), SECRET);
        write_private(&dir.path().join("keys.json"), keys.to_string().as_bytes());
        write_private(&dir.path().join("auth.toml"), rules.as_bytes());
        Self { dir, pair }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("auth.toml")
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup::new().flag("auth", self.file().display())
    }

    /// Runs `hark ARGS…` in its folder, and gives what it prints.
    pub(crate) fn hark(&self, args: &str) -> String {
        let mut command = hark();
        let command = command.args(args.split(' ')).current_dir(self.dir.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn by_pair(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub(crate) fn write_private(path: &Path, bytes: &[u8]) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(bytes).unwrap();
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

pub(crate) fn by_secret(secret: &[u8], claims: &Value) -> String {
    let signed = unsigned(&json!({"alg": "HS256"}), claims);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub(crate) fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

pub(crate) fn claims(issuer: &str, subject: &str) -> Value {
    let now = now_s();
    json!({"iss": issuer, "sub": subject, "aud": "hark", "iat": now, "exp": now + 600})
}

/// `claims`, with some of them otherwise; `null` takes one away.
pub(crate) fn but(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// A token of this subject that is good for so long.
pub(crate) fn token(subject: &str, seconds: u64) -> String {
    let exp = now_s() + seconds;
    by_secret(SECRET, &but(claims(SHARED, subject), json!({"exp": exp})))
}

/// What is expected of one credential with one topic: `ok`, or a code.
#[derive(Clone)]
struct Row {
    name: &'static str,
    token: Option<String>,
    /// Where HTTP carries it: in a cookie of an own page, and not in a header.
    in_cookie: bool,
    topic: &'static str,
    read: &'static str,
    publish: &'static str,
    delete: &'static str,
    list: &'static str,
}

fn rows(issuers: &Issuers) -> Vec<Row> {
    let eddsa = json!({"alg": "EdDSA", "kid": "k1"});
    let ana = || claims(SHARED, "ana");
    let mine = "user.ana.inbox";
    let mut rows = Vec::new();
    let mut row =
        |name, token: Option<String>, topic, [read, publish, delete, list]: [&'static str; 4]| {
            rows.push(Row {
                name,
                token,
                in_cookie: false,
                topic,
                read,
                publish,
                delete,
                list,
            });
        };
    let (ok, no, who) = ("ok", "forbidden", "unauthenticated");
    row("none, public", None, "public.news", [ok, who, who, who]);
    row("none, the pattern's prefix alone", None, "public", [who; 4]);
    row("none, mine", None, mine, [who; 4]);
    let good = || Some(by_secret(SECRET, &ana()));
    row("good, mine", good(), mine, [ok, ok, ok, no]);
    row("good, public", good(), "public.news", [ok, no, no, no]);
    row("good, one segment", good(), "room.1", [ok, ok, no, no]);
    row(
        "good, two segments where one may be",
        good(),
        "room.1.2",
        [no; 4],
    );
    row("good, another's", good(), "user.bob.inbox", [no; 4]);
    row(
        "good, a longer name",
        good(),
        "user.anathema.inbox",
        [no; 4],
    );
    row(
        "good, without what > stands for",
        good(),
        "user.ana",
        [no; 4],
    );
    row("good, nothing granted", good(), "orders", [no; 4]);
    let by_pair = issuers.by_pair(&eddsa, &claims(PUBLIC, "ana"));
    row(
        "good, by a pair of keys",
        Some(by_pair),
        mine,
        [ok, ok, ok, no],
    );
    let watcher = by_secret(SECRET, &claims(SHARED, "watcher"));
    row("good, monitor", Some(watcher), mine, [no, no, no, ok]);
    let same_name = issuers.by_pair(&eddsa, &claims(PUBLIC, "watcher"));
    row(
        "good, the same subject by another issuer",
        Some(same_name),
        mine,
        [no; 4],
    );
    let dotted = by_secret(SECRET, &claims(SHARED, "ana.inbox"));
    row(
        "good, a subject of two segments",
        Some(dotted),
        "user.ana.inbox.x",
        [no; 4],
    );
    let starred = by_secret(SECRET, &claims(SHARED, "*"));
    row(
        "good, a subject that is a pattern",
        Some(starred),
        mine,
        [no; 4],
    );
    // What is bad is never taken for nothing, which could read this.
    let public = "public.news";
    let (past, future) = (now_s() - 10, now_s() + 300);
    let none = |header: Value| format!("{}.", unsigned(&header, &claims(SHARED, "ana")));
    for (name, token) in [
        (
            "expired",
            by_secret(SECRET, &but(ana(), json!({"exp": past}))),
        ),
        (
            "no end",
            by_secret(SECRET, &but(ana(), json!({"exp": null}))),
        ),
        (
            "not yet valid",
            by_secret(SECRET, &but(ana(), json!({"nbf": future}))),
        ),
        (
            "wrong signature",
            by_secret(b"another secret of 32 bytes, this", &ana()),
        ),
        ("alg none", none(json!({"alg": "none"}))),
        ("no signature", none(json!({"alg": "HS256"}))),
        ("the public key as a secret", {
            let header = claims(PUBLIC, "ana");
            by_secret(issuers.pair.public_key().as_ref(), &header)
        }),
        ("another algorithm", issuers.by_pair(&eddsa, &ana())),
        (
            "wrong issuer",
            by_secret(SECRET, &claims("https://other.example", "ana")),
        ),
        (
            "wrong audience",
            by_secret(SECRET, &but(ana(), json!({"aud": "kafka"}))),
        ),
        (
            "no audience",
            by_secret(SECRET, &but(ana(), json!({"aud": null}))),
        ),
        (
            "no subject",
            by_secret(SECRET, &but(ana(), json!({"sub": null}))),
        ),
        (UNKNOWN_KEY, {
            let header = json!({"alg": "EdDSA", "kid": "k2"});
            issuers.by_pair(&header, &claims(PUBLIC, "ana"))
        }),
        ("no token", "garbage".to_owned()),
        ("an API key that is none", "hark_1234_5678".to_owned()),
    ] {
        row(name, Some(token), public, [who; 4]);
    }
    rows
}

fn status_of(code: &str) -> u16 {
    match code {
        "forbidden" => 403,
        "unauthenticated" => 401,
        "busy" => 503,
        other => panic!("{other}"),
    }
}

impl Row {
    /// The headers that show the token.
    fn headers(&self, broker: &Broker) -> Vec<(&'static str, String)> {
        match &self.token {
            None => Vec::new(),
            Some(token) if self.in_cookie => vec![
                ("origin", format!("http://{}", broker.addr())),
                ("cookie", format!("hark_session={token}")),
            ],
            Some(token) => vec![("authorization", format!("Bearer {token}"))],
        }
    }
}

/// What is answered to a request: `ok`, or a code that has its own status.
fn by_http(broker: &Broker, row: &Row, method: &str, path: &str, body: &str) -> String {
    let shown = row.headers(broker);
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(shown.iter().map(|(name, value)| (*name, value.as_str())));
    let answer = broker
        .http()
        .request(method, path, &headers, body.as_bytes());
    if answer.status == 200 {
        return "ok".to_owned();
    }
    let code = answer.json()["code"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, status_of(&code), "{}: {answer:?}", row.name);
    assert_eq!(
        answer.headers.contains_key("www-authenticate"),
        answer.status == 401
    );
    code
}

/// The code of a line's answer, or of the whole request's.
fn by_line(broker: &Broker, row: &Row) -> String {
    let shown = row.headers(broker);
    let mut headers = vec![("content-type", "application/x-ndjson")];
    headers.extend(shown.iter().map(|(name, value)| (*name, value.as_str())));
    let line = json!({"topic": row.topic, "data": 1}).to_string();
    let answer = broker.http().post("/v1/messages", &headers, line);
    let answer = answer.json();
    answer["code"].as_str().unwrap_or("ok").to_owned()
}

/// What is answered to a command: `ok`, or a code.
pub(crate) fn ask(ws: &mut RawWs, command: &Value) -> String {
    ws.send_json(command);
    loop {
        let answer = ws.read_json();
        if answer["id"] == command["id"] {
            return answer["code"].as_str().unwrap_or("ok").to_owned();
        }
    }
}

pub(crate) fn subscribe(topic: &str) -> Value {
    json!({"type": "subscribe", "id": 2, "topic": topic})
}

pub(crate) fn publish(topic: &str) -> Value {
    json!({"type": "publish", "id": 3, "topic": topic, "data": 1})
}

fn by_header(broker: &Broker, row: &Row, command: &Value) -> String {
    let shown = row.headers(broker).into_iter();
    let header: String = shown
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let answer = raw_http(broker, &upgrade(broker, &header));
    if answer.status != 101 {
        let code = answer.json()["code"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status_of(&code), "{}: {answer:?}", row.name);
        return code;
    }
    ask(&mut RawWs::open(broker, &header, None), command)
}

fn by_frame(broker: &Broker, row: &Row, command: &Value) -> String {
    let mut ws = RawWs::connect(broker);
    if let Some(token) = &row.token {
        ws.send_json(&json!({"type": "auth", "id": 1, "token": token}));
        // Right behind it: it is carried out by whom the token stands for, or not at all.
        ws.send_json(command);
        let answer = ws.read_json();
        assert_eq!(answer["id"], 1, "{}: {answer}", row.name);
        if answer["type"] == "error" {
            let code = answer["code"].as_str().unwrap().to_owned();
            let close = if code == "busy" { 1013 } else { 4401 };
            assert_eq!(ws.expect_close(), close, "{}", row.name);
            return code;
        }
        assert_eq!(answer["type"], "authenticated", "{}: {answer}", row.name);
        assert!(answer["expires_at"].is_string(), "{}: {answer}", row.name);
        loop {
            let answer = ws.read_json();
            if answer["id"] == command["id"] {
                return answer["code"].as_str().unwrap_or("ok").to_owned();
            }
        }
    }
    ask(&mut ws, command)
}

fn by_events(broker: &Broker, row: &Row) -> String {
    let token = row
        .token
        .as_ref()
        .map(|token| format!("&access_token={token}"));
    let path = format!(
        "/v1/events?topic={}{}",
        row.topic,
        token.unwrap_or_default()
    );
    if row.read == "ok" {
        EventStream::open(broker, &path).begin();
        return "ok".to_owned();
    }
    let answer = broker.http().get(&path);
    // What passes is a stream that ends at once, and says when to come back.
    if answer.status == 200 {
        assert!(answer.body.starts_with("retry: "), "{answer:?}");
        return "busy".to_owned();
    }
    let code = answer.json()["code"].as_str().unwrap().to_owned();
    assert_ne!(code, "busy", "{}: {answer:?}", row.name);
    assert_eq!(answer.status, status_of(&code), "{}: {answer:?}", row.name);
    code
}

#[test]
fn every_transport_answers_every_credential_alike() {
    let issuers = Issuers::new();
    let broker = issuers.setup().env("HARK_LOG", "trace").start();
    let mut wrong = Vec::new();
    let mut checked = 0;

    for row in rows(&issuers) {
        let topic = format!("/v1/topics/{}", row.topic);
        let messages = format!("{topic}/messages");
        let query = row
            .token
            .as_ref()
            .map(|token| format!("&access_token={token}"));
        let anonymous = Row {
            token: None,
            ..row.clone()
        };
        let in_cookie = Row {
            in_cookie: true,
            ..row.clone()
        };
        let by_query = format!("{messages}?limit=1{}", query.unwrap_or_default());
        for (transport, expected, found) in [
            (
                "ws, header, subscribe",
                row.read,
                by_header(&broker, &row, &subscribe(row.topic)),
            ),
            (
                "ws, header, publish",
                row.publish,
                by_header(&broker, &row, &publish(row.topic)),
            ),
            (
                "ws, auth, subscribe",
                row.read,
                by_frame(&broker, &row, &subscribe(row.topic)),
            ),
            (
                "ws, auth, publish",
                row.publish,
                by_frame(&broker, &row, &publish(row.topic)),
            ),
            (
                "POST",
                row.publish,
                by_http(&broker, &row, "POST", &messages, "1"),
            ),
            ("NDJSON", row.publish, by_line(&broker, &row)),
            (
                "history",
                row.read,
                by_http(&broker, &row, "GET", &messages, ""),
            ),
            (
                "history, query",
                row.read,
                by_http(&broker, &anonymous, "GET", &by_query, ""),
            ),
            (
                "long-poll",
                row.read,
                by_http(
                    &broker,
                    &row,
                    "GET",
                    &format!("{messages}?wait=1&from=now"),
                    "",
                ),
            ),
            ("events", row.read, by_events(&broker, &row)),
            (
                "list",
                row.list,
                by_http(&broker, &row, "GET", "/v1/topics", ""),
            ),
            (
                "describe",
                if row.list == "ok" { "ok" } else { row.read },
                by_http(&broker, &row, "GET", &topic, ""),
            ),
            (
                "delete",
                row.delete,
                by_http(&broker, &row, "DELETE", &topic, ""),
            ),
            (
                "ws, cookie, subscribe",
                row.read,
                by_header(&broker, &in_cookie, &subscribe(row.topic)),
            ),
            (
                "ws, cookie, publish",
                row.publish,
                by_header(&broker, &in_cookie, &publish(row.topic)),
            ),
            (
                "POST, cookie",
                row.publish,
                by_http(&broker, &in_cookie, "POST", &messages, "1"),
            ),
            ("NDJSON, cookie", row.publish, by_line(&broker, &in_cookie)),
            (
                "history, cookie",
                row.read,
                by_http(&broker, &in_cookie, "GET", &messages, ""),
            ),
            (
                "list, cookie",
                row.list,
                by_http(&broker, &in_cookie, "GET", "/v1/topics", ""),
            ),
        ] {
            checked += 1;
            // Of a key that is not known it is looked, a while later, whether there is a new one: until then it may be good.
            let is_looked_for = row.name == UNKNOWN_KEY && found == "busy";
            if found != expected && !is_looked_for {
                wrong.push(format!(
                    "{} by {transport}: {found}, not {expected}",
                    row.name
                ));
            }
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 300, "{checked}");
    let log = broker.log();
    assert!(!log.contains("eyJ"), "a token is in the log: {log}");
}

#[test]
fn without_authentication_a_token_is_refused_and_not_believed() {
    let broker = Broker::start();
    let http = broker.http();
    http.publish("a", &json!(1)).ok();

    let mut ws = RawWs::connect(&broker);
    assert_eq!(
        ask(
            &mut ws,
            &json!({"type": "auth", "id": 1, "token": "garbage"})
        ),
        "unsupported"
    );
    assert_eq!(ask(&mut ws, &publish("a")), "ok", "the session goes on");

    let bearer = [
        ("authorization", "Bearer garbage"),
        ("content-type", "application/json"),
    ];
    for (method, path) in [
        ("POST", "/v1/topics/a/messages"),
        ("POST", "/v1/messages"),
        ("GET", "/v1/topics/a/messages"),
        ("GET", "/v1/topics/a/messages?wait=1"),
        ("GET", "/v1/topics/a/events"),
        ("GET", "/v1/topics"),
        ("GET", "/v1/topics/a"),
        ("DELETE", "/v1/topics/a"),
    ] {
        http.request(method, path, &bearer, b"")
            .expect_error(501, "unsupported");
    }
    let answer = raw_http(
        &broker,
        &upgrade(&broker, "Authorization: bearer garbage\r\n"),
    );
    answer.expect_error(501, "unsupported");
    for path in [
        "/v1/events?topic=a&access_token=x",
        "/v1/topics/a/messages?access%5Ftoken=x",
    ] {
        http.get(path).expect_error(501, "unsupported");
    }

    // A proxy's business.
    for header in [("authorization", "Basic YTpi"), ("cookie", "token=x")] {
        assert_eq!(
            http.request("GET", "/v1/topics", &[header], b"").status,
            200,
            "{header:?}"
        );
    }
    let mut publish = hark();
    publish.args(["pub", "a", "1", "--url", &broker.ws_url()]);
    publish.env("HARK_TOKEN", "garbage");
    let told = Cli::spawn(publish).wait();
    assert_ne!(told.code, Some(0));
    assert!(told.stderr.contains("authentication"), "{}", told.stderr);
}

#[test]
fn a_token_in_an_address_is_for_readers_and_for_a_short_time() {
    let issuers = Issuers::new();
    let broker = issuers.setup().start();
    let http = broker.http();
    let (short, long) = (token("ana", 600), token("ana", 7200));

    http.get(&format!("/v1/topics/room.1/messages?access_token={short}"))
        .ok();
    http.get(&format!("/v1/topics/room.1/messages?access_token={long}"))
        .expect_error(401, "unauthenticated");
    for path in ["/v1/topics", "/v1/topics/room.1"] {
        http.get(&format!("{path}?access_token={short}"))
            .expect_error(400, "bad_frame");
    }
    let path = format!("/v1/topics/room.1/messages?access_token={short}");
    http.post(&path, &[], "1").expect_error(400, "bad_frame");
    let request = upgrade(&broker, "").replace("/ws ", &format!("/ws?access_token={short} "));
    raw_http(&broker, &request).expect_error(400, "bad_frame");
    let header = format!("Bearer {short}");
    http.request("GET", &path, &[("authorization", &header)], b"")
        .expect_error(400, "bad_frame");
}

#[test]
fn who_may_nothing_has_a_while_to_say_who_it_is() {
    let rules = RULES.replace(
        "who = \"anonymous\"",
        "who = \"https://shared.example nobody\"",
    );
    let issuers = Issuers::with(&rules);
    let broker = issuers.setup().start();
    let mut silent = RawWs::connect(&broker);
    let mut known = RawWs::connect(&broker);
    let auth = json!({"type": "auth", "id": 1, "token": token("ana", 600)});
    assert_eq!(ask(&mut known, &auth), "ok");

    assert_eq!(silent.expect_close(), 4401);
    assert_eq!(ask(&mut known, &publish("room.1")), "ok");
}

#[test]
fn what_runs_out_is_told_and_ends_on_every_transport() {
    let issuers = Issuers::new();
    let broker = issuers.setup().start();
    let auth = |id: u64, token: &str| json!({"type": "auth", "id": id, "token": token});
    let mut publisher = RawWs::connect(&broker);
    assert_eq!(ask(&mut publisher, &auth(1, &token("ana", 600))), "ok");
    let large = "x".repeat(500_000);
    let large = json!({"type": "publish", "id": 4, "topic": "room.2", "data": large});
    for _ in 0..40 {
        assert_eq!(ask(&mut publisher, &large), "ok");
    }

    let descriptors = broker.descriptors();

    // So that all of them are there before it runs out.
    let short = token("ana", 10);
    let header = format!("Authorization: Bearer {short}\r\n");
    let mut ws = RawWs::open(&broker, &header, None);
    let mut renewed = RawWs::connect(&broker);
    assert_eq!(ask(&mut renewed, &auth(1, &short)), "ok");
    let path = format!("/v1/topics/room.1/events?access_token={short}");
    let mut events = EventStream::open(&broker, &path);
    events.begin();
    let mut blocked = RawWs::open(&broker, &header, Some(4096));
    blocked.send_json(&json!({"type": "subscribe", "topic": "room.2", "from": "earliest"}));

    // More than five times as long as what is waited for, unless it ends.
    let began = Instant::now();
    let path = format!("/v1/topics/room.1/messages?wait=55&from=now&access_token={short}");
    broker.http().get(&path).ok();
    assert!(
        began.elapsed() < Duration::from_secs(45),
        "{:?}",
        began.elapsed()
    );

    assert_eq!(ws.read_json()["code"], "expiring");
    assert_eq!(ws.expect_close(), 4401);
    let last = events.expect("error");
    assert_eq!(last.data["code"], "unauthenticated");
    assert!(events.try_next().is_none(), "the stream ends");
    assert_eq!(renewed.read_json()["code"], "expiring");
    assert_eq!(renewed.expect_close(), 4401);
    assert_eq!(ask(&mut publisher, &publish("room.1")), "ok");
    drop((ws, renewed, events));
    let began = Instant::now();
    wait_until("the blocked connection is cut", || {
        (broker.descriptors() <= descriptors).then_some(())
    });
    // Sooner than who does not read is ended anyway.
    assert!(began.elapsed() < Duration::from_secs(40));
}

#[test]
fn the_same_token_again_brings_no_second_notice() {
    let issuers = Issuers::new();
    let broker = issuers.setup().start();
    let mut ws = RawWs::connect(&broker);
    // Half of its life is over long ago, and there is time for the test.
    let now = now_s();
    let times = json!({"iat": now - 600, "exp": now + 30});
    let late = by_secret(SECRET, &but(claims(SHARED, "ana"), times));
    let auth = |id: u64| json!({"type": "auth", "id": id, "token": late});
    assert_eq!(ask(&mut ws, &auth(1)), "ok");
    assert_eq!(ws.read_json()["code"], "expiring");
    for id in 2..5 {
        ws.send_json(&auth(id));
        ws.send_json(&json!({"type": "ping", "id": 10 * id}));
        assert_eq!(ws.read_json()["type"], "authenticated");
        assert_eq!(ws.read_json()["id"], 10 * id);
    }
    // One that ends later is told of anew.
    let times = json!({"iat": now - 600, "exp": now + 40});
    let later = by_secret(SECRET, &but(claims(SHARED, "ana"), times));
    ws.send_json(&json!({"type": "auth", "id": 6, "token": later}));
    assert_eq!(ws.read_json()["type"], "authenticated");
    assert_eq!(ws.read_json()["code"], "expiring");
}

#[test]
fn a_live_connection_is_given_another_token_of_the_same_identity() {
    let issuers = Issuers::new();
    let broker = issuers.setup().start();
    let mut ws = RawWs::connect(&broker);
    let auth = |id: u64, token: &str| json!({"type": "auth", "id": id, "token": token});
    let short = token("ana", 10);
    assert_eq!(ask(&mut ws, &auth(1, &short)), "ok");
    let mut not_renewed = RawWs::connect(&broker);
    assert_eq!(ask(&mut not_renewed, &auth(1, &short)), "ok");
    assert_eq!(ask(&mut ws, &subscribe("user.ana.inbox")), "ok");

    let eddsa = json!({"alg": "EdDSA", "kid": "k1"});
    let other_issuer = issuers.by_pair(&eddsa, &claims(PUBLIC, "ana"));
    assert_eq!(ask(&mut ws, &auth(5, &other_issuer)), "forbidden");
    assert_eq!(ask(&mut ws, &auth(6, &token("bob", 600))), "forbidden");
    assert_eq!(ask(&mut ws, &auth(7, &token("ana", 600))), "ok");
    assert_eq!(not_renewed.expect_close(), 4401);
    assert_eq!(
        ask(&mut ws, &publish("user.ana.inbox")),
        "ok",
        "it has outlived its first token"
    );

    ws.send_json(&auth(8, "garbage"));
    ws.send_json(&publish("user.ana.inbox"));
    assert_eq!(ws.expect_close(), 4401);
    let kept = broker.http().request(
        "GET",
        "/v1/topics/user.ana.inbox",
        &[("authorization", &format!("Bearer {}", token("ana", 600)))],
        b"",
    );
    assert_eq!(
        kept.json()["head"],
        1,
        "what stood behind a bad token is not taken"
    );
}

/// A grant that is gone ends its subscriptions, and leaves the others.
#[test]
fn subscriptions_end_with_their_grant() {
    let rules = RULES.replace(
        "leeway = \"0s\"\n\n[[issuer]]",
        "leeway = \"0s\"\ngrants_claim = true\n\n[[issuer]]",
    );
    let issuers = Issuers::with(&rules);
    let broker = issuers.setup().start();
    let with =
        |grants: Value| by_secret(SECRET, &but(claims(SHARED, "ana"), json!({"hark": grants})));
    let mut ws = RawWs::connect(&broker);
    let auth = |id: u64, token: &str| json!({"type": "auth", "id": id, "token": token});
    let both = with(json!({"subscribe": ["orders", "bills"], "publish": ["bills"]}));
    assert_eq!(ask(&mut ws, &auth(1, &both)), "ok");
    assert_eq!(
        ask(
            &mut ws,
            &json!({"type": "subscribe", "id": 8, "topic": "bills"})
        ),
        "ok"
    );
    assert_eq!(ask(&mut ws, &subscribe("orders")), "ok");
    assert_eq!(ask(&mut ws, &publish("bills")), "ok");

    assert_eq!(
        ask(&mut ws, &auth(5, &with(json!({"subscribe": ["bills"]})))),
        "ok"
    );

    loop {
        let frame = ws.read_json();
        if frame["type"] == "unsubscribed" {
            assert_eq!(
                (&frame["topic"], &frame["id"]),
                (&json!("orders"), &Value::Null)
            );
            break;
        }
    }
    assert_eq!(ask(&mut ws, &subscribe("bills")), "already_subscribed");
    assert_eq!(ask(&mut ws, &subscribe("orders")), "forbidden");
    assert_eq!(
        ask(&mut ws, &publish("bills")),
        "forbidden",
        "though its room is held"
    );
}

#[test]
fn a_token_that_others_could_read_is_not_taken() {
    let issuers = Issuers::new();
    let through_proxy = |broker: &Broker, more: &[(&'static str, &'static str)]| {
        let bearer = format!("Bearer {}", token("ana", 600));
        let mut headers = vec![
            ("authorization", bearer.as_str()),
            ("x-forwarded-for", "192.0.2.7"),
        ];
        headers.extend(more);
        broker
            .http()
            .request("GET", "/v1/topics/room.1", &headers, b"")
    };
    let broker = issuers.setup().flag("trusted-proxy", "127.0.0.1").start();
    through_proxy(&broker, &[]).expect_error(403, "forbidden");
    through_proxy(&broker, &[("x-forwarded-proto", "http")]).expect_error(403, "forbidden");
    through_proxy(
        &broker,
        &[
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=192.0.2.7;proto=http"),
        ],
    )
    .expect_error(403, "forbidden");
    through_proxy(&broker, &[("x-forwarded-proto", "https")]).ok();
    through_proxy(&broker, &[("forwarded", "for=192.0.2.7;proto=https")]).ok();

    let setup = issuers.setup().flag("trusted-proxy", "127.0.0.1");
    let broker = setup.env("HARK_INSECURE_PLAINTEXT", "true").start();
    through_proxy(&broker, &[]).ok();
}

#[test]
fn what_is_wrong_with_the_file_is_said_at_the_start() {
    let issuers = Issuers::with("[[rule]]\nwho = \"*\"\nread = [\"a\"]\n");
    let exit = issuers.setup().try_start().expect_err("it does not start");
    assert!(
        exit.stderr.contains("auth.toml") && exit.stderr.contains("read"),
        "{}",
        exit.stderr
    );
    let both = Issuers::new().setup().env("HARK_INSECURE_NO_AUTH", "true");
    let exit = both.try_start().expect_err("it does not start");
    assert!(
        exit.stderr.contains("--insecure-no-auth"),
        "{}",
        exit.stderr
    );
}
