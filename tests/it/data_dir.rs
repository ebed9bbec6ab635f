//! The data directory and others: nobody but its owner reads it, and whoever only looks at a log leaves everything as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use hark_tests::{Cli, Exit, Setup, Ws, hark};
use serde_json::{Value, json};

/// What a file or folder is to everybody else, and what it holds.
#[derive(Debug, PartialEq)]
struct Found {
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
    /// `None`: a folder.
    bytes: Option<Vec<u8>>,
}

/// Everything in a folder, with itself.
fn look(dir: &Path) -> BTreeMap<PathBuf, Found> {
    let (mut all, mut paths) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(path) = paths.pop() {
        let found = fs::metadata(&path).unwrap();
        let bytes = found.is_file().then(|| fs::read(&path).unwrap());
        if found.is_dir() {
            paths.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let found = Found {
            mode: found.permissions().mode() & 0o777,
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            bytes,
        };
        all.insert(path, found);
    }
    all
}

#[track_caller]
fn expect_private(dir: &Path) {
    let found = look(dir);
    assert!(found.len() > 5, "{found:?}");
    for (path, Found { mode, bytes, .. }) in found {
        let private = if bytes.is_some() { 0o600 } else { 0o700 };
        assert_eq!(mode, private, "{} has {mode:o}", path.display());
    }
}

fn chmod(dir: &Path, folders: u32, files: u32) {
    let mut all: Vec<_> = look(dir).into_iter().collect();
    // A folder last: what is in it cannot be reached any more.
    all.reverse();
    for (path, found) in all {
        let mode = if found.bytes.is_some() {
            files
        } else {
            folders
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn run(dir: &Path, args: &[&str], input: &[u8]) -> Exit {
    let mut command = hark();
    command.arg("log").args(args).arg("--data-dir").arg(dir);
    let mut cli = Cli::spawn(command);
    cli.write(input);
    cli.end_input();
    cli.wait()
}

/// A stopped broker's directory, opened twice: so there is a snapshot.
async fn filled(dir: &Path) {
    let mut broker = Setup::new().data_dir(dir).restarts().start();
    let mut ws = Ws::connect(&broker).await;
    for n in 0..300 {
        ws.publish("a", json!({"n": n, "x": "x".repeat(500)})).await;
    }
    broker.stop();
    broker.start_again();
    let mut ws = Ws::connect(&broker).await;
    ws.publish("b", json!(1)).await;
    expect_private(dir);
    broker.stop();
}

#[tokio::test]
async fn what_is_kept_only_its_owner_can_read() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    filled(&dir).await;
    expect_private(&dir);

    // As earlier versions have left it.
    chmod(&dir, 0o755, 0o644);
    let mut broker = Setup::new().data_dir(&dir).start();
    expect_private(&dir);
    assert!(
        broker.log().contains("could be read by others"),
        "{}",
        broker.log()
    );
    broker.stop();
    expect_private(&dir);

    let exported = run(&dir, &["export"], b"");
    assert_eq!(exported.code, Some(0), "{exported:?}");
    let imported = home.path().join("below/imported");
    let exit = run(&imported, &["import"], exported.stdout.as_bytes());
    assert_eq!(exit.code, Some(0), "{exit:?}");
    expect_private(&imported);

    // What is salvaged, and what is set aside for it.
    chmod(&dir, 0o755, 0o644);
    let exit = run(&dir, &["recover"], b"");
    assert_eq!(exit.code, Some(0), "{exit:?}");
    expect_private(&dir);
    let aside: Value = serde_json::from_str(&exit.stdout).unwrap();
    expect_private(Path::new(aside["set_aside"].as_str().unwrap()));
}

#[tokio::test]
async fn who_only_looks_at_a_log_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    filled(&dir).await;
    let temp = tempfile::tempdir().unwrap();
    let temp_dir = temp.path().to_str().unwrap();

    // A whole one; and one whose tail was torn, which whoever writes to it would cut.
    for (torn, code) in [(0, 0), (300, 1)] {
        chmod(&dir, 0o700, 0o600);
        let db = fs::OpenOptions::new()
            .write(true)
            .open(dir.join("db"))
            .unwrap();
        if torn > 0 {
            let whole = fs::read(dir.join("db")).unwrap();
            let end = whole.iter().rposition(|byte| *byte != 0).unwrap() as u64;
            db.set_len(end - torn).unwrap();
        }
        drop(db);
        chmod(&dir, 0o500, 0o400);
        let before = look(&dir);

        let verified = run(&dir, &["verify", "--temp-dir", temp_dir], b"");
        let exported = run(&dir, &["export", "--temp-dir", temp_dir], b"");

        assert_eq!(look(&dir), before, "torn: {torn}");
        assert_eq!(verified.code, Some(code), "{verified:?}");
        assert_eq!(exported.code, Some(0), "{exported:?}");
        assert!(exported.stdout.lines().count() > 290, "{}", exported.stderr);
        for said in [verified.stderr, exported.stderr] {
            assert!(
                said.contains(" MiB are taken in") && said.contains(temp_dir),
                "{said}"
            );
        }
        assert_eq!(look(temp.path()).len(), 1, "the copies are gone");
    }
    chmod(&dir, 0o700, 0o600);
    let exit = run(&dir, &["verify", "--temp-dir", "/nowhere"], b"");
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains("--temp-dir"), "{}", exit.stderr);

    // While a broker runs there is no one moment to copy.
    let _broker = Setup::new().data_dir(&dir).start();
    let exit = run(&dir, &["verify"], b"");
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains("in use"), "{}", exit.stderr);
}

#[tokio::test]
async fn a_log_on_a_read_only_mount_can_be_read() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    filled(&dir).await;
    let hark = hark();
    // A mount of its own, in a namespace of its own.
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && ! touch "$0/lock" 2>/dev/null \
        && "$1" log verify --data-dir "$0" && "$1" log export --data-dir "$0""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(&dir)
        .arg(hark.get_program())
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains("unshare:") || said.contains("mount:"),
                "hark failed, not the mount: {said}"
            );
            eprintln!("left out: this system lets nobody mount ({said})");
            return;
        }
        Err(e) => {
            eprintln!("left out: there is no `unshare` ({e})");
            return;
        }
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 302);
}

#[test]
fn an_import_refuses_what_no_publish_could_have_brought() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let good = json!({"topic": "a", "data": 1}).to_string();
    let of_type =
        |typ: &str| json!({"topic": "a", "data_base64": "", "content_type": typ}).to_string();
    for (bad, said) in [
        (
            json!({"topic": "$x", "data": 1}).to_string(),
            "$x belongs to the system",
        ),
        (of_type("text/plain\t"), "control characters"),
        (of_type("text/plain\r\nx: y"), "control characters"),
        (of_type(&"x".repeat(256)), "255 bytes"),
    ] {
        let exit = run(&dir, &["import"], format!("{good}\n{bad}\n").as_bytes());
        assert_eq!(exit.code, Some(1), "{bad}");
        assert!(
            exit.stderr.contains("line 2") && exit.stderr.contains(said),
            "{}",
            exit.stderr
        );
    }
    let topics = run(&dir, &["export"], b"").stdout;
    assert!(
        topics
            .lines()
            .all(|line| line.starts_with(r#"{"topic":"a""#)),
        "{topics}"
    );
    assert_eq!(topics.lines().count(), 4);
}
