//! `--url` in all its forms, and what is said when what answers there is no Hark: for every command that talks to a broker.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hark_tests::{Broker, Cli, Exit, Names, Setup, Ws, hark, wait_until};
use serde_json::json;

/// Every command that talks to a broker; from the fourth on, by HTTP.
const COMMANDS: [&[&str]; 6] = [
    &["pub", "a", "1"],
    &["pub", "a", "-"],
    &["sub", "a", "--from", "earliest", "--count", "1"],
    &["topics"],
    &["topics", "describe", "a"],
    &["log", "export"],
];

fn run(args: &[&str], url: &str) -> Exit {
    let mut command = hark();
    command.args(args).args(["--url", url]);
    Cli::spawn(command).wait()
}

#[tokio::test]
async fn every_form_of_the_address_reaches_the_broker() {
    let broker = Broker::start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let there = broker.addr();
    for url in [
        format!("ws://{there}/ws"),
        format!("ws://{there}/ws/"),
        format!("ws://{there}"),
        format!("WS://{there}/"),
        format!("http://{there}"),
        format!("http://{there}/"),
        format!("http://{there}/ws"),
        format!("{there}"),
        format!("{there}/ws"),
        format!("localhost:{}", there.port()),
    ] {
        for args in COMMANDS {
            let exit = run(args, &url);
            assert_eq!(exit.code, Some(0), "{args:?} {url}: {exit:#?}");
            assert_eq!(exit.stderr, "", "{args:?} {url}");
        }
    }
    // By the environment too.
    let mut command = hark();
    command.arg("topics").env("HARK_URL", there.to_string());
    assert_eq!(Cli::spawn(command).wait().code, Some(0));
}

#[test]
fn what_is_no_address_is_a_matter_of_usage() {
    for url in [
        "nonsense",
        "ftp://127.0.0.1:4275",
        "http://",
        "127.0.0.1:port",
        "a:b@127.0.0.1:1",
    ] {
        for args in COMMANDS {
            let exit = run(args, url);
            assert_eq!(exit.code, Some(2), "{args:?} {url}: {exit:#?}");
            assert!(
                exit.stderr.contains("http://HOST:PORT"),
                "{args:?} {url}: {exit:#?}"
            );
        }
    }
}

/// Somebody else who listens, and says the same to everybody.
struct Other {
    addr: SocketAddr,
    asked: Arc<AtomicU64>,
}

impl Other {
    fn says(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || answer_all(stream, answer));
            }
        });
        Self { addr, asked }
    }
}

fn answer_all(mut stream: TcpStream, answer: &[u8]) {
    let mut buffer = [0; 64 * 1024];
    // Whoever asks has asked; whoever has gone hears nothing.
    if matches!(stream.read(&mut buffer), Ok(1..)) && stream.write_all(answer).is_ok() {
        drop(stream.shutdown(std::net::Shutdown::Write));
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    }
}

const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: Apache/2.4.57 (Debian)\r\nContent-Type: text/html\r\nContent-Length: 58\r\nConnection: close\r\n\r\n<!doctype html><html><body><h1>It works!</h1></body></html>";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nServer: nginx/1.22.1\r\nContent-Type: text/html\r\nContent-Length: 49\r\nConnection: close\r\n\r\n<html><head><title>404 Not Found</title></head>\r\n";
const FORBIDDEN: &[u8] = b"HTTP/1.1 403 Forbidden\r\nServer: proxy\r\nContent-Type: text/html\r\nContent-Length: 23\r\nConnection: close\r\n\r\n<html>No entry.</html>\n";
const JSON: &[u8] = b"HTTP/1.1 200 OK\r\nServer: other\r\nContent-Type: application/json\r\nContent-Length: 11\r\nConnection: close\r\n\r\n{\"ok\":true}";
const MOVED: &[u8] = b"HTTP/1.1 301 Moved Permanently\r\nServer: nginx\r\nLocation: https://hark.example/there\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n";
/// A fatal alert of TLS, as it answers what is no TLS: handshake failure.
const TLS_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 40];

/// Names what answered, says what to do, and prints no page.
#[test]
fn who_answers_in_the_place_of_hark_is_named() {
    for (answer, said) in [
        (
            PAGE,
            &[
                "no Hark broker",
                "Apache/2.4.57 (Debian)",
                "200 OK",
                "text/html",
            ][..],
        ),
        (
            NOT_FOUND,
            &["no Hark broker", "nginx/1.22.1", "404 Not Found"],
        ),
        (FORBIDDEN, &["no Hark broker", "proxy", "403 Forbidden"]),
        (JSON, &["no Hark broker", "other", "application/json"]),
        (MOVED, &["https://hark.example/there"]),
        (SSH, &["does not speak HTTP"]),
        (TLS_ALERT, &["does not speak HTTP"]),
        (b"", &["does not speak HTTP"]),
    ] {
        let other = Other::says(answer);
        for url in [
            format!("http://{}", other.addr),
            format!("ws://{}/ws", other.addr),
        ] {
            for args in COMMANDS {
                let exit = run(args, &url);
                assert_eq!(exit.code, Some(1), "{args:?} {url}: {exit:#?}");
                for part in said.iter().chain(&["--url", &*other.addr.to_string()]) {
                    assert!(
                        exit.stderr.contains(part),
                        "{args:?} {url} {part}: {exit:#?}"
                    );
                }
                assert!(
                    !exit.stderr.contains('<') && exit.stderr.lines().count() == 1,
                    "{args:?} {url}: {exit:#?}"
                );
                assert_eq!(exit.stdout, "");
            }
        }
        assert!(other.asked.load(Ordering::SeqCst) > 0);
    }
}

#[test]
fn nobody_there_says_what_to_do() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for args in COMMANDS {
        let exit = run(args, &format!("ws://{closed}/ws"));
        assert_eq!(exit.code, Some(1), "{args:?}: {exit:#?}");
        for part in [
            &*closed.to_string(),
            "nothing listens",
            "start the broker",
            "--url",
        ] {
            assert!(exit.stderr.contains(part), "{args:?} {part}: {exit:#?}");
        }
        let exit = run(args, "http://no-such-host.invalid:4275");
        assert_eq!(exit.code, Some(1), "{args:?}: {exit:#?}");
        for part in ["there is no host", "no-such-host.invalid", "--url"] {
            assert!(exit.stderr.contains(part), "{args:?} {part}: {exit:#?}");
        }
    }
}

#[test]
fn tls_where_there_is_none_says_so() {
    let broker = Broker::start();
    for url in [
        format!("https://{}", broker.addr()),
        format!("wss://{}/ws", broker.addr()),
    ] {
        for args in COMMANDS {
            let exit = run(args, &url);
            assert_eq!(exit.code, Some(1), "{args:?}: {exit:#?}");
            let plain = format!("http://{}", broker.addr());
            for part in ["does not speak TLS", &plain] {
                assert!(
                    exit.stderr.contains(part),
                    "{args:?} {url} {part}: {exit:#?}"
                );
            }
        }
    }
}

/// What Hark itself refuses it says in its own words.
#[test]
fn what_hark_refuses_is_told_in_its_words() {
    let broker = Broker::start();
    for args in COMMANDS {
        let exit = run(args, &format!("http://{}/nowhere", broker.addr()));
        assert_eq!(exit.code, Some(1), "{args:?}: {exit:#?}");
        assert!(
            exit.stderr.contains("Hark refused") && exit.stderr.contains("/nowhere"),
            "{args:?}: {exit:#?}"
        );
    }
}

/// With `--wait` only Hark's own word ends it: whatever else says no may stand between for a while.
#[test]
fn who_waits_is_ended_by_hark_alone() {
    const TEXT: &[u8] =
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nConnection: close\r\n\r\nno entry\n";
    const FOREIGN: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 24\r\nConnection: close\r\n\r\n{\"message\":\"sign in!\"}\r\n";
    const HARKS: &[u8] = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 35\r\nConnection: close\r\n\r\n{\"code\":\"forbidden\",\"message\":\"no\"}";
    let start = |answer: &'static [u8]| {
        let other = Other::says(answer);
        let mut command = hark();
        command.args(["sub", "a", "--wait"]);
        command.args(["--url", &format!("http://{}", other.addr)]);
        Cli::spawn(command)
    };
    for answer in [TEXT, FOREIGN] {
        let mut client = start(answer);
        wait_until("it says what it waits for", || {
            client.said().contains("trying again").then_some(())
        });
        assert!(client.is_running(), "{}", client.said());
    }
    let exit = start(HARKS).wait();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(exit.stderr.contains("Hark refused (403"), "{exit:#?}");
}

/// With `--wait`, also where it is not known yet what the address stands for.
#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_waited_for() {
    let mut broker = Setup::new().restarts().start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let there = broker.addr();
    for url in [
        format!("ws://{there}/ws"),
        format!("http://{there}"),
        there.to_string(),
    ] {
        broker.stop();
        let start = |args: &[&str]| {
            let mut command = hark();
            command.args(args).args(["--wait", "--url", &url]);
            Cli::spawn(command)
        };
        let mut waiting = [
            start(&["pub", "b", "1"]),
            start(&["sub", "a", "--from", "earliest", "--count", "1"]),
        ];
        for client in &mut waiting {
            wait_until("it says what it waits for", || {
                client.said().contains("trying again").then_some(())
            });
            assert!(client.is_running(), "{}", client.said());
        }
        broker.start_again();
        for client in waiting {
            let exit = client.wait();
            assert_eq!(exit.code, Some(0), "{url}: {exit:#?}");
            assert!(exit.stderr.ends_with("connected\n"), "{url}: {exit:#?}");
            assert_eq!(
                exit.stderr.matches("trying again").count(),
                1,
                "{url}: {exit:#?}"
            );
        }
    }
}

/// One of the addresses of a name is dead: it takes no connection, and refuses none.
#[tokio::test]
async fn a_dead_address_of_a_name_is_passed_over() {
    // Without authentication it answers to the names of this machine only.
    let broker = Setup::new().env("HARK_INSECURE_NO_AUTH", "1").start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let names = Names::dead_before(broker.addr());
    let there = names.authority();
    let waiting = COMMANDS[..3]
        .iter()
        .map(|args| [args, &["--wait"][..]].concat());
    let all = COMMANDS.iter().map(|args| args.to_vec()).chain(waiting);
    for args in all {
        for url in [format!("http://{there}"), format!("ws://{there}/ws")] {
            let mut command = hark();
            command.args(&args).args(["--url", &url]).envs(names.env());
            let begun = Instant::now();
            let exit = Cli::spawn(command).wait();
            let took = begun.elapsed();
            assert_eq!(exit.code, Some(0), "{args:?} {url}: {exit:#?}");
            // Tried one after the other, the dead one has ten seconds at least.
            assert!(took < Duration::from_secs(8), "{args:?} {url}: {took:?}");
        }
    }
}

/// A proxy that speaks TLS in front of the broker, with a certificate that is trusted where SSL_CERT_FILE names it.
#[cfg(feature = "peers")]
#[tokio::test]
async fn a_broker_behind_tls_is_reached_and_told_from_one_without() {
    let broker = Broker::start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .args([key.as_path(), "-out".as_ref(), cert.as_path()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let server = format!(
        "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {}; \
         location /hark/ {{ proxy_pass http://hark/; proxy_http_version 1.1; proxy_set_header Host $http_host; \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hark_connection; }} }}",
        cert.display(),
        key.display()
    );
    let _nginx = hark_tests::Nginx::with(&broker, &server);
    let there = format!("localhost:{port}");
    for args in COMMANDS {
        let run = |url: &str, trusted: bool| {
            let mut command = hark();
            command.args(args).args(["--url", url]);
            if trusted {
                command.env("SSL_CERT_FILE", &cert);
            }
            Cli::spawn(command).wait()
        };
        for url in [
            format!("https://{there}/hark"),
            format!("wss://{there}/hark/ws"),
        ] {
            let exit = run(&url, true);
            assert_eq!(exit.code, Some(0), "{args:?} {url}: {exit:#?}");
            let exit = run(&url, false);
            assert_eq!(exit.code, Some(1), "{args:?} {url}: {exit:#?}");
            for part in ["certificate", "SSL_CERT_FILE"] {
                assert!(exit.stderr.contains(part), "{args:?} {url}: {exit:#?}");
            }
        }
        // Another name than the certificate's.
        let exit = run(&format!("https://127.0.0.1:{port}/hark"), true);
        assert!(exit.stderr.contains("made out to"), "{args:?}: {exit:#?}");
        // Elsewhere on the same proxy.
        let exit = run(&format!("https://{there}"), true);
        assert!(
            exit.stderr.contains("nginx") && !exit.stderr.contains('<'),
            "{args:?}: {exit:#?}"
        );
        for url in [there.clone(), format!("ws://{there}/hark/ws")] {
            let exit = run(&url, true);
            assert_eq!(exit.code, Some(1), "{args:?} {url}: {exit:#?}");
            let secure = format!("speaks TLS; write https://{there}");
            assert!(exit.stderr.contains(&secure), "{args:?} {url}: {exit:#?}");
        }
    }
}
