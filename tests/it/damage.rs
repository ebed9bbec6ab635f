//! A data directory that was damaged while nobody looked. The broker may refuse it; if it serves, whatever it cannot
//! give is named, and no cursor ever means another message than before.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use hark_tests::{Acked, Broker, Setup, Ws, copy_folder};
use serde_json::{Value, json};

const MESSAGES: u64 = 3000;

/// A stopped broker's directory, full of messages; kept as it is for each case to damage a copy of.
struct Sample {
    broker: Broker,
    acked: Acked,
    data: Vec<String>,
}

async fn sample() -> Sample {
    let mut broker = Setup::new().restarts().start();
    let mut ws = Ws::connect(&broker).await;
    let data: Vec<Value> = (1..=MESSAGES)
        .map(|n| json!({"n": n, "x": "x".repeat(300)}))
        .collect();
    let frames: Vec<Value> = data
        .iter()
        .map(|data| json!({"topic": "a", "data": data}))
        .collect();
    let mut acked = Acked::default();
    for (receipt, data) in ws.publish_all(frames, 64).await.iter().zip(&data) {
        acked.receipt(receipt, data);
    }
    broker.stop();
    Sample {
        broker,
        acked,
        data: data.iter().map(Value::to_string).collect(),
    }
}

fn db_in(dir: &Path) -> PathBuf {
    let db = dir.join("db");
    assert!(
        db.is_file(),
        "the log's file is not where it was: {}",
        db.display()
    );
    db
}

/// Damages a copy, starts a broker on it, and checks what subscribers are told, wherever they were. Gives whether the
/// broker served at all.
async fn serves_or_refuses(sample: &Sample, case: &str, damage: impl Fn(&Path)) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data");
    copy_folder(sample.broker.data_dir(), &dir);
    damage(&db_in(&dir));
    let mut attempt = Setup::new().data_dir(&dir).try_start();
    if let Err(exit) = &attempt {
        assert_eq!(exit.code, Some(1), "{case}: {exit:#?}");
        // Who starts it again all the same meets no other rules than before; least of all a log that begins anew.
        attempt = Setup::new().data_dir(&dir).try_start();
    }
    let Ok(broker) = attempt else { return false };

    let kept = Ws::connect(&broker)
        .await
        .subscribe("a", json!("now"))
        .await;
    let (epoch, kept) = split(&kept["cursor"]);
    let old_epoch = split(&json!(sample.acked.cursor(0))).0;
    assert!(kept <= MESSAGES, "{case}");
    assert!(
        epoch != old_epoch || kept == MESSAGES,
        "{case}: the tail is gone, and the epoch the same"
    );
    for position in [0, MESSAGES / 3, kept.saturating_sub(1), kept, MESSAGES] {
        let mut ws = Ws::connect(&broker).await;
        let seen = ws
            .watch_to_caught_up("a", json!({"after": sample.acked.cursor(position)}))
            .await;
        for (offset, data) in &seen.messages {
            assert_eq!(
                data,
                &sample.data[usize::try_from(offset - 1).unwrap()],
                "{case}: another message at {offset}"
            );
        }
        let lost: Vec<_> = seen
            .gaps
            .iter()
            .map(|gap| {
                assert_eq!(gap["reason"], "lost", "{case}: {gap}");
                (
                    gap["from"].as_u64().unwrap(),
                    gap["to"].as_u64().unwrap(),
                    gap["cursor"].clone(),
                )
            })
            .collect();
        if position > kept {
            let to_the_end = (kept + 1, position, json!(format!("{epoch}:{kept}")));
            assert_eq!(lost, [to_the_end], "{case}");
        } else {
            // Old cursors up to what was kept resume exactly; a hole on the way is named.
            let named: u64 = lost.iter().map(|(from, to, _)| to + 1 - from).sum();
            assert_eq!(
                seen.messages.len() as u64 + named,
                kept - position,
                "{case} after {position}: {lost:?}"
            );
        }
    }
    // One place never names two messages.
    let later = Ws::connect(&broker)
        .await
        .publish("a", json!("later"))
        .await;
    assert_eq!(split(&later["cursor"]), (epoch, kept + 1), "{case}");
    true
}

fn split(cursor: &Value) -> (String, u64) {
    let (epoch, offset) = cursor.as_str().unwrap().split_once(':').unwrap();
    (epoch.to_owned(), offset.parse().unwrap())
}

#[tokio::test]
async fn a_tail_that_was_cut_is_named() {
    let sample = sample().await;
    let len = db_in(sample.broker.data_dir()).metadata().unwrap().len();
    let mut served = 0;
    for percent in [0, 10, 50, 75, 90, 97, 99, 100] {
        let case = format!("cut to {percent} % of {len} bytes");
        let cut = |db: &Path| {
            OpenOptions::new()
                .write(true)
                .open(db)
                .unwrap()
                .set_len(len * percent / 100)
                .unwrap()
        };
        served += u32::from(serves_or_refuses(&sample, &case, cut).await);
    }
    assert!(served > 0, "at least the whole one is served");
}

#[tokio::test]
async fn a_hole_in_the_middle_is_named() {
    let sample = sample().await;
    let len = db_in(sample.broker.data_dir()).metadata().unwrap().len();
    for percent in [1, 20, 40, 60, 80, 95] {
        for bytes in [1, 512, 100_000] {
            let case = format!("{bytes} bytes overwritten at {percent} % of {len}");
            let garble = |db: &Path| {
                let file = OpenOptions::new().write(true).open(db).unwrap();
                let at = len * percent / 100;
                let bytes = bytes.min(usize::try_from(len - at).unwrap());
                file.write_all_at(&vec![0xa5; bytes], at).unwrap();
            };
            serves_or_refuses(&sample, &case, garble).await;
        }
    }
}
