//! What a flipped bit in the middle of sled's file may cost: never an acknowledged message without a word, and never a second
//! message at its place.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use hark_protocol::{Epoch, Message};

use super::raw::{Messages, OnDamage, SEGMENT_BYTES, parse_segment_header};
use super::tests::{contents, options, start_in};
use super::*;
use crate::message_log::PageItem;
use crate::message_log::contract::{Bench, assert_covered, text};

/// Who was told what.
#[derive(Default)]
struct Acknowledged {
    /// By topic, those of its present sequence.
    kept: BTreeMap<String, Vec<(Epoch, u64, Message)>>,
    /// Every (epoch, offset) that was given out.
    given: HashSet<(String, Epoch, u64)>,
}

impl Acknowledged {
    fn publish(&mut self, bench: &Bench, name: &str, bytes: usize) {
        let opened = bench.open(name);
        let text = text(format!("{name} {} {}", self.given.len(), "x".repeat(bytes)));
        let record = opened.append(vec![text]).unwrap().remove(0);
        let epoch = opened.found.epoch;
        self.given.insert((name.to_owned(), epoch, record.offset));
        let kept = self.kept.entry(name.to_owned()).or_default();
        kept.push((epoch, record.offset, record.message));
    }

    fn delete(&mut self, bench: &Bench, name: &str) {
        bench.open(name).delete();
        self.kept.remove(name);
    }

    /// Each message is there, or named as missing to whoever has a cursor of its epoch, and no place is given out again.
    fn check(&self, bench: &Bench, what: &str) {
        for (name, kept) in &self.kept {
            let Ok(opened) = bench.try_open(name) else {
                continue; // and nobody reads or writes it
            };
            let (head, epoch) = (opened.found.head, opened.found.epoch);
            let page = (head > 0).then(|| opened.page(0, head));
            let items = page.map_or(Vec::new(), |page| {
                assert_covered(&page, 0);
                page.items
            });
            let item_at = |offset: u64| {
                items.iter().find(|item| match item {
                    PageItem::Record(record) => record.offset == offset,
                    PageItem::Gap { from, to, .. } => (*from..=*to).contains(&offset),
                })
            };
            for (old, offset, message) in kept {
                let lineage = opened.found.lineage.iter();
                let known = lineage.filter(|earlier| earlier.epoch == *old);
                let kept_up_to = match *old == epoch {
                    true => u64::MAX,
                    false => known.map(|earlier| earlier.kept_up_to).max().unwrap_or(0),
                };
                if *offset > kept_up_to {
                    continue; // whoever asks with that epoch is told
                }
                match item_at(*offset) {
                    Some(PageItem::Record(record)) => {
                        assert!(record.message == *message, "{what}: {name} {old}:{offset}");
                    }
                    Some(PageItem::Gap { .. }) => {}
                    None => panic!("{what}: {name} {old}:{offset} is missing, the head is {head}"),
                }
            }
            let next = opened.append(vec![text("next")]).unwrap().remove(0);
            assert!(
                !self.given.contains(&(name.clone(), epoch, next.offset)),
                "{what}: {name} {epoch}:{} is given out twice",
                next.offset
            );
        }
    }
}

/// A log that was opened again, and grew since, in few large topics and many small new ones; some were deleted.
fn sample(dir: &Path) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let bench = start_in(dir);
    for _ in 0..3 {
        for n in 0..30 {
            acknowledged.publish(&bench, &format!("old{n:03}"), 40);
        }
    }
    drop(bench);
    let bench = start_in(dir);
    for n in 0..600 {
        let old = format!("old{:03}", n * 7 % 30);
        acknowledged.publish(&bench, "big", 5000);
        match n % 20 {
            2 | 6 | 10 | 14 | 18 => acknowledged.publish(&bench, &format!("{old}x{n}"), 40),
            5 => {
                acknowledged.delete(&bench, &old);
                acknowledged.publish(&bench, &old, 40);
            }
            8 | 16 => acknowledged.publish(&bench, &old, 40),
            _ => {}
        }
    }
    acknowledged
}

/// Where to flip bits: in the segments that sled replays but for the last two, a few messages of each, from first to last.
fn places(dir: &Path, each: usize) -> Vec<u64> {
    let files = contents(dir);
    let newest = files.iter().rfind(|(name, _)| name.starts_with("snap."));
    let seen = u64::from_le_bytes(*newest.unwrap().1.first_chunk().unwrap()) - 1;
    let mut segments: Vec<(u64, u64, Vec<std::ops::Range<usize>>)> = Vec::new();
    let segment_bytes = usize::try_from(SEGMENT_BYTES).unwrap();
    for (n, segment) in (0..).zip(files["db"].chunks(segment_bytes)) {
        let header = parse_segment_header(segment);
        if let Some(header) = header.filter(|header| header.lsn + SEGMENT_BYTES > seen) {
            let unseen = Messages::new(segment, OnDamage::Stop).filter(|m| m.lsn() >= seen);
            let messages = unseen.map(|message| message.at..message.end()).collect();
            segments.push((header.lsn, n * SEGMENT_BYTES, messages));
        }
    }
    segments.sort_unstable_by_key(|(lsn, ..)| *lsn);
    segments.truncate(segments.len() - 2);
    let places = segments.iter().flat_map(|(_, base, messages)| {
        let chosen = (0..each).map(move |n| &messages[(messages.len() - 1) * n / (each - 1)]);
        let place = |(n, message): (usize, &std::ops::Range<usize>)| match n % 3 {
            0 => message.start + 5 + n % 4,
            1 => message.start + message.len() / 2,
            _ => message.end - 1,
        };
        chosen
            .enumerate()
            .map(move |found| base + place(found) as u64)
    });
    places.collect()
}

#[test]
fn a_flipped_bit_in_the_middle_is_refused_or_costs_nothing_that_is_not_named() {
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = sample(dir.path());
    let files = contents(dir.path());
    let places = places(dir.path(), 9);
    assert!(places.len() >= 45, "{} places", places.len());
    let (mut refused, mut opened) = (0, 0);
    for (n, at) in places.into_iter().enumerate() {
        let what = format!("a bit at {at}");
        let parent = tempfile::tempdir().unwrap();
        let copy = parent.path().join("data");
        fs::create_dir_all(copy.join("blobs")).unwrap();
        for (name, content) in files.iter().filter(|(name, _)| *name != "blobs") {
            fs::write(copy.join(name), content).unwrap();
        }
        let mut db = files["db"].clone();
        db[usize::try_from(at).unwrap()] ^= 1 << (n % 8);
        fs::write(copy.join("db"), &db).unwrap();
        match SledLog::open(options(&copy)) {
            Ok(log) => {
                opened += 1;
                let bench = Bench {
                    log: Arc::new(log),
                    clock: Clock::system(),
                    _keep: None,
                };
                acknowledged.check(&bench, &what);
            }
            Err(OpenError::Damaged { .. }) => {
                refused += 1;
                assert!(fs::read(copy.join("db")).unwrap() == db, "{what}: changed");
                recover(&copy).unwrap();
                acknowledged.check(&start_in(&copy), &format!("{what}, recovered"));
            }
            Err(e) => panic!("{what}: {e}"),
        }
    }
    println!("{refused} refused, {opened} opened");
    assert!(
        refused > 10 && opened > 5,
        "{refused} refused, {opened} opened"
    );
}
