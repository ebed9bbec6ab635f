//! What the sled engine does by itself: trims topics that nobody has open, keeps all of them together within a bound, forgets
//! what has been empty for long, takes away what was deleted, and refuses to fill the disk.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::layout::TopicId;
use super::tests::{crash_copy, long, options, start, start_in, with_trees};
use super::*;
use crate::message_log::contract::{
    Bench, NOON, answer, messages, offsets, sent_by, texts, topic, wait_for,
};
use crate::message_log::{NewRecord, TopicInfo};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn busy_options(dir: &Path) -> SledOptions {
    SledOptions {
        rounds_every: Duration::from_millis(5),
        ..options(dir)
    }
}

fn until(condition: impl FnMut() -> bool) {
    wait_for("the log to have done it", condition);
}

fn info(bench: &Bench, name: &str) -> Option<TopicInfo> {
    bench
        .list()
        .into_iter()
        .find(|info| info.topic == topic(name))
}

/// A topic with so many values of about 6 KB, closed again.
fn fill(bench: &Bench, name: &str, values: u64) {
    let opened = bench.open(name);
    for n in 0..values {
        let records: Vec<NewRecord> = (n * 25..n * 25 + 25).map(long).collect();
        opened.append(records).unwrap();
    }
    opened.close();
}

fn bytes_of(bench: &Bench, name: &str) -> u64 {
    info(bench, name).map_or(0, |info| info.bytes)
}

#[test]
fn what_is_too_old_goes_from_topics_that_nobody_has_open() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start(busy_options(dir.path()));
    for n in 0..40 {
        fill(&bench, &format!("t{n:02}"), 2);
    }
    bench.clock.set(NOON + 6 * DAY_MS);
    bench.open("t07").append(texts(0..1)).unwrap();

    bench.clock.set(NOON + 8 * DAY_MS);

    let empty = |info: &TopicInfo| info.first > info.head;
    until(|| bench.list().iter().filter(|info| empty(info)).count() == 39);
    let kept = info(&bench, "t07").unwrap();
    assert_eq!((kept.first, kept.head), (51, 51));
    let trimmed = bench.open("t00");
    assert_eq!((trimmed.found.first, trimmed.found.head), (51, 50));
    assert_eq!(info(&bench, "t00").unwrap().bytes, 0);
}

#[test]
fn a_smaller_bound_holds_for_topics_that_nobody_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    fill(&bench, "a", 20);
    fill(&bench, "b", 1);
    drop(bench);

    let retention = Retention {
        max_messages: 100,
        ..Retention::default()
    };
    let bench = start(SledOptions {
        retention: Arc::new(move |_| retention),
        ..busy_options(dir.path())
    });

    until(|| info(&bench, "a").unwrap().first == 401);
    assert_eq!(info(&bench, "b").unwrap().first, 1);
    drop(bench);

    // Also where the bound lies among records that share a value.
    let retention = Retention {
        max_messages: 7,
        ..Retention::default()
    };
    let bench = start(SledOptions {
        retention: Arc::new(move |_| retention),
        ..busy_options(dir.path())
    });
    until(|| info(&bench, "a").unwrap().first == 494 && info(&bench, "b").unwrap().first == 19);
    let kept = bytes_of(&bench, "a");
    let a = bench.open("a");
    assert_eq!(offsets(&a.page(0, 500)), (494..=500).collect::<Vec<_>>());
    a.append(texts(0..7)).unwrap();
    a.wait_for_first(501);
    until(|| bytes_of(&bench, "a") < kept);
}

#[test]
fn a_producer_is_known_though_its_message_has_expired_beside_others() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention {
        max_messages: 3,
        ..Retention::default()
    };
    let options = || SledOptions {
        retention: Arc::new(move |_| retention),
        ..options(dir.path())
    };
    let bench = start(options());
    let a = bench.open("a");
    let together: Vec<NewRecord> = std::iter::once(sent_by("p", 7))
        .chain(texts(0..20))
        .collect();
    a.append(together).unwrap();
    a.wait_for_first(19);
    let copy = crash_copy(dir.path());

    let after = start(SledOptions {
        dir: copy.path().to_owned(),
        ..options()
    });
    let found = after.open("a").found;
    assert_eq!((found.first, found.head), (19, 21));
    let known: Vec<_> = found.producers.iter().map(|mark| mark.seq).collect();
    assert_eq!(known, [7]);
}

#[test]
fn a_listing_walks_over_no_names_but_those_it_gives() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    for n in 0..300 {
        bench
            .open(&format!("t{n:03}.x"))
            .append(texts(0..1))
            .unwrap();
    }
    drop(bench);
    with_trees(dir.path(), |_, meta| {
        let walked = |prefix: &str, after: Option<&str>, limit| {
            let after = after.map(topic);
            let before = meta.walked();
            let found = meta.identities(prefix, after.as_ref()).take(limit).count();
            (found, meta.walked() - before)
        };
        assert_eq!(walked("", None, 1000), (300, 300));
        assert_eq!(walked("t2", None, 2), (2, 2));
        assert_eq!(walked("t299.", None, 2), (1, 1));
        assert_eq!(walked("t1", Some("t198.x"), 5), (1, 1));
        assert_eq!(walked("nothing", None, 5), (0, 0));
        assert_eq!(walked("t0", Some("t250.x"), 5), (0, 0));
    });
}

#[test]
fn a_clock_that_is_set_a_year_ahead_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start(busy_options(dir.path()));
    fill(&bench, "closed", 3);
    let open = bench.open("open");
    open.append(vec![sent_by("p", 1)]).unwrap();

    bench.clock.step(NOON + 365 * DAY_MS);
    let late = open.append(texts(0..3)).unwrap();
    for _ in 0..20 {
        bench.open("other").append(texts(0..1)).unwrap();
    }
    assert_eq!(bench.open("open").found.producers.len(), 1);
    bench.clock.step(NOON + 10);

    let after = bench.open("open");
    assert_eq!((after.found.first, after.found.head), (1, 4));
    let kept = after.append(texts(0..1)).unwrap();
    assert_eq!(kept[0].time_ms, late[0].time_ms, "time does not go back");
    assert_eq!(info(&bench, "closed").unwrap().first, 1);
}

#[test]
fn all_topics_together_keep_to_their_bound_and_the_largest_give() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 600_000;
    let bench = start(SledOptions {
        max_total_bytes: bound,
        ..busy_options(dir.path())
    });
    fill(&bench, "small", 5);
    let small = bytes_of(&bench, "small");
    let total = |bench: &Bench| bench.list().iter().map(|info| info.bytes).sum::<u64>();

    // Nobody has the large one open while the other grows.
    fill(&bench, "large.closed", 90);
    let growing = bench.open("large.open");
    for n in 0..400 {
        growing
            .append((n * 25..n * 25 + 25).map(long).collect())
            .unwrap();
    }

    until(|| total(&bench) <= bound);
    assert_eq!(
        bytes_of(&bench, "small"),
        small,
        "the small one gives nothing"
    );
    let (closed, open) = (
        bytes_of(&bench, "large.closed"),
        bytes_of(&bench, "large.open"),
    );
    assert!(
        closed > 100_000 && open > 100_000,
        "both have their share: {closed} and {open}"
    );
    let found = info(&bench, "large.open").unwrap();
    assert_eq!(found.head, 10_000);
    assert!(
        total(&bench) > bound / 2,
        "no more goes than has to: {}",
        total(&bench)
    );
}

#[test]
fn where_nobody_has_more_than_one_message_these_go() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 600_000;
    let bench = start(SledOptions {
        max_total_bytes: bound,
        ..busy_options(dir.path())
    });
    for n in 0..300 {
        fill(&bench, &format!("t{n}"), 1);
    }
    let total = |bench: &Bench| bench.list().iter().map(|info| info.bytes).sum::<u64>();

    until(|| total(&bench) <= bound);

    assert!(
        total(&bench) > bound / 2,
        "no more goes than has to: {}",
        total(&bench)
    );
    assert!(bench.list().iter().all(|info| info.head == 25));
}

#[test]
fn a_topic_without_records_for_a_month_is_forgotten_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start(SledOptions {
        max_topics: 2,
        ..busy_options(dir.path())
    });
    let unused = bench.open("unused").found.epoch;
    fill(&bench, "old", 2);
    let used = bench.open("used");
    used.append(vec![sent_by("p", 1)]).unwrap();
    let epoch = used.found.epoch;
    assert_eq!(info(&bench, "old").unwrap().epoch, unused);

    bench.clock.set(NOON + 29 * DAY_MS);
    until(|| info(&bench, "old").is_some_and(|old| old.bytes == 0));
    used.append(texts(0..1)).unwrap();
    // A week until it was empty, and a month.
    bench.clock.set(NOON + 38 * DAY_MS);

    until(|| info(&bench, "old").is_none());
    let again = bench.open("old");
    assert_ne!(again.found.epoch, unused, "one place, two messages");
    assert_eq!((again.found.first, again.found.head), (1, 0));
    // There is room for another topic now, and the one that is in use has not been touched.
    again.append(texts(0..1)).unwrap();
    assert_eq!(bench.open("used").found.epoch, epoch);
    assert_eq!(bench.open("used").append(texts(0..1)).unwrap()[0].offset, 3);
    let next = bench.open("unused").found.epoch;
    drop(bench);

    let bench = start_in(dir.path());
    assert_eq!(bench.open("unused").found.epoch, next);
    let old = bench.open("old").found;
    assert_eq!((old.epoch, old.head), (next, 1));
}

#[test]
fn whoever_has_a_topic_open_that_was_never_used_keeps_its_epoch_while_others_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start(busy_options(dir.path()));
    fill(&bench, "old", 1);
    let unused = bench.open("unused");
    bench.clock.set(NOON + 38 * DAY_MS);
    until(|| info(&bench, "old").is_none());

    unused.append(texts(0..1)).unwrap();

    assert_eq!(info(&bench, "unused").unwrap().epoch, unused.found.epoch);
    assert_ne!(bench.open("another").found.epoch, unused.found.epoch);
}

#[test]
fn what_can_be_forgotten_only_later_needs_no_other_epoch_on_the_same_day() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start(busy_options(dir.path()));
    fill(&bench, "old", 1);
    let held = bench.open("held");
    held.append(texts(0..1)).unwrap();
    let before = held.found.epoch;
    bench.clock.set(NOON + 38 * DAY_MS);
    until(|| info(&bench, "old").is_none());
    let drawn = bench.open("unused").found.epoch;
    assert_ne!(drawn, before);
    assert!(info(&bench, "held").is_some(), "somebody has it open");

    held.close();

    until(|| info(&bench, "held").is_none());
    assert_eq!(bench.open("unused").found.epoch, drawn);
    assert_eq!(bench.open("held").found.epoch, drawn);
}

#[test]
fn a_topic_that_was_deleted_used_again_and_forgotten_gets_none_of_its_epochs_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start(busy_options(dir.path()));
    fill(&bench, "a", 1);
    let first = bench.open("a").found.epoch;
    let deleted = delete(&bench, "a");
    bench.log.close(topic("a"), deleted.generation);
    bench.clock.set(NOON + 20 * DAY_MS);
    fill(&bench, "a", 1);
    assert_eq!(info(&bench, "a").unwrap().epoch, deleted.epoch);
    bench.clock.set(NOON + 58 * DAY_MS);

    until(|| info(&bench, "a").is_none());

    let found = bench.open("a").found;
    assert!(
        ![first, deleted.epoch].contains(&found.epoch),
        "one place, two messages"
    );
    assert_eq!(found.head, 0);
}

#[test]
fn a_topic_whose_first_record_a_crash_has_taken_keeps_its_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    fill(&bench, "a", 1);
    let deleted = delete(&bench, "a");
    fill(&bench, "a", 1);
    fill(&bench, "b", 1);
    let unused = bench.open("unused").found.epoch;
    drop(bench);
    // Its name is written, and neither numbers nor records.
    with_trees(dir.path(), |records, meta| {
        let id = meta.identity(&topic("a")).unwrap().unwrap().id();
        meta.remove_numbers(id).unwrap();
        let keys = records.range(super::scan::span(id, 0, u64::MAX)).keys();
        for key in keys.map(Result::unwrap).collect::<Vec<_>>() {
            records.remove(&key).unwrap();
        }
    });

    let retention = Retention {
        max_messages: 1,
        ..Retention::default()
    };
    let bench = start(SledOptions {
        retention: Arc::new(move |_| retention),
        ..busy_options(dir.path())
    });
    fill(&bench, "b", 2);
    // A round has gone over all topics.
    until(|| info(&bench, "b").unwrap().first > 1);

    let found = bench.open("a").found;
    assert_eq!((found.epoch, found.head), (deleted.epoch, 0));
    assert_eq!(found.deleted, deleted.deleted);
    assert_eq!(bench.open("unused").found.epoch, unused);
}

fn delete(bench: &Bench, name: &str) -> OpenedTopic {
    let opened = bench.open(name);
    let generation = opened.found.generation;
    answer(|done| bench.log.delete(topic(name), generation, done)).unwrap()
}

fn keys_left(dir: &Path, id: TopicId) -> (usize, usize, usize) {
    let mut left = (0, 0, 0);
    with_trees(dir, |records, meta| {
        left.0 = records.range(super::scan::span(id, 0, u64::MAX)).count();
        left.1 = meta.marks(id).count();
        left.2 = meta.garbage().count();
    });
    left
}

fn id_of(dir: &Path, name: &str) -> TopicId {
    let mut id = None;
    with_trees(dir, |_, meta| {
        id = meta.identity(&topic(name)).unwrap().map(|found| found.id());
    });
    id.unwrap()
}

#[test]
fn what_was_deleted_leaves_the_disk_even_if_a_crash_comes_between() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    bench
        .open("a")
        .append((0..50).map(|n| sent_by(&format!("p{n}"), 1)).collect())
        .unwrap();
    fill(&bench, "a", 1000);
    let epoch = bench.open("a").found.epoch;
    drop(bench);
    let id = id_of(dir.path(), "a");
    let bench = start_in(dir.path());

    let deleted = delete(&bench, "a");
    let copy: TempDir = crash_copy(dir.path());

    assert_ne!(deleted.epoch, epoch);
    assert_eq!(
        (deleted.first, deleted.head, &*deleted.deleted),
        (1, 0, &[epoch][..])
    );
    drop(bench);
    let bench = start_in(copy.path());
    let again = bench.open("a");
    assert_eq!((again.found.epoch, again.found.head), (deleted.epoch, 0));
    again.append(texts(0..1)).unwrap();
    assert_eq!(messages(&again.page(0, 1)).len(), 1);
    drop(bench);
    // A log that is open takes away a step between two commits.
    let left = || keys_left(copy.path(), id);
    until(|| {
        let bench = start_in(copy.path());
        for _ in 0..10 {
            bench.open("b").append(texts(0..1)).unwrap();
        }
        drop(bench);
        left() == (0, 0, 0)
    });
}

#[test]
fn a_deletion_that_was_interrupted_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    fill(&bench, "a", 2);
    let epoch = bench.open("a").found.epoch;
    drop(bench);
    with_trees(dir.path(), |_, meta| {
        let id = meta.identity(&topic("a")).unwrap().unwrap().id();
        let directory = meta.directory().unwrap().unwrap();
        let deletions = meta::Deletions::add(None, epoch, &directory, NOON);
        meta.set_deletions(&topic("a"), &deletions).unwrap();
        meta.add_garbage(id, &topic("a")).unwrap();
    });

    let bench = start_in(dir.path());

    assert_eq!(bench.list(), []);
    let found = bench.open("a").found;
    assert_eq!((found.head, &*found.deleted), (0, &[epoch][..]));
    assert_ne!(found.epoch, epoch);
}

#[test]
fn a_deletion_that_had_hardly_begun_has_not_happened() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    fill(&bench, "a", 2);
    let before = bench.open("a").found;
    drop(bench);
    with_trees(dir.path(), |_, meta| {
        let directory = meta.directory().unwrap().unwrap();
        let deletions = meta::Deletions::add(None, before.epoch, &directory, NOON);
        meta.set_deletions(&topic("a"), &deletions).unwrap();
    });

    let bench = start_in(dir.path());

    let found = bench.open("a").found;
    assert_eq!((found.epoch, found.head), (before.epoch, before.head));
    assert!(
        found.deleted.is_empty(),
        "it is there, so it is not among what was deleted"
    );
    assert_eq!(offsets(&bench.open("a").page(0, 50)).len(), 50);
}

#[test]
fn what_was_deleted_is_remembered_for_a_month() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start(busy_options(dir.path()));
    fill(&bench, "a", 1);
    let first = bench.open("a").found.epoch;
    let second = delete(&bench, "a").epoch;
    fill(&bench, "a", 1);
    let third = delete(&bench, "a");
    assert_eq!(third.deleted, [first, second]);
    bench.log.close(topic("a"), third.generation);

    bench.clock.set(NOON + 31 * DAY_MS);

    let described = || answer(|done| bench.log.describe(topic("a"), done)).unwrap();
    until(|| described().epoch != third.epoch);
    let found = bench.open("a").found;
    assert_eq!(found.deleted, []);
    assert!(
        ![first, second].contains(&found.epoch),
        "one place, two messages"
    );
}

#[test]
fn a_disk_with_too_little_room_is_not_filled() {
    let dir = tempfile::tempdir().unwrap();
    let bench = start_in(dir.path());
    fill(&bench, "a", 2);
    drop(bench);

    let bench = start(SledOptions {
        min_free_bytes: Some(u64::MAX),
        ..options(dir.path())
    });

    let a = bench.open("a");
    let refused = a.append(texts(0..1)).unwrap_err();
    assert!(
        matches!(&refused, LogError::NoRoom(why) if why.contains("min-free-bytes")),
        "{refused}"
    );
    assert!(
        bench
            .log
            .health()
            .refuses_writes
            .unwrap()
            .contains("min-free-bytes")
    );
    assert_eq!(offsets(&a.page(0, 50)).len(), 50, "reading goes on");
    drop(a);
    drop(bench);
    let bench = start(SledOptions {
        min_free_bytes: Some(0),
        ..options(dir.path())
    });
    assert_eq!(bench.open("a").append(texts(0..1)).unwrap()[0].offset, 51);
    assert_eq!(bench.log.health().refuses_writes, None);
    assert!(fs::metadata(dir.path().join("db")).is_ok());
}

#[test]
fn a_lack_passes_and_what_waited_for_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let bench = start(SledOptions {
        faults: faults.clone(),
        ..options(dir.path())
    });
    let (a, b) = (bench.open("a"), bench.open("b"));
    a.append(texts(0..1)).unwrap();
    let refuses = || bench.log.health().refuses_writes;
    for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NOSPC] {
        faults.lack(Some(errno.raw_os_error()));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| a.append(texts(0..1)));
            until(|| refuses().is_some_and(|reason| reason.contains("witness")));

            // Whoever else publishes is told, and may join a topic and read meanwhile.
            let refused = b.append(texts(0..1)).unwrap_err();
            assert!(matches!(refused, LogError::Lacking(_)), "{refused}");
            let c = bench.open("c");
            assert_eq!(c.append(texts(0..1)).unwrap_err(), refused);
            assert_eq!(offsets(&a.page(0, 1)), [1]);
            assert!(!waiting.is_finished());

            faults.lack(None);
            waiting.join().unwrap().unwrap();
        });
        until(|| refuses().is_none());
        b.append(texts(0..1)).unwrap();
    }
    let (a, b) = (a.found, b.found);
    drop(bench);

    let bench = start_in(dir.path());
    for (name, before, head) in [("a", a, 3), ("b", b, 2)] {
        let found = bench.open(name).found;
        assert_eq!((found.epoch, found.head), (before.epoch, head), "{name}");
    }
    assert_eq!(bench.log.health().warnings, Vec::<String>::new());
}

/// Whether it will be kept nobody knows yet: it may be on the disk after the next start, or not.
#[test]
fn who_opens_a_topic_waits_for_what_waits_with_a_commit() {
    for fails in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let bench = start(SledOptions {
            faults: faults.clone(),
            ..options(dir.path())
        });
        let a = bench.open("a");
        a.append(vec![sent_by("p", 1)]).unwrap();
        faults.lack(Some(rustix::io::Errno::NOSPC.raw_os_error()));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| a.append(vec![sent_by("p", 2)]));
            until(|| bench.log.health().refuses_writes.is_some());
            let opening = scope.spawn(|| bench.open("a").found);
            // Whoever comes behind is answered: so the readers have been at it.
            for n in 0..20 {
                bench.open(&format!("other-{n}"));
            }
            assert!(!opening.is_finished(), "what is not committed was read");

            if fails {
                faults.fail_next_sync();
            }
            faults.lack(None);

            assert_eq!(waiting.join().unwrap().is_err(), fails);
            let found = opening.join().unwrap();
            let newest = found.producers.first().map(|producer| producer.seq);
            let kept = if fails { (1, None) } else { (2, Some(2)) };
            assert_eq!((found.head, newest), kept);
        });
    }
}
