//! What the sled engine promises beyond the contract: what a restart, a crash, a full disk's error and damage do, and do
//! not do, to what was kept.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek, SeekFrom, Write};
use std::path::Path;

use hark_protocol::{Epoch, GapReason};
use tempfile::TempDir;

use super::layout::{HEADER_BYTES, Header, Key, TopicId};
use super::meta::{FORMAT_VERSION, Meta, Numbers, OLDEST_FORMAT};
use super::rows::Records;
use super::*;
use crate::message_log::contract::{
    Bench, NOON, answer, assert_covered, by, messages, offsets, sent_by, text, texts, topic,
    wait_for,
};
use crate::message_log::{KEY_MEMORY_MS, Lineage, NewRecord, PageItem, TopicInfo};

pub(super) fn options(dir: &Path) -> SledOptions {
    SledOptions {
        clock: Clock::manual(NOON),
        tick: Duration::from_millis(5),
        ..SledOptions::new(dir)
    }
}

pub(super) fn start(options: SledOptions) -> Bench {
    let clock = options.clock.clone();
    Bench {
        log: Arc::new(SledLog::open(options).unwrap()),
        clock,
        _keep: None,
    }
}

pub(super) fn start_in(dir: &Path) -> Bench {
    start(options(dir))
}

/// What a kill leaves behind: the files as they are while the log is open. The witness first, as it must not be ahead.
pub(super) fn crash_copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(dir.join("witness"), copy.path().join("witness")).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let to = copy.path().join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => fs::create_dir(to).unwrap(),
            false if entry.file_name() == "witness" => {}
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
    copy
}

/// Every file with its content.
pub(super) fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let content = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read(path).unwrap_or_default())
    };
    entries.map(content).collect()
}

pub(super) fn flip(path: &Path, at: u64) {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

/// Changes the trees while no log has them open.
pub(super) fn with_trees(dir: &Path, change: impl FnOnce(&Records, &Meta)) {
    let opened = open::open(dir, 1 << 20).unwrap();
    change(&opened.records, &opened.meta);
    opened.db.flush().unwrap();
}

pub(super) fn long(n: u64) -> NewRecord {
    text(n.to_be_bytes().repeat(25))
}

#[test]
fn a_restart_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    let records: Vec<NewRecord> = (0..500).map(long).chain([text(vec![7; 1 << 20])]).collect();
    orders.append(records).unwrap();
    bench.clock.set(NOON + 5);
    orders.append(vec![sent_by("p", 1)]).unwrap();
    let before = (
        orders.page(0, 502),
        bench.open("orders").found,
        bench.list(),
    );
    let unused = bench.open("unused").found.epoch;
    drop(bench);

    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    assert_eq!(orders.page(0, 502), before.0);
    let again = OpenedTopic {
        generation: before.1.generation,
        ..orders.found.clone()
    };
    assert_eq!(again, before.1);
    assert_eq!(bench.list(), before.2);
    assert_eq!(bench.open("unused").found.epoch, unused);
    // The clock stands before the last record, and time does not go back.
    let kept = orders.append(texts(0..1)).unwrap();
    assert_eq!((kept[0].offset, kept[0].time_ms), (503, NOON + 5));
}

#[test]
fn what_was_answered_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let names = ["a", "b", "c"];
    let epoch = bench.open("unused").found.epoch;
    for round in 1..=20 {
        for name in names {
            let kept = bench
                .open(name)
                .append((0..round).map(long).collect())
                .unwrap();
            assert_eq!(kept.len() as u64, round);
        }
        let copy = crash_copy(dir.path());

        let after = start_in(copy.path());
        for name in names {
            let opened = after.open(name);
            let head = round * (round + 1) / 2;
            assert_eq!((opened.found.head, opened.found.first), (head, 1));
            assert_eq!((opened.found.epoch, opened.found.lineage.len()), (epoch, 0));
            let page = opened.page(0, head);
            assert_eq!(page, bench.open(name).page(0, head));
            assert_eq!(opened.append(texts(0..1)).unwrap()[0].offset, head + 1);
        }
    }
}

#[test]
fn a_crash_between_two_commits_of_a_busy_log_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let opened: Vec<_> = (0..4).map(|n| bench.open(&format!("t{n}"))).collect();
    std::thread::scope(|scope| {
        let writers: Vec<_> = opened
            .iter()
            .map(|topic| {
                scope.spawn(move || {
                    for n in 0..200 {
                        topic.append((0..n % 9 + 1).map(long).collect()).unwrap();
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            // A copy of a file that grows is not what a crash leaves (that is one moment of all blocks), but sled has to
            // get along with less: it cuts what does not fit. So only what was answered before the copy is asked for.
            let answered = bench.list();
            let copy = crash_copy(dir.path());
            let after = start_in(copy.path());
            for TopicInfo { topic, head, .. } in answered {
                let found = after.open(topic.as_str());
                assert!(found.found.head >= head, "{} < {head}", found.found.head);
                let page = found.page(0, head);
                assert_covered(&page, 0);
                assert_eq!(messages(&page).len() as u64, head);
            }
        }
    });
}

/// The pool has two threads: neither is lost.
#[test]
fn an_answer_that_panics_takes_no_reader_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    orders.append(texts(0..3)).unwrap();

    for _ in 0..20 {
        let all = List {
            prefix: String::new(),
            after: None,
            limit: 10,
        };
        bench
            .log
            .list(all, Box::new(|_| panic!("an answer's own fault")));
    }

    assert_eq!(bench.list().len(), 1);
    assert_eq!(offsets(&orders.page(0, 3)), [1, 2, 3]);
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    bench.open("orders").append(texts(0..3)).unwrap();
    let before = contents(dir.path());

    let refused = SledLog::open(options(dir.path())).unwrap_err();

    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    assert!(
        refused
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    assert_eq!(contents(dir.path()), before);
    bench.open("orders").append(texts(3..4)).unwrap();
}

#[test]
fn what_is_not_harks_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("holiday.jpg"), b"sun").unwrap();
    let before = contents(dir.path());
    let refused = SledLog::open(options(dir.path())).unwrap_err();
    assert!(matches!(refused, OpenError::NotHarks { .. }), "{refused}");
    assert!(refused.to_string().contains("holiday.jpg"), "{refused}");
    assert_eq!(contents(dir.path()), before);

    // Another's sled database is not ours either.
    let dir = tempfile::tempdir().unwrap();
    drop(sled::open(dir.path()).unwrap());
    let before = contents(dir.path());
    let refused = SledLog::open(options(dir.path())).unwrap_err();
    assert!(matches!(refused, OpenError::NotHarks { .. }), "{refused}");
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn another_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    start_in(dir.path())
        .open("orders")
        .append(texts(0..3))
        .unwrap();
    fs::write(dir.path().join("FORMAT"), b"hark message log 1\n").unwrap();
    let before = contents(dir.path());
    let refused = SledLog::open(options(dir.path())).unwrap_err();
    assert!(
        matches!(refused, OpenError::OtherFormat { .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("hark message log 1"),
        "{refused}"
    );
    assert_eq!(contents(dir.path()), before);

    // That of a newer Hark.
    fs::write(dir.path().join("FORMAT"), b"hark message log 4\n").unwrap();
    let refused = SledLog::open(options(dir.path())).unwrap_err();
    assert!(refused.to_string().contains("log 4"), "{refused}");
}

/// Whether it is killed before or after what the tree says, and before the mark is written: the next start goes on.
#[test]
fn an_older_directory_is_brought_along() {
    let dir = tempfile::tempdir().unwrap();
    let of_ours = format!("hark message log {FORMAT_VERSION}\n");
    start_in(dir.path())
        .open("orders")
        .append(vec![sent_by("p", 1)])
        .unwrap();
    let mark = dir.path().join("FORMAT");
    for (offset, format) in [(2, OLDEST_FORMAT), (3, FORMAT_VERSION)] {
        with_trees(dir.path(), |_, meta| {
            let mut directory = meta.directory().unwrap().unwrap();
            assert_eq!(directory.format, FORMAT_VERSION);
            directory.format = format;
            meta.set_directory(&directory).unwrap();
        });
        fs::write(&mark, format!("hark message log {OLDEST_FORMAT}\n")).unwrap();

        let bench = start_in(dir.path());
        let orders = bench.open("orders");
        assert_eq!(fs::read_to_string(&mark).unwrap(), of_ours);
        assert_eq!(orders.found.head, offset - 1);
        let kept = orders.append(vec![by(Some("ana"), sent_by("p", offset))]);
        assert_eq!(kept.unwrap()[0].offset, offset);
    }
    let found = start_in(dir.path()).open("orders").found.producers.clone();
    let counts: Vec<_> = found
        .iter()
        .map(|mark| (mark.producer.identity.is_some(), mark.seq))
        .collect();
    assert_eq!(counts, [(false, 1), (true, 3)]);
}

#[test]
fn a_place_that_cannot_be_a_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    for place in [file.clone(), file.join("below")] {
        let refused = SledLog::open(options(&place)).unwrap_err();
        assert!(
            matches!(refused, OpenError::NotWritable { .. }),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("check that it is a directory"),
            "{refused}"
        );
    }
    // /proc takes no files, whoever asks.
    if cfg!(target_os = "linux") {
        let refused = SledLog::open(options(Path::new("/proc/hark"))).unwrap_err();
        assert!(
            matches!(refused, OpenError::NotWritable { .. }),
            "{refused}"
        );
    }
}

#[test]
fn a_start_that_was_interrupted_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lock"), b"4711\n").unwrap();
    fs::write(dir.path().join("FORMAT.new"), b"ha").unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    let bench = start_in(dir.path());
    bench.open("orders").append(texts(0..3)).unwrap();
    drop(bench);
    // Before the witness was there: it does not speak against what is found.
    fs::remove_file(dir.path().join("witness")).unwrap();
    assert_eq!(start_in(dir.path()).open("orders").found.head, 3);
}

#[test]
fn a_snapshot_that_was_not_finished_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    start_in(dir.path())
        .open("orders")
        .append(texts(0..3))
        .unwrap();
    start_in(dir.path()); // so that there is a finished one
    let planted = dir.path().join("snap.FFFFFFFFFFFFFFFF.generating");
    fs::write(&planted, b"half a snapsh").unwrap();
    let bench = start_in(dir.path());
    assert!(!planted.exists());
    assert_eq!(bench.open("orders").found.head, 3);
}

#[test]
fn damage_that_shows_before_sled_opens_changes_nothing() {
    type Damage = fn(&Path);
    let damage: [(&str, Damage); 4] = [
        ("db", |dir| fs::remove_file(dir.join("db")).unwrap()),
        ("db", |dir| fs::write(dir.join("db"), b"").unwrap()),
        ("conf", |dir| flip(&dir.join("conf"), 15)),
        ("snapshot", |dir| {
            let names = contents(dir).into_keys();
            let newest = names
                .filter(|name| name.starts_with("snap."))
                .max()
                .unwrap();
            flip(&dir.join(newest), 5);
        }),
    ];
    for (what, damage) in damage {
        let dir = tempfile::tempdir().unwrap();
        start_in(dir.path())
            .open("orders")
            .append(texts(0..3))
            .unwrap();
        start_in(dir.path());
        damage(dir.path());
        let before = contents(dir.path());
        let refused = SledLog::open(options(dir.path())).unwrap_err();
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "{what}: {refused}"
        );
        assert!(refused.to_string().contains(what), "{refused}");
        let mut after = contents(dir.path());
        // That we looked is all that shows.
        after.insert("lock".into(), before["lock"].clone());
        assert_eq!(after, before);
    }
}

#[test]
fn a_cut_tail_gives_new_epochs_that_know_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let quiet = bench.open("quiet");
    quiet.append((0..10).map(long).collect()).unwrap();
    let epoch = quiet.found.epoch;
    let busy = bench.open("busy");
    for n in 0..50 {
        busy.append((n * 10..n * 10 + 10).map(long).collect())
            .unwrap();
    }
    let copy = crash_copy(dir.path());
    let late = bench.open("late");
    late.append(texts(0..5)).unwrap();
    // The witness of what came after, beside the file from before: as if the tail had been cut.
    fs::copy(dir.path().join("witness"), copy.path().join("witness")).unwrap();

    let after = start_in(copy.path());
    let quiet = after.open("quiet").found;
    assert_ne!(quiet.epoch, epoch);
    assert_eq!(
        quiet.lineage,
        [Lineage {
            epoch,
            kept_up_to: 10
        }]
    );
    assert_eq!(quiet.head, 10);
    let busy = after.open("busy");
    assert_eq!(
        busy.found.lineage,
        [Lineage {
            epoch,
            kept_up_to: 500
        }]
    );
    let late = after.open("late").found;
    assert_eq!(
        (late.head, late.lineage),
        (
            0,
            vec![Lineage {
                epoch,
                kept_up_to: 0
            }]
        )
    );
    assert_ne!(late.epoch, epoch);
    let epochs: Vec<Epoch> = after.list().into_iter().map(|info| info.epoch).collect();
    assert_eq!(epochs, [busy.found.epoch, quiet.epoch]);
    busy.append(texts(0..1)).unwrap();
    let epoch_now = busy.found.epoch;
    drop(after);

    // Once is enough.
    let again = start_in(copy.path());
    let found = again.open("busy").found;
    assert_eq!((found.epoch, found.head), (epoch_now, 501));
    assert_eq!(
        found.lineage,
        [Lineage {
            epoch,
            kept_up_to: 500
        }]
    );
    assert_eq!(again.open("late").found.epoch, late.epoch);
}

#[test]
fn a_truncated_file_loses_its_tail_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    let epoch = orders.found.epoch;
    for n in 0..200 {
        orders
            .append((n * 10..n * 10 + 10).map(long).collect())
            .unwrap();
    }
    let full = orders.page(0, 2000);
    let copy = crash_copy(dir.path());
    let len = fs::metadata(copy.path().join("db")).unwrap().len();
    for cut in [1, 100, 5000, 50_000, len / 2] {
        let copy = crash_copy(copy.path());
        let db = fs::OpenOptions::new()
            .write(true)
            .open(copy.path().join("db"))
            .unwrap();
        db.set_len(len - cut).unwrap();
        drop(db);

        let after = start_in(copy.path());
        let found = after.open("orders");
        let head = found.found.head;
        // The last few bytes may be the commit counter alone, or pages that sled has moved meanwhile.
        assert!(
            head > 0 && (head < 2000 || cut <= 100),
            "{head} after a cut of {cut} bytes"
        );
        if head < 2000 || found.found.epoch != epoch {
            assert_ne!(found.found.epoch, epoch);
            assert_eq!(
                found.found.lineage,
                [Lineage {
                    epoch,
                    kept_up_to: head
                }]
            );
        }
        let page = found.page(0, head);
        assert_eq!(page.items[..], full.items[..usize::try_from(head).unwrap()]);
        assert_eq!(found.append(texts(0..1)).unwrap()[0].offset, head + 1);
    }
}

#[test]
fn flipped_bits_are_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    let epoch = orders.found.epoch;
    for n in 0..40 {
        orders
            .append((n * 50..n * 50 + 50).map(long).collect())
            .unwrap();
    }
    let full = messages(&orders.page(0, 2000));
    drop(bench);
    let reopened = dir.path().join("db");
    let len = fs::metadata(&reopened).unwrap().len();
    // With and without a snapshot that covers the damage: once sled comes across it when opening, once when reading.
    for (covered, step) in [(false, len / 23), (true, len / 29)] {
        if covered {
            start_in(dir.path());
        }
        let (mut refused, mut lost, mut cut, mut whole) = (0, 0, 0, 0);
        for at in (step / 2..len).step_by(usize::try_from(step).unwrap()) {
            let copy = crash_copy(dir.path());
            flip(&copy.path().join("db"), at);
            let log = match SledLog::open(options(copy.path())) {
                Ok(log) => log,
                Err(e) => {
                    assert!(matches!(e, OpenError::Damaged { .. }), "{e}");
                    refused += 1;
                    continue;
                }
            };
            let bench = Bench {
                log: Arc::new(log),
                clock: Clock::manual(NOON),
                _keep: None,
            };
            let opened = match bench.try_open("orders") {
                Ok(opened) => opened,
                Err(e) => {
                    assert!(matches!(e, LogError::Unreadable(_)), "{e}");
                    refused += 1;
                    continue;
                }
            };
            let head = opened.found.head;
            let page = opened.page(0, head);
            assert_covered(&page, 0);
            assert_eq!(page.reached, head);
            for item in &page.items {
                match item {
                    PageItem::Record(record) => {
                        let n = usize::try_from(record.offset - 1).unwrap();
                        assert!(
                            record.message == full[n],
                            "offset {} is not what was kept",
                            record.offset
                        );
                    }
                    PageItem::Gap { reason, .. } => assert_eq!(*reason, GapReason::Lost),
                }
            }
            if head < 2000 {
                assert_ne!(opened.found.epoch, epoch);
                cut += 1;
            } else if messages(&page).len() < 2000 {
                lost += 1;
            } else {
                whole += 1;
            }
        }
        println!(
            "covered by a snapshot: {covered}; {refused} refused, {cut} cut, {lost} with gaps, {whole} whole"
        );
        assert!(refused + lost + cut > 0, "no flip hit anything");
    }
}

#[test]
fn a_damaged_value_is_a_gap_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    for n in 0..30 {
        orders
            .append((n * 10..n * 10 + 10).map(long).collect())
            .unwrap();
    }
    orders.append(vec![text(vec![1; 50_000])]).unwrap();
    orders.append((0..10).map(long).collect()).unwrap();
    let full = orders.page(0, 311);
    drop(bench);

    with_trees(dir.path(), |records, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        let damage = |base, part| {
            let key = Key::new(id, base, part).to_bytes();
            let mut value = records.get(&key).unwrap().unwrap().to_vec();
            value[HEADER_BYTES + 20] ^= 1;
            records.insert(&key, &value).unwrap();
        };
        damage(51, 0);
        damage(101, 0);
        records.remove(&Key::new(id, 111, 0).to_bytes()).unwrap();
        damage(301, 3);
    });

    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    assert_eq!((orders.found.head, orders.found.lineage.len()), (311, 0));
    let page = orders.page(0, 311);
    assert_covered(&page, 0);
    let gap = |from, to| PageItem::Gap {
        reason: GapReason::Lost,
        from,
        to,
    };
    let gaps: Vec<_> = page
        .items
        .iter()
        .filter(|item| matches!(item, PageItem::Gap { .. }))
        .collect();
    assert_eq!(gaps, [&gap(51, 60), &gap(101, 120), &gap(301, 301)]);
    assert_eq!(messages(&page).len(), 311 - 31);
    assert!(
        page.items
            .iter()
            .all(|item| matches!(item, PageItem::Gap { .. }) || full.items.contains(item))
    );
    // From within the damage, too.
    assert_eq!(orders.page(54, 57).items, [gap(55, 57)]);
    assert_eq!(orders.page(299, 301).items[1], gap(301, 301));
    assert_eq!(offsets(&orders.page(301, 302)), [302]);
}

#[test]
fn records_behind_the_heads_witness_give_the_topic_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    for name in ["orders", "others"] {
        for n in 0..5 {
            bench
                .open(name)
                .append((n * 10..n * 10 + 10).map(long).collect())
                .unwrap();
        }
    }
    let epoch = bench.open("orders").found.epoch;
    drop(bench);
    with_trees(dir.path(), |records, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        records.remove(&Key::new(id, 41, 0).to_bytes()).unwrap();
    });

    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    assert_eq!(orders.found.head, 40);
    assert_eq!(
        orders.found.lineage,
        [Lineage {
            epoch,
            kept_up_to: 40
        }]
    );
    assert_ne!(orders.found.epoch, epoch);
    assert_eq!(bench.open("others").found.epoch, epoch);
    assert_eq!(orders.append(texts(0..1)).unwrap()[0].offset, 41);
    let epoch_now = orders.found.epoch;
    drop(bench);
    let again = start_in(dir.path()).open("orders").found.clone();
    assert_eq!((again.head, again.epoch), (41, epoch_now));
    assert_eq!(
        again.lineage,
        [Lineage {
            epoch,
            kept_up_to: 40
        }]
    );
}

#[test]
fn records_beyond_the_heads_witness_are_kept_and_half_messages_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    orders.append((0..10).map(long).collect()).unwrap();
    let epoch = orders.found.epoch;
    drop(bench);
    // As a crash in the middle of the next commit leaves it: records without their head, and parts without the rest.
    with_trees(dir.path(), |records, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        let mut packer = super::stored::Packer::default();
        let put = |key: &[u8; 18], value: &[u8]| records.insert(key, value);
        let new = vec![sent_by("p", 7), text("unanswered")];
        packer
            .pack(id, 11, NOON + 3, &new, put)
            .map_err(|_| ())
            .unwrap();
        let mut parts = 0;
        let put_some = |key: &[u8; 18], value: &[u8]| {
            parts += 1;
            if parts > 2 {
                Ok(())
            } else {
                records.insert(key, value)
            }
        };
        packer
            .pack(id, 13, NOON + 3, &[text(vec![9; 30_000])], put_some)
            .map_err(|_| ())
            .unwrap();
    });

    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    assert_eq!((orders.found.head, orders.found.epoch), (12, epoch));
    assert_eq!(orders.found.producers.len(), 1);
    assert_eq!(
        (
            orders.found.producers[0].seq,
            orders.found.producers[0].offset
        ),
        (7, 11)
    );
    assert_eq!(orders.append(vec![text("13")]).unwrap()[0].offset, 13);
    let page = orders.page(10, 13);
    assert_covered(&page, 10);
    assert_eq!(messages(&page).len(), 3);
    drop(bench);
    with_trees(dir.path(), |records, _| {
        assert_eq!(records.all().len(), 3, "the parts are still there")
    });
}

#[test]
fn a_failing_sync_closes_the_log_for_writing_and_not_for_reading() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let faults = options.faults.clone();
    let bench = start(options);
    let orders = bench.open("orders");
    orders.append(texts(0..5)).unwrap();
    faults.fail_next_sync();

    let failed = orders.append(vec![sent_by("p", 1)]).unwrap_err();

    assert!(
        matches!(&failed, LogError::Closed(reason) if reason.contains("sync failed")),
        "{failed}"
    );
    assert!(
        bench
            .log
            .health()
            .refuses_writes
            .unwrap()
            .contains("sync failed")
    );
    assert!(matches!(
        orders.append(texts(0..1)),
        Err(LogError::Closed(_))
    ));
    assert!(matches!(
        bench.open("new").append(texts(0..1)),
        Err(LogError::Closed(_))
    ));
    assert_eq!(offsets(&orders.page(0, 5)), [1, 2, 3, 4, 5]);
    // Nobody sees what is not committed, whoever opens the topic now.
    let again = bench.open("orders").found;
    assert_eq!((again.head, again.producers.len()), (5, 0));
    assert_eq!(bench.list()[0].head, 5);
    let epoch = again.epoch;
    drop(bench);

    // Whether it was kept is found out at the next start; here it was.
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    assert_eq!((orders.found.head, orders.found.epoch), (6, epoch));
    assert_eq!(orders.found.producers[0].seq, 1);
    orders.append(texts(0..1)).unwrap();
}

/// Retention moves `first` with the commit whose messages are too many. Where that fails nobody may be given a place behind the head.
#[test]
fn what_was_trimmed_for_a_commit_that_failed_is_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention {
        max_messages: 2,
        ..Retention::default()
    };
    let options = SledOptions {
        retention: Arc::new(move |_| retention),
        ..options(dir.path())
    };
    let faults = options.faults.clone();
    let bench = start(options);
    bench.open("orders").append(texts(0..1)).unwrap();
    faults.fail_next_sync();
    bench.open("orders").append(texts(0..9)).unwrap_err();

    let found = bench.open("orders").found;
    assert_eq!((found.first, found.head), (2, 1));
    let listed = bench.list().swap_remove(0);
    assert_eq!((listed.first, listed.head), (2, 1));
}

#[test]
fn producers_are_found_again_without_reading_everything() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    orders.append(vec![sent_by("early", 5)]).unwrap();
    for n in 0..30 {
        orders
            .append((n * 100..n * 100 + 100).map(long).collect())
            .unwrap();
    }
    orders.append(vec![sent_by("late", 9)]).unwrap();
    let copy = crash_copy(dir.path());
    // Were the first record read, `early` could not be found any more.
    with_trees(copy.path(), |records, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        let numbers = meta.numbers(id).unwrap();
        assert!(
            numbers.checkpoint > 1000 && numbers.checkpoint < numbers.head,
            "{numbers:?}"
        );
        records.remove(&Key::new(id, 1, 0).to_bytes()).unwrap();
    });
    let mut producers = start_in(copy.path()).open("orders").found.producers.clone();
    producers.sort_by(|a, b| a.producer.cmp(&b.producer));
    let found: Vec<(&str, u64, u64)> = producers
        .iter()
        .map(|mark| (mark.producer.name.as_str(), mark.seq, mark.offset))
        .collect();
    assert_eq!(found, [("early", 5, 1), ("late", 9, 3002)]);
}

#[test]
fn forgotten_producers_leave_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    orders
        .append((0..700).map(|n| sent_by(&format!("p{n}"), 1)).collect())
        .unwrap();
    orders.close();
    bench.clock.set(NOON + 2 * 24 * 60 * 60 * 1000);
    assert_eq!(bench.open("orders").found.producers, []);
    bench.open("orders").append(vec![sent_by("p3", 2)]).unwrap();
    bench.log.shutdown();
    drop(bench);
    with_trees(dir.path(), |_, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        let left: Vec<_> = meta.marks(id).map(|mark| mark.unwrap().producer).collect();
        assert!(left.len() < 700, "{} are left", left.len());
        assert!(left.iter().any(|producer| producer.name.as_str() == "p3"));
    });
}

/// Producers with their newest number and where it is, by name.
fn counts(found: &OpenedTopic) -> Vec<(String, u64, u64)> {
    let count = |mark: &super::super::ProducerMark| {
        (
            mark.producer.name.as_str().to_owned(),
            mark.seq,
            mark.offset,
        )
    };
    let mut counts: Vec<_> = found.producers.iter().map(count).collect();
    counts.sort();
    counts
}

#[test]
fn a_number_whose_message_is_lost_is_forgotten_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    for seq in 1..=6 {
        orders.append(vec![sent_by("p", seq)]).unwrap();
    }
    orders.append(vec![sent_by("q", 1)]).unwrap();
    orders.append(vec![sent_by("p", 7)]).unwrap();
    bench.log.shutdown();
    drop(bench);
    with_trees(dir.path(), |records, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        assert_eq!(meta.numbers(id).unwrap().checkpoint, 8);
        for offset in [7, 8] {
            records.remove(&Key::new(id, offset, 0).to_bytes()).unwrap();
        }
    });

    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    assert_eq!(orders.found.head, 6);
    let left = [("p".to_owned(), 6, 6)];
    assert_eq!(counts(&orders.found), left);

    // What comes in the place of the lost messages is not theirs; also after a crash, of which no checkpoint says anything.
    orders.append((0..5).map(long).collect()).unwrap();
    let copy = crash_copy(dir.path());
    let after = start_in(copy.path()).open("orders").found.clone();
    assert_eq!((after.head, &counts(&after)[..]), (11, &left[..]));
}

#[test]
fn an_import_that_was_killed_turns_no_producer_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    orders
        .append((1..=10).map(|seq| sent_by("p", seq)).collect())
        .unwrap();
    orders.append(vec![sent_by("q", 10)]).unwrap();
    bench.log.shutdown();
    drop(bench);
    // As an import leaves it that is killed before its first sync: old messages once more, and no numbers with them.
    let day = 24 * 60 * 60 * 1000;
    with_trees(dir.path(), |records, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        let mut packer = super::stored::Packer::default();
        let mut pack = |base, time_ms, new: &[NewRecord]| {
            let put = |key: &[u8; 18], value: &[u8]| records.insert(key, value);
            packer
                .pack(id, base, time_ms, new, put)
                .map_err(|_| ())
                .unwrap();
        };
        pack(12, NOON + 1, &[sent_by("p", 4), sent_by("p", 5)]);
        // This one had been forgotten, and has begun anew.
        pack(14, NOON + day + 1, &[sent_by("q", 1)]);
    });

    let bench = start_in(dir.path());
    bench.clock.set(NOON + day);
    let found = bench.open("orders").found.clone();

    assert_eq!(found.head, 14);
    let expected = [("p", 10, 10), ("q", 1, 14)];
    assert_eq!(
        counts(&found),
        expected.map(|(name, seq, offset)| (name.to_owned(), seq, offset))
    );
}

#[test]
fn a_topic_whose_deletion_a_crash_has_interrupted_is_not_counted() {
    for counted in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let bench = start_in(dir.path());
        for name in ["a", "b"] {
            bench.open(name).append(texts(0..3)).unwrap();
        }
        bench.log.shutdown();
        drop(bench);
        with_trees(dir.path(), |_, meta| {
            let id = meta.identity(&topic("b")).unwrap().unwrap().id();
            meta.add_garbage(id, &topic("b")).unwrap();
            if !counted {
                let mut ids = meta.ids().unwrap();
                ids.topics -= 1;
                meta.set_ids(ids).unwrap();
            }
        });

        assert_eq!(start_in(dir.path()).list().len(), 1);
        let bench = start(SledOptions {
            max_topics: 2,
            ..options(dir.path())
        });
        bench.open("c").append(texts(0..1)).unwrap();
        let refused = bench.open("d").append(texts(0..1)).unwrap_err();
        assert_eq!(refused, LogError::TooManyTopics);
    }
}

#[test]
fn retention_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention {
        max_bytes: 50_000,
        ..Retention::default()
    };
    let with_retention = || SledOptions {
        retention: Arc::new(move |_| retention),
        ..options(dir.path())
    };
    for round in 0..5 {
        let bench = start(with_retention());
        let orders = bench.open("orders");
        for n in 0..40 {
            orders
                .append((n * 10..n * 10 + 10).map(long).collect())
                .unwrap();
        }
        let head = (round + 1) * 400;
        wait_for("retention", || offsets(&orders.page(0, head)).len() < 300);
        let kept = offsets(&orders.page(0, head)).len();
        assert!(kept >= 200, "{kept}");
        drop(bench);
    }
    with_trees(dir.path(), |records, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        let stored: usize = records.all().iter().map(|(k, v)| k.len() + v.len()).sum();
        assert_eq!(meta.numbers(id).unwrap().bytes, stored as u64);
        assert!((50_000..60_000).contains(&stored), "{stored}");
        let first = records.all().swap_remove(0);
        assert_eq!(
            Key::parse(&first.0).unwrap().base,
            meta.numbers(id).unwrap().first
        );
        assert!(Header::check(&first.0, &first.1).is_some());
    });
}

#[test]
fn the_numbers_of_many_topics_are_written_at_once_and_others_stay() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let meta = Meta::new(db.open_tree("meta").unwrap());
    let numbers = |head| Numbers {
        head,
        ..Numbers::default()
    };
    for id in 0..100 {
        meta.set_numbers(TopicId(id), &numbers(id)).unwrap();
    }
    // In any order, some of a block and all of another, a new one, and one twice.
    let changed = [99, 3, 40, 16, 2, 1000, 3].into_iter().chain(48..64);
    let changed: Vec<_> = changed.map(|id| (TopicId(id), numbers(id + 7))).collect();
    meta.set_numbers_of_many(changed.clone()).unwrap();
    for id in (0..100).chain([1000]) {
        let is_changed = changed.iter().any(|(changed, _)| changed.0 == id);
        let head = if is_changed { id + 7 } else { id };
        assert_eq!(meta.numbers(TopicId(id)).unwrap().head, head, "{id}");
    }
    meta.remove_numbers(TopicId(3)).unwrap();
    assert_eq!(meta.numbers(TopicId(3)).unwrap(), Numbers::default());
    assert_eq!(meta.numbers(TopicId(2)).unwrap().head, 9);
    meta.set_numbers_of_many(Vec::new()).unwrap();
}

#[test]
fn a_trim_that_was_interrupted_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    for n in 0..10 {
        bench
            .open("orders")
            .append((n * 10..n * 10 + 10).map(long).collect())
            .unwrap();
    }
    drop(bench);
    with_trees(dir.path(), |_, meta| {
        let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
        let mut numbers = meta.numbers(id).unwrap();
        numbers.first = 51;
        numbers.bytes /= 2;
        meta.set_numbers(id, &numbers).unwrap();
    });
    let retention = Retention {
        max_messages: 45,
        ..Retention::default()
    };
    let bench = start(SledOptions {
        retention: Arc::new(move |_| retention),
        ..options(dir.path())
    });
    let orders = bench.open("orders");
    assert_eq!(orders.found.first, 51);
    orders.append(texts(0..10)).unwrap();
    orders.wait_for_first(66);
    drop(bench);
    with_trees(dir.path(), |records, _| {
        let first = records.all().swap_remove(0);
        assert_eq!(Key::parse(&first.0).unwrap().base, 61);
    });
}

#[test]
fn a_message_beyond_the_format_is_refused_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    let most = super::stored::MAX_PAYLOAD_BYTES;
    let beyond = vec![text("first"), text(vec![1; most + 1])];
    assert_eq!(orders.append(beyond), Err(LogError::TooLarge(most + 1)));
    let kept = orders.append(vec![text(vec![1; most])]).unwrap();
    assert_eq!(kept[0].offset, 1);
    assert!(
        messages(&orders.page(0, 1)) == [kept[0].message.clone()],
        "not what was sent"
    );
}

#[test]
fn a_full_queue_says_busy_and_takes_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    let (tell, told) = std::sync::mpsc::channel();
    let (mut taken, mut busy) = (0, 0);
    let big = text(vec![0; 1 << 20]);
    for _ in 0..200 {
        let (tell, topic) = (tell.clone(), orders.topic.clone());
        let done =
            Box::new(move |answer: Result<_, LogError>| tell.send(answer.map(|_| ())).unwrap());
        let (generation, records) = (orders.found.generation, vec![big.clone()]);
        bench.log.append(Append {
            topic,
            generation,
            records,
            done,
        });
    }
    for _ in 0..200 {
        match told.recv_timeout(Duration::from_secs(60)).unwrap() {
            Ok(()) => taken += 1,
            Err(LogError::Busy) => busy += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(taken >= 64 && busy > 0, "{taken} taken, {busy} busy");
    assert_eq!(orders.append(texts(0..1)).unwrap()[0].offset, taken + 1);
}

#[test]
fn the_last_handle_may_go_in_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let log: Arc<dyn MessageLog> = Arc::new(SledLog::open(options(dir.path())).unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let held = Arc::clone(&log);
    let done = Box::new(move |opened: Result<OpenedTopic, LogError>| {
        drop(held);
        tell.send(opened.is_ok()).unwrap();
    });
    log.open(topic("orders"), Arc::new(|_| {}), done);
    drop(log);
    assert!(told.recv_timeout(Duration::from_secs(10)).unwrap());
    // And the directory is free again, sooner or later.
    wait_for("the directory", || {
        SledLog::open(options(dir.path())).is_ok()
    });
}

#[test]
fn keys_of_large_messages_are_found_too() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    let orders = bench.open("orders");
    let keyed = |key: &str, size| {
        let key = hark_protocol::MessageId::parse(key).unwrap();
        NewRecord {
            identity: None,
            idempotency: hark_protocol::Idempotency::Key(key),
            ..text(vec![3; size])
        }
    };
    orders.append(vec![keyed("old", 10)]).unwrap();
    bench.clock.set(NOON + KEY_MEMORY_MS + 1);
    orders
        .append(vec![
            keyed("a", 10),
            keyed("b", 100_000),
            keyed("c", 7_000),
            keyed("d", 1 << 20),
        ])
        .unwrap();
    let keys = answer(|done| bench.log.open(topic("orders"), Arc::new(|_| {}), done))
        .unwrap()
        .keys;
    let found: Vec<_> = keys
        .iter()
        .map(|mark| (mark.key.name.as_str(), mark.offset))
        .collect();
    assert_eq!(found, [("a", 2), ("b", 3), ("c", 4), ("d", 5)]);
}

/// Where the process that is to be killed keeps its log.
const VICTIM_DIR: &str = "HARK_TEST_VICTIM_DIR";
const VICTIM_TOPICS: u64 = 5;

/// Not a test by itself: the process that `a_killed_process_loses_nothing_that_was_answered` starts and kills. Appends
/// for ever, and prints what was answered.
#[test]
fn victim() {
    let Ok(dir) = std::env::var(VICTIM_DIR) else {
        return;
    };
    let retention = Retention {
        max_bytes: 300_000,
        ..Retention::default()
    };
    let log = SledLog::open(SledOptions {
        retention: Arc::new(move |_| retention),
        ..SledOptions::new(dir)
    });
    let bench = Bench {
        log: Arc::new(log.unwrap()),
        clock: Clock::system(),
        _keep: None,
    };
    println!("\nopened");
    std::thread::scope(|scope| {
        for n in 0..VICTIM_TOPICS {
            let topic = bench.open(&format!("t{n}"));
            let mut head = topic.found.head;
            let mut seq = topic.found.producers.first().map_or(0, |mark| mark.seq);
            scope.spawn(move || {
                loop {
                    let size = (head * 31 + n * 7) % 40;
                    let records: Vec<NewRecord> = (0..size + 1)
                        .map(|k| NewRecord {
                            identity: None,
                            idempotency: sent_by("p", seq + k + 1).idempotency,
                            ..victims(head + k + 1)
                        })
                        .collect();
                    seq += size + 1;
                    head = topic.append(records).unwrap().last().unwrap().offset;
                    println!("{n} {head} {seq}");
                }
            });
        }
    });
}

/// What the victim writes at an offset: now and then something large.
fn victims(offset: u64) -> NewRecord {
    match offset % 97 {
        0 => text(offset.to_be_bytes().repeat(4000)),
        _ => text(offset.to_be_bytes().repeat(20)),
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_answered() {
    use std::io::BufRead;
    let dir = tempfile::tempdir().unwrap();
    let mut heads = [0; VICTIM_TOPICS as usize];
    let mut seqs = [0; VICTIM_TOPICS as usize];
    let mut epoch = None;
    for round in 0..25u64 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "message_log::sled::tests::victim",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(VICTIM_DIR, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(victim.stdout.take().unwrap()).lines();
        // Some are killed while they open the log.
        let lives = if round % 5 == 4 { 0 } else { 200 + round * 37 };
        if lives == 0 {
            std::thread::park_timeout(Duration::from_millis(round));
        }
        let answered = |line: Result<String, std::io::Error>| {
            let line = line.ok()?;
            let mut numbers = line.split(' ').map(|number| number.parse::<u64>().ok());
            Some((numbers.next()??, numbers.next()??, numbers.next()??))
        };
        let mut note = |(topic, head, seq): (u64, u64, u64)| {
            let topic = usize::try_from(topic).unwrap();
            (heads[topic], seqs[topic]) = (head, seq);
        };
        lines
            .by_ref()
            .filter_map(&answered)
            .take(usize::try_from(lives).unwrap())
            .for_each(&mut note);
        victim.kill().unwrap();
        victim.wait().unwrap();
        lines.filter_map(&answered).for_each(&mut note);

        let bench = start_in(dir.path());
        for (n, (head, seq)) in heads.iter_mut().zip(&mut seqs).enumerate() {
            let topic = bench.open(&format!("t{n}"));
            let found = &topic.found;
            assert!(
                found.head >= *head,
                "round {round}: {} < {head}",
                found.head
            );
            assert_eq!(found.lineage, []);
            assert_eq!(*epoch.get_or_insert(found.epoch), found.epoch);
            let mark = found.producers.first().map_or(0, |mark| mark.seq);
            assert!(
                mark >= *seq && mark == found.head,
                "round {round}: {mark} {seq}"
            );
            let mut after = 0;
            while after < found.head {
                let page = topic.page(after, found.head);
                assert_covered(&page, after);
                for item in &page.items {
                    match item {
                        PageItem::Record(record) => {
                            assert!(record.message == victims(record.offset).message);
                        }
                        PageItem::Gap { reason, to, .. } => {
                            assert_eq!((*reason, *to), (GapReason::Expired, found.first - 1));
                        }
                    }
                }
                after = page.reached;
            }
            (*head, *seq) = (found.head, mark);
        }
    }
    assert!(heads.iter().all(|head| *head > 1000), "{heads:?}");
}

#[test]
fn the_file_stays_small_while_records_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention {
        max_bytes: 1_000_000,
        ..Retention::default()
    };
    let bench = start(SledOptions {
        retention: Arc::new(move |_| retention),
        ..options(dir.path())
    });
    let topics: Vec<_> = (0..5).map(|n| bench.open(&format!("t{n}"))).collect();
    let size = || fs::metadata(dir.path().join("db")).unwrap().len();
    let mut sizes = Vec::new();
    for _ in 0..6 {
        for _ in 0..100 {
            for topic in &topics {
                topic.append((0..100).map(long).collect()).unwrap();
            }
        }
        sizes.push(size() >> 20);
    }
    // Ten times what is kept went through.
    assert!(
        *sizes.last().unwrap() < 60,
        "the file's size in MiB: {sizes:?}"
    );
}
