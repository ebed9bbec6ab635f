//! No credential is written anywhere: not in the log, at any level and in either form, not in an answer, not by the command line, not by a
//! crash. Clients show credentials of every kind, good and bad, in every place where they may put one, also in wrong ones; then all that was
//! said is searched for the part of each that is secret.

use bytes::Bytes;
use hark_protocol::codec;
use hark_tests::{Broker, Cli, Op, RawWs, Setup, hark, raw_http, upgrade};
use serde_json::{Value, json};

use crate::identity::{
    Issuers, PUBLIC, RULES, SECRET, SHARED, but, by_secret, claims, now_s, write_private,
};

/// So much of what is secret is enough to have it.
const HALF: usize = 20;
const TOPIC: &str = "user.ana.inbox";

/// What a client shows, or a file holds, and the part of it that nobody may see.
#[derive(Debug)]
struct Secret {
    name: &'static str,
    shown: String,
    half: String,
}

impl Secret {
    /// A token is secret by its signature, an API key by what stands behind its id, anything else from its beginning.
    fn new(name: &'static str, shown: String) -> Self {
        let secret = match shown.starts_with("hark_") {
            true => &shown[14..],
            false => shown.rsplit('.').next().unwrap(),
        };
        let half = secret[..HALF].to_owned();
        Self { name, shown, half }
    }

    /// As text, and as bytes are shown that nobody took for text.
    #[track_caller]
    fn is_not_in(&self, said: &str, what: &str) {
        let mut numbers = format!("{:?}", self.half.as_bytes());
        numbers.retain(|c| !matches!(c, '[' | ']'));
        for form in [&self.half, &numbers] {
            let Some(at) = said.find(form.as_str()) else {
                continue;
            };
            let line = said[..at].rfind('\n').map_or(0, |end| end + 1);
            let line = said[line..].lines().next().unwrap();
            panic!("{what} shows {}: {line}", self.name);
        }
    }
}

/// The broker's configuration, and a credential of every kind.
struct Kinds {
    issuers: Issuers,
    secrets: Vec<Secret>,
    /// What it reads from a file, and nobody shows.
    of_the_broker: Secret,
}

impl Kinds {
    fn new() -> Self {
        let rules = format!("{RULES}\n[api_keys]\nfile = \"keys.toml\"\n");
        let issuers = Issuers::with(&rules);
        let [key, revoked] = [0, 1].map(|_| issuers.hark("key make --subject ana"));
        issuers.hark(&format!("key revoke {}", &revoked[5..13]));
        let other = if &key[20..21] == "x" { "y" } else { "x" };
        let mistyped = format!("{}{other}{}", &key[..20], &key[21..]);
        let ana = || claims(SHARED, "ana");
        let by_pair = |kid: &str| {
            let header = json!({"alg": "EdDSA", "kid": kid});
            issuers.by_pair(&header, &claims(PUBLIC, "ana"))
        };
        let changed = |changes: Value| by_secret(SECRET, &but(ana(), changes));
        let secrets = vec![
            ("an API key", key),
            ("a revoked API key", revoked),
            ("a mistyped API key", mistyped),
            ("a token", changed(json!({}))),
            ("an expired token", changed(json!({"exp": now_s() - 100}))),
            ("an early token", changed(json!({"nbf": now_s() + 300}))),
            ("another's token", changed(json!({"aud": "kafka"}))),
            ("a token without a subject", changed(json!({"sub": 7}))),
            (
                "a token that is too long",
                changed(json!({"x": "x".repeat(14_000)})),
            ),
            (
                "a token by another secret",
                by_secret(b"another secret of 32 bytes, this", &ana()),
            ),
            (
                "a token of nobody known",
                by_secret(SECRET, &claims("https://other.example", "ana")),
            ),
            ("a token by a pair of keys", by_pair("k1")),
            ("a token by an unknown key", by_pair("k2")),
            (
                "no token at all",
                "correct-horse-battery-staple-and-more".to_owned(),
            ),
        ];
        let secrets = secrets.into_iter();
        let secrets = secrets.map(|(name, shown)| Secret::new(name, shown));
        let of_the_broker = String::from_utf8(SECRET.to_vec()).unwrap();
        Self {
            secrets: secrets.collect(),
            of_the_broker: Secret::new("the secret of an issuer", of_the_broker),
            issuers,
        }
    }

    #[track_caller]
    fn are_not_in(&self, said: &str, what: &str) {
        for secret in self.secrets.iter().chain([&self.of_the_broker]) {
            secret.is_not_in(said, what);
        }
    }
}

/// A request with this credential, in every place of one where somebody may put it.
fn requests(broker: &Broker, shown: &str) -> Vec<String> {
    let host = broker.addr();
    let messages = format!("/v1/topics/{TOPIC}/messages");
    let request = |method: &str, path: &str, headers: &str, body: &str| {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
    };
    let get = |path: &str, headers: &str| request("GET", path, headers, "");
    let bearer = format!("Authorization: Bearer {shown}\r\n");
    let json = format!("{bearer}Content-Type: application/json\r\n");
    let lines = format!("{bearer}Content-Type: application/x-ndjson\r\n");
    let query = format!("access_token={shown}");
    let line = json!({"topic": TOPIC, "data": 1}).to_string();
    vec![
        get(&messages, &bearer),
        get("/v1/topics", &bearer),
        request("POST", &messages, &json, "1"),
        request("POST", &messages, &json, "no json"),
        request("POST", "/v1/messages", &lines, &line),
        get(&format!("{messages}?{query}"), ""),
        get(&format!("{messages}?wait=1&from=earliest&{query}"), ""),
        request("DELETE", &format!("/v1/topics/{TOPIC}"), &bearer, ""),
        get(&format!("/v1/events?topic={TOPIC}&{query}"), ""),
        get(&format!("/v1/topics/{TOPIC}/events?{query}"), ""),
        // Wrong places, wrong forms.
        get(&format!("{messages}?{query}&{query}"), ""),
        get(&format!("{messages}?limit=no&{query}"), ""),
        get(&format!("{messages}?token={shown}"), ""),
        request(
            "POST",
            &format!("{messages}?{query}"),
            "Content-Type: application/json\r\n",
            "1",
        ),
        get(&format!("/healthz?{query}"), ""),
        get(&format!("/readyz?{query}"), &bearer),
        get(&format!("/nowhere?{query}"), &bearer),
        get(&messages, &format!("{bearer}{bearer}")),
        get(&messages, &format!("Authorization: Basic {shown}\r\n")),
        get(&messages, &format!("Authorization: {shown}\r\n")),
        get(
            &messages,
            &format!("Cookie: hark_session={shown}; other={shown}\r\n"),
        ),
        get(&messages, &format!("X-Api-Key: {shown}\r\n")),
        get(
            &messages,
            &format!("Origin: http://evil.example\r\n{bearer}"),
        ),
        upgrade(broker, &bearer),
        upgrade(broker, "").replace("/ws", &format!("/ws?{query}")),
        upgrade(
            broker,
            &format!("Sec-WebSocket-Protocol: hark.v1.json, {shown}\r\n"),
        ),
        upgrade(broker, &bearer).replace("Version: 13", "Version: 12"),
        get(&messages, &bearer).replace("HTTP/1.1", "HTTP/7.7"),
        get(&messages, &bearer).replace("\r\nContent-Length: 0", "\r\nContent-Length: no"),
    ]
}

/// Shows it in all frames in which somebody may put it, and breaks the topic's room where that is allowed; gives all that is answered.
fn by_frames(broker: &Broker, shown: &str) -> String {
    let auth = json!({"type": "auth", "id": 1, "token": shown});
    let text = auth.to_string();
    let frame = codec::json::decode_client(&Bytes::from(text.clone())).unwrap();
    let bincode = codec::binary::encode_client(&frame);
    let mut said = String::new();
    for (header, op, payload) in [
        ("", Op::TEXT, text.as_bytes()),
        ("", Op::TEXT, &text.as_bytes()[..text.len() - 2]),
        (
            "",
            Op::TEXT,
            text.replace("\"id\":1", "\"id\":\"1\"").as_bytes(),
        ),
        (
            "",
            Op::TEXT,
            text.replace("\"auth\"", "\"authenticate\"").as_bytes(),
        ),
        (
            "",
            Op::TEXT,
            json!({"type": "auth", "token": [shown]})
                .to_string()
                .as_bytes(),
        ),
        ("", Op::BINARY, text.as_bytes()),
        (
            "Sec-WebSocket-Protocol: hark.v1.bincode\r\n",
            Op::BINARY,
            &bincode[..],
        ),
        (
            "Sec-WebSocket-Protocol: hark.v1.bincode\r\n",
            Op::BINARY,
            &bincode[..bincode.len() - 1],
        ),
    ] {
        let mut ws = RawWs::open(broker, header, None);
        let breaking = json!({"type": "publish", "topic": TOPIC, "data": 1, "headers": {"hark-fault": "room-panic"}});
        let frames = [
            RawWs::fragment(op, true, payload),
            RawWs::fragment(Op::TEXT, true, breaking.to_string().as_bytes()),
            RawWs::fragment(Op::CLOSE, true, &1000_u16.to_be_bytes()),
        ];
        // It may hang up before it has all.
        drop(ws.try_write(&frames.concat()));
        while let Some((kind, payload)) = ws.try_read_frame() {
            said.push_str(&String::from_utf8_lossy(&payload));
            said.push('\n');
            if kind == Op::CLOSE {
                break;
            }
        }
    }
    said
}

/// Shows all of them everywhere; gives all that is answered.
fn show(broker: &Broker, kinds: &Kinds) -> String {
    let mut said = String::new();
    for secret in &kinds.secrets {
        for request in requests(broker, &secret.shown) {
            said.push_str(&format!("{:?}\n", raw_http(broker, &request)));
        }
        said.push_str(&by_frames(broker, &secret.shown));
    }
    for path in ["/healthz", "/readyz"] {
        said.push_str(&broker.http().get(path).body);
    }
    said
}

#[test]
fn no_log_and_no_answer_shows_a_credential() {
    let kinds = Kinds::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        for json in ["false", "true"] {
            let setup = kinds.issuers.setup().faults();
            let setup = setup.env("HARK_LOG", level).env("HARK_LOG_JSON", json);
            let mut broker = setup.start();
            let answers = show(&broker, &kinds);
            broker.signal("TERM");
            let exit = broker.wait();

            assert!(answers.contains("authenticated") && answers.contains("unauthenticated"));
            kinds.are_not_in(&answers, "an answer");
            // The room broke, whatever the level; what is said by the way is said at the last one.
            assert!(exit.stderr.contains("panicked"), "{}", exit.stderr);
            let is_all = [" TRACE ", "\"TRACE\""]
                .iter()
                .any(|level| exit.stderr.contains(level));
            assert_eq!(is_all, level == "trace", "{level}");
            kinds.are_not_in(
                &exit.stderr,
                &format!("the log (level {level}, JSON: {json})"),
            );
            kinds.are_not_in(&exit.stdout, "standard output");
        }
    }
}

/// Where no authentication is configured a credential is refused, and no more is said of it.
#[test]
fn a_broker_without_authentication_shows_no_credential_either() {
    let kinds = Kinds::new();
    let mut broker = Setup::new().faults().env("HARK_LOG", "trace").start();
    let answers = show(&broker, &kinds);
    broker.signal("TERM");
    let exit = broker.wait();

    assert!(answers.contains("unsupported"), "{answers}");
    kinds.are_not_in(&answers, "an answer");
    kinds.are_not_in(&exit.stderr, "the log");
}

#[test]
fn the_command_line_shows_no_credential() {
    let kinds = Kinds::new();
    let broker = kinds.issuers.setup().start();
    let dir = kinds.issuers.file().parent().unwrap().to_owned();
    let nobody = "ws://127.0.0.1:1/ws";
    for secret in &kinds.secrets {
        let with_token = |args: &str, url: &str| {
            let mut command = hark();
            command
                .args(args.split(' '))
                .args(["--url", url])
                .env("HARK_TOKEN", &secret.shown)
                .envs([("RUST_LOG", "trace"), ("HARK_LOG", "trace")]);
            command
        };
        let explain = |args: &str| {
            let mut command = hark();
            command
                .args(args.split(' '))
                .current_dir(&dir)
                .env("HARK_LOG", "trace");
            command
        };
        let in_url = secret.shown.replace('/', "");
        let mut commands = vec![
            with_token("pub user.ana.inbox 1", &broker.ws_url()),
            with_token("topics list", &broker.ws_url()),
            with_token("topics describe user.ana.inbox", &broker.ws_url()),
            with_token("pub user.ana.inbox 1", nobody),
            with_token("topics list", nobody),
            explain("token explain --auth auth.toml --token-file -"),
            explain("key list"),
        ];
        for url in [
            format!("ws://ana:{in_url}@127.0.0.1:1/ws"),
            format!("{in_url}@127.0.0.1:1"),
        ] {
            commands.push(with_token("pub user.ana.inbox 1", &url));
        }
        for command in commands {
            let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
            let mut cli = Cli::spawn(command);
            if what.contains("explain") {
                cli.write(secret.shown.as_bytes());
            }
            cli.end_input();
            let exit = cli.wait();
            kinds.are_not_in(&exit.stdout, &format!("hark {} (output)", secret.name));
            kinds.are_not_in(&exit.stderr, &format!("hark {} (errors)", secret.name));
        }
    }
}

/// What stands in files is not repeated where something is wrong with them.
#[test]
fn a_broker_that_does_not_start_shows_no_secret() {
    const INLINE: &str = "correct-horse-battery-staple-and-more";
    let secret = Secret::new("a secret in a file", INLINE.to_owned());
    let issuer = |fields: &str| {
        format!(
            "[[issuer]]\nname = \"i\"\naudience = [\"hark\"]\n{fields}\n[[rule]]\nwho = \"*\"\npublish = [\"a\"]\n"
        )
    };
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{INLINE}\n-----END PRIVATE KEY-----\n");
    let api_key = format!("hark_abcdefgh_{INLINE}");
    for (auth, file) in [
        (issuer(&format!("secret = \"{INLINE}\"")), String::new()),
        (issuer(&format!("secret_file = \"{INLINE}")), String::new()),
        (
            issuer(&format!("algorithm = [\"{INLINE}\"]")),
            String::new(),
        ),
        (
            issuer("algorithm = \"HS256\"\nsecret_file = \"file\""),
            INLINE[..31].to_owned(),
        ),
        (
            issuer("algorithm = \"ES256\"\nkey_file = \"file\""),
            INLINE.to_owned(),
        ),
        (issuer("algorithm = \"ES256\"\nkey_file = \"file\""), pem),
        (issuer("jwks_file = \"file\""), INLINE.to_owned()),
        (issuer("jwks_file = \"file\""), format!("\"{INLINE}\"")),
        (
            issuer("jwks_file = \"file\""),
            json!({"keys": INLINE}).to_string(),
        ),
        (
            issuer("jwks_file = \"file\""),
            json!({"keys": [{"kty": "oct", "k": INLINE}]}).to_string(),
        ),
        (
            issuer("jwks_file = \"file\""),
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": INLINE}]}).to_string(),
        ),
        (
            issuer("jwks_file = \"file\""),
            json!({"keys": [{"kty": "oct", "k": [INLINE]}]}).to_string(),
        ),
        (
            "[api_keys]\nfile = \"file\"\n".to_owned(),
            format!("[[key]]\nid = \"{api_key}\"\n"),
        ),
        (
            "[api_keys]\nfile = \"file\"\n".to_owned(),
            format!(
                "[[key]]\nid = \"{api_key}\"\nhash = \"{api_key}\"\nsubject = \"a\"\nmade = \"2026-01-31T12:00:00Z\"\n"
            ),
        ),
        (
            "[api_keys]\nfile = \"file\"\n".to_owned(),
            format!(
                "[[key]]\nid = \"abcdefgh\"\nhash = \"{api_key}\"\nsubject = \"a\"\nmade = \"2026-01-31T12:00:00Z\"\n"
            ),
        ),
        (
            "[api_keys]\nfile = \"file\"\n".to_owned(),
            format!("{api_key}\n"),
        ),
    ] {
        let issuers = Issuers::with(&auth);
        write_private(&issuers.file().with_file_name("file"), file.as_bytes());
        let exit = issuers.setup().env("HARK_LOG", "trace").try_start();
        let exit = exit
            .err()
            .unwrap_or_else(|| panic!("this was taken:\n{auth}{file}"));
        assert!(exit.stderr.contains("auth.toml"), "{}", exit.stderr);
        secret.is_not_in(&exit.stderr, &auth);
    }
}

/// Everybody on the machine sees the arguments of every process: a token among them is refused, and not said again.
#[test]
fn no_command_takes_a_secret_as_an_argument() {
    let secret = Secret::new(
        "an argument",
        "correct-horse-battery-staple-and-more".to_owned(),
    );
    for args in ["pub a 1", "sub a", "topics list", "log export --topic a"] {
        for token in [
            vec!["--token", &secret.shown],
            vec![&*format!("--token={}", secret.shown)],
        ] {
            let mut command = hark();
            command
                .args(args.split(' '))
                .args(token)
                .args(["--url", "ws://127.0.0.1:1/ws"]);
            let exit = Cli::spawn(command).wait();
            assert_eq!(exit.code, Some(2), "{args}: {exit:#?}");
            assert!(
                exit.stderr.contains("--token-file"),
                "{args}: {}",
                exit.stderr
            );
            secret.is_not_in(&exit.stderr, args);
        }
    }
}
