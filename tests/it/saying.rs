//! What the broker and the command line say, and that saying it breaks nothing: a standard error that cannot be written or that nobody
//! reads, floods of lines, threads that are gone, signals, and settings from the environment.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Instant;

use hark_tests::{
    Acked, Broker, Cli, DEADLINE, Op, Preload, RawWs, Setup, Ws, hark, raw_http, until,
};
use serde_json::{Value, json};

use crate::disk::{expect_not_ready, publish_until_refused};

/// What a pipe of Linux holds.
const PIPE_BYTES: usize = 64 * 1024;

/// A pipe whose reader is gone: writing to it is an error (EPIPE).
fn without_reader() -> OwnedFd {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A file on a disk that is full: writing to it is an error (ENOSPC).
fn full() -> OwnedFd {
    let full = OpenOptions::new().write(true).open("/dev/full");
    full.unwrap().into()
}

fn breaking(what: &str) -> Value {
    json!({"type": "publish", "topic": "a", "data": "boom", "headers": {"hark-fault": what}})
}

/// Does everything that makes a broker speak, sees that it is done all the same, and ends it in good order.
async fn all_goes_on(mut broker: Broker) {
    let mut ws = Ws::connect(&broker).await;
    ws.publish("a", json!(1)).await;

    // A topic is deleted.
    let deleted = broker.http().request("DELETE", "/v1/topics/a", &[], b"");
    assert_eq!(deleted.status, 200, "{deleted:?}");
    ws.publish("a", json!(2)).await;
    // A room panics.
    let answer = ws.ask(breaking("room-panic")).await;
    assert_eq!(answer["code"], "busy", "{answer}");
    while ws
        .ask(json!({"type": "publish", "topic": "a", "data": 3}))
        .await["type"]
        != "published"
    {}
    // Sessions are ended.
    let mut bad = Ws::connect(&broker).await;
    for _ in 0..10 {
        bad.send_text("nonsense").await;
    }
    assert_eq!(bad.expect_close().await.code, Some(4400));
    let mut worse = RawWs::connect(&broker);
    worse.send_unmasked(Op::TEXT, b"{}");
    assert_eq!(worse.expect_close(), 1002);
    // A request that is no HTTP.
    assert_eq!(raw_http(&broker, "GARBAGE\r\n\r\n").status, 400);
    assert_eq!(broker.http().get("/readyz").status, 200);
    let mut reader = Ws::connect(&broker).await;
    let history = reader.watch_to_caught_up("a", json!("earliest")).await;
    assert_eq!(history.data(), ["2", "3"]);

    broker.signal("HUP");
    ws.publish("a", json!(4)).await;
    broker.signal("TERM");
    assert_eq!(ws.expect("goodbye").await["reason"], "restart");
    assert_eq!(ws.expect_close().await.code, Some(1012));
    let exit = broker.wait();
    assert_eq!(exit.code, Some(0), "{exit:#?}");
}

#[tokio::test]
async fn a_standard_error_that_cannot_be_written_breaks_nothing() {
    for stderr in [without_reader(), full()] {
        all_goes_on(Setup::new().faults().stderr(stderr).start()).await;
    }
}

/// The log's lines lie on the disk that its records lie on, and it is full: the writer says so, which fails, and goes on answering.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_for_everything_is_told_of_where_it_can_be() {
    let disk = Preload::new();
    let mut broker = disk.under(Setup::new().stderr(full())).start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish("a", json!(1)).await;

    disk.room_for_any_write(0);
    let refused = publish_until_refused(&mut ws, "a", &mut Acked::default()).await;
    assert!(disk.refused_writes() > 0, "{refused}");

    expect_not_ready(&broker);
    for room in [Some(0), None] {
        disk.room(room);
        let answer = ws
            .ask(json!({"type": "publish", "topic": "a", "data": 2}))
            .await;
        assert_eq!(answer["code"], "log_unavailable", "{answer}");
        expect_not_ready(&broker);
    }
    broker.stop();
}

/// Starts a broker that says much, and lets it speak until what it says can be neither in the pipe nor in its queue.
fn unread() -> (PipeReader, Broker) {
    let (reader, writer) = std::io::pipe().unwrap();
    let setup = Setup::new().faults().env("HARK_LOG", "trace");
    let broker = setup.stderr(writer).start();
    for _ in 0..2500 {
        assert_eq!(broker.http().get("/healthz").status, 200);
    }
    (reader, broker)
}

#[tokio::test]
async fn a_standard_error_that_nobody_reads_holds_nobody_up() {
    let (reader, broker) = unread();
    all_goes_on(broker).await;
    drop(reader);
}

#[tokio::test]
async fn what_is_left_out_while_nobody_reads_is_counted() {
    let (mut reader, broker) = unread();
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        reader.read_to_end(&mut said).unwrap();
        String::from_utf8(said).unwrap()
    });
    // Only once it is read there is room for more.
    broker.signal("HUP");
    all_goes_on(broker).await; // Drops it, and the pipe's other end.

    let said = reading.join().unwrap();
    let missing = said
        .find("lines are missing here")
        .expect("the test is not loud enough");
    let line = said[missing..].lines().next().unwrap();
    let lines: u64 = number(line, "lines=");
    assert!(lines > 100, "{line}");
    assert!(line.contains("nobody read it"), "{line}");
    assert!(
        said[missing..].contains("hark has ended"),
        "nothing came later"
    );
}

/// The number behind `name`, in quotes or not.
fn number(line: &str, name: &str) -> u64 {
    let (_, rest) = line
        .split_once(name)
        .unwrap_or_else(|| panic!("no {name} in {line}"));
    let rest = rest.trim_start_matches('"');
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().unwrap()
}

#[tokio::test]
async fn a_flood_of_violations_is_a_few_lines_and_a_count() {
    const EACH: usize = 1000;
    for filter in [None, Some("info")] {
        let setup = filter
            .iter()
            .fold(Setup::new(), |setup, filter| setup.env("HARK_LOG", filter));
        let mut broker = setup.start();
        let began = Instant::now();
        for _ in 0..EACH / 100 {
            let mut peers: Vec<RawWs> = (0..100).map(|_| RawWs::connect(&broker)).collect();
            for peer in &mut peers {
                // What stands behind the first violation says nothing more.
                for _ in 0..10 {
                    peer.try_write(&RawWs::fragment(Op::TEXT, false, b"{"))
                        .unwrap_or_default();
                }
            }
            for peer in &mut peers {
                assert_eq!(peer.expect_close(), 1002);
            }
            for _ in 0..100 {
                assert_eq!(raw_http(&broker, "GARBAGE\r\n\r\n").status, 400);
            }
        }
        let seconds = began.elapsed().as_secs() as usize + 1;

        broker.signal("TERM");
        let said = broker.wait().stderr;
        let of = |kind: &str| said.lines().filter(|line| line.contains(kind)).count();
        let left_out: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("left out"))
            .collect();
        let counted: u64 = left_out
            .iter()
            .filter(|line| line.contains("a session is ended"))
            .map(|line| number(line, "lines="))
            .sum();
        let told = said
            .lines()
            .filter(|line| line.contains("a session is ended") && !line.contains("left out"))
            .count();
        assert_eq!(told + counted as usize, EACH, "one line or one count each");
        let bound = 100 + 10 * seconds;
        assert!(told <= bound, "{told} lines in {seconds} s");
        // actix tells of bad requests where it is asked to; then its lines are bounded as well.
        let kinds = match filter {
            None => 1,
            Some(_) => 3,
        };
        assert!(of("actix_http") == 0 || filter.is_some(), "{left_out:#?}");
        let all = said.lines().count() - left_out.len();
        assert!(all <= kinds * bound + 20, "{all} lines in {seconds} s");
        assert!(left_out.len() <= kinds * (seconds + 10), "{left_out:#?}");
    }
}

/// The log's writer is gone: the process ends, and no publish waits for ever.
#[tokio::test]
async fn without_the_logs_writer_the_process_ends() {
    for stderr in [None, Some(full()), Some(without_reader())] {
        let is_read = stderr.is_none();
        let setup = Setup::new().faults().restarts();
        let mut broker = match stderr {
            None => setup,
            Some(stderr) => setup.stderr(stderr),
        }
        .start();
        let mut ws = Ws::connect(&broker).await;
        ws.publish("a", json!("kept")).await;

        ws.send(&breaking("log-writer-panic")).await;

        let exit = broker.wait();
        assert_eq!(exit.code, None, "it ends by a signal: {exit:#?}");
        if is_read {
            for part in [
                "'log writer' panicked at",
                "the log's writer panicked: the process ends",
            ] {
                assert!(exit.stderr.contains(part), "{exit:#?}");
            }
        }
        broker.start_again();
        let mut ws = Ws::connect(&broker).await;
        let history = ws.watch_to_caught_up("a", json!("earliest")).await;
        assert_eq!(history.data(), [r#""kept""#]);
    }
}

/// A thread of sled's that writes for the log: were it gone, the writer would wait for it for ever.
#[tokio::test]
async fn without_a_thread_of_the_storage_engines_the_process_ends() {
    let mut broker = Setup::new().faults().start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish("a", json!(1)).await;
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", broker.pid())).unwrap() {
        let name = std::fs::read_to_string(task.unwrap().path().join("comm"));
        threads.extend(name); // One may just have ended.
    }
    // By these names it knows them; the system keeps 15 bytes of each.
    for name in ["sled-io-", "actix-server ac"] {
        assert!(
            threads.iter().any(|thread| thread.starts_with(name)),
            "{threads:?}"
        );
    }

    ws.send(&breaking("storage-thread-panic")).await;

    let exit = broker.wait();
    assert_eq!(exit.code, None, "it ends by a signal: {exit:#?}");
    assert!(
        exit.stderr
            .contains("cannot go on without the thread 'sled-io-"),
        "{exit:#?}"
    );
}

#[tokio::test]
async fn a_hang_up_ends_nothing() {
    let mut broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for _ in 0..3 {
        broker.signal("HUP");
        ws.publish("a", json!(1)).await;
    }
    until("it has said so", async || {
        broker.log().contains("SIGHUP").then_some(())
    })
    .await;
    ws.publish("a", json!(2)).await;
    broker.stop();
}

#[test]
fn a_switch_in_the_environment_is_on_or_off_in_every_spelling() {
    let cases = [
        ("1 true yes on TRUE", true),
        ("0 false no off ", false), // The last one is empty.
    ];
    for (values, on) in cases {
        for value in values.split(' ') {
            let mut broker = Setup::new()
                .env("HARK_LOG_JSON", value)
                .env("HARK_RECOVER", value)
                .env("HARK_INSECURE_NO_AUTH", value)
                .start();
            let foreign = "GET /v1/topics HTTP/1.1\r\nHost: hark.example\r\n\r\n";
            let status = raw_http(&broker, foreign).status;
            broker.signal("TERM");
            let said = broker.wait().stderr;

            let is_json = said
                .lines()
                .all(|line| serde_json::from_str::<Value>(line).is_ok());
            assert_eq!(is_json, on, "HARK_LOG_JSON={value}: {said}");
            assert_eq!(
                said.contains("nothing is recovered"),
                on,
                "HARK_RECOVER={value}: {said}"
            );
            let served = if on { 200 } else { 403 };
            assert_eq!(status, served, "HARK_INSECURE_NO_AUTH={value}");
        }
    }
    for name in ["HARK_LOG_JSON", "HARK_RECOVER", "HARK_INSECURE_NO_AUTH"] {
        let exit = Setup::new().env(name, "maybe").try_start().unwrap_err();
        assert_eq!(exit.code, Some(2), "{exit:#?}");
        assert!(exit.stderr.contains("maybe"), "{exit:#?}");
    }
}

/// Help shows a variable that is not set as `NAME=`: taken so, it changes nothing.
#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let names = |args: &[&str]| {
        let output = hark().args(args).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let named = help.split("[env: ").skip(1);
        let names = named.map(|rest| {
            rest.split('=')
                .next()
                .unwrap()
                .trim_end_matches(']')
                .to_owned()
        });
        names.collect::<Vec<_>>()
    };
    let all = names(&["serve", "--help"]);
    assert!(all.len() > 10, "{all:?}");
    let setup = all
        .iter()
        .fold(Setup::new(), |setup, name| setup.env(name, ""));
    let broker = setup.start();

    let mut command = hark();
    let clients = names(&["pub", "--help"]);
    assert!(clients.len() >= 2, "{clients:?}");
    command.envs(clients.iter().map(|name| (name, "")));
    command.args(["pub", "t", "1", "--url", &broker.ws_url()]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    // They are named all the same.
    let empty = hark()
        .args(["serve", "--help"])
        .envs(all.iter().map(|name| (name, "")))
        .output();
    let help = String::from_utf8(empty.unwrap().stdout).unwrap();
    for name in &all {
        assert!(
            help.contains(&format!("[env: {name}=")),
            "{name} is not in {help}"
        );
    }
}

#[test]
fn commands_end_alike_whether_anybody_hears_them_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let commands: [(&[&str], i32); 6] = [
        (&["pub", "t", "1", "--url", "ws://127.0.0.1:1/ws"], 1),
        (&["sub", "t", "--url", "ws://127.0.0.1:1/ws"], 1),
        (&["topics", "--url", "ws://127.0.0.1:1/ws"], 1),
        (&["log", "verify", "--data-dir", "nowhere"], 2),
        (&["pub", "t", "1", "--url", "nonsense"], 2),
        (&["serve", "--no-such-flag"], 2),
    ];
    for (args, code) in commands {
        for stderr in [Stdio::piped(), full().into(), without_reader().into()] {
            let mut command = hark();
            command.args(args).current_dir(dir.path()).stderr(stderr);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        }
    }
}

/// A reader that tells of lost connections, to nobody: it goes on all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_nobody_hears_goes_on() {
    let mut broker = Setup::new().restarts().start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let (reader, mut stderr) = std::io::pipe().unwrap();
    stderr.write_all(&[b'.'; PIPE_BYTES]).unwrap(); // Now it is full.
    let mut child = hark()
        .args(["sub", "a", "--from", "earliest", "--url", &broker.ws_url()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let (say, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let reading = std::thread::spawn(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .all(|line| say.send(line).is_ok())
    });
    let next = || lines.recv_timeout(DEADLINE).expect("a message in time");

    assert!(next().contains(r#""offset":1"#));
    broker.kill9();
    broker.start_again();
    Ws::connect(&broker).await.publish("a", json!(2)).await;
    let second = tokio::task::block_in_place(next);

    assert!(second.contains(r#""offset":2"#), "{second}");
    child.kill().unwrap();
    child.wait().unwrap();
    reading.join().unwrap();
    drop(reader);
}

/// As with `hark sub t | head -1`: a normal ending, without a word.
#[tokio::test]
async fn a_command_whose_reader_is_gone_ends_in_peace() {
    let mut broker = Setup::new().restarts().start();
    let mut ws = Ws::connect(&broker).await;
    for n in 0..10 {
        ws.publish("a", json!(n)).await;
    }
    let url = broker.ws_url();
    let data_dir = broker.data_dir().to_str().unwrap().to_owned();
    let ends_in_peace = |args: &[&str]| {
        let child = hark()
            .args(args)
            .stdout(without_reader())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    };
    ends_in_peace(&["sub", "a", "--from", "earliest", "--url", &url]);
    ends_in_peace(&["pub", "a", "1", "--url", &url]);
    ends_in_peace(&["topics", "--url", &url]);
    ends_in_peace(&["log", "export", "--url", &url]);
    assert_eq!(Cli::run(&broker, &["topics"]).code, Some(0));
    broker.stop();
    ends_in_peace(&["log", "verify", "--data-dir", &data_dir]);
    ends_in_peace(&["log", "export", "--data-dir", &data_dir]);
}
