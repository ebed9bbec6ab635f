//! Verifies a log while no broker runs: every checksum, every topic's numbers against its records, the commits against the
//! witness. Only reads, and puts nothing right.

use hark_protocol::TopicName;

use super::directory::{Fault, quietly};
use super::layout::{HEADER_BYTES, Header, KEY_BYTES, Key, TopicId};
use super::meta::{Identity, Losses, MetaError, Numbers};
use super::offline::OfflineLog;
use super::scan::{Scan, is_damage, span};
use super::stored::{Body, known_by_first_part};

/// What was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Topics that have or had records.
    pub topics: u64,
    /// Records that are whole.
    pub records: u64,
    /// Bytes of these, as stored.
    pub bytes: u64,
    /// Records that are missing since the log was recovered. That is no problem: it was told then, and readers are told.
    pub lost: u64,
    /// Commits by the counter in the log.
    pub commits: u64,
    /// How many problems were told.
    pub problems: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which topic; `None`: the log as a whole.
    pub topic: Option<TopicName>,
    /// What, as a sentence.
    pub what: String,
}

/// What is found, and whom it is told.
struct Report<'a> {
    verified: Verified,
    tell: &'a mut dyn FnMut(Problem),
}

impl Report<'_> {
    fn problem(&mut self, topic: Option<&TopicName>, what: impl Into<String>) {
        self.verified.problems += 1;
        let (topic, what) = (topic.cloned(), what.into());
        (self.tell)(Problem { topic, what });
    }
}

impl OfflineLog {
    /// Verifies everything; `tell` is called for each problem.
    pub fn verify(&self, mut tell: impl FnMut(Problem)) -> Verified {
        let mut report = Report {
            verified: Verified::default(),
            tell: &mut tell,
        };
        report.verified.commits = self.commits;
        if self.commits < self.answered {
            let (gone, answered) = (self.answered - self.commits, self.answered);
            let what = format!(
                "{gone} of the {answered} commits that were answered are gone: the log was cut; when a broker opens it, every \
                 topic goes on with a new epoch"
            );
            report.problem(None, what);
        }
        let mut ids = Vec::new();
        for found in self.identities() {
            match found {
                Ok((name, identity)) => {
                    report.verified.topics += 1;
                    ids.push(identity.id());
                    let verified =
                        quietly(|| Ok(self.verify_topic(&name, &identity, &mut report)?));
                    if let Err(e) = verified {
                        report.problem(Some(&name), format!("it cannot be read to its end: {e}"));
                    }
                }
                Err(e) => report.problem(None, format!("the list of topics: {e}")),
            }
        }
        // What is left of deleted topics has no name, and is about to go.
        match self.store.meta.garbage().collect::<Result<Vec<_>, _>>() {
            Ok(garbage) => ids.extend(garbage.into_iter().map(|(id, _)| id)),
            Err(e) => report.problem(None, format!("the list of deleted topics: {e}")),
        }
        ids.sort_unstable();
        if let Err(e) = quietly(|| self.find_nameless(&ids, &mut report)) {
            report.problem(
                None,
                format!("the records cannot be looked through to their end: {e}"),
            );
        }
        report.verified
    }

    fn verify_topic(
        &self,
        name: &TopicName,
        identity: &Identity,
        report: &mut Report<'_>,
    ) -> Result<(), MetaError> {
        let id = identity.id();
        if id.0 >= self.next_id {
            let what = format!("its number, {}, has not been given out", id.0);
            report.problem(Some(name), what);
        }
        let numbers = self.store.meta.numbers(id)?;
        for mark in self.store.meta.marks(id) {
            match mark {
                Ok(_) => {}
                Err(e @ MetaError::Malformed(_)) => report.problem(Some(name), e.to_string()),
                Err(e) => return Err(e),
            }
        }
        let losses = match self.store.meta.losses(id) {
            Err(e @ MetaError::Malformed(_)) => {
                report.problem(Some(name), e.to_string());
                Losses::default()
            }
            found => found?,
        };
        let mut walk = Walk {
            name,
            numbers,
            losses,
            next: numbers.first,
            bytes: 0,
            time_ms: 0,
            damage: None,
            holes: 0,
        };
        let mut scan = Scan::new(&self.store.records, id, 0, u64::MAX)?;
        let mut parts: Option<Parts> = None;
        loop {
            let unreadable = scan.unreadable();
            let found = scan.next_key_value()?;
            if scan.unreadable() > unreadable {
                walk.damage = Some("cannot be read");
            }
            let next = found.as_ref().map(|(key, _)| (key.base, key.part));
            if let Some(_torn) = parts.take_if(|open| next != Some((open.base, open.next))) {
                walk.damage = Some("miss a part");
            }
            let Some((key, value)) = found else { break };
            match Header::check(&key.to_bytes(), &value) {
                None => {
                    walk.damage = Some("do not match their checksum");
                    parts = None;
                }
                Some(header) if header.is_part => {
                    walk.part(key, header, &value, &mut parts, report);
                }
                Some(header) if key.part == 0 => {
                    let end = key.base.saturating_add(u64::from(header.count) - 1);
                    let mut body = Body::new(bytes::Bytes::copy_from_slice(&value[HEADER_BYTES..]));
                    let whole = (0..header.count).all(|_| body.next_record().is_ok());
                    let bytes = (KEY_BYTES + value.len()) as u64;
                    walk.value(key.base, end, header.time_ms, bytes, whole, report);
                }
                Some(_) => walk.damage = Some("lie at a place that is none"),
            }
        }
        walk.end(report);
        Ok(())
    }

    /// Finds records whose topic's name is not known.
    fn find_nameless(&self, ids: &[TopicId], report: &mut Report<'_>) -> Result<(), Fault> {
        let (mut topics, mut values) = (0_u64, 0_u64);
        let mut from = TopicId(0);
        loop {
            let (first, last) = (span(from, 0, 0), span(TopicId(u64::MAX), 0, u64::MAX));
            let mut rest = self.store.records.range(*first.start()..=*last.end());
            let found = match rest.next() {
                None => break,
                Some(Ok((key, _))) => Key::parse(&key).map(|key| key.topic),
                // What cannot be read is told where it belongs; here it is passed over.
                Some(Err(e)) if is_damage(&e) => None,
                Some(Err(e)) => return Err(e.into()),
            };
            let known = ids.partition_point(|id| *id < from);
            let topic = match (found, ids.get(known)) {
                (Some(topic), _) => topic,
                (None, Some(&known)) => known,
                (None, None) => break,
            };
            if ids.binary_search(&topic).is_err() {
                topics += 1;
                let all = self.store.records.range(span(topic, 0, u64::MAX));
                values += all.filter(Result::is_ok).count() as u64;
            }
            let Some(next) = topic.0.checked_add(1) else {
                break;
            };
            from = TopicId(next);
        }
        if topics > 0 {
            let what =
                format!("{values} values belong to {topics} topics whose names are not known");
            report.problem(None, what);
        }
        Ok(())
    }
}

/// A walk over one topic's values, in order.
struct Walk<'a> {
    name: &'a TopicName,
    numbers: Numbers,
    losses: Losses,
    /// The offset that is expected.
    next: u64,
    bytes: u64,
    time_ms: u64,
    /// What is wrong with something since the last whole value.
    damage: Option<&'static str>,
    holes: u64,
}

/// A message in parts of which the next part is awaited.
struct Parts {
    base: u64,
    next: u16,
    header: Header,
    bytes: u64,
}

impl Walk<'_> {
    fn part(
        &mut self,
        key: Key,
        header: Header,
        value: &[u8],
        parts: &mut Option<Parts>,
        report: &mut Report<'_>,
    ) {
        let bytes = (KEY_BYTES + value.len()) as u64;
        let open = match parts.take() {
            None if key.part == 0 => {
                if known_by_first_part(bytes::Bytes::copy_from_slice(&value[HEADER_BYTES..]))
                    .is_err()
                {
                    self.damage = Some("do not hold what they should");
                    return;
                }
                Parts {
                    base: key.base,
                    next: 1,
                    header,
                    bytes,
                }
            }
            Some(open) if open.header == header => Parts {
                next: open.next + 1,
                bytes: open.bytes + bytes,
                ..open
            },
            _ => {
                self.damage = Some("miss a part");
                return;
            }
        };
        match open.next < header.count {
            true => *parts = Some(open),
            false => self.value(key.base, key.base, header.time_ms, open.bytes, true, report),
        }
    }

    /// A value whose checksum holds, or all parts of one.
    fn value(
        &mut self,
        base: u64,
        end: u64,
        time_ms: u64,
        bytes: u64,
        whole: bool,
        report: &mut Report<'_>,
    ) {
        if !whole {
            self.damage = Some("do not hold what they should");
            return;
        }
        // What retention has not finished taking, or what was written and not answered: neither is counted.
        if end < self.numbers.first || base > self.numbers.head {
            return;
        }
        self.hole_before(base, report);
        if base < self.next && base >= self.numbers.first {
            let what = format!("the records from offset {base} lie there twice");
            report.problem(Some(self.name), what);
        }
        if time_ms < self.time_ms || time_ms > self.numbers.last_time_ms {
            let what = format!("time goes back at offset {base}");
            report.problem(Some(self.name), what);
        }
        self.time_ms = self.time_ms.max(time_ms);
        report.verified.records += end + 1 - base.max(self.next).min(end + 1);
        report.verified.bytes += bytes;
        self.bytes += bytes;
        self.next = self.next.max(end + 1);
    }

    fn hole_before(&mut self, base: u64, report: &mut Report<'_>) {
        let damage = self.damage.take();
        if base > self.next {
            let (from, to) = (self.next, base - 1);
            if self.losses.explain(from, to) {
                report.verified.lost += base - self.next;
                return;
            }
            let what = damage.unwrap_or("are missing");
            self.holes += 1;
            report.problem(
                Some(self.name),
                format!("the records at offsets {from} to {to} {what}"),
            );
        }
    }

    fn end(mut self, report: &mut Report<'_>) {
        self.hole_before(self.numbers.head + 1, report);
        let Numbers {
            head,
            bytes,
            checkpoint,
            ..
        } = self.numbers;
        if self.next > head + 1 {
            let newest = self.next - 1;
            let what = format!("its head is {head}, and its records go on to {newest}");
            report.problem(Some(self.name), what);
        }
        if checkpoint > head {
            let what =
                format!("its producers are known up to {checkpoint}, beyond its head {head}");
            report.problem(Some(self.name), what);
        }
        // With holes it cannot fit.
        if self.holes == 0 && bytes != self.bytes {
            let found = self.bytes;
            let what = format!("it should have {bytes} bytes, and has {found}");
            report.problem(Some(self.name), what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{crash_copy, long, options, start_in, with_trees};
    use super::super::{Importer, SledLog, new_epoch};
    use super::*;
    use crate::message_log::contract::{Bench, sent_by, text, topic};

    fn verify(dir: &std::path::Path) -> (Verified, Vec<String>) {
        let mut problems = Vec::new();
        let log = OfflineLog::open_quietly(dir).unwrap();
        let verified = log.verify(|problem| problems.push(problem.what));
        (verified, problems)
    }

    fn busy(dir: &std::path::Path) -> Bench {
        let bench = start_in(dir);
        for n in 0..30 {
            bench
                .open("a")
                .append((n * 10..n * 10 + 10).map(long).collect())
                .unwrap();
            bench.open("b").append(vec![sent_by("p", n + 1)]).unwrap();
        }
        bench.open("a").append(vec![text(vec![1; 50_000])]).unwrap();
        bench
    }

    #[test]
    fn a_log_that_is_whole_has_no_problems() {
        let dir = tempfile::tempdir().unwrap();
        let bench = busy(dir.path());
        let copy = crash_copy(dir.path());
        drop(bench);
        for dir in [dir.path(), copy.path()] {
            let (verified, problems) = verify(dir);
            assert_eq!(problems, [""; 0]);
            assert_eq!((verified.topics, verified.records), (2, 331));
            assert!(
                verified.bytes > 100_000 && verified.commits > 30,
                "{verified:?}"
            );
        }
        // Also while retention is at it, and after an import.
        let mut options = options(dir.path());
        options.retention = std::sync::Arc::new(|_| crate::message_log::Retention {
            max_messages: 50,
            ..Default::default()
        });
        let clock = options.clock.clone();
        let log = std::sync::Arc::new(SledLog::open(options).unwrap());
        let bench = Bench {
            log,
            clock,
            _keep: None,
        };
        for n in 0..30 {
            bench
                .open("a")
                .append((n * 10..n * 10 + 10).map(long).collect())
                .unwrap();
            let copy = crash_copy(dir.path());
            assert_eq!(verify(copy.path()).1, [""; 0]);
        }
        drop(bench);
        let mut importer = Importer::open(dir.path()).unwrap();
        for n in 0..100 {
            importer.add(&topic("a"), Some(n), long(n)).unwrap();
            importer.add(&topic("c"), Some(n / 10), long(n)).unwrap();
        }
        assert_eq!(importer.finish().unwrap(), 200);
        assert_eq!(verify(dir.path()).1, [""; 0]);
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        drop(busy(dir.path()));
        with_trees(dir.path(), |records, meta| {
            let id = |name| meta.identity(&topic(name)).unwrap().unwrap().id();
            let damage = |base, part| {
                let key = Key::new(id("a"), base, part).to_bytes();
                let mut value = records.get(&key).unwrap().unwrap().to_vec();
                value[HEADER_BYTES + 20] ^= 1;
                records.insert(&key, &value).unwrap();
            };
            damage(51, 0);
            records
                .remove(&Key::new(id("a"), 101, 0).to_bytes())
                .unwrap();
            records
                .remove(&Key::new(id("a"), 301, 3).to_bytes())
                .unwrap();
            let mut numbers = meta.numbers(id("b")).unwrap();
            numbers.bytes += 1;
            meta.set_numbers(id("b"), &numbers).unwrap();
            let mut value = vec![0; HEADER_BYTES + 3];
            let key = Key::new(TopicId(77), 1, 0).to_bytes();
            let header = Header {
                count: 1,
                is_part: false,
                time_ms: 0,
            };
            header.seal(&key, &mut value);
            records.insert(&key, &value).unwrap();
        });
        let (verified, problems) = verify(dir.path());
        let bytes = verified.bytes;
        assert!(bytes > 0);
        let expected = [
            "the records at offsets 51 to 60 do not match their checksum",
            "the records at offsets 101 to 110 are missing",
            "the records at offsets 301 to 301 miss a part",
            "1 values belong to 1 topics whose names are not known",
        ];
        for expected in expected {
            assert!(
                problems.iter().any(|found| found == expected),
                "{expected}: {problems:#?}"
            );
        }
        assert!(
            problems
                .iter()
                .any(|found| found.contains("bytes, and has")),
            "{problems:#?}"
        );
        assert_eq!(
            (problems.len(), verified.problems, verified.records),
            (5, 5, 310)
        );
        // It is only looked at.
        assert_eq!(verify(dir.path()).1, problems);
    }

    #[test]
    fn a_cut_is_told_and_not_used_up() {
        let dir = tempfile::tempdir().unwrap();
        let bench = busy(dir.path());
        let epoch = bench.open("a").found.epoch;
        let copy = crash_copy(dir.path());
        bench.open("a").append(vec![long(1)]).unwrap();
        std::fs::copy(dir.path().join("witness"), copy.path().join("witness")).unwrap();

        for _ in 0..2 {
            let (_, problems) = verify(copy.path());
            assert!(
                problems[0].contains("commits that were answered are gone"),
                "{problems:?}"
            );
            assert_eq!(problems.len(), 1);
        }

        let after = start_in(copy.path());
        assert_ne!(after.open("a").found.epoch, epoch);
    }

    #[test]
    fn a_new_epoch_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = busy(dir.path()).open("a").found.epoch;

        let (old, new) = new_epoch(dir.path()).unwrap();

        assert_eq!(old, epoch);
        assert_eq!(verify(dir.path()).1, [""; 0]);
        let bench = start_in(dir.path());
        let found = bench.open("a").found;
        assert_eq!((found.epoch, found.head), (new, 301));
        let kept = crate::message_log::Lineage {
            epoch: old,
            kept_up_to: 301,
        };
        assert_eq!(found.lineage, [kept]);
        let empty = tempfile::tempdir().unwrap();
        assert!(new_epoch(empty.path()).is_err());
        assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    }
}
