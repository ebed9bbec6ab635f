//! Who the clients of the command line and of the SDKs are, and whom they trust: tokens in files, certificates of an authority that the system does not
//! know, and certificates of their own. No secret stands in an argument.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt as _;
use hark_client::{Client, ClientError, ConnectionEvent, FirstConnection};
use hark_tests::{Authority, Broker, Cli, Exit, Setup, TlsFront, Ws, hark};
#[cfg(feature = "peers")]
use hark_tests::{peers, wait_until};
use serde_json::json;
use tempfile::TempDir;

/// Every command that talks to a broker; the last two by HTTP.
const COMMANDS: [&[&str]; 5] = [
    &["pub", "a", "1"],
    &["sub", "a", "--from", "earliest", "--count", "1"],
    &["topics", "describe", "a"],
    &["topics"],
    &["log", "export"],
];

const RULES: &str = r#"
[[issuer]]
name = "https://app.example"
audience = ["hark"]
algorithm = "HS256"
secret_file = "secret"

[[rule]]
who = "*"
publish = [">"]
subscribe = [">"]
monitor = true
"#;

fn run(args: &[&str], url: &str, set_up: impl FnOnce(&mut Command)) -> Exit {
    let mut command = hark();
    command.args(args).args(["--url", url]);
    set_up(&mut command);
    Cli::spawn(command).wait()
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// An `auth.toml` with its secret, and tokens that are signed with it.
struct Issuer(TempDir);

impl Issuer {
    fn new() -> Self {
        let issuer = Self(TempDir::new().unwrap());
        write(&issuer.path("auth.toml"), RULES, 0o600);
        issuer.set_secret('a');
        issuer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What was signed with another one is no good any more.
    fn set_secret(&self, letter: char) {
        write(&self.path("secret"), &letter.to_string().repeat(32), 0o600);
    }

    fn setup(&self) -> Setup {
        Setup::new().flag("auth", self.path("auth.toml").display())
    }

    fn token(&self) -> String {
        let mut command = hark();
        command.args(
            "token make --issuer https://app.example --audience hark --subject ana".split(' '),
        );
        command.arg("--secret-file").arg(self.path("secret"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a token to the file that the clients read.
    fn write_token(&self) -> PathBuf {
        let file = self.path("token");
        write(&file, &self.token(), 0o600);
        file
    }
}

#[test]
fn a_token_comes_from_a_file_or_the_environment_and_never_from_an_argument() {
    let issuer = Issuer::new();
    let broker = issuer.setup().start();
    let url = broker.ws_url();
    let (token, file) = (issuer.token(), issuer.write_token());
    for args in COMMANDS {
        let given = run(args, &url, |command| {
            command.arg("--token-file").arg(&file);
        });
        assert_eq!(given.code, Some(0), "{args:?}: {given:#?}");
        let set = run(args, &url, |command| {
            command.env("HARK_TOKEN_FILE", &file);
        });
        assert_eq!(set.code, Some(0), "{args:?}: {set:#?}");
        let set = run(args, &url, |command| {
            command.env("HARK_TOKEN", token.trim());
        });
        assert_eq!(set.code, Some(0), "{args:?}: {set:#?}");
        // The file counts, where both are there.
        let both = run(args, &url, |command| {
            command
                .env("HARK_TOKEN", "garbage")
                .env("HARK_TOKEN_FILE", &file);
        });
        assert_eq!(both.code, Some(0), "{args:?}: {both:#?}");

        let shown = run(args, &url, |command| {
            command.args(["--token", token.trim()]);
        });
        assert_eq!(shown.code, Some(2), "{args:?}: {shown:#?}");
        assert!(
            shown.stderr.contains("--token-file") && shown.stderr.contains("HARK_TOKEN"),
            "{args:?}: {shown:#?}"
        );
        assert!(!shown.stderr.contains(token.trim()), "{args:?}: {shown:#?}");
        let none = run(args, &url, |_| {});
        assert_eq!(none.code, Some(1), "{args:?}: {none:#?}");
        if args[0] == "topics" {
            assert!(none.stderr.contains("--token-file"), "{args:?}: {none:#?}");
        }
    }
}

#[test]
fn a_file_that_others_can_read_or_that_holds_no_token_is_refused() {
    let broker = Broker::start();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("token");
    let refused = |said: &str| {
        for args in COMMANDS {
            let exit = run(args, &broker.ws_url(), |command| {
                command.arg("--token-file").arg(&file);
            });
            assert_eq!(exit.code, Some(1), "{args:?}: {exit:#?}");
            assert!(exit.stderr.contains(said), "{args:?}: {exit:#?}");
            assert!(!exit.stderr.contains("secret-1"), "{args:?}: {exit:#?}");
        }
    };
    refused("cannot read");
    let made = Command::new("mkfifo").arg("-m600").arg(&file).status();
    assert!(made.unwrap().success());
    refused("no regular file");
    std::fs::remove_file(&file).unwrap();
    write(&file, "secret-1", 0o644);
    refused("chmod 600");
    for nothing in ["", " \n", "secret-1\nsecret-2", "s\u{e9}cret-1"] {
        write(&file, nothing, 0o600);
        refused("holds no token");
    }
}

/// A token that has been exchanged counts with the next connection.
#[test]
fn a_token_file_is_read_anew_for_every_connection() {
    let issuer = Issuer::new();
    let mut broker = issuer.setup().restarts().start();
    let file = issuer.write_token();
    let mut sub = hark();
    sub.args(["sub", "a", "--from", "earliest", "--url", &broker.ws_url()]);
    sub.arg("--token-file").arg(&file);
    let mut sub = Cli::spawn(sub);
    let publish = |broker: &Broker, data: &str| {
        let exit = run(&["pub", "a", data], &broker.ws_url(), |command| {
            command.arg("--token-file").arg(&file);
        });
        assert_eq!(exit.code, Some(0), "{exit:#?}");
    };
    publish(&broker, "1");
    assert!(sub.line().contains("\"data\":1"));
    broker.stop();
    issuer.set_secret('b');
    issuer.write_token();
    broker.start_again();
    publish(&broker, "2");
    assert!(sub.line().contains("\"data\":2"));
}

#[tokio::test]
async fn an_authority_that_the_system_does_not_know_is_trusted_where_it_is_given() {
    let broker = Broker::start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let front = TlsFront::start(&broker, &authority, None);
    for args in COMMANDS {
        for url in [front.url("https", ""), front.url("wss", "/ws")] {
            let given = run(args, &url, |command| {
                command.arg("--ca").arg(authority.file());
            });
            assert_eq!(given.code, Some(0), "{args:?} {url}: {given:#?}");
            let set = run(args, &url, |command| {
                command.env("HARK_CA_FILE", authority.file());
            });
            assert_eq!(set.code, Some(0), "{args:?} {url}: {set:#?}");
            for other in [None, Some(stranger.file())] {
                let exit = run(args, &url, |command| {
                    command.args(
                        other
                            .iter()
                            .flat_map(|file| [OsStr::new("--ca"), file.as_os_str()]),
                    );
                });
                assert_eq!(exit.code, Some(1), "{args:?} {url}: {exit:#?}");
                assert!(exit.stderr.contains("--ca"), "{args:?} {url}: {exit:#?}");
            }
            let (_, key) = authority.issue("nobody");
            for (file, said) in [
                (Path::new("/nowhere.pem"), "/nowhere.pem"),
                (key.as_path(), "no certificate"),
            ] {
                let exit = run(args, &url, |command| {
                    command.arg("--ca").arg(file);
                });
                assert_ne!(exit.code, Some(0), "{args:?} {url}: {exit:#?}");
                assert!(exit.stderr.contains(said), "{args:?} {url}: {exit:#?}");
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_of_the_client_is_shown_where_it_is_asked_for() {
    let broker = Broker::start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let front = TlsFront::start(&broker, &authority, Some(&authority));
    let (ana, strange) = (authority.issue("ana"), stranger.issue("ana"));
    for args in COMMANDS {
        let url = front.url("https", "");
        let with = |certificate: Option<&PathBuf>, key: Option<&PathBuf>| {
            run(args, &url, |command| {
                command.arg("--ca").arg(authority.file());
                for (flag, file) in [("--client-certificate", certificate), ("--client-key", key)] {
                    command.args(
                        file.iter()
                            .flat_map(|file| [OsStr::new(flag), file.as_os_str()]),
                    );
                }
            })
        };
        let taken = with(Some(&ana.0), Some(&ana.1));
        assert_eq!(taken.code, Some(0), "{args:?}: {taken:#?}");
        let without = with(None, None);
        assert_eq!(without.code, Some(1), "{args:?}: {without:#?}");
        assert!(
            without.stderr.contains("--client-certificate"),
            "{args:?}: {without:#?}"
        );
        let refused = with(Some(&strange.0), Some(&strange.1));
        assert_eq!(refused.code, Some(1), "{args:?}: {refused:#?}");
        assert!(
            refused.stderr.contains("does not take"),
            "{args:?}: {refused:#?}"
        );
        let half = with(Some(&ana.0), None);
        assert_eq!(half.code, Some(2), "{args:?}: {half:#?}");
        assert!(half.stderr.contains("--client-key"), "{args:?}: {half:#?}");
        let another = with(Some(&ana.0), Some(&strange.1));
        assert_ne!(another.code, Some(0), "{args:?}: {another:#?}");
        assert!(
            another.stderr.contains("no certificate and its key"),
            "{args:?}: {another:#?}"
        );
    }
    std::fs::set_permissions(&ana.1, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exit = run(&["topics"], &front.url("https", ""), |command| {
        command.env("HARK_CLIENT_CERTIFICATE_FILE", &ana.0);
        command.env("HARK_CLIENT_KEY_FILE", &ana.1);
    });
    assert!(exit.stderr.contains("chmod 600"), "{exit:#?}");
}

#[tokio::test]
async fn the_rust_client_trusts_and_shows_what_it_is_given() {
    let broker = Broker::start();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let front = TlsFront::start(&broker, &authority, Some(&authority));
    let url = front.url("wss", "/ws");
    let (certificate, key) = authority.issue("ana");

    let client = Client::builder(&url)
        .authorities(authority.file())
        .certificate(&certificate, &key);
    let client = client.connect().await.unwrap();
    client.publish("a", &1).receipt().await.unwrap();

    let reason = |error: ClientError| match error {
        ClientError::Unreachable { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let nobody = Client::builder(&url).connect().await.unwrap_err();
    let nobody = reason(nobody);
    assert!(nobody.contains("ClientBuilder::authorities"), "{nobody}");
    let unnamed = Client::builder(&url).authorities(authority.file());
    let unnamed = reason(unnamed.connect().await.unwrap_err());
    assert!(unnamed.contains("ClientBuilder::certificate"), "{unnamed}");

    // What no attempt can mend is told before the first.
    let wrong = Client::builder(&url)
        .authorities("/nowhere.pem")
        .first_connection(FirstConnection::InBackground);
    let wrong = wrong.connect().await.unwrap_err();
    assert!(
        matches!(&wrong, ClientError::BadCertificates { reason } if reason.contains("/nowhere.pem")),
        "{wrong:?}"
    );

    // The files are read anew for every connection.
    let given = TempDir::new().unwrap();
    let given = given.path().join("ca.pem");
    std::fs::copy(stranger.file(), &given).unwrap();
    let later = Client::builder(&url)
        .authorities(&given)
        .certificate(&certificate, &key)
        .first_connection(FirstConnection::InBackground);
    let later = later.connect().await.unwrap();
    let mut events = later.events();
    while !matches!(
        events.next().await,
        Some(ConnectionEvent::Reconnecting { .. })
    ) {}
    std::fs::copy(authority.file(), &given).unwrap();
    later.publish("a", &2).receipt().await.unwrap();
    later.close(Duration::from_secs(5)).await.unwrap();
}

/// As its README says: Node trusts what NODE_EXTRA_CA_CERTS names, for the WebSocket and for HTTP.
#[cfg(feature = "peers")]
#[tokio::test]
async fn the_javascript_client_trusts_what_node_is_told_to() {
    let broker = Broker::start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let authority = Authority::new();
    let front = TlsFront::start(&broker, &authority, None);
    for transport in ["websocket", "sse", "longpoll"] {
        let subscribe = |trusted: bool| {
            let mut command = peers::node("sdk_subscriber.mjs");
            let url = front.url("https", "");
            command.args([&url, "a", "1", "earliest", transport]);
            if trusted {
                command.env("NODE_EXTRA_CA_CERTS", authority.file());
            }
            Cli::spawn(command)
        };
        let mut trusting = subscribe(true);
        assert!(trusting.line().contains("\"data\":1"), "{transport}");
        let stranger = subscribe(false);
        wait_until("it is not trusted", || {
            stranger.said().contains("unreachable").then_some(())
        });
    }
}
