//! TLS of the broker's own: who shakes hands and who does not, certificates that are exchanged while it is served, client certificates as
//! identities, and what each listener serves. That all that holds beneath HTTP holds beneath TLS is with the tests of that (`over_tls`).

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;

use hark_tests::{
    Broker, Ca, CertificateNames, Cli, Http, Pair, RawWs, Setup, Tls, Wire, Ws, hark, until,
    upgrade, wait_until,
};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use serde_json::json;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn over_tls() -> Broker {
    Setup::new().tls(Tls::new()).start()
}

/// All that comes until the end, however that comes.
fn read_to_the_end(stream: &mut impl std::io::Read) -> String {
    let mut text = Vec::new();
    drop(stream.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Asks by these rules, and gives the answer, or why there is none.
fn ask(broker: &Broker, config: ClientConfig, request: &str) -> Result<String, String> {
    let mut wire =
        Wire::new(broker.dial_tcp(None, None), Some(config)).map_err(|e| e.to_string())?;
    wire.write_all(request.as_bytes())
        .map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    match wire.read_to_end(&mut text) {
        Ok(_) => Ok(String::from_utf8(text).unwrap()),
        Err(error) => Err(error.to_string()),
    }
}

fn hello() -> Vec<u8> {
    let mut client = ClientConnection::new(
        Arc::new(Tls::new().client()),
        "localhost".try_into().unwrap(),
    )
    .unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn who_asks_in_plain_text_is_told_to_use_tls() {
    let broker = over_tls();
    for request in [
        get("/healthz"),
        get("/v1/events?topic=a"),
        upgrade(&broker, ""),
    ] {
        let mut tcp = broker.dial_tcp(None, None);
        tcp.write_all(request.as_bytes()).unwrap();
        let answer = read_to_the_end(&mut tcp);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("https://"), "{answer}");
    }
    assert!(broker.greeting().contains("https://") && broker.greeting().contains("wss://"));
    broker.http().publish("a", &json!(1)).ok();
}

#[test]
fn who_speaks_tls_to_a_listener_without_it_is_told_so() {
    let broker = Setup::default().start();
    let mut tcp = broker.dial_tcp(None, None);
    tcp.write_all(&hello()).unwrap();
    let answer = read_to_the_end(&mut tcp);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("no TLS is spoken at this port"), "{answer}");
    assert!(broker.log().contains("speaks TLS"), "{}", broker.log());
}

/// Each holds its place for ten seconds, and next to nothing else.
#[test]
fn who_never_shakes_hands_is_ended_and_holds_little() {
    const SILENT: usize = 400;
    let broker = over_tls();
    broker.http().publish("a", &json!(1)).ok();
    let (before, descriptors) = (broker.rss_bytes(), broker.descriptors());
    let half = &hello()[..100];
    let mut silent: Vec<_> = (0..SILENT).map(|_| broker.dial_tcp(None, None)).collect();
    for tcp in silent.iter_mut().skip(SILENT / 2) {
        tcp.write_all(half).unwrap();
    }
    wait_until("all have been accepted", || {
        (broker.descriptors() >= descriptors + SILENT).then_some(())
    });
    let grown = broker.rss_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB", grown >> 10);
    // Others are served meanwhile.
    broker.http().publish("a", &json!(2)).ok();
    for mut tcp in silent {
        assert_eq!(read_to_the_end(&mut tcp), "");
    }
    wait_until("the broker has let go of them", || {
        (broker.descriptors() <= descriptors + 2).then_some(())
    });
}

#[test]
fn http_1_1_is_spoken_and_nothing_else() {
    let broker = over_tls();
    for (offered, is_taken) in [
        (&[][..], true),
        (&["http/1.1"], true),
        (&["h2", "http/1.1"], true),
        (&["h2"], false),
    ] {
        let mut config = broker.tls().unwrap().client();
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let answer = ask(&broker, config, &get("/healthz"));
        match is_taken {
            true => assert!(answer.unwrap().starts_with("HTTP/1.1 200"), "{offered:?}"),
            false => assert!(answer.unwrap_err().contains("ApplicationProtocol")),
        }
    }
}

#[test]
fn who_comes_back_shows_its_ticket() {
    let broker = over_tls();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(broker.tls().unwrap().roots())
            .with_no_client_auth();
        config.enable_sni = true;
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut tls =
                ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
            let mut tcp = broker.dial_tcp(None, None);
            let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
            stream.write_all(get("/healthz").as_bytes()).unwrap();
            assert!(read_to_the_end(&mut stream).starts_with("HTTP/1.1 200"));
            kinds.push(tls.handshake_kind().unwrap());
        }
        assert_eq!(
            kinds,
            [HandshakeKind::Full, HandshakeKind::Resumed],
            "{version:?}"
        );
    }
}

#[test]
fn what_cannot_be_served_is_told_at_the_start() {
    let tls = Tls::new();
    let files =
        [tls.path("server.pem"), tls.path("server.key")].map(|path| path.display().to_string());
    let [certificate, key] = &files;
    tls.write_pair("other", &Ca::new().server());
    let other = tls.path("other.key").display().to_string();
    for (settings, code, said) in [
        (
            format!("certificat={certificate},key={key}"),
            2,
            "did you mean certificate?",
        ),
        (format!("certificate={certificate}"), 2, "key=FILE"),
        (
            format!("certificate=/nowhere.pem,key={key}"),
            1,
            "/nowhere.pem",
        ),
        (
            format!("certificate={certificate},key={certificate}"),
            1,
            "no private key",
        ),
        (
            format!("certificate={certificate},key={other}"),
            1,
            "does not belong",
        ),
        (
            format!("certificate={certificate},key={key},client-ca=/nowhere.pem"),
            1,
            "client-ca",
        ),
    ] {
        let mut command = hark();
        command.args(["serve", "--listen", &format!("127.0.0.1:0,{settings}")]);
        command.arg("--data-dir").arg(tls.path("data"));
        let exit = Cli::spawn(command).wait();
        assert_eq!(exit.code, Some(code), "{settings}: {exit:#?}");
        assert!(exit.stderr.contains(said), "{settings}: {exit:#?}");
    }
}

/// The certificate that new connections are shown.
fn shown(broker: &Broker) -> Vec<u8> {
    broker.dial(None, None).server_certificate()
}

#[test]
fn a_key_that_does_not_fit_leaves_the_certificate_that_was() {
    let broker = over_tls();
    let tls = broker.tls().unwrap();
    let first = shown(&broker);
    let next = tls.ca.server();
    tls.write("server.pem", &next.certificate);
    wait_until("it is told", || {
        broker.log().contains("does not belong").then_some(())
    });
    assert_eq!(shown(&broker), first);
    let ready = broker.http().get("/readyz").ok();
    let warnings = ready.json()["warnings"].to_string();
    assert!(
        warnings.contains("those from before stay in force"),
        "{warnings}"
    );

    broker.signal("HUP");
    wait_until("that is told who asks for it, too", || {
        broker.log().contains("SIGHUP").then_some(())
    });

    tls.write("server.key", &next.key);
    broker.signal("HUP");
    wait_until("both are there", || (shown(&broker) != first).then_some(()));
    let ready = broker.http().get("/readyz").ok();
    assert_eq!(ready.json()["warnings"], json!(null));
}

/// A thousand sessions, a publisher that does not pause, and new ones who come meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_exchanged_under_load_and_nobody_who_stays_misses_anything() {
    const SESSIONS: usize = 1000;
    let broker = Setup::new().tls(Tls::new()).descriptors(4096).start();
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut ws = Ws::connect(&broker).await;
        ws.subscribe("load", json!("now")).await;
        assert_eq!(ws.recv().await["type"], "caught_up");
        sessions.push(ws);
    }
    let reading = sessions.into_iter().map(|mut ws| {
        tokio::spawn(async move {
            let mut next = 1;
            loop {
                let message = ws.message().await;
                assert_eq!(message["offset"], next);
                next += 1;
                if message["data"] == "the end" {
                    return next - 1;
                }
            }
        })
    });
    let reading: Vec<_> = reading.collect();

    let first = shown(&broker);
    let tls = broker.tls().unwrap();
    let mut publisher = Ws::connect(&broker).await;
    let mut published = 0;
    until("the new one is shown", async || {
        if published == 10 {
            tls.write_pair("server", &tls.ca.server());
        }
        publisher.publish("load", json!(published)).await;
        published += 1;
        (published > 10 && shown(&broker) != first).then_some(())
    })
    .await;
    for n in 0..10 {
        publisher.publish("load", json!(n)).await;
    }
    publisher.publish("load", json!("the end")).await;
    for session in reading {
        assert_eq!(session.await.unwrap(), published + 11);
    }
}

const RULES: &str = r#"
[client_certificates]
name = "mesh"

[api_keys]
file = "keys.toml"

[[rule]]
who = "anonymous"
subscribe = ["public.>"]

[[rule]]
who = "mesh spiffe://mesh/orders"
publish = ["orders.>"]

[[rule]]
who = "mesh *"
publish = ["from.{sub}"]

[[rule]]
name = "backend"
publish = ["back.>"]
"#;

/// A broker that asks who everybody is, and whose listener takes client certificates.
struct Mesh {
    broker: Broker,
    _dir: tempfile::TempDir,
    api_key: String,
}

impl Mesh {
    fn start(client_certificate: &str) -> Self {
        Self::with(client_certificate, RULES, &[])
    }

    fn with(client_certificate: &str, rules: &str, flags: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let auth: PathBuf = dir.path().join("auth.toml");
        std::fs::write(&auth, rules).unwrap();
        let mut command = hark();
        command
            .args(["key", "make", "--subject", "shop", "--rule", "backend"])
            .current_dir(dir.path());
        let made = Cli::spawn(command).wait();
        assert_eq!(made.code, Some(0), "{made:#?}");
        let tls = Tls::new();
        let listener = format!(
            ",client-ca={},client-certificate={client_certificate}",
            tls.path("ca.pem").display()
        );
        let mut setup = Setup::new().tls(tls).listener(&listener);
        for (name, value) in flags {
            setup = setup.flag(name, value);
        }
        Self {
            broker: setup.flag("auth", auth.display()).start(),
            _dir: dir,
            api_key: made.stdout.trim().to_owned(),
        }
    }

    fn sign(&self, names: CertificateNames) -> Pair {
        self.broker.tls().unwrap().ca.client(names)
    }

    /// Asks with this certificate; gives the status, or why there is no answer.
    fn publish(&self, pair: Option<&Pair>, token: &str, topic: &str) -> Result<u16, String> {
        match token {
            "" => self.publish_with(pair, "", topic),
            token => self.publish_with(pair, &format!("Authorization: Bearer {token}\r\n"), topic),
        }
    }

    /// The same, with these header lines.
    fn publish_with(&self, pair: Option<&Pair>, lines: &str, topic: &str) -> Result<u16, String> {
        let tls = self.broker.tls().unwrap();
        let config = match pair {
            Some(pair) => tls.client_with(pair),
            None => tls.client(),
        };
        let request = format!(
            "POST /v1/topics/{topic}/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\
             Content-Type: application/json\r\nContent-Length: 1\r\n\r\n7"
        );
        let answer = ask(&self.broker, config, &request)?;
        let status = answer.split(' ').nth(1).expect("a status");
        Ok(status.parse().unwrap())
    }
}

const ORDERS: CertificateNames = CertificateNames {
    common_name: Some("from-its-common-name"),
    uris: &["spiffe://mesh/orders"],
    hosts: &["orders.example"],
    has_run_out: false,
};

#[test]
fn a_required_certificate_is_asked_of_everybody() {
    let mesh = Mesh::start("required");
    let orders = mesh.sign(ORDERS);
    assert_eq!(mesh.publish(Some(&orders), "", "orders.1"), Ok(200));

    let foreign = Ca::new().client(ORDERS);
    let old = mesh.sign(CertificateNames {
        has_run_out: true,
        ..ORDERS
    });
    for (pair, said) in [
        (None, "CertificateRequired"),
        // A CA of the same name: it is the signature that is wrong.
        (Some(&foreign), "DecryptError"),
        (Some(&old), "Expired"),
    ] {
        // A good key does not help who does not get in.
        let refused = mesh.publish(pair, &mesh.api_key, "back.a").unwrap_err();
        assert!(refused.contains(said), "{said}: {refused}");
    }
    let told = "a client's certificate was not taken";
    wait_until("each is told of", || {
        (mesh.broker.log().matches(told).count() == 3).then_some(())
    });
    assert_eq!(mesh.publish(Some(&orders), "", "orders.1"), Ok(200));
}

#[test]
fn a_certificate_is_an_identity_and_rules_apply_to_it() {
    let mesh = Mesh::start("optional");
    let orders = mesh.sign(ORDERS);
    let named = mesh.sign(CertificateNames {
        common_name: Some("billing"),
        ..CertificateNames::default()
    });
    let nameless = mesh.sign(CertificateNames::default());
    let key = &mesh.api_key;
    for (pair, token, topic, status) in [
        (Some(&orders), "", "orders.1", 200),
        (Some(&orders), "", "back.a", 403),
        (Some(&named), "", "from.billing", 200),
        (Some(&named), "", "from.orders", 403),
        (Some(&named), "", "orders.1", 403),
        // What is shown in the request counts more, and nothing falls back.
        (Some(&orders), key, "back.a", 200),
        (Some(&orders), key, "orders.1", 403),
        (Some(&orders), "garbage", "orders.1", 401),
        (None, key, "back.a", 200),
        (None, "", "orders.1", 401),
        (Some(&nameless), "", "orders.1", 401),
        (Some(&nameless), key, "back.a", 200),
    ] {
        let found = mesh.publish(pair, token, topic);
        assert_eq!(
            found,
            Ok(status),
            "{topic} with a token of {} bytes",
            token.len()
        );
    }
}

/// A browser shows it by itself, whatever page asks.
#[test]
fn a_certificate_counts_for_no_foreign_page() {
    let app = ("allowed-origin", "https://app.example");
    let mesh = Mesh::with("optional", RULES, &[app]);
    let orders = mesh.sign(ORDERS);
    let key = format!("Authorization: Bearer {}\r\n", mesh.api_key);
    let foreign = "Origin: https://app.example\r\n";
    for (lines, topic, status) in [
        ("", "orders.1", 200),
        ("Origin: https://localhost\r\n", "orders.1", 200),
        (foreign, "orders.1", 401),
        ("Origin: https://other.example\r\n", "orders.1", 403),
        // What such a page shows itself counts.
        (&format!("{foreign}{key}"), "back.a", 200),
    ] {
        let found = mesh.publish_with(Some(&orders), lines, topic);
        assert_eq!(found, Ok(status), "{lines}");
    }
    for (lines, is_let_in) in [("", true), (foreign, false)] {
        let tls = mesh.broker.tls().unwrap();
        let mut wire = Wire::new(
            mesh.broker.dial_tcp(None, None),
            Some(tls.client_with(&orders)),
        )
        .unwrap();
        let end = "Sec-WebSocket-Protocol: hark.v1.json\r\n";
        wire.write_all(upgrade(&mesh.broker, &format!("{lines}{end}")).as_bytes())
            .unwrap();
        let frame = json!({"type": "publish", "id": 1, "topic": "orders.1", "data": 1});
        let frame = frame.to_string();
        let length = u8::try_from(frame.len()).unwrap();
        let mut bytes = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        bytes.extend(frame.bytes());
        wire.write_all(&bytes).unwrap();
        let mut said = Vec::new();
        let is_said = |said: &[u8]| {
            let text = String::from_utf8_lossy(said).into_owned();
            let answer = [("\"published\"", true), ("\"unauthenticated\"", false)];
            let mut found = answer.iter().filter(|(word, _)| text.contains(word));
            found.next().map(|&(_, yes)| yes)
        };
        let found = loop {
            let mut some = [0; 4096];
            let count = wire.read(&mut some).unwrap();
            said.extend(&some[..count]);
            if let Some(found) = is_said(&said) {
                break found;
            }
            assert!(count > 0, "{}", String::from_utf8_lossy(&said));
        };
        assert_eq!(found, is_let_in, "{lines}");
    }
}

/// It says who the proxy is, and never who is behind it.
#[test]
fn a_proxys_certificate_is_not_its_clients() {
    let rules = format!(
        "{RULES}[[rule]]\nwho = \"proxy ana\"\npublish = [\"anas\"]\n[proxy_identity]\nheader = \"X-Forwarded-User\"\nissuer = \"proxy\"\n"
    );
    let flags = [
        ("trusted-proxy", "127.0.0.1"),
        ("allowed-origin", "https://app.example"),
    ];
    let mesh = Mesh::with("required", &rules, &flags);
    let orders = mesh.sign(ORDERS);
    let foreign = "Origin: https://app.example\r\n";
    let ana = "X-Forwarded-User: ana\r\n";
    for (lines, topic, status) in [
        (ana, "anas", 200),
        (ana, "orders.1", 403),
        (&format!("{foreign}{ana}"), "anas", 401),
        (&format!("{foreign}{ana}"), "orders.1", 401),
        ("X-Forwarded-User:\r\n", "orders.1", 401),
        ("", "orders.1", 401),
    ] {
        let found = mesh.publish_with(Some(&orders), lines, topic);
        assert_eq!(found, Ok(status), "{lines}{topic}");
    }
}

#[tokio::test]
async fn a_session_is_the_certificates_and_nobody_elses() {
    let mesh = Mesh::start("optional");
    let config = mesh.broker.tls().unwrap().client_with(&mesh.sign(ORDERS));
    let ws = Ws::connect_with(mesh.broker.addr(), None, Some(config)).await;
    let mut ws = ws.unwrap();
    let receipt = ws
        .ask(json!({"type": "publish", "topic": "orders.1", "data": 1}))
        .await;
    assert_eq!(receipt["type"], "published", "{receipt}");
    let refused = ws.ask(json!({"type": "auth", "token": mesh.api_key})).await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
    let refused = ws
        .ask(json!({"type": "publish", "topic": "back.a", "data": 1}))
        .await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
}

/// The ports of a broker's greeting, in the order of its listeners.
fn ports(broker: &Broker) -> Vec<u16> {
    let mut ports = Vec::new();
    for rest in broker.greeting().split("://127.0.0.1:").skip(1) {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        let port = rest[..digits].parse().unwrap();
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

#[test]
fn each_listener_has_its_own_tls_and_its_own_routes() {
    let broker = Setup::new()
        .tls(Tls::new())
        .listener(",routes=clients")
        .flag("listen", "127.0.0.1:0,routes=operators")
        .flag("listen", "127.0.0.1:0")
        .start();
    let ports = ports(&broker);
    assert_eq!(ports.len(), 3, "{}", broker.greeting());
    let plain = |port: u16| Http::at(&format!("http://127.0.0.1:{port}"));
    let (clients, operators, all) = (broker.http(), plain(ports[1]), plain(ports[2]));
    clients.publish("a", &json!(1)).ok();
    // The same broker behind each.
    assert_eq!(all.get("/v1/topics/a").ok().json()["head"], 1);
    for (path, of_clients, of_operators) in [
        ("/v1/topics/a", 200, 404),
        ("/v1/topics", 200, 404),
        ("/", 200, 404),
        ("/healthz", 404, 200),
        ("/readyz", 404, 200),
        ("/%68ealthz", 404, 200),
        ("/healthz/", 404, 404),
        ("/nowhere", 404, 404),
    ] {
        assert_eq!(clients.get(path).status, of_clients, "{path} of clients");
        assert_eq!(
            operators.get(path).status,
            of_operators,
            "{path} of operators"
        );
        let of_all = if path == "/healthz/" {
            404
        } else {
            of_clients.min(of_operators)
        };
        assert_eq!(all.get(path).status, of_all, "{path} of all");
    }
    let not_served = operators.get("/v1/topics");
    not_served.expect_error(404, "unsupported");
    // As where there is no route.
    let said = |answer: hark_tests::Response| answer.body.replace("/v1/topics", "/nowhere");
    assert_eq!(said(not_served), operators.get("/nowhere").body);
    RawWs::connect(&broker);
}

/// A client that is cut off and one that is told are not the same over TLS: the end is said (`close_notify`).
#[test]
fn when_hark_ends_tls_ends_with_a_word() {
    let mut broker = Setup::new().tls(Tls::new()).flag("drain", "30s").start();
    let mut idle = broker.dial(None, None);
    idle.write_all(get("/healthz").replace("close", "keep-alive").as_bytes())
        .unwrap();
    let mut status = [0; 12];
    idle.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let mut ws = RawWs::connect(&broker);
    // It has not even begun to shake hands.
    let _silent = broker.dial_tcp(None, None);
    broker.signal("TERM");
    assert_eq!(ws.expect_close(), 1012);
    ws.send(hark_tests::Op::CLOSE, &1012_u16.to_be_bytes());
    ws.expect_end();
    // Where TLS ends without a word, that is an error.
    idle.read_to_end(&mut Vec::new()).unwrap();
    let exit = broker.wait();
    assert_eq!(exit.code, Some(0), "{exit:#?}");
}

#[test]
fn who_closes_is_answered_with_a_close_of_tls() {
    let broker = over_tls();
    let mut wire = broker.dial(None, None);
    wire.write_all(get("/healthz").as_bytes()).unwrap();
    wire.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    // An end without a word would be an error.
    wire.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

/// Frames of many small messages, which are written past actix-http in pieces.
#[tokio::test]
async fn large_and_small_frames_come_whole_and_in_order() {
    let broker = over_tls();
    let mut reader = Ws::connect(&broker).await;
    reader.subscribe("a", json!("now")).await;
    assert_eq!(reader.recv().await["type"], "caught_up");
    let mut writer = Ws::connect(&broker).await;
    for n in 0..300 {
        let size = if n % 50 == 0 { 700_000 } else { n };
        writer
            .publish("a", json!({"n": n, "filling": "x".repeat(size)}))
            .await;
    }
    for n in 0..300 {
        let message = reader.message().await;
        assert_eq!(message["data"]["n"], n);
    }
}

#[cfg(feature = "peers")]
#[test]
fn others_programs_come_in_by_https_and_wss() {
    use hark_tests::peers::{program, python, scripts};

    let broker = over_tls();
    let ca = broker.tls().unwrap().path("ca.pem");
    let mut curl = program("curl");
    curl.args(["--silent", "--show-error", "--fail", "--cacert"])
        .arg(&ca);
    curl.args(["--json", "7", &broker.url("/v1/topics/a/messages")]);
    let answered = Cli::spawn(curl).wait();
    assert_eq!(answered.code, Some(0), "{answered:#?}");

    let mut subscriber = python("subscriber.py");
    subscriber.args([&broker.ws_url(), "a", "1"]);
    subscriber.env("SSL_CERT_FILE", &ca);
    let heard = Cli::spawn(subscriber).wait();
    assert_eq!(heard.code, Some(0), "{heard:#?}");
    assert!(heard.stdout.contains("\"data\":7"), "{heard:#?}");

    // Node 20 has no WebSocket of its own.
    let mut subscriber = program("node24");
    subscriber.arg(scripts().join("node/tls_client.mjs"));
    subscriber
        .arg(broker.url(""))
        .env("NODE_EXTRA_CA_CERTS", &ca);
    let heard = Cli::spawn(subscriber).wait();
    assert_eq!(heard.code, Some(0), "{heard:#?}");
    assert!(heard.stdout.contains("published and heard"), "{heard:#?}");
}
