//! Salvage: makes a new directory out of what can be read of a damaged one, and puts it in its place. The damaged one is
//! only read, and set aside at the end. Owns the order of these steps; how sled's file is read without sled is in `raw`.
//!
//! ```text
//! DIR, damaged ─► read every whole page ─► DIR.recovering: a new log ─► DIR and DIR.damaged-TIME, in one step
//! ```
//! Records are copied as they are, under their topics' numbers; what is missing between them stays a hole, which readers
//! are told, and which is written down, so that nobody takes it for new damage. Every topic goes on with a new epoch, as after a cut: so (epoch, offset) never names two messages.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hark_protocol::TopicName;

use super::directory::{
    DirectoryLock, check_format, keep_private, runs_away, sync_directory, take_lock,
};
use super::layout::{Header, Key, TopicId};
use super::meta::{Deletions, Directory, Entry, Identity, Ids, Losses, Mark, MetaError, Numbers};
use super::open::{self, OpenDirectory, OpenError};
use super::raw::{Entries, RawPages};
use super::rows;
use super::scan::{Scan, Value, span};
use super::stored::Body;
use super::{SledLog, SledOptions};
use crate::identity::KEPT_FILE_NAME;
use crate::message_log::{KnownBy, Producer, keep_newest};

/// What sled keeps in memory meanwhile.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// So much room is asked for beside what the damaged directory takes.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;
/// How many damaged topics are named.
const WORST_TOPICS: usize = 10;
/// What is written is made safe this often, so that it does not pile up in memory.
const COMMIT_BYTES: u64 = 64 * 1024 * 1024;
/// How many producers of a topic are gathered before the oldest are forgotten.
const MAX_MARKS: usize = 4 * crate::message_log::MAX_PRODUCERS;

/// Why nothing was salvaged. The damaged directory is where it was.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory cannot be opened, and not for being damaged.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The disk has no room for a second log.
    #[error("there is too little room beside {dir} to recover it: {needed_mib} MiB are needed, and {available_mib} are there; make room, or recover a copy elsewhere",
        dir = dir.display())]
    NoRoom {
        /// The damaged directory.
        dir: PathBuf,
        /// What is needed.
        needed_mib: u64,
        /// What is there.
        available_mib: u64,
    },
    /// The directory is a volume of its own, or the root.
    #[error("{dir} cannot be set aside, since it is a file system of its own; let --data-dir be a folder in it, move everything there, and try again",
        dir = dir.display())]
    NotMovable {
        /// The damaged directory.
        dir: PathBuf,
    },
    /// The system refused something.
    #[error("{dir} could not be recovered: {source}; it is as it was", dir = dir.display())]
    Io {
        /// The damaged directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was salvaged.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Where the damaged directory is now.
    pub moved_to: PathBuf,
    /// Topics that go on.
    pub topics: u64,
    /// Records that are kept, and their bytes as stored.
    pub records: u64,
    /// See `records`.
    pub bytes: u64,
    /// Topics that miss records they had.
    pub damaged_topics: u64,
    /// Those that miss most, most first.
    pub worst: Vec<DamagedTopic>,
    /// Records whose topic's name is not known any more, and of how many topics they are. Left behind.
    pub nameless_records: u64,
    /// See `nameless_records`.
    pub nameless_topics: u64,
}

/// A topic that misses records.
#[derive(Debug)]
pub struct DamagedTopic {
    /// Which.
    pub topic: TopicName,
    /// How many records it kept.
    pub kept: u64,
    /// How many it is known to have lost.
    pub lost: u64,
    /// Its newest offset.
    pub head: u64,
}

impl SledLog {
    /// Opens a directory; where it is damaged, salvages what can be read into a new one first, and sets the damaged one
    /// aside. Whatever else keeps a directory from being opened keeps it here, too.
    pub fn open_or_recover(options: SledOptions) -> Result<Self, RecoverError> {
        let dir = options.dir.clone();
        match Self::open(options.clone()) {
            Ok(log) => {
                tracing::info!(dir = %dir.display(), "the log is whole enough to be opened: nothing is recovered");
                return Ok(log);
            }
            Err(e @ OpenError::Damaged { .. }) => {
                tracing::error!("{e}; recovering what can be read")
            }
            Err(e) => return Err(e.into()),
        }
        recover(&dir)?.tell();
        if runs_away() {
            // A thread that sled does not give back would take all memory in the end.
            let source = begin_again();
            return Err(RecoverError::Io { dir, source });
        }
        Ok(Self::open(options)?)
    }
}

/// Runs this program anew in this process. Gives why it could not be.
fn begin_again() -> io::Error {
    use std::os::unix::process::CommandExt;
    tracing::info!("hark begins again, to be rid of what the damage has done to this process");
    crate::logging::finish();
    match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .exec(),
        Err(e) => e,
    }
}

impl Salvaged {
    fn tell(&self) {
        let Self {
            topics,
            records,
            bytes,
            damaged_topics,
            ..
        } = self;
        if *topics == 0 {
            tracing::error!(damaged = %self.moved_to.display(), "nothing could be salvaged: the log begins anew, empty");
        } else {
            tracing::warn!(
                topics, records, bytes, damaged_topics, damaged = %self.moved_to.display(),
                "the log was recovered; every topic goes on with a new epoch, and the damaged directory was set aside"
            );
        }
        for DamagedTopic {
            topic,
            kept,
            lost,
            head,
        } in &self.worst
        {
            tracing::warn!(%topic, kept, lost, head, "records of the topic are lost");
        }
        let others = self.damaged_topics - self.worst.len() as u64;
        if others > 0 {
            tracing::warn!(others, "more topics lost records, none of them as many");
        }
        if self.nameless_records > 0 {
            let (records, topics) = (self.nameless_records, self.nameless_topics);
            tracing::warn!(
                records,
                topics,
                "records were left behind whose topics' names are lost"
            );
        }
    }
}

/// Salvages what can be read of the log in `dir`, damaged or not, and puts that in its place.
pub fn recover(dir: &Path) -> Result<Salvaged, RecoverError> {
    let failed = |source| RecoverError::Io {
        dir: dir.to_owned(),
        source,
    };
    if !(fs::exists(dir).map_err(failed)? && check_format(dir)?) {
        let dir = dir.to_owned();
        return Err(OpenError::NotThere { dir }.into());
    }
    let lock = take_lock(dir)?;
    // A link to the directory stays what it is.
    let real = fs::canonicalize(dir).map_err(failed)?;
    let not_movable = || RecoverError::NotMovable {
        dir: dir.to_owned(),
    };
    let parent = real.parent().ok_or_else(not_movable)?;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    if device(&real).map_err(failed)? != device(parent).map_err(failed)? {
        return Err(not_movable());
    }
    let new = beside(&real, ".recovering");
    // Of an attempt that was cut short. Nobody else is at it: the lock is ours.
    remove_all(&new).map_err(failed)?;
    check_room(dir, &real, parent)?;
    let salvaged = salvage(&real, &new).and_then(|salvaged| {
        let moved_to = exchange(&real, &new, lock).map_err(failed)?;
        Ok(Salvaged {
            moved_to,
            ..salvaged
        })
    });
    // What lies there can only be what was not finished: the damaged directory never has this name.
    if salvaged.is_err()
        && let Err(e) = remove_all(&new)
    {
        tracing::warn!(path = %new.display(), error = %e, "a directory that was not finished could not be removed");
    }
    salvaged
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(dir);
    name.push(suffix);
    name.into()
}

fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The new log is no larger than the damaged one: that one holds what was written over, too.
fn check_room(dir: &Path, real: &Path, parent: &Path) -> Result<(), RecoverError> {
    let db = fs::metadata(real.join("db")).map_or(0, |db| db.len());
    let needed = db + SPARE_BYTES;
    // Where the system does not say how much room there is, it says so when there is none left.
    let available = rustix::fs::statvfs(parent).map_or(u64::MAX, |found| {
        found.f_bavail.saturating_mul(found.f_frsize)
    });
    match available < needed {
        true => Err(RecoverError::NoRoom {
            dir: dir.to_owned(),
            needed_mib: needed >> 20,
            available_mib: available >> 20,
        }),
        false => Ok(()),
    }
}

/// Puts `new` where `dir` is, and `dir` aside. Gives where that is.
///
/// At no moment has the damaged directory the name that the next recovery removes, and at none is nothing at `dir`, where a broker would
/// make an empty log. So the new one takes the name that is meant for the damaged one, and then both change places at once. A
/// crash between the two leaves the damaged one where it was, and beside it what was salvaged.
fn exchange(dir: &Path, new: &Path, lock: DirectoryLock) -> io::Result<PathBuf> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let parent = dir.parent().unwrap_or(dir);
    let aside = free_name_aside(dir)?;
    // What is kept there beside the log goes on with it.
    match fs::copy(dir.join(KEPT_FILE_NAME), new.join(KEPT_FILE_NAME)) {
        Ok(_) => File::open(new.join(KEPT_FILE_NAME))?.sync_all()?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    sync_directory(new)?;
    fs::rename(new, &aside)?;
    if renameat_with(CWD, dir, CWD, &aside, RenameFlags::EXCHANGE).is_err() {
        // The file system cannot. Then there is a moment with nothing at `dir`; the names still mean what they say.
        fs::rename(&aside, new)?;
        fs::rename(dir, &aside)?;
        if let Err(e) = fs::rename(new, dir) {
            fs::rename(&aside, dir)?;
            return Err(e);
        }
    }
    sync_directory(parent)?;
    drop(lock);
    keep_private(&aside);
    Ok(aside)
}

/// What the damaged directory is to be called.
fn free_name_aside(dir: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now()
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string();
    (0..1000)
        .map(|n| match n {
            0 => beside(dir, &format!(".damaged-{now}")),
            n => beside(dir, &format!(".damaged-{now}-{n}")),
        })
        .find(|path| fs::symlink_metadata(path).is_err())
        .ok_or_else(|| io::Error::other("there is no name left to set it aside under"))
}

/// What was found of a topic beside its records.
struct Topic {
    name: TopicName,
    identity: Identity,
    numbers: Option<Numbers>,
}

/// What was found beside the records.
#[derive(Default)]
struct FoundMeta {
    directory: Option<Directory>,
    next_id: u64,
    topics: HashMap<TopicId, Topic>,
    /// Topics that are deleted, of which something is left.
    deleted: HashSet<TopicId>,
    /// What was deleted under each name, and how the name goes on.
    deletions: HashMap<TopicName, Deletions>,
}

/// Makes a new log in `new` out of what can be read of `dir`.
fn salvage(dir: &Path, new: &Path) -> Result<Salvaged, RecoverError> {
    let failed = |source| RecoverError::Io {
        dir: dir.to_owned(),
        source,
    };
    let not_written = |e: MetaError| failed(io::Error::other(e.to_string()));
    let pages = match RawPages::find(dir) {
        Ok(pages) => Some(pages),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    let entries = || pages.iter().flat_map(RawPages::entries);

    let mut found = FoundMeta::find(entries()).map_err(failed)?;
    let mut into = open::open(new, CACHE_BYTES)?;
    let cuts_seen = (found.topics.values())
        .map(|topic| topic.identity.cuts_seen())
        .chain(found.deletions.values().map(Deletions::cuts_seen))
        .max();
    into.directory = Directory::salvaged(found.directory.take(), cuts_seen.unwrap_or(0));

    let mut salvaged = Salvaged::default();
    let mut nameless = HashSet::new();
    let mut written = 0;
    for entries in entries() {
        for (key, value) in entries.map_err(failed)? {
            let copied = copy(&into, &found, &key, &value).map_err(not_written)?;
            written += copied.bytes;
            for (topic, records) in copied.nameless {
                nameless.insert(topic);
                found.next_id = found.next_id.max(topic.0 + 1);
                salvaged.nameless_records += records;
            }
            if written >= COMMIT_BYTES {
                into.commit().map_err(not_written)?;
                written = 0;
            }
        }
    }
    salvaged.nameless_topics = nameless.len() as u64;

    let mut damaged = Vec::new();
    for (id, topic) in found.topics {
        let name = topic.name.clone();
        let rebuilt = rebuild(&into, id, topic).map_err(not_written)?;
        salvaged.topics += 1;
        salvaged.records += rebuilt.kept;
        salvaged.bytes += rebuilt.bytes;
        found.next_id = found.next_id.max(id.0 + 1);
        if rebuilt.lost > 0 {
            salvaged.damaged_topics += 1;
            damaged.push(DamagedTopic {
                topic: name,
                kept: rebuilt.kept,
                lost: rebuilt.lost,
                head: rebuilt.head,
            });
            if damaged.len() > 100 * WORST_TOPICS {
                keep_worst(&mut damaged);
            }
        }
    }
    keep_worst(&mut damaged);
    salvaged.worst = damaged;

    for (name, deletions) in &found.deletions {
        let written = into.meta.set_deletions(name, deletions);
        written.map_err(not_written)?;
    }
    into.ids = Ids {
        next: found.next_id.max(1),
        topics: salvaged.topics,
    };
    let written = into
        .meta
        .set_ids(into.ids)
        .and_then(|()| into.meta.set_directory(&into.directory));
    written.and_then(|()| into.commit()).map_err(not_written)?;
    into.data
        .sync_all()
        .and_then(|()| into.witness.sync())
        .and_then(|()| sync_directory(new))
        .map_err(failed)?;
    Ok(salvaged)
}

fn keep_worst(damaged: &mut Vec<DamagedTopic>) {
    damaged.sort_by(|a, b| {
        let rank = |topic: &DamagedTopic| Reverse(topic.lost);
        rank(a).cmp(&rank(b)).then_with(|| a.topic.cmp(&b.topic))
    });
    damaged.truncate(WORST_TOPICS);
}

impl FoundMeta {
    fn find(entries: impl Iterator<Item = io::Result<Entries>>) -> io::Result<Self> {
        let mut found = Self::default();
        let mut names: HashMap<TopicName, Identity> = HashMap::new();
        let mut numbers: HashMap<TopicId, Numbers> = HashMap::new();
        for entries in entries {
            for (key, value) in entries? {
                match Entry::parse(&key, &value) {
                    Some(Entry::Directory(directory)) => found.directory = Some(directory),
                    Some(Entry::Ids(ids)) => found.next_id = found.next_id.max(ids.next),
                    Some(Entry::Name(name, identity)) => drop(names.insert(name, identity)),
                    Some(Entry::Numbers(newer)) => numbers.extend(newer),
                    Some(Entry::Garbage(topic)) => {
                        found.deleted.insert(topic);
                        found.next_id = found.next_id.max(topic.0 + 1);
                    }
                    Some(Entry::Deletions(name, newer)) => {
                        drop(found.deletions.insert(name, newer));
                    }
                    Some(Entry::Mark(..)) | None => {}
                }
            }
        }
        // A name may come from a page that is older than its deletion.
        for (name, identity) in &names {
            let deletions = found.deletions.get(name);
            if deletions.is_some_and(|deletions| deletions.epochs().contains(&identity.epoch())) {
                found.deleted.insert(identity.id());
                found.next_id = found.next_id.max(identity.id().0 + 1);
            }
        }
        names.retain(|_, identity| !found.deleted.contains(&identity.id()));
        for (name, identity) in names {
            let numbers = numbers.get(&identity.id()).copied();
            found.topics.insert(
                identity.id(),
                Topic {
                    name,
                    identity,
                    numbers,
                },
            );
        }
        Ok(found)
    }
}

/// What became of a key and what lay under it.
#[derive(Default)]
struct Copied {
    bytes: u64,
    /// Records of topics without a name.
    nameless: Vec<(TopicId, u64)>,
}

/// What is to become of a value.
enum Fate {
    Kept,
    /// Its topic has no name.
    Nameless {
        topic: TopicId,
        records: u64,
    },
    /// It is not needed, or not whole.
    Left,
}

fn copy(
    into: &OpenDirectory,
    found: &FoundMeta,
    key: &[u8],
    row: &[u8],
) -> Result<Copied, MetaError> {
    let mut copied = Copied::default();
    if let Some(Entry::Mark(topic, mark)) = Entry::parse(key, row) {
        if found.topics.contains_key(&topic) {
            into.meta
                .set_mark(topic, &mark.producer, &Mark::from(&mark))?;
            copied.bytes += (key.len() + row.len()) as u64;
        }
        return Ok(copied);
    }
    let Ok(row_key) = key.try_into() else {
        return Ok(copied);
    };
    let mut kept = Vec::new();
    for (key, value) in rows::entries(row_key, &row.into()) {
        match fate(found, &key, &value) {
            Fate::Kept => kept.push((key, value)),
            Fate::Nameless { topic, records } => copied.nameless.push((topic, records)),
            Fate::Left => {}
        }
    }
    copied.bytes += kept
        .iter()
        .map(|(key, value)| (key.len() + value.len()) as u64)
        .sum::<u64>();
    into.records.merge(row_key, kept)?;
    Ok(copied)
}

fn fate(found: &FoundMeta, key: &[u8], value: &[u8]) -> Fate {
    let (Some(place), Some(header)) = (Key::parse(key), Header::check(key, value)) else {
        return Fate::Left;
    };
    if found.deleted.contains(&place.topic) {
        return Fate::Left;
    }
    let records = match header.is_part {
        true => u64::from(place.part == 0),
        false => u64::from(header.count),
    };
    let Some(topic) = found.topics.get(&place.topic) else {
        let topic = place.topic;
        return Fate::Nameless { topic, records };
    };
    let first = topic.numbers.map_or(0, |numbers| numbers.first);
    // Else retention took it; it only had not been written over.
    match place.base.saturating_add(records.max(1) - 1) >= first {
        true => Fate::Kept,
        false => Fate::Left,
    }
}

struct Rebuilt {
    kept: u64,
    lost: u64,
    bytes: u64,
    head: u64,
}

/// Finds a topic's numbers in its records, and writes them with all that makes it a topic.
fn rebuild(into: &OpenDirectory, id: TopicId, topic: Topic) -> Result<Rebuilt, MetaError> {
    let mut rebuilt = Rebuilt {
        kept: 0,
        lost: 0,
        bytes: 0,
        head: 0,
    };
    let mut first = topic.numbers.map(|numbers| numbers.first);
    let mut next = first.unwrap_or(0);
    let mut time_ms = topic.numbers.map_or(0, |numbers| numbers.last_time_ms);
    let mut marks: HashMap<Producer, Mark> = HashMap::new();
    let mut losses = Losses::default();
    let (mut ahead, mut stale) = (None, Vec::new());
    let mut scan = Scan::new(&into.records, id, next, u64::MAX)?;
    while let Some(value) = next_newest(&mut scan, &mut ahead, &mut stale)? {
        if first.is_none() {
            (first, next) = (Some(value.base), value.base);
        }
        if value.base > next {
            losses.add(next, value.base - 1);
        }
        rebuilt.lost += value.base.saturating_sub(next);
        rebuilt.kept += value.end + 1 - value.base.max(next);
        rebuilt.bytes += value.bytes;
        next = value.end + 1;
        time_ms = time_ms.max(value.time_ms);
        let mut body = Body::new(value.body);
        for offset in value.base..=value.end {
            let Ok(known_by) = body.next_known_by() else {
                break;
            };
            if let KnownBy::Sequence(producer, seq) = known_by {
                let mark = Mark {
                    seq,
                    offset,
                    time_ms: value.time_ms,
                };
                marks
                    .entry(producer)
                    .and_modify(|before| *before = mark.after(*before))
                    .or_insert(mark);
            }
        }
        if marks.len() > MAX_MARKS {
            marks = newest(marks);
        }
    }
    for base in stale {
        let keys = into.records.range(span(id, base, base)).keys();
        for key in keys.collect::<sled::Result<Vec<_>>>()? {
            into.records.remove(&key)?;
        }
    }
    let head = next.max(1) - 1;
    let was = topic.numbers.map_or(0, |numbers| numbers.head);
    rebuilt.lost += was.saturating_sub(head);
    rebuilt.head = head;
    write_marks(into, id, head, marks)?;
    let numbers = Numbers {
        first: first.unwrap_or(1),
        head,
        last_time_ms: time_ms,
        bytes: rebuilt.bytes,
        checkpoint: head,
    };
    into.meta.set_numbers(id, &numbers)?;
    if !losses.is_empty() {
        into.meta.set_losses(id, &losses)?;
    }
    let mut identity = topic.identity;
    identity.see_cuts(&into.directory, head);
    into.meta.set_identity(&topic.name, &identity)?;
    Ok(rebuilt)
}

/// The next whole value; never two for one offset. Where two overlap, one of them was cut off before, and came back with a stale page:
/// the one with the earlier time, since time never goes back. Where that lies goes to `stale`.
fn next_newest(
    scan: &mut Scan<'_>,
    ahead: &mut Option<Value>,
    stale: &mut Vec<u64>,
) -> sled::Result<Option<Value>> {
    let next = match ahead.take() {
        Some(next) => Some(next),
        None => scan.next_value()?,
    };
    let Some(mut value) = next else {
        return Ok(None);
    };
    while let Some(next) = scan.next_value()? {
        if next.base > value.end {
            *ahead = Some(next);
            break;
        }
        let older = match next.time_ms > value.time_ms {
            true => std::mem::replace(&mut value, next),
            // What was cut off began no earlier than what came in its place.
            false => next,
        };
        stale.push(older.base);
    }
    Ok(Some(value))
}

/// Makes the producers' numbers that were copied and those in the records agree. A number beyond the head is that of a message that is
/// lost: were it believed, the message would be taken for kept when it comes again.
fn write_marks(
    into: &OpenDirectory,
    id: TopicId,
    head: u64,
    found: HashMap<Producer, Mark>,
) -> Result<(), MetaError> {
    let mut found = newest(found);
    for copied in into.meta.marks(id).collect::<Result<Vec<_>, _>>()? {
        let (beyond, mark) = (copied.offset > head, Mark::from(&copied));
        match found.get_mut(&copied.producer) {
            None if beyond => into.meta.remove_mark(id, &copied.producer)?,
            // The record that it names may be one that is missing.
            Some(newest) if !beyond && copied.offset >= newest.offset => {
                *newest = mark.after(*newest);
            }
            Some(newest) if !beyond => *newest = newest.after(mark),
            Some(_) | None => {}
        }
    }
    for (producer, mark) in found {
        into.meta.set_mark(id, &producer, &mark)?;
    }
    Ok(())
}

/// The numbers of those producers that are remembered.
fn newest(marks: HashMap<Producer, Mark>) -> HashMap<Producer, Mark> {
    let marks = marks.into_iter();
    let mut newest = marks.map(|(producer, mark)| mark.of(producer)).collect();
    keep_newest(&mut newest);
    let newest = newest.into_iter();
    newest
        .map(|mark| (mark.producer.clone(), Mark::from(&mark)))
        .collect()
}

#[cfg(test)]
mod tests {
    use hark_protocol::{Epoch, GapReason};

    use super::super::tests::{contents, long, options, start_in, with_trees};
    use super::*;
    use crate::message_log::contract::{Bench, NOON, by, messages, sent_by, text, topic};
    use crate::message_log::{Lineage, PageItem};

    /// A log with topics that grow at once, a large message, a producer, and what retention took.
    fn sample(dir: &Path) -> Vec<(TopicName, Epoch, Vec<hark_protocol::Record>)> {
        let bench = start_in(dir);
        for round in 0..60 {
            for n in 0..5 {
                let topic = bench.open(&format!("t{n}"));
                topic
                    .append((round * 10..round * 10 + 10).map(long).collect())
                    .unwrap();
            }
        }
        let large = bench.open("large");
        large
            .append(vec![
                text(vec![3; 200_000]),
                sent_by("p", 1),
                sent_by("p", 2),
                by(Some("ana"), sent_by("p", 1)),
            ])
            .unwrap();
        all_of(&bench)
    }

    fn all_of(bench: &Bench) -> Vec<(TopicName, Epoch, Vec<hark_protocol::Record>)> {
        let list = bench.list().into_iter();
        list.map(|info| {
            let page = bench.open(info.topic.as_str()).page(0, info.head);
            let records = page.items.into_iter().filter_map(|item| match item {
                PageItem::Record(record) => Some(record),
                PageItem::Gap { .. } => None,
            });
            (info.topic.clone(), info.epoch, records.collect())
        })
        .collect()
    }

    fn lost_in(item: &PageItem) -> u64 {
        match item {
            PageItem::Gap {
                reason: GapReason::Lost,
                from,
                to,
            } => to + 1 - from,
            _ => 0,
        }
    }

    #[test]
    fn of_a_whole_log_everything_is_salvaged() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let before = sample(&dir);
        let files = contents(&dir);
        // Of an attempt that was killed.
        fs::create_dir_all(parent.path().join("data.recovering/blobs")).unwrap();

        let salvaged = recover(&dir).unwrap();

        assert_eq!((salvaged.topics, salvaged.records), (6, 3004));
        assert_eq!((salvaged.damaged_topics, salvaged.nameless_records), (0, 0));
        let mut aside = contents(&salvaged.moved_to);
        aside.insert("lock".into(), files["lock"].clone());
        assert!(aside == files, "the damaged directory was changed");
        assert!(!parent.path().join("data.recovering").exists());
        let bench = start_in(&dir);
        let after = all_of(&bench);
        for ((topic, epoch, records), (_, new_epoch, found)) in before.iter().zip(&after) {
            assert_eq!(records, found, "{topic}");
            assert_ne!(epoch, new_epoch);
            let opened = bench.open(topic.as_str()).found;
            let kept_up_to = opened.head;
            let lineage = Lineage {
                epoch: *epoch,
                kept_up_to,
            };
            assert_eq!(opened.lineage, [lineage]);
        }
        let producers = bench.open("large").found.producers;
        let producers: Vec<_> = producers
            .iter()
            .map(|mark| (mark.producer.identity.is_some(), mark.seq, mark.offset))
            .collect();
        assert_eq!(producers, [(false, 2, 3), (true, 1, 4)]);
        assert_eq!(bench.open("unused").found.lineage.len(), 1);
        let kept = bench.open("new").append(vec![long(1)]).unwrap();
        assert_eq!(kept[0].offset, 1);
    }

    #[test]
    fn what_was_trimmed_does_not_come_back() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let mut options = options(&dir);
        options.retention = std::sync::Arc::new(|_| crate::message_log::Retention {
            max_messages: 100,
            ..Default::default()
        });
        let bench = Bench {
            clock: options.clock.clone(),
            log: std::sync::Arc::new(SledLog::open(options).unwrap()),
            _keep: None,
        };
        for n in 0..100 {
            bench
                .open("a")
                .append((n * 10..n * 10 + 10).map(long).collect())
                .unwrap();
        }
        crate::message_log::contract::wait_for("the trim", || bench.list()[0].first > 800);
        let first = bench.list()[0].first;
        drop(bench);

        recover(&dir).unwrap();

        let bench = start_in(&dir);
        assert!(bench.list()[0].first >= first);
        assert_eq!(bench.list()[0].head, 1000);
        let page = bench.open("a").page(0, 1000);
        let reason = |item: &PageItem| match item {
            PageItem::Gap { reason, .. } => Some(*reason),
            PageItem::Record(_) => None,
        };
        let gaps: Vec<_> = page.items.iter().filter_map(reason).collect();
        assert_eq!(gaps, [GapReason::Expired]);
    }

    #[test]
    fn out_of_garbage_comes_nothing_but_what_was_there() {
        use std::os::unix::fs::FileExt;

        let sample_dir = tempfile::tempdir().unwrap();
        let before = sample(sample_dir.path());
        let len = fs::metadata(sample_dir.path().join("db")).unwrap().len();
        let (mut kept, mut lost) = (0, 0);
        for case in 0..12_u64 {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("data");
            fs::create_dir(&dir).unwrap();
            for (name, content) in contents(sample_dir.path()) {
                if name != "blobs" {
                    fs::write(dir.join(name), content).unwrap();
                }
            }
            let db = fs::OpenOptions::new()
                .write(true)
                .open(dir.join("db"))
                .unwrap();
            match case {
                0 => db.set_len(len / 2).unwrap(),
                1 => db.set_len(0).unwrap(),
                case => {
                    for place in 0..case {
                        let at = (place * 7 + case) * 131_071 % len;
                        let garbage = vec![0x5a; usize::try_from(case * 3000).unwrap()];
                        db.write_all_at(&garbage, at).unwrap();
                    }
                }
            }
            fs::write(dir.join("conf"), b"no such thing, but long enough").unwrap();

            let salvaged = recover(&dir).unwrap();

            let bench = start_in(&dir);
            let after = all_of(&bench);
            assert_eq!(after.len() as u64, salvaged.topics, "case {case}");
            let mut told = 0;
            for (topic, epoch, found) in &after {
                let (_, old, records) = before.iter().find(|(name, ..)| name == topic).unwrap();
                assert_ne!(old, epoch, "case {case}");
                for record in found {
                    let same = records.iter().find(|before| before.offset == record.offset);
                    assert_eq!(Some(record), same, "case {case}, {topic}");
                }
                let opened = bench.open(topic.as_str());
                let page = opened.page(0, opened.found.head);
                assert_eq!(messages(&page).len(), found.len());
                told += page.items.iter().map(lost_in).sum::<u64>();
                kept += found.len();
                lost += records.len() - found.len();
            }
            let verified = {
                drop(bench);
                super::super::OfflineLog::open_quietly(&dir)
                    .unwrap()
                    .verify(|problem| panic!("case {case}: {problem:?}"))
            };
            assert_eq!(verified.records, salvaged.records, "case {case}");
            assert_eq!(verified.lost, told, "case {case}");
        }
        assert!(kept > 10_000 && lost > 100, "{kept} kept, {lost} lost");
    }

    #[test]
    fn records_without_a_name_are_counted_and_their_number_is_not_given_again() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        sample(&dir);
        with_trees(&dir, |_, meta| meta.forget_name(&topic("t4")));

        let salvaged = recover(&dir).unwrap();

        assert_eq!(
            (salvaged.nameless_topics, salvaged.nameless_records),
            (1, 600)
        );
        assert_eq!(salvaged.topics, 5);
        let bench = start_in(&dir);
        let again = bench.open("t4");
        assert_eq!(again.found.head, 0);
        again.append(vec![long(1)]).unwrap();
        assert_eq!(messages(&again.page(0, 1)).len(), 1);
    }

    #[test]
    fn a_deleted_topic_stays_deleted_and_its_next_sequence_is_another() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        sample(&dir);
        let bench = start_in(&dir);
        let gone = bench.open("t1");
        let deleted = gone.found.epoch;
        let next = gone.delete().found.epoch;
        bench.open("t2").delete();
        bench.open("t2").append(vec![long(7)]).unwrap();
        drop(bench);
        let verified = |dir: &Path| {
            super::super::OfflineLog::open_quietly(dir)
                .unwrap()
                .verify(|problem| panic!("{problem:?}"))
        };
        assert_eq!(verified(&dir).topics, 5);

        let salvaged = recover(&dir).unwrap();

        assert_eq!((salvaged.topics, salvaged.records), (5, 3004 - 1200 + 1));
        assert_eq!((salvaged.damaged_topics, salvaged.nameless_records), (0, 0));
        assert_eq!(verified(&dir).topics, 5);
        let bench = start_in(&dir);
        let found = bench.open("t1").found;
        assert_eq!(found.head, 0);
        // Nothing is left of what it was, nor of what it was about to be.
        assert!(found.epoch != deleted && found.epoch != next);
        let next = Lineage {
            epoch: next,
            kept_up_to: 0,
        };
        assert!(found.lineage.contains(&next) && found.deleted == [deleted]);
        assert_eq!(bench.open("t2").found.head, 1);
    }

    /// The deletion alone knows of the cut before it: the directory and the names are lost.
    #[test]
    fn an_epoch_that_a_deletion_drew_is_not_given_out_again() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        sample(&dir);
        super::super::new_epoch(&dir).unwrap();
        let bench = start_in(&dir);
        let next = bench.open("t1").delete();
        next.append(vec![long(1)]).unwrap();
        let epoch = next.found.epoch;
        drop(bench);
        with_trees(&dir, |_, meta| {
            for name in ["t0", "t1", "t2", "t3", "t4", "large"] {
                meta.forget_name(&topic(name));
            }
            meta.forget_directory();
        });

        recover(&dir).unwrap();

        let bench = start_in(&dir);
        let again = bench.open("t1");
        again.append(vec![long(2)]).unwrap();
        assert_ne!(again.found.epoch, epoch);
    }

    #[test]
    fn producers_go_on_where_what_is_left_of_their_messages_says() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let bench = start_in(&dir);
        let orders = bench.open("orders");
        for record in [
            sent_by("p", 1),
            sent_by("p", 2),
            long(3),
            sent_by("q", 1),
            sent_by("q", 2),
            sent_by("r", 1),
        ] {
            orders.append(vec![record]).unwrap();
        }
        bench.log.shutdown();
        drop(bench);
        with_trees(&dir, |records, meta| {
            let id = meta.identity(&topic("orders")).unwrap().unwrap().id();
            for lost in [2, 5, 6] {
                records.remove(&Key::new(id, lost, 0).to_bytes()).unwrap();
            }
        });

        recover(&dir).unwrap();

        let found = start_in(&dir).open("orders").found.clone();
        assert_eq!(found.head, 4);
        let mut counts: Vec<_> = found.producers.iter().collect();
        counts.sort_by(|a, b| a.producer.cmp(&b.producer));
        let counts: Vec<_> = counts
            .iter()
            .map(|mark| (mark.producer.name.as_str(), mark.seq, mark.offset))
            .collect();
        // What is lost in the middle had been answered, and is told as lost. What is lost at the end may not have been.
        assert_eq!(counts, [("p", 2, 2), ("q", 1, 4)]);
    }

    #[test]
    fn what_had_been_cut_off_does_not_come_back_over_what_came_after() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let bench = start_in(&dir);
        bench
            .open("a")
            .append((1..=10).map(long).collect())
            .unwrap();
        bench
            .open("a")
            .append((11..=15).map(long).collect())
            .unwrap();
        let b = bench.open("b");
        for range in [1..=2, 3..=3, 4..=6] {
            b.append(range.map(long).collect()).unwrap();
        }
        let before = all_of(&bench);
        bench.log.shutdown();
        drop(bench);
        // As a stale page brings it back.
        with_trees(&dir, |records, meta| {
            let id = |name| meta.identity(&topic(name)).unwrap().unwrap().id();
            let mut packer = super::super::stored::Packer::default();
            let mut pack = |id, base, time_ms, new: Vec<_>| {
                let put = |key: &[u8; 18], value: &[u8]| records.insert(key, value);
                let packed = packer.pack(id, base, time_ms, &new, put);
                packed.map_err(|_| ()).unwrap();
            };
            pack(id("a"), 5, NOON, (105..=107).map(long).collect());
            pack(id("b"), 3, NOON - 1000, (103..=112).map(long).collect());
        });

        let salvaged = recover(&dir).unwrap();

        assert_eq!((salvaged.records, salvaged.damaged_topics), (15 + 5, 1));
        assert_eq!((salvaged.worst[0].lost, salvaged.worst[0].head), (1, 6));
        let bench = start_in(&dir);
        let after = all_of(&bench);
        assert_eq!(before[0].2, after[0].2);
        let mut left = before[1].2.clone();
        left.remove(2);
        assert_eq!(left, after[1].2);
        assert_eq!(
            (bench.open("a").found.head, bench.open("b").found.head),
            (15, 6)
        );
        drop(bench);
        let verified = super::super::OfflineLog::open_quietly(&dir)
            .unwrap()
            .verify(|problem| panic!("{problem:?}"));
        assert_eq!((verified.records, verified.lost), (20, 1));
    }

    #[test]
    fn a_directory_in_use_is_not_recovered() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let _bench = start_in(&dir);
        let refused = recover(&dir).unwrap_err();
        assert!(
            matches!(refused, RecoverError::Open(OpenError::InUse { .. })),
            "{refused}"
        );
    }
}
