//! The clients of this repository on lines that are bad: the Rust client (as the command line and as itself) and the JavaScript client (in Node).
//! Owns how long each takes, in round trips and in connections begun as the line has seen them.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hark_client::{Client, FirstConnection, SubscribeFrom};
use hark_tests::{Broker, Cli, DEADLINE, Setup, hark, peers};
use serde_json::json;

use crate::World;
use crate::figure::Figure;
use crate::line::{Begun, FAR, NOBODY};

const TOPIC: &str = "far.away";

/// The JavaScript client, told what to do as `client.mjs` says.
fn js(broker: &Broker, transport: &str, task: &[&str]) -> Cli {
    let mut command = peers::program("node");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/badline/client.mjs"))
        .args([&broker.url(""), transport])
        .args(task);
    Cli::spawn(command)
}

/// The figure at the end of a line `WORD MS`, in seconds.
fn seconds_of(line: &str, word: &str) -> f64 {
    let ms = line
        .strip_prefix(word)
        .and_then(|ms| ms.trim().parse::<f64>().ok());
    ms.unwrap_or_else(|| panic!("{word} and a number, not {line:?}")) / 1000.0
}

/// Waits in a thread of its own, so that the Rust clients of this process go on.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("a thread")
}

/// The line of a client that takes its time.
async fn line_of(mut client: Cli) -> (Cli, String) {
    apart(move || {
        let line = client.line_within(3 * DEADLINE);
        let line = line.unwrap_or_else(|| panic!("no line; it said: {}", client.said()));
        (client, line)
    })
    .await
}

pub(crate) async fn second_address(world: &World) -> Vec<Figure> {
    const NAME: &str = "two.test";
    let broker = world.start(Setup::new());
    world.worsen();
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, format!("{NOBODY} {NAME}\n{FAR} {NAME}\n")).expect("a file");
    let port = broker.addr().port();
    let mut figures = Vec::new();
    for (what, arguments, url) in [
        (
            "hark pub",
            &["pub", "--wait", TOPIC, "1"][..],
            format!("ws://{NAME}:{port}/ws"),
        ),
        ("hark topics", &["topics"], format!("ws://{NAME}:{port}/ws")),
    ] {
        world.line.begun();
        // With a list of hosts of its own, in which the name's first address is dead.
        let plain = hark();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg(r#"mount --bind "$0" /etc/hosts && exec "$@""#)
            .arg(&hosts)
            .arg(plain.get_program())
            .args(arguments)
            .args(["--url", &url]);
        let began = Instant::now();
        let mut cli = Cli::spawn(command);
        cli.end_input();
        let exit = apart(move || cli.wait()).await;
        let took = began.elapsed();
        if exit.code != Some(0) {
            println!("  {what} ended with {:?}: {}", exit.code, exit.stderr);
        }
        let begun = world.line.begun();
        let first = begun.iter().find(|one| one.to == NOBODY);
        let second = begun.iter().find(|one| one.to == FAR);
        figures.push(Figure::must(
            format!("{what} succeeds"),
            exit.code == Some(0),
        ));
        figures.push(Figure::shown("after", took.as_secs_f64(), " s"));
        match (first, second) {
            (Some(first), Some(second)) => {
                let apart = second.seconds - first.seconds;
                figures.push(
                    // Less what the line took to read the first SYN.
                    Figure::shown("the second address is tried after", apart, " s").at_least(0.24),
                );
                figures.push(Figure::shown("and not later", apart, " s").at_most(0.5));
            }
            _ => figures.push(Figure::must(
                format!("both addresses are tried, not {begun:?}"),
                false,
            )),
        }
    }
    figures
}

pub(crate) async fn round_trips(world: &World) -> Vec<Figure> {
    const RTT: f64 = 0.3;
    let broker = world.start(Setup::new());
    broker.http().publish(TOPIC, &json!("first")).ok();
    world.worsen();
    let mut figures = Vec::new();

    let began = Instant::now();
    let client = Client::connect(broker.ws_url()).await.expect("a client");
    drop(client);
    let connected = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let client = Client::builder(broker.ws_url())
        .first_connection(FirstConnection::InBackground)
        .connect()
        .await
        .expect("a client");
    let mut subscription = client
        .subscribe(TOPIC)
        .from(SubscribeFrom::Earliest)
        .await
        .expect("a subscription");
    subscription.next_message().await.expect("a message");
    let first = began.elapsed().as_secs_f64();
    figures.push(Figure::shown("Rust: welcome", connected / RTT, " round trips").at_most(2.5));
    figures.push(
        Figure::shown(
            "Rust: the first replayed message",
            first / RTT,
            " round trips",
        )
        .at_most(3.5),
    );

    for (transport, at_most) in [("websocket", 3.5), ("sse", 2.5), ("longpoll", 2.5)] {
        let (_, line) = line_of(js(&broker, transport, &["first", TOPIC])).await;
        let trips = seconds_of(&line, "first") / RTT;
        let what = format!("JavaScript, {transport}: the first replayed message");
        figures.push(Figure::shown(what, trips, " round trips").at_most(at_most));
    }

    // TCP, the upgrade, and the publish with its receipt.
    for arguments in [
        &["pub", TOPIC, "1"][..],
        &["sub", TOPIC, "--from", "earliest", "--count", "1"],
    ] {
        let mut cli = Cli::hark(&broker, arguments);
        cli.end_input();
        let began = Instant::now();
        let exit = apart(move || cli.wait()).await;
        let trips = began.elapsed().as_secs_f64() / RTT;
        let what = format!("hark {} ends", arguments[0]);
        figures.push(Figure::must(format!("{what} with 0"), exit.code == Some(0)));
        figures.push(Figure::shown(what, trips, " round trips").at_most(3.7));
    }
    figures
}

pub(crate) async fn http_publishing(world: &World) -> Vec<Figure> {
    const MESSAGES: &str = "20000";
    let broker = world.start(Setup::new());
    world.worsen();
    let mut seconds = Vec::new();
    for transport in ["websocket", "sse", "longpoll"] {
        let topic = format!("{TOPIC}.{transport}");
        let (_, line) = line_of(js(&broker, transport, &["publish", &topic, MESSAGES])).await;
        seconds.push(seconds_of(&line, "all"));
    }
    vec![
        Figure::shown("20,000 publishes by WebSocket", seconds[0], " s"),
        Figure::shown(
            "with event streams, in that time",
            seconds[1] / seconds[0],
            " ×",
        )
        .at_most(1.5),
        Figure::shown(
            "with long-poll, in that time",
            seconds[2] / seconds[0],
            " ×",
        )
        .at_most(1.5),
    ]
}

/// The next connection that is begun to the broker since the line was asked last, if one is within so long.
async fn begun_within(world: &World, longest: Duration) -> Option<Begun> {
    let deadline = Instant::now() + longest;
    while Instant::now() < deadline {
        if let Some(begun) = world.line.begun().into_iter().find(|one| one.to == FAR) {
            return Some(begun);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

pub(crate) async fn failover(world: &World) -> Vec<Figure> {
    const HEARTBEAT: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(60);
    // And what it waits before it begins anew.
    const QUIET_AT_MOST: f64 = 5.0 * 1.2 + 3.0 + 0.25;
    const PUBLISHER_AT_MOST: f64 = 8.0 + 0.25;
    let broker = world.start(Setup::new().flag("heartbeat", "5s"));
    world.worsen();
    let mut figures = Vec::new();

    let quiet = async |what: &str, begin: &str| {
        world.line.begun();
        world.line.tell(begin);
        let lost = Instant::now();
        let begun = begun_within(world, LONGEST).await;
        let noticed = begun.map_or(f64::INFINITY, |_| lost.elapsed().as_secs_f64());
        Figure::shown(format!("{what} notices after"), noticed, " s").at_most(QUIET_AT_MOST)
    };
    // In the midst of a heartbeat, when nothing is under way.
    let calm = || tokio::time::sleep(HEARTBEAT + HEARTBEAT / 2);

    let client = Client::connect(broker.ws_url()).await.expect("a client");
    let subscription = client.subscribe(TOPIC).await.expect("a subscription");
    calm().await;
    figures.push(quiet("Rust: a quiet subscriber", "forget").await);
    drop(subscription);
    client.close(Duration::from_secs(1)).await.ok();

    let (listener, open) = line_of(js(&broker, "websocket", &["listen", TOPIC])).await;
    assert_eq!(open, "open");
    calm().await;
    figures.push(quiet("JavaScript: a quiet subscriber", "forget").await);
    drop(listener);

    let client = Client::connect(broker.ws_url()).await.expect("a client");
    client
        .publish(TOPIC, &1)
        .send()
        .await
        .expect("room")
        .await
        .expect("a receipt");
    calm().await;
    world.line.begun();
    world.line.tell("forget");
    let lost = Instant::now();
    let receipt = client.publish(TOPIC, &2).send().await.expect("room");
    let begun = begun_within(world, LONGEST).await;
    let noticed = begun.map_or(f64::INFINITY, |_| lost.elapsed().as_secs_f64());
    figures.push(
        Figure::shown("Rust: a publisher notices after", noticed, " s").at_most(PUBLISHER_AT_MOST),
    );
    receipt.await.expect("a receipt");
    client.close(Duration::from_secs(1)).await.ok();

    let (mut publisher, open) = line_of(js(&broker, "websocket", &["ask", TOPIC])).await;
    assert_eq!(open, "open");
    calm().await;
    world.line.begun();
    world.line.tell("forget");
    let lost = Instant::now();
    publisher.write(b"3\n");
    let begun = begun_within(world, LONGEST).await;
    let noticed = begun.map_or(f64::INFINITY, |_| lost.elapsed().as_secs_f64());
    figures.push(
        Figure::shown("JavaScript: a publisher notices after", noticed, " s")
            .at_most(PUBLISHER_AT_MOST),
    );
    let (_, kept) = line_of(publisher).await;
    figures.push(Figure::shown(
        "and its message is kept after",
        seconds_of(&kept, "kept"),
        " s",
    ));
    figures
}

pub(crate) async fn outage(world: &World) -> Vec<Figure> {
    // The longest wait in the first minute of an outage; an attempt that began just before its end and is asked for again by TCP itself.
    const AT_MOST: f64 = 5.0 + 4.0;
    let broker = world.start(Setup::new().flag("heartbeat", "2s"));
    let mut client = js(&broker, "websocket", &["listen", TOPIC]);
    assert_eq!(client.line(), "open");
    let rust = Client::connect(broker.ws_url()).await.expect("a client");
    let mut subscription = rust
        .subscribe(TOPIC)
        .from(SubscribeFrom::Earliest)
        .await
        .expect("a subscription");
    world.worsen();
    let mut figures = Vec::new();
    for (n, seconds) in [7, 30].into_iter().enumerate() {
        world.line.tell("both drop 1");
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let http = broker.http();
        let publishing = world
            .line
            .far(|| std::thread::spawn(move || http.publish(TOPIC, &json!(n)).ok()));
        publishing.join().expect("it is kept");
        world.line.tell("both drop 0");
        let over = Instant::now();
        let by_rust = async {
            let next = tokio::time::timeout(2 * DEADLINE, subscription.next_message()).await;
            next.expect("the next message").expect("no gap");
            over.elapsed().as_secs_f64()
        };
        let by_js = async {
            let (client, line) = line_of(client).await;
            (client, line, over.elapsed().as_secs_f64())
        };
        let (rust_took, (same, line, js_took)) = tokio::join!(by_rust, by_js);
        client = same;
        assert_eq!(line, format!("{} {}", n + 1, n + 1), "each once");
        let what = format!("after an outage of {seconds} s the message is there, Rust, after");
        figures.push(Figure::shown(what, rust_took, " s").at_most(AT_MOST));
        figures.push(Figure::shown("JavaScript, after", js_took, " s").at_most(AT_MOST));
    }
    figures
}

pub(crate) async fn large_on_narrow(world: &World) -> Vec<Figure> {
    const BYTES: usize = 240 * 1024;
    let broker = world.start(Setup::new().flag("heartbeat", "2s"));
    let bytes = BYTES.to_string();
    let data = json!("d".repeat(BYTES));
    world.worsen();
    let mut figures = vec![Figure::shown(
        "each message has",
        BYTES as f64 / 1000.0,
        " KB",
    )];

    // Published where the broker is, so that nothing else is on the line.
    let http = broker.http();
    world
        .line
        .far(|| std::thread::spawn(move || http.publish(TOPIC, &data).ok()))
        .join()
        .expect("it is kept");
    let begun_before = world.line.connections_begun();
    let began = Instant::now();
    let by_rust = async {
        let client = Client::connect(broker.ws_url()).await.expect("a client");
        let subscribing = client.subscribe(TOPIC).from(SubscribeFrom::Earliest);
        let mut subscription = subscribing.await.expect("a subscription");
        let next = tokio::time::timeout(3 * DEADLINE, subscription.next_message()).await;
        next.expect("the message").expect("no gap");
        ("Rust".to_owned(), began.elapsed().as_secs_f64())
    };
    let by_js = ["all", "sse", "longpoll"].map(|transport| {
        let client = js(&broker, transport, &["first", TOPIC]);
        async move {
            line_of(client).await;
            (
                format!("JavaScript, {transport}"),
                began.elapsed().as_secs_f64(),
            )
        }
    });
    let (rust, others) = tokio::join!(by_rust, join_all(by_js));
    for (who, took) in std::iter::once(rust).chain(others) {
        figures.push(Figure::shown(
            format!("{who}: it is there after"),
            took,
            " s",
        ));
    }
    // By WebSocket JavaScript does not see the bytes of a message that is on its way: it is lost twice before it takes an event stream. And on
    // a line that four share, one may be starved for longer than two heartbeats.
    let begun = world.line.connections_begun() - begun_before;
    figures.push(Figure::shown("connections of the four", begun as f64, "").at_most(16.0));

    let begun_before = world.line.connections_begun();
    let began = Instant::now();
    let by_rust = async {
        let client = Client::connect(broker.ws_url()).await.expect("a client");
        let sent = client.publish("up.rust", &"u".repeat(BYTES)).send().await;
        sent.expect("room").await.expect("a receipt");
        ("Rust".to_owned(), began.elapsed().as_secs_f64())
    };
    let by_js = ["all", "sse"].map(|transport| {
        let topic = format!("up.{transport}");
        let client = js(&broker, transport, &["upload", &topic, &bytes]);
        async move {
            line_of(client).await;
            (
                format!("JavaScript, {transport}"),
                began.elapsed().as_secs_f64(),
            )
        }
    });
    let (rust, others) = tokio::join!(by_rust, join_all(by_js));
    for (who, took) in std::iter::once(rust).chain(others) {
        figures.push(Figure::shown(
            format!("{who}: it is published after"),
            took,
            " s",
        ));
    }
    // Nor does it see what the kernel still holds of a message that it sends: with so short a heartbeat it takes a POST in the end.
    let begun = world.line.connections_begun() - begun_before;
    figures.push(Figure::shown("connections of the three", begun as f64, "").at_most(12.0));
    figures
}
