//! The broker as a process: how it starts, why it refuses to, how it ends.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use hark_tests::{Broker, Exit, RawWs, Seen, Setup, Ws, copy_folder, hark};
use serde_json::json;

/// Checks that it ended with this code and a sentence that holds `hint`, not with a crash.
#[track_caller]
fn expect_sentence(exit: &Exit, code: i32, hint: &str) {
    assert_eq!(exit.code, Some(code), "{exit:#?}");
    assert!(
        !exit.stderr.contains("panicked"),
        "a crash is no sentence: {exit:#?}"
    );
    assert!(
        exit.stderr.contains(hint),
        "the sentence does not name {hint:?}: {exit:#?}"
    );
    assert_eq!(
        exit.stdout, "",
        "stdout says what is served, and nothing is"
    );
}

/// Every file below a folder, with its content; but for the lock file, which tells who looked last.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.insert(path.clone(), Vec::new());
                folders.push(path);
            } else if !path.ends_with("lock") {
                let content = std::fs::read(&path).unwrap();
                files.insert(path, content);
            }
        }
    }
    files
}

#[test]
fn one_line_says_where_and_how() {
    let broker = Broker::start();
    let port = broker.addr().port();
    assert_ne!(port, 0);

    let line = broker.greeting();

    for part in [
        format!("http://127.0.0.1:{port}"),
        format!("ws://127.0.0.1:{port}/ws"),
    ] {
        assert!(line.contains(&part), "{part} is not in {line:?}");
    }
    assert!(
        line.contains(&*broker.data_dir().to_string_lossy()),
        "where the data is: {line:?}"
    );
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish("a", json!(1)).await;

    let exit = Setup::new()
        .data_dir(broker.data_dir())
        .try_start()
        .unwrap_err();

    expect_sentence(&exit, 1, &broker.data_dir().to_string_lossy());
    ws.publish("a", json!(2)).await;
    let seen = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    seen.expect([1, 2]);
}

#[tokio::test]
async fn a_killed_brokers_directory_is_not_in_use() {
    let mut first = Broker::start();
    Ws::connect(&first).await.publish("a", json!(1)).await;
    first.kill9();

    let second = Setup::new().data_dir(first.data_dir()).start();

    let seen = Ws::connect(&second)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    seen.expect([1]);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let before = snapshot(dir.path());

    // Places that even the superuser cannot write to: a file, below a file, and /proc.
    for place in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/hark-data"),
    ] {
        let exit = Setup::new().data_dir(&place).try_start().unwrap_err();
        expect_sentence(&exit, 1, &place.to_string_lossy());
    }
    assert_eq!(snapshot(dir.path()), before, "nothing is touched");
}

/// Files of some other program, or of another format of this one, stay as they are.
#[tokio::test]
async fn a_directory_of_another_format_is_refused_and_not_touched() {
    let mut broker = Broker::start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    broker.stop();
    let ours = broker.data_dir().to_owned();
    let format = std::fs::read_to_string(ours.join("FORMAT")).unwrap();
    let conf = String::from_utf8_lossy(&std::fs::read(ours.join("conf")).unwrap()).into_owned();
    type Change = Box<dyn Fn(&Path) -> std::io::Result<()>>;
    let newer = format.replace(|c: char| c.is_ascii_digit(), "9");
    let older_sled = conf.replace("0.34", "0.31");
    assert!(newer != format && older_sled != conf, "{format:?} {conf:?}");
    let cases: [(&str, Change); 5] = [
        (
            "a newer format",
            Box::new(move |dir| std::fs::write(dir.join("FORMAT"), &newer)),
        ),
        (
            "no format",
            Box::new(|dir| std::fs::remove_file(dir.join("FORMAT"))),
        ),
        (
            "an empty format",
            Box::new(|dir| std::fs::write(dir.join("FORMAT"), "")),
        ),
        (
            "a conf of another sled",
            Box::new(move |dir| std::fs::write(dir.join("conf"), &older_sled)),
        ),
        (
            "no db",
            Box::new(|dir| std::fs::remove_file(dir.join("db"))),
        ),
    ];
    for (name, change) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&ours, dir.path());
        change(dir.path()).unwrap();
        refused_and_not_touched(name, dir.path());
    }

    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("letter.txt"), "Dear Ana").unwrap();
    refused_and_not_touched("somebody's documents", foreign.path());
    std::fs::write(foreign.path().join("db"), [0x5a; 100_000]).unwrap();
    refused_and_not_touched("another program's db", foreign.path());
}

#[track_caller]
fn refused_and_not_touched(name: &str, dir: &Path) {
    let before = snapshot(dir);
    let exit = Setup::new().data_dir(dir).try_start().expect_err(name);
    expect_sentence(&exit, 1, &dir.to_string_lossy());
    let after = snapshot(dir);
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, content)| after.get(*path) != Some(content))
        .collect();
    assert!(
        changed.is_empty(),
        "{name}: {:?} changed",
        changed.iter().map(|(path, _)| path).collect::<Vec<_>>()
    );
    let new: Vec<_> = after
        .keys()
        .filter(|path| !before.contains_key(*path))
        .collect();
    assert!(new.is_empty(), "{name}: {new:?} came");
}

#[test]
fn a_port_in_use_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();

    let output = hark()
        .args(["serve", "--listen", &addr, "--data-dir"])
        .arg(dir.path().join("d"))
        .output()
        .unwrap();

    let exit = Exit {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    expect_sentence(&exit, 1, &addr);
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &["serve", "--no-such-flag"][..],
        &["no-such-command"],
        &["serve", "--listen", "nonsense"],
        &["serve", "--heartbeat", "soon"],
        &["serve", "--retention-bytes", "-1"],
        &["serve", "--memory-topics", "a..b"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = hark().args(args).current_dir(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{args:?} is not explained");
        assert!(
            snapshot(dir.path()).is_empty(),
            "{args:?} left something behind"
        );
    }
}

/// Promise 10: without configured authentication only this machine is served.
#[test]
fn another_address_than_loopback_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let serve = ["serve", "--listen", "0.0.0.0:0", "--data-dir", "d"];
    let output = hark().args(serve).current_dir(dir.path()).output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("0.0.0.0"),
        "{output:?}"
    );
    assert!(snapshot(dir.path()).is_empty(), "nothing is touched");
}

#[tokio::test]
async fn sigterm_and_sigint_say_goodbye() {
    for signal in ["TERM", "INT"] {
        let mut broker = Broker::start();
        let mut sessions = Vec::new();
        for _ in 0..10 {
            let mut ws = Ws::connect(&broker).await;
            ws.subscribe("a", json!("now")).await;
            ws.expect("caught_up").await;
            sessions.push(ws);
        }

        broker.signal(signal);

        for ws in &mut sessions {
            let goodbye = ws.expect("goodbye").await;
            assert_eq!(goodbye["reason"], "restart", "{goodbye}");
            assert!(goodbye["retry_after_ms"].is_u64(), "{goodbye}");
            assert_eq!(ws.expect_close().await.code, Some(1012));
        }
        let exit = broker.wait();
        assert_eq!(exit.code, Some(0), "{exit:#?}");
        assert!(!exit.stderr.contains("panicked"), "{exit:#?}");
    }
}

#[tokio::test]
async fn a_blocked_client_does_not_hold_up_the_end() {
    let mut broker = Broker::start();
    let mut blocked = RawWs::connect_small(&broker);
    blocked.send_json(&json!({"type": "subscribe", "topic": "a", "from": "now"}));
    let mut seen = Seen::start("a", &blocked.read_json());
    seen.take(&blocked.read_json());
    let mut ws = Ws::connect(&broker).await;
    let frames = (0..3000).map(|n| json!({"topic": "a", "data": {"n": n, "x": "x".repeat(1000)}}));
    ws.publish_all(frames, 128).await;

    broker.signal("TERM");

    assert_eq!(ws.expect("goodbye").await["reason"], "restart");
    assert_eq!(ws.expect_close().await.code, Some(1012));
    assert_eq!(broker.wait().code, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish("a", json!(1)).await;

    broker.signal("TERM");
    broker.signal("TERM");

    broker.wait(); // However it ends, it does.
}

#[tokio::test]
async fn while_it_ends_nobody_new_gets_in() {
    let mut broker = Setup::new().restarts().start();
    let addr = broker.addr();
    let mut ws = Ws::connect(&broker).await;
    broker.signal("TERM");
    ws.expect("goodbye").await;

    let late = Ws::try_connect(addr, None).await;
    if let Ok(mut late) = late {
        // Taken in the very last moment: then it is told to go at once.
        assert_eq!(late.expect_close().await.code, Some(1012));
    }
    assert_eq!(broker.wait().code, Some(0));
}

#[test]
fn help_and_version_are_there() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["pub", "--help"],
        &["sub", "--help"],
    ] {
        let output = hark().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}
