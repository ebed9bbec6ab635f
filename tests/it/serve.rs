//! `hark serve` as it is started: the forms of `--listen`, a data directory whose owner is about to end, and what it warns of.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::{Child, Stdio};

use hark_tests::{Cli, Setup, Ws, hark, wait_until};
use serde_json::json;

/// A broker that was started with `--listen LISTEN`, and what it said first. Killed on drop.
struct Served {
    child: Child,
    greeting: String,
    _dir: tempfile::TempDir,
}

impl Served {
    fn at(listen: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = hark()
            .args(["serve", "--listen", listen, "--data-dir"])
            .arg(dir.path().join("data"))
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut greeting = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut greeting).unwrap();
        Self {
            child,
            greeting,
            _dir: dir,
        }
    }

    /// The ports that it says it serves, of this host.
    fn ports(&self, host: &str) -> Vec<u16> {
        let begin = format!("http://{host}:");
        let named = self.greeting.split(&begin).skip(1);
        let port = |rest: &str| {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
            rest[..digits].parse().unwrap()
        };
        named.map(port).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            println!("the broker could not be killed: {error}");
        }
    }
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

#[test]
fn a_port_alone_is_one_of_this_machine() {
    for form in ["", ":"] {
        // Somebody may take the port before the broker does.
        let served = (0..10).find_map(|_| {
            let port = free_port();
            let served = Served::at(&format!("{form}{port}"), &[]);
            (served.ports("127.0.0.1") == [port]).then_some(served)
        });
        let served = served.expect("a port that was free");
        assert!(!served.greeting.contains("[::1]"), "{}", served.greeting);
    }
}

#[test]
fn localhost_is_both_loopback_addresses() {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let served = Served::at("localhost:0", &[]);
    let ports = served.ports("127.0.0.1");
    assert_eq!(ports.len(), 1, "{}", served.greeting);
    let mut addresses = vec![format!("127.0.0.1:{}", ports[0])];
    if has_ipv6 {
        assert_eq!(served.ports("[::1]"), ports, "{}", served.greeting);
        addresses.push(format!("[::1]:{}", ports[0]));
    }
    for address in &addresses {
        TcpStream::connect(address).unwrap();
        for args in [&["pub", "a", "1"][..], &["topics", "describe", "a"]] {
            let mut command = hark();
            command
                .args(args)
                .args(["--url", &format!("http://{address}")]);
            let exit = Cli::spawn(command).wait();
            assert_eq!(exit.code, Some(0), "{address}: {exit:#?}");
        }
    }
}

#[test]
fn what_is_no_address_says_how_one_looks() {
    for bad in ["", "example.org:4275", "0.0.0.0", "70000", "localhost"] {
        let output = hark().args(["serve", "--listen", bad]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("127.0.0.1:4275"), "{bad}: {said}");
    }
    // Whatever its form: without authentication it is loopback only.
    for open in ["0.0.0.0:0", "[::]:0"] {
        let output = hark().args(["serve", "--listen", open]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{open}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--insecure-no-auth"), "{open}: {said}");
    }
}

#[test]
fn without_authentication_it_warns_once() {
    let warns = |broker: &hark_tests::Broker| {
        let log = broker.log();
        log.lines()
            .filter(|line| line.contains("anyone who can connect"))
            .count()
    };
    let open = Setup::new().env("HARK_INSECURE_NO_AUTH", "1").start();
    open.http().publish("a", &json!(1)).ok();
    assert_eq!(warns(&open), 1, "{}", open.log());
    let closed = Setup::new().start();
    assert_eq!(warns(&closed), 0, "{}", closed.log());
}

/// As `docker compose` and systemd do it: the next one is started while the last one drains.
#[tokio::test]
async fn the_next_broker_waits_for_the_last_one_to_end() {
    let mut first = Setup::new().restarts().start();
    let cursor = Ws::connect(&first).await.publish("a", json!(1)).await["cursor"].clone();
    let address = first.addr().to_string();
    let mut command = hark();
    command
        .args(["serve", "--listen", &address, "--data-dir"])
        .arg(first.data_dir());
    let mut second = Cli::spawn(command);
    wait_until("it says that it waits", || {
        second
            .said()
            .contains("another broker has the data directory")
            .then_some(())
    });
    assert!(second.is_running());
    first.stop();

    let greeting = second.line();
    assert!(greeting.contains(&address), "{greeting}");
    assert_eq!(second.said().matches("another broker").count(), 1, "once");
    let mut command = hark();
    command.args([
        "sub", "a", "--from", "earliest", "--count", "1", "--url", &address,
    ]);
    let exit = Cli::spawn(command).wait();
    assert!(exit.stdout.contains(cursor.as_str().unwrap()), "{exit:#?}");
    second.signal("TERM");
    assert_eq!(second.wait().code, Some(0));
}

/// One that does not end is in the way, as ever.
#[test]
fn a_broker_that_stays_is_waited_for_in_vain() {
    let first = Setup::new().start();
    let exit = Setup::new()
        .data_dir(first.data_dir())
        .try_start()
        .unwrap_err();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert_eq!(exit.stderr.matches("waiting up to").count(), 1, "{exit:#?}");
    assert!(
        exit.stderr.contains("is in use by another broker"),
        "{exit:#?}"
    );
}
