//! The tools for a log as a whole: verify, export and import, a new epoch after a restore, and `serve --recover`. After each
//! the broker itself is asked what it serves: nothing but what was there, and whatever is missing by its name.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hark_tests::{Acked, Broker, Cli, Exit, Preload, Setup, Ws, copy_folder, hark, until};
use serde_json::{Value, json};
use tempfile::TempDir;

const MESSAGES: u64 = 1500;

/// Runs `hark ARGS…` to its end, with `input` on stdin.
fn run(args: &[&str], dir: &Path, input: &str) -> Exit {
    let mut command = hark();
    command.args(args).arg("--data-dir").arg(dir);
    let mut cli = Cli::spawn(command);
    let mut stdin = cli.take_stdin();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // One that stops reading at a bad line is none the worse.
        let _rest_unread = stdin.write_all(input.as_bytes());
    });
    let exit = cli.wait();
    writer.join().unwrap();
    exit
}

#[track_caller]
fn ok(exit: Exit) -> String {
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    exit.stdout
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn split(cursor: &Value) -> (String, u64) {
    let (epoch, offset) = cursor.as_str().unwrap().split_once(':').unwrap();
    (epoch.to_owned(), offset.parse().unwrap())
}

fn data(n: u64) -> Value {
    json!({"n": n, "mark": format!("mark-{n}-"), "x": "x".repeat(300)})
}

/// A stopped broker's directory: topic `a` full of messages, `b` with one, `c` with messages of every kind.
struct Sample {
    broker: Broker,
    acked: Acked,
}

async fn sample() -> Sample {
    let mut broker = Setup::new().restarts().start();
    let mut ws = Ws::connect(&broker).await;
    let mut acked = Acked::default();
    for begin in (1..=MESSAGES).step_by(100) {
        let all: Vec<Value> = (begin..begin + 100).map(data).collect();
        let frames: Vec<Value> = all
            .iter()
            .map(|data| json!({"topic": "a", "data": data}))
            .collect();
        for (receipt, data) in ws.publish_all(frames, 32).await.iter().zip(&all) {
            acked.receipt(receipt, data);
        }
    }
    ws.publish("b", json!("only")).await;
    for frame in [
        json!({"topic": "c.x", "data": null, "headers": {"z": "1", "a": "\"quoted\" ü"}}),
        json!({"topic": "c.x", "data_base64": "AAECAw==", "content_type": "image/png"}),
        json!({"topic": "c.x", "data_base64": "/w=="}),
        json!({"topic": "c.x", "data": 1, "producer": "p", "seq": 1}),
        json!({"topic": "c.x", "data": 2, "producer": "p", "seq": 2}),
        json!({"topic": "c.x", "data": 3, "message_id": "m-3"}),
        json!({"topic": "c.x", "data": "y".repeat(100_000)}),
    ] {
        ws.publish_frame(frame).await;
    }
    broker.stop();
    Sample { broker, acked }
}

impl Sample {
    fn copy(&self) -> (TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        copy_folder(self.broker.data_dir(), &dir);
        (parent, dir)
    }
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Flips a bit wherever this text lies in the file.
fn flip_in(db: &Path, text: &str) {
    let bytes = fs::read(db).unwrap();
    let found: Vec<usize> = (0..bytes.len() - text.len())
        .filter(|&at| bytes[at..].starts_with(text.as_bytes()))
        .collect();
    assert!(!found.is_empty(), "{text} is not there");
    for at in found {
        write_at(db, at as u64, &[bytes[at] ^ 1]);
    }
}

/// What a broker that is ready says that it found wrong, and went on with; null if nothing.
fn warnings_of(broker: &Broker) -> Value {
    let ready = broker.http().get("/readyz").ok().json();
    assert_eq!(ready["status"], "ready", "{ready}");
    ready["warnings"].clone()
}

#[tokio::test]
async fn verify_says_whole_and_names_what_is_not() {
    let sample = sample().await;
    let whole = lines(&ok(run(&["log", "verify"], sample.broker.data_dir(), "")));
    assert_eq!(whole.len(), 1, "{whole:?}");
    assert_eq!(
        (&whole[0]["topics"], &whole[0]["records"]),
        (&json!(3), &json!(MESSAGES + 8))
    );
    assert_eq!(whole[0]["problems"], 0);

    // A flipped bit in a record.
    let (_parent, dir) = sample.copy();
    flip_in(&dir.join("db"), "mark-700-");
    let exit = run(&["log", "verify"], &dir, "");
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let found = lines(&exit.stdout);
    let named = found.iter().any(|problem| {
        problem["topic"] == "a" && problem["problem"].as_str().unwrap().contains("offsets")
    });
    let refused = exit.stdout.contains("--recover");
    assert!(named || refused, "{exit:#?}");

    // A tail that is gone, here by putting the newer witness beside the older file: seen as often as one looks, and by the
    // broker after.
    let (_parent, dir) = sample.copy();
    let mut sample = sample;
    sample.broker.start_again();
    assert_eq!(warnings_of(&sample.broker), Value::Null);
    Ws::connect(&sample.broker)
        .await
        .publish("a", json!("more"))
        .await;
    sample.broker.stop();
    fs::copy(
        sample.broker.data_dir().join("witness"),
        dir.join("witness"),
    )
    .unwrap();
    for _ in 0..2 {
        let exit = run(&["log", "verify"], &dir, "");
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        assert!(exit.stdout.contains("are gone"), "{exit:#?}");
        assert_eq!(lines(&exit.stdout).len(), 2, "{exit:#?}");
    }
    let mut broker = Setup::new().data_dir(&dir).restarts().start();
    let epoch = split(
        &Ws::connect(&broker)
            .await
            .subscribe("a", json!("now"))
            .await["cursor"],
    )
    .0;
    assert_ne!(epoch, split(&json!(sample.acked.cursor(0))).0);
    // It serves, and says what it found: whoever watches over it sees it, and whoever reads its log. Once: the next start finds
    // nothing amiss.
    let warnings = warnings_of(&broker);
    let [warning] = &warnings.as_array().expect("a warning")[..] else {
        panic!("one warning: {warnings}");
    };
    let warning = warning.as_str().unwrap();
    assert!(warning.contains("the log has lost its tail"), "{warning}");
    let log = broker.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains(warning)).collect();
    assert!(
        said.len() == 1 && said[0].contains("ERROR"),
        "{said:?} of:\n{log}"
    );
    broker.stop();
    broker.start_again();
    assert_eq!(warnings_of(&broker), Value::Null);
    assert!(!broker.log().contains("lost its tail"), "{}", broker.log());

    // While a broker runs, and where there is none.
    let exit = run(&["log", "verify"], &dir, "");
    assert_eq!(exit.code, Some(1));
    assert!(
        exit.stderr.contains("in use by another broker"),
        "{exit:#?}"
    );
    let nowhere = dir.join("nowhere");
    assert_eq!(run(&["log", "verify"], &nowhere, "").code, Some(2));
    assert!(!nowhere.exists());
}

#[tokio::test]
async fn what_is_exported_can_be_imported() {
    let sample = sample().await;
    let exported = ok(run(&["log", "export"], sample.broker.data_dir(), ""));
    let before = lines(&exported);
    assert_eq!(before.len() as u64, MESSAGES + 8);
    assert_eq!(before[0]["data"], data(1));
    assert_eq!(before.last().unwrap()["topic"], "c.x");

    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new");
    let imported = lines(&ok(run(&["log", "import"], &dir, &exported)));
    assert_eq!(imported, [json!({"imported": MESSAGES + 8, "gaps": 0})]);

    // Everything but the epoch is the same.
    let again = ok(run(&["log", "export"], &dir, ""));
    let strip = |lines: Vec<Value>| -> Vec<Value> {
        let mut lines = lines;
        for line in &mut lines {
            line["epoch"] = json!("any");
        }
        lines
    };
    assert_eq!(strip(lines(&again)), strip(before.clone()));
    ok(run(&["log", "verify"], &dir, ""));

    // The broker knows the producer and its own times again, and goes on.
    let broker = Setup::new().data_dir(&dir).start();
    let mut ws = Ws::connect(&broker).await;
    let twice = json!({"topic": "c.x", "data": 2, "producer": "p", "seq": 2});
    let receipt = ws.publish_frame(twice).await;
    assert_eq!(receipt["duplicate"], true, "{receipt}");
    let seen = ws.watch_to_caught_up("a", json!("earliest")).await;
    seen.expect(1..=MESSAGES);
    assert_eq!(seen.messages[41].1, data(42).to_string());

    // A running broker says the same, but for what only the log knows; by topic, too.
    let export = |more: &[&str]| ok(Cli::run(&broker, &[&["log", "export"], more].concat()));
    let online = lines(&export(&[]));
    let mut offline = lines(&again);
    for line in &mut offline {
        for hidden in ["producer", "seq", "message_id"] {
            line.as_object_mut().unwrap().remove(hidden);
        }
    }
    assert_eq!(online, offline);
    let some = lines(&export(&["--topic", "b", "--topic", "c.*"]));
    assert_eq!(some, offline[offline.len() - 8..]);
}

#[tokio::test]
async fn an_import_ends_at_a_bad_line_and_says_where() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let good = |n: u64| json!({"topic": "a", "data": n, "time": n}).to_string();
    let gap = json!({"topic": "a", "gap": {"reason": "lost", "from": 1, "to": 2}}).to_string();
    let input = [
        good(1),
        gap,
        String::new(),
        good(2),
        "{\"topic\":\"a\"".to_owned(),
        good(3),
    ];
    let exit = run(&["log", "import"], &dir, &input.join("\n"));
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.stderr.contains("line 5 of standard input"),
        "{exit:#?}"
    );
    assert!(
        exit.stderr.contains("2 messages before it were imported"),
        "{exit:#?}"
    );
    assert!(exit.stderr.contains("1 lines name messages"), "{exit:#?}");

    // Time never goes back, also in what is added later.
    let file = parent.path().join("more.ndjson");
    fs::write(&file, format!("{}\n{}", good(9), good(4))).unwrap();
    ok(run(&["log", "import", file.to_str().unwrap()], &dir, ""));
    let found = lines(&ok(run(&["log", "export"], &dir, "")));
    let found: Vec<_> = found
        .iter()
        .map(|line| (line["data"].clone(), line["time"].clone()))
        .collect();
    let expected = [(1, 1), (2, 2), (9, 9), (4, 9)].map(|(n, time)| (json!(n), json!(time)));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_import_refuses_a_time_that_the_log_cannot_keep() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let line = |time: u64| json!({"topic": "a", "data": 1, "time": time}).to_string();
    let input = [line((1 << 48) - 1), line((1 << 48) + 5)].join("\n");

    let exit = run(&["log", "import"], &dir, &input);

    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let said = "line 2 of standard input: its `time` is 281474976710661";
    assert!(exit.stderr.contains(said), "{exit:#?}");
    let found = lines(&ok(run(&["log", "export"], &dir, "")));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["time"], json!((1_u64 << 48) - 1));
}

#[tokio::test]
async fn an_import_into_a_log_that_has_gone_on_turns_no_producer_back() {
    let mut broker = Setup::new().restarts().start();
    let frame = |seq: u64| json!({"topic": "a", "data": seq, "producer": "p", "seq": seq});
    let mut ws = Ws::connect(&broker).await;
    for seq in 1..=5 {
        ws.publish_frame(frame(seq)).await;
    }
    broker.stop();
    let exported = ok(run(&["log", "export"], broker.data_dir(), ""));
    broker.start_again();
    let mut ws = Ws::connect(&broker).await;
    for seq in 6..=10 {
        ws.publish_frame(frame(seq)).await;
    }
    broker.stop();

    ok(run(&["log", "import"], broker.data_dir(), &exported));
    broker.start_again();

    let mut ws = Ws::connect(&broker).await;
    let again = ws.publish_frame(frame(6)).await;
    assert_eq!(again["duplicate"], true, "{again}");
    let next = ws.publish_frame(frame(11)).await;
    assert_eq!(split(&next["cursor"]).1, 16, "{next}");
}

#[tokio::test]
async fn an_export_that_nobody_reads_to_its_end_ends_quietly() {
    let sample = sample().await;
    let mut export = hark()
        .args(["log", "export", "--data-dir"])
        .arg(sample.broker.data_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(export.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(lines(&line)[0]["offset"], 1);
    drop(stdout);
    let done = export.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{said}");
    // Where the copy is, and not a word about the reader.
    assert!(
        said.lines().count() == 1 && said.contains("from a copy"),
        "{said}"
    );
}

/// A broker's directory was copied, the broker went on, and the copy was restored.
async fn a_restored_backup(stopped_for_the_copy: bool) {
    let parent = tempfile::tempdir().unwrap();
    let (dir, backup) = (parent.path().join("data"), parent.path().join("backup"));
    let mut broker = Setup::new().restarts().data_dir(&dir).start();
    let old = json!("before");
    for _ in 0..20 {
        Ws::connect(&broker).await.publish("a", old.clone()).await;
    }
    if stopped_for_the_copy {
        broker.stop();
        copy_folder(&dir, &backup);
        broker.start_again();
    } else {
        // One moment of all files, as a snapshot of the file system has it.
        broker.signal("STOP");
        copy_folder(&dir, &backup);
        broker.signal("CONT");
    }
    let mut last = Value::Null;
    for _ in 0..10 {
        last = Ws::connect(&broker)
            .await
            .publish("a", json!("after the backup"))
            .await["cursor"]
            .clone();
    }
    broker.stop();
    let (epoch, offset) = split(&last);
    assert_eq!(offset, 30);
    fs::remove_dir_all(&dir).unwrap();
    copy_folder(&backup, &dir);

    let said = lines(&ok(run(&["log", "new-epoch"], &dir, "")));
    assert_eq!(said[0]["old"], epoch.as_str());
    broker.start_again();

    let mut ws = Ws::connect(&broker).await;
    let new = ws.publish("a", json!("after the restore")).await;
    assert_eq!(
        new["cursor"],
        format!("{}:21", said[0]["new"].as_str().unwrap())
    );
    // Who had what the backup has goes on; who had more is told what is lost, and gets what came since.
    let resumed = ws
        .watch_to_caught_up("a", json!({"after": format!("{epoch}:15")}))
        .await;
    resumed.expect(16..=21);
    let mut ws = Ws::connect(&broker).await;
    let ahead = ws.watch_to_caught_up("a", json!({"after": last})).await;
    let gap = &ahead.gaps[0];
    assert_eq!(
        (&gap["reason"], &gap["from"], &gap["to"]),
        (&json!("lost"), &json!(21), &json!(30))
    );
    assert_eq!(ahead.data(), [r#""after the restore""#]);
}

#[tokio::test]
async fn after_a_restored_backup_a_new_epoch_tells_what_is_lost() {
    a_restored_backup(true).await;
}

#[tokio::test]
async fn after_a_restored_snapshot_a_new_epoch_tells_what_is_lost() {
    a_restored_backup(false).await;
}

/// What a reader lost is one thing, and what has expired of what came in its place is another: both are named.
#[tokio::test]
async fn after_a_restored_backup_what_has_expired_since_is_told_too() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, backup) = (parent.path().join("data"), parent.path().join("backup"));
    let setup = Setup::new().restarts().data_dir(&dir);
    let mut broker = setup.flag("retention-messages", "10").start();
    let publish = async |broker: &Broker, count: u64| {
        let mut ws = Ws::connect(broker).await;
        let mut last = Value::Null;
        for n in 0..count {
            last = ws.publish("a", json!(n)).await["cursor"].clone();
        }
        last
    };
    publish(&broker, 20).await;
    broker.stop();
    copy_folder(&dir, &backup);
    broker.start_again();
    let last = publish(&broker, 10).await;
    broker.stop();
    fs::remove_dir_all(&dir).unwrap();
    copy_folder(&backup, &dir);
    ok(run(&["log", "new-epoch"], &dir, ""));
    broker.start_again();
    publish(&broker, 100).await;
    until("retention has been at it", async || {
        let first = broker.http().get("/v1/topics/a").ok().json()["first"].clone();
        (first.as_u64() > Some(60)).then_some(())
    })
    .await;

    let mut ws = Ws::connect(&broker).await;
    let seen = ws.watch_to_caught_up("a", json!({"after": last})).await;

    let told: Vec<_> = seen
        .gaps
        .iter()
        .map(|gap| (&gap["reason"], &gap["from"], &gap["to"]))
        .collect();
    let first = seen.messages[0].0;
    assert_eq!(
        told,
        [
            (&json!("lost"), &json!(21), &json!(30)),
            (&json!("expired"), &json!(21), &json!(first - 1)),
        ]
    );
    let offsets: Vec<u64> = seen.messages.iter().map(|(offset, _)| *offset).collect();
    assert!(
        first > 60 && offsets == (first..=120).collect::<Vec<_>>(),
        "{offsets:?}"
    );
}

/// Whether a damaged directory has been set aside.
fn set_aside(parent: &Path) -> bool {
    let names = fs::read_dir(parent)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let others: Vec<_> = names.filter(|name| name != "data").collect();
    assert!(
        others
            .iter()
            .all(|name| name.to_string_lossy().starts_with("data.damaged-2")),
        "{others:?}"
    );
    assert!(others.len() <= 1, "{others:?}");
    !others.is_empty()
}

/// Recovers a damaged copy, and checks all that is served of topic `a`. Gives how many messages that are, and whether the
/// broker had to recover it. One that it opens is recovered all the same if `in_any_case`: not all of it may be readable.
async fn recovered(
    sample: &Sample,
    case: &str,
    in_any_case: bool,
    damage: impl Fn(&Path),
) -> (u64, bool) {
    let (parent, dir) = sample.copy();
    damage(&dir);
    let setup = || Setup::new().data_dir(&dir).env("HARK_RECOVER", "1");
    let mut broker = setup().start();
    let was_refused = set_aside(parent.path());
    let log = broker.log();
    assert_eq!(
        was_refused,
        !log.contains("nothing is recovered"),
        "{case}: {log}"
    );
    if in_any_case && !was_refused {
        broker.kill9();
        let said = lines(&ok(run(&["log", "recover"], &dir, "")));
        assert!(set_aside(parent.path()), "{case}: {said:?}");
        broker = setup().start();
    }

    let old_epoch = split(&json!(sample.acked.cursor(0))).0;
    let mut ws = Ws::connect(&broker).await;
    let (epoch, head) = split(&ws.subscribe("a", json!("now")).await["cursor"]);
    assert!(head <= MESSAGES, "{case}");
    assert!(
        !was_refused || epoch != old_epoch,
        "{case}: the same epoch after a salvage"
    );
    let mut served = 0;
    for position in [0, MESSAGES / 3, head, MESSAGES] {
        let mut ws = Ws::connect(&broker).await;
        let after = json!({"after": format!("{old_epoch}:{position}")});
        let seen = ws.watch_to_caught_up("a", after).await;
        for (offset, found) in &seen.messages {
            assert_eq!(
                *found,
                data(*offset).to_string(),
                "{case}: another message at {offset}"
            );
        }
        let reasons: Vec<_> = seen
            .gaps
            .iter()
            .map(|gap| gap["reason"].as_str().unwrap())
            .collect();
        if reasons.contains(&"other_epoch") {
            // Nothing is known of the topic any more, not even its name.
            assert_eq!(head, 0, "{case}: {reasons:?}");
            continue;
        }
        assert!(
            reasons.iter().all(|reason| *reason == "lost"),
            "{case}: {reasons:?}"
        );
        let lost: u64 = seen
            .gaps
            .iter()
            .map(|gap| gap["to"].as_u64().unwrap() + 1 - gap["from"].as_u64().unwrap())
            .sum();
        let expected = head.abs_diff(position);
        assert_eq!(
            seen.messages.len() as u64 + lost,
            expected,
            "{case} after {position}"
        );
        if position == 0 {
            served = seen.messages.len() as u64;
        }
    }
    let later = Ws::connect(&broker)
        .await
        .publish("a", json!("later"))
        .await;
    assert_eq!(split(&later["cursor"]), (epoch, head + 1), "{case}");
    if set_aside(parent.path()) {
        // What the recovery could not save is known: nobody is told again to recover it.
        let log = broker.log();
        assert!(!log.contains("hark log recover"), "{case}: {log}");
        broker.stop();
        let verified = lines(&ok(run(&["log", "verify"], &dir, "")));
        assert_eq!(verified.len(), 1, "{case}: {verified:?}");
    }
    (served, was_refused)
}

#[tokio::test]
async fn what_the_rest_of_the_files_say_does_not_matter_to_a_recovery() {
    let sample = sample().await;
    let snapshot = |dir: &Path| {
        let names = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = names
            .filter(|path| path.to_string_lossy().contains("/snap."))
            .collect();
        found.sort();
        found.pop().expect("sled writes a snapshot when it opens")
    };
    // One that is whole is only opened.
    let (served, was_refused) = recovered(&sample, "whole", false, |_| {}).await;
    assert_eq!((served, was_refused), (MESSAGES, false));
    let conf = |dir: &Path| write_at(&dir.join("conf"), 20, b"#");
    assert_eq!(
        recovered(&sample, "conf", false, conf).await,
        (MESSAGES, true)
    );
    // There is a snapshot from the second start on.
    let mut sample = sample;
    sample.broker.start_again();
    sample.broker.stop();
    let damaged = |dir: &Path| write_at(&snapshot(dir), 9, b"#####");
    assert_eq!(
        recovered(&sample, "snapshot", false, damaged).await,
        (MESSAGES, true)
    );
    let witness_alone = |dir: &Path| fs::write(dir.join("db"), b"").unwrap();
    assert_eq!(
        recovered(&sample, "nothing left", false, witness_alone).await,
        (0, true)
    );
}

#[tokio::test]
async fn a_cut_or_garbled_file_is_recovered_as_far_as_it_can_be_read() {
    let mut sample = sample().await;
    sample.broker.start_again();
    sample.broker.stop();
    let len = fs::metadata(sample.broker.data_dir().join("db"))
        .unwrap()
        .len();
    let (mut refused, mut salvaged) = (0, 0);
    let mut count = |(served, was_refused): (u64, bool)| {
        refused += u64::from(was_refused);
        salvaged += served;
    };
    for percent in [30, 50, 80] {
        let cut = |dir: &Path| {
            let db = OpenOptions::new().write(true).open(dir.join("db")).unwrap();
            db.set_len(len * percent / 100).unwrap();
        };
        count(recovered(&sample, &format!("cut to {percent} %"), true, cut).await);
    }
    for places in [1, 3, 9, 27] {
        let garble = |dir: &Path| {
            for place in 0..places {
                let at = len / 40 + len * place / places;
                write_at(&dir.join("db"), at.min(len - 20_000), &[0xa5; 20_000]);
            }
        };
        count(
            recovered(
                &sample,
                &format!("garbled at {places} places"),
                true,
                garble,
            )
            .await,
        );
    }
    println!(
        "{refused} of 7 were refused; {salvaged} of {} messages were salvaged",
        7 * MESSAGES
    );
    assert!(
        refused > 0,
        "nothing was refused, so the broker recovered nothing by itself"
    );
    assert!(
        salvaged > MESSAGES,
        "hardly anything was salvaged: {salvaged}"
    );
}

#[tokio::test]
async fn a_recovery_that_is_killed_leaves_what_it_was_to_recover() {
    let sample = sample().await;
    let damaged = fs::read(sample.broker.data_dir().join("db")).unwrap();
    let mut killed = 0;
    for moment in 1.. {
        let preload = Preload::new();
        let dir = preload.data_dir();
        let parent = dir.parent().unwrap();
        copy_folder(sample.broker.data_dir(), dir);
        preload.kill_at_name_change(moment);
        let mut command = hark();
        command.args(["log", "recover", "--data-dir"]).arg(dir);
        // Above the directory, since what counts are the names beside it.
        command.envs(preload.env()).env("PRELOAD_DIR", parent);
        let mut cli = Cli::spawn(command);
        cli.end_input();
        let exit = cli.wait();
        preload.expect_loaded(1);
        if exit.code == Some(0) {
            break;
        }
        assert_eq!(exit.code, None, "{exit:#?}");
        killed += 1;

        ok(run(&["log", "recover"], dir, ""));

        let mut beside = fs::read_dir(parent).unwrap();
        let is_damaged = |dir: PathBuf| fs::read(dir.join("db")).is_ok_and(|db| db == damaged);
        assert!(
            beside.any(|entry| is_damaged(entry.unwrap().path())),
            "killed at moment {moment}: what was to be recovered is gone"
        );
        let exported = lines(&ok(run(&["log", "export"], dir, "")));
        assert_eq!(exported.len() as u64, MESSAGES + 8, "moment {moment}");
    }
    assert!(killed >= 2, "only killed at {killed} moments");
}

#[tokio::test]
async fn recover_does_not_touch_what_is_not_damaged() {
    let broker = Setup::new().start();
    let exit = Setup::new()
        .data_dir(broker.data_dir())
        .env("HARK_RECOVER", "1")
        .try_start()
        .expect_err("two brokers on one directory");
    assert_eq!(exit.code, Some(1));
    assert!(
        exit.stderr.contains("in use by another broker"),
        "{exit:#?}"
    );

    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("photos");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("cat.jpg"), "meow").unwrap();
    let exit = Setup::new()
        .data_dir(&dir)
        .env("HARK_RECOVER", "1")
        .try_start()
        .err()
        .unwrap();
    assert!(exit.stderr.contains("not Hark's"), "{exit:#?}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn without_recover_a_damaged_directory_is_refused_and_says_what_helps() {
    let sample = sample().await;
    let (_parent, dir) = sample.copy();
    write_at(&dir.join("conf"), 20, b"#");
    let exit = Setup::new()
        .data_dir(&dir)
        .try_start()
        .expect_err("a damaged conf");
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains("hark serve --recover"), "{exit:#?}");
}
