//! `hark sub --cursor-file`: whoever comes back finds the positions, after a crash, a power cut, and whatever the file is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use hark_tests::{Broker, Cli, Disk, Exit, Fate, Preload, Record, Ws, hark, wait_until};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

async fn with_messages(count: u64) -> Broker {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for n in 1..=count {
        ws.publish("a", json!(n)).await;
    }
    broker
}

fn sub(broker: &Broker, file: &Path, count: u64) -> Exit {
    let (file, count) = (file.to_str().unwrap(), count.to_string());
    let args = [
        "sub",
        "a",
        "--from",
        "earliest",
        "--count",
        &count,
        "--cursor-file",
        file,
    ];
    Cli::run(broker, &args)
}

#[track_caller]
fn offsets(exit: &Exit) -> Vec<u64> {
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    let offset = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["offset"].as_u64()
    };
    exit.stdout.lines().filter_map(offset).collect()
}

#[tokio::test]
async fn the_file_goes_on_where_it_was() {
    let broker = with_messages(6).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cursors");
    assert_eq!(offsets(&sub(&broker, &file, 2)), [1, 2]);
    // Left behind by a run that was killed while it wrote.
    fs::write(dir.path().join("cursors.new"), "half of a li").unwrap();
    assert_eq!(offsets(&sub(&broker, &file, 3)), [3, 4, 5]);
    assert_eq!(offsets(&sub(&broker, &file, 1)), [6]);
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1, "nothing is left beside it");
}

#[tokio::test]
async fn a_link_stays_and_what_it_leads_to_is_replaced() {
    let broker = with_messages(4).await;
    let dir = tempfile::tempdir().unwrap();
    let (link, target) = (dir.path().join("link"), dir.path().join("elsewhere/target"));
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink("elsewhere/target", &link).unwrap();
    for (count, expected) in [(1, &[1][..]), (2, &[2, 3])] {
        assert_eq!(offsets(&sub(&broker, &link, count)), expected);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let target = fs::symlink_metadata(&target).unwrap();
        assert!(target.is_file(), "{target:?}");
    }
    let text = fs::read_to_string(&target).unwrap();
    assert!(text.starts_with("a ") && text.ends_with(":3\n"), "{text}");
}

#[tokio::test]
async fn who_could_read_the_file_still_can() {
    let broker = with_messages(2).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cursors");
    assert_eq!(offsets(&sub(&broker, &file, 1)), [1]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    // Where this can be tried: the superuser writes to somebody's file.
    let given = std::os::unix::fs::chown(&file, Some(12345), Some(54321)).is_ok();
    assert_eq!(offsets(&sub(&broker, &file, 1)), [2]);
    let after = fs::metadata(&file).unwrap();
    assert_eq!(after.permissions().mode() & 0o777, 0o644);
    if given {
        assert_eq!((after.uid(), after.gid()), (12345, 54321));
    }
}

#[tokio::test]
async fn what_is_no_file_or_says_nothing_is_refused_and_left_alone() {
    let broker = with_messages(2).await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("empty"), "").unwrap();
    fs::write(at("blank"), "\n").unwrap();
    fs::write(at("torn"), "a k3:1\nb k3").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("circle", at("circle")).unwrap();
    let made = Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(made.success());
    for (path, said) in [
        (at("empty"), "delete it to start where --from says"),
        (at("blank"), "delete it to start where --from says"),
        (at("torn"), "b k3"),
        (at("folder"), "name a file"),
        (at("pipe"), "name a file"),
        (at("circle"), "circle"),
        ("/dev/null".into(), "name a file"),
    ] {
        let before = fs::symlink_metadata(&path).unwrap();
        let exit = sub(&broker, &path, 1);
        assert_eq!(exit.code, Some(1), "{}: {exit:#?}", path.display());
        assert!(exit.stderr.contains(said), "{}: {exit:#?}", path.display());
        assert_eq!(
            exit.stdout, "",
            "nothing is printed that would be printed again"
        );
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!(before.ino(), after.ino(), "{}", path.display());
        assert_eq!(before.len(), after.len(), "{}", path.display());
    }
    let exit = sub(&broker, &at("folder/none/cursors"), 1);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(exit.stderr.contains("cursor-file"), "{exit:#?}");
}

/// A power cut at any moment leaves no file, or a whole one; and what had been stored when the program ended is there.
#[tokio::test]
async fn the_file_survives_a_power_cut() {
    let broker = with_messages(30).await;
    let preload = Preload::recording();
    fs::create_dir(preload.data_dir()).unwrap();
    let file = preload.data_dir().join("cursors");
    let run = |count: &str| {
        let mut command = hark();
        command.args(["sub", "a", "--from", "earliest", "--count", count, "--url"]);
        command.arg(broker.ws_url()).arg("--cursor-file").arg(&file);
        command.envs(preload.env());
        let exit = Cli::spawn(command).wait();
        assert_eq!(exit.code, Some(0), "{exit:#?}");
    };
    run("10");
    let first = Record::read(&preload).len();
    run("20");
    preload.expect_loaded(2);
    let record = Record::read(&preload);
    assert!(
        record.len() > first && first > 0,
        "{first} of {}",
        record.len()
    );

    let mut dice = StdRng::seed_from_u64(1);
    let mut disk = Disk::new(&record, 1);
    let home = tempfile::tempdir().unwrap();
    for event in 0..=record.len() {
        disk.advance(event);
        for (n, fate) in [Fate::Nothing, Fate::Everything, Fate::Chance(0.5)]
            .into_iter()
            .enumerate()
        {
            let left = home.path().join(format!("{event}-{n}"));
            disk.lose_power(&left, fate, &mut dice);
            let text = fs::read_to_string(left.join("cursors")).unwrap_or_default();
            let at_least = match event {
                _ if event == record.len() => 30,
                _ if event >= first => 10,
                _ => 0,
            };
            let offset = match left.join("cursors").exists() {
                true => text.trim_end().rsplit_once(':').unwrap().1.parse().unwrap(),
                false => 0,
            };
            assert!(
                offset >= at_least,
                "after event {event} of {} ({first} of the first run): {text:?}",
                record.len()
            );
        }
    }
}

/// Each writing has to get to the disk: messages that come one by one cost one each second, and not one each.
#[tokio::test]
async fn it_is_written_once_a_second() {
    const MESSAGES: u64 = 100;
    let broker = with_messages(1).await;
    let preload = Preload::new();
    fs::create_dir(preload.data_dir()).unwrap();
    let file = preload.data_dir().join("cursors");
    let begun = Instant::now();
    let mut command = hark();
    command.args(["sub", "a", "--from", "earliest", "--url", &broker.ws_url()]);
    command.arg("--cursor-file").arg(&file).envs(preload.env());
    let mut client = Cli::spawn(command);
    let mut ws = Ws::connect(&broker).await;
    client.line();
    for n in 2..=MESSAGES {
        ws.publish("a", json!(n)).await;
        client.line();
    }
    preload.expect_loaded(1);
    // The last position is there, though nothing comes behind it.
    wait_until("the last position", || {
        let text = fs::read_to_string(&file).ok()?;
        text.ends_with(&format!(":{MESSAGES}\n")).then_some(())
    });
    // Of the file and of its directory.
    let most = 2 * (begun.elapsed().as_secs() + 1);
    let syncs = preload.syncs();
    assert!((1..=most).contains(&syncs), "{syncs} of {most}");
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_old_file_stays() {
    let broker = with_messages(6).await;
    let preload = Preload::new();
    fs::create_dir(preload.data_dir()).unwrap();
    let file = preload.data_dir().join("cursors");
    assert_eq!(offsets(&sub(&broker, &file, 2)), [1, 2]);
    let before = fs::read_to_string(&file).unwrap();
    preload.room(Some(0));
    let mut command = hark();
    command.args(["sub", "a", "--count", "2", "--url", &broker.ws_url()]);
    command.arg("--cursor-file").arg(&file).envs(preload.env());
    let exit = Cli::spawn(command).wait();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(exit.stderr.contains("make room"), "{exit:#?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    // With room it goes on where it was.
    assert_eq!(offsets(&sub(&broker, &file, 2)), [3, 4]);
}
