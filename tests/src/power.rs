//! What a disk may hold after the power failed: replays what `preload.c` recorded up to some moment, keeps what was synced
//! until then, and throws dice about the rest. Owns the rules of the disk; knows nothing of who wrote.
//!
//! 1. What was written to a file before a sync of it began is on the disk once that sync has ended well.
//! 2. Of what was written later, each block of 4 KiB holds what it held after any number of the writes since, and some are
//!    torn: each of their sectors for itself. The length is that after any number of the changes since.
//! 3. Names made, moved and removed since the last sync of their folder are so up to any one of them, in order.
//! 4. A sync that failed decides for good: what of that reached the disk is there, the rest is not written again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::Preload;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const EVENT_BYTES: usize = 32;

// The kinds of events, as preload.c numbers them.
const OPEN: u32 = 1;
const CREATE: u32 = 2;
const TRUNCATE: u32 = 3;
const WRITE: u32 = 4;
const RENAME: u32 = 5;
const UNLINK: u32 = 6;
const MKDIR: u32 = 7;
const SYNC: u32 = 8;
const SYNCED: u32 = 9;

/// What a broker did to its data directory, in order.
pub struct Record {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

struct Event {
    /// Where it ends in the record's file.
    end: usize,
    what: What,
}

enum What {
    Open {
        file: u64,
        path: String,
        is_new: bool,
    },
    Truncate {
        file: u64,
        len: usize,
    },
    Write {
        file: u64,
        at: usize,
        data: Range<usize>,
    },
    Name(Naming),
    Sync {
        file: u64,
        number: u64,
    },
    Synced {
        number: u64,
        well: bool,
    },
}

#[derive(Clone)]
enum Naming {
    New(String, usize),
    Folder(String),
    Move(String, String),
    Gone(String),
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("events", &self.events.len())
            .finish_non_exhaustive()
    }
}

impl Record {
    /// Reads the record of a broker that does not run any more.
    pub fn read(preload: &Preload) -> Self {
        let bytes = fs::read(preload.record_path()).unwrap();
        let mut events = Vec::new();
        let mut at = 0;
        while let Some(event) = parse(&bytes, &mut at) {
            events.push(event);
        }
        Self { bytes, events }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Where the event ends in the record's file, for comparing with [`Preload::record_len`].
    pub fn end_of(&self, event: usize) -> u64 {
        self.events[event].end as u64
    }

    /// How many events end at or before this place in the record's file.
    pub fn events_before(&self, len: u64) -> usize {
        self.events.partition_point(|event| event.end as u64 <= len)
    }

    /// How many bytes were written to the file of this name, over all.
    pub fn written_bytes(&self, name: &str) -> u64 {
        let mut files = BTreeSet::new();
        let mut written = 0;
        for event in &self.events {
            match &event.what {
                What::Open { file, path, .. } if path == name => {
                    files.insert(*file);
                }
                What::Write { file, data, .. } if files.contains(file) => {
                    written += data.len() as u64;
                }
                _ => {}
            }
        }
        written
    }

    /// How often a write began at a place of this file that an earlier one had written to.
    pub fn written_over(&self, name: &str) -> usize {
        let mut files = BTreeSet::new();
        let (mut end, mut count) = (0, 0);
        for event in &self.events {
            match &event.what {
                What::Open { file, path, .. } if path == name => {
                    files.insert(*file);
                }
                What::Write { file, at, data } if files.contains(file) => {
                    count += usize::from(*at < end);
                    end = end.max(at + data.len());
                }
                _ => {}
            }
        }
        count
    }

    /// How many files were made whose name begins so.
    pub fn made(&self, prefix: &str) -> usize {
        let is_made = |event: &&Event| matches!(&event.what, What::Open { path, is_new: true, .. } if path.starts_with(prefix));
        self.events.iter().filter(is_made).count()
    }

    /// At which events the file of this name was opened.
    pub fn opened(&self, name: &str) -> Vec<usize> {
        let events = self.events.iter().enumerate();
        let opened = events
            .filter(|(_, event)| matches!(&event.what, What::Open { path, .. } if path == name));
        opened.map(|(index, _)| index).collect()
    }
}

fn parse(bytes: &[u8], at: &mut usize) -> Option<Event> {
    let head = bytes.get(*at..*at + EVENT_BYTES)?;
    let word = |n: usize| u64::from_ne_bytes(head[n * 8..n * 8 + 8].try_into().expect("8 bytes"));
    let half = |n: usize| u32::from_ne_bytes(head[n * 4..n * 4 + 4].try_into().expect("4 bytes"));
    let (kind, error, file, place) = (half(0), half(1), word(1), word(2));
    let data = *at + EVENT_BYTES..*at + EVENT_BYTES + usize::try_from(word(3)).expect("a length");
    let payload = bytes.get(data.clone())?;
    let text = || String::from_utf8(payload.to_vec()).expect("names in UTF-8");
    *at = data.end;
    let what = match kind {
        OPEN | CREATE => What::Open {
            file,
            path: text(),
            is_new: kind == CREATE,
        },
        TRUNCATE => What::Truncate {
            file,
            len: usize::try_from(place).expect("a length"),
        },
        WRITE => What::Write {
            file,
            at: usize::try_from(place).expect("a place"),
            data: data.clone(),
        },
        RENAME => {
            let text = text();
            let (from, to) = text.split_once('\0').expect("two names");
            What::Name(Naming::Move(from.to_owned(), to.to_owned()))
        }
        UNLINK => What::Name(Naming::Gone(text())),
        MKDIR => What::Name(Naming::Folder(text())),
        SYNC => What::Sync {
            file,
            number: place,
        },
        SYNCED => What::Synced {
            number: place,
            well: error == 0,
        },
        other => panic!("an event of kind {other}"),
    };
    Some(Event {
        end: data.end,
        what,
    })
}

/// A disk at some moment of a record.
pub struct Disk<'r> {
    record: &'r Record,
    /// How many events have happened.
    now: usize,
    files: Vec<FileOnDisk>,
    /// As the running system sees them.
    names: Names,
    /// As they are on the disk for sure.
    synced_names: Names,
    /// By folder, in order, with the event.
    unsynced_names: BTreeMap<String, Vec<(usize, Naming)>>,
    handles: HashMap<u64, Target>,
    syncs: HashMap<u64, (Target, usize)>,
    /// Decides what failed syncs leave behind.
    dice: StdRng,
}

impl std::fmt::Debug for Disk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Target {
    File(usize),
    Folder(String),
}

#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
}

impl Names {
    fn apply(&mut self, naming: &Naming) {
        match naming {
            Naming::New(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            Naming::Folder(path) => {
                self.folders.insert(path.clone());
            }
            Naming::Move(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
            }
            Naming::Gone(path) => {
                self.files.remove(path);
                self.folders.remove(path);
            }
        }
    }
}

/// One file: what is on the disk for sure, and what came since.
#[derive(Clone, Default)]
struct FileOnDisk {
    synced: Vec<u8>,
    since: Vec<(usize, Change)>,
}

#[derive(Clone)]
enum Change {
    /// Of bytes of the record.
    Write {
        at: usize,
        data: Range<usize>,
    },
    Truncate {
        len: usize,
    },
}

/// How much of what was not synced is on the disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// Nothing.
    Nothing,
    /// All of it.
    Everything,
    /// Of each block whatever the dice say, with this chance for all that was written to it; else some of it, or nothing.
    Chance(f64),
}

impl Fate {
    /// Any, the extremes now and then.
    pub fn draw(dice: &mut StdRng) -> Self {
        match dice.random_range(0..10) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Chance(0.05),
            3 => Self::Chance(0.95),
            _ => Self::Chance(dice.random()),
        }
    }

    /// A version between `from` and `to`.
    fn version(self, from: usize, to: usize, dice: &mut StdRng) -> usize {
        match self {
            Self::Nothing => from,
            Self::Everything => to,
            Self::Chance(chance) if dice.random_bool(chance) => to,
            Self::Chance(_) if dice.random_bool(0.5) => from,
            Self::Chance(_) => dice.random_range(from..=to),
        }
    }
}

impl<'r> Disk<'r> {
    /// Before anything was done; `seed` decides what failed syncs leave behind.
    pub fn new(record: &'r Record, seed: u64) -> Self {
        Self {
            record,
            now: 0,
            files: Vec::new(),
            names: Names::default(),
            synced_names: Names::default(),
            unsynced_names: BTreeMap::new(),
            handles: HashMap::new(),
            syncs: HashMap::new(),
            dice: StdRng::seed_from_u64(seed),
        }
    }

    /// Lets events happen until there have been so many.
    pub fn advance(&mut self, to: usize) {
        assert!(to >= self.now, "time goes one way");
        let record = self.record;
        for (index, event) in record.events.iter().enumerate().take(to).skip(self.now) {
            self.happen(index, &event.what);
        }
        self.now = to;
    }

    fn happen(&mut self, index: usize, what: &What) {
        match what {
            What::Open { file, path, is_new } => {
                if *is_new {
                    self.files.push(FileOnDisk::default());
                    self.name(index, Naming::New(path.clone(), self.files.len() - 1));
                }
                let target = match self.names.files.get(path) {
                    Some(file) => Target::File(*file),
                    None => Target::Folder(path.clone()),
                };
                self.handles.insert(*file, target);
            }
            What::Truncate { file, len } => {
                self.change(*file, index, Change::Truncate { len: *len })
            }
            What::Write { file, at, data } => {
                let change = Change::Write {
                    at: *at,
                    data: data.clone(),
                };
                self.change(*file, index, change);
            }
            What::Name(naming) => self.name(index, naming.clone()),
            What::Sync { file, number } => {
                let target = self.handles[file].clone();
                self.syncs.insert(*number, (target, index));
            }
            What::Synced { number, well } => {
                let (target, began) = self.syncs.remove(number).expect("a sync that began");
                self.synced(&target, began, *well);
            }
        }
    }

    fn change(&mut self, handle: u64, index: usize, change: Change) {
        match &self.handles[&handle] {
            Target::File(file) => self.files[*file].since.push((index, change)),
            Target::Folder(path) => panic!("{path:?} is a folder, and written to"),
        }
    }

    fn name(&mut self, index: usize, naming: Naming) {
        self.names.apply(&naming);
        let (Naming::New(path, _)
        | Naming::Folder(path)
        | Naming::Move(path, _)
        | Naming::Gone(path)) = &naming;
        let folder = path
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder)
            .to_owned();
        self.unsynced_names
            .entry(folder)
            .or_default()
            .push((index, naming));
    }

    fn synced(&mut self, target: &Target, began: usize, well: bool) {
        match target {
            Target::File(file) => {
                let file = &mut self.files[*file];
                let covered = file.since.partition_point(|(index, _)| *index < began);
                let later = file.since.split_off(covered);
                file.synced = if well {
                    file.newest(&self.record.bytes)
                } else {
                    file.torn(&self.record.bytes, Fate::Chance(0.5), &mut self.dice)
                };
                file.since = later;
            }
            Target::Folder(folder) if well => {
                if let Some(names) = self.unsynced_names.get_mut(folder) {
                    let covered = names.partition_point(|(index, _)| *index < began);
                    for (_, naming) in names.drain(..covered) {
                        self.synced_names.apply(&naming);
                    }
                }
            }
            Target::Folder(_) => {}
        }
    }

    /// Writes to the folder `to` what would be found after a power loss now. Says in a line what came to be.
    pub fn lose_power(&self, to: &Path, fate: Fate, dice: &mut StdRng) -> String {
        let mut names = self.synced_names.clone();
        let mut lost_names = 0;
        for unsynced in self.unsynced_names.values() {
            let kept = fate.version(0, unsynced.len(), dice);
            lost_names += unsynced.len() - kept;
            for (_, naming) in &unsynced[..kept] {
                names.apply(naming);
            }
        }
        fs::create_dir_all(to).unwrap();
        for folder in &names.folders {
            fs::create_dir_all(to.join(folder)).unwrap();
        }
        let mut said = format!("{fate:?}, {lost_names} names lost");
        for (name, file) in &names.files {
            let file = &self.files[*file];
            let path = to.join(name);
            // A file in a folder that is not there (any more) is not there either.
            if path.parent().is_some_and(Path::is_dir) {
                fs::write(path, file.torn(&self.record.bytes, fate, dice)).unwrap();
                if !file.since.is_empty() {
                    said += &format!(", {name} with {} changes since its sync", file.since.len());
                }
            }
        }
        said
    }

    /// What the running system sees: every file and what is in it.
    fn visible(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.names.files.iter();
        files
            .map(|(name, file)| (name.clone(), self.files[*file].newest(&self.record.bytes)))
            .collect()
    }
}

impl FileOnDisk {
    fn newest(&self, record: &[u8]) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for (_, change) in &self.since {
            match change {
                Change::Write { at, data } => {
                    let end = at + data.len();
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[*at..end].copy_from_slice(&record[data.clone()]);
                }
                Change::Truncate { len } => bytes.resize(*len, 0),
            }
        }
        bytes
    }

    fn torn(&self, record: &[u8], fate: Fate, dice: &mut StdRng) -> Vec<u8> {
        // The length first: it says which truncations are on the disk, and no block is of another time than they.
        let with_length = fate.version(0, self.since.len(), dice);
        let (mut len, mut longest) = (self.synced.len(), self.synced.len());
        let mut seen_len = len;
        let mut touching: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (version, (_, change)) in self.since.iter().enumerate() {
            let touched = match change {
                Change::Write { at, data } => {
                    let end = at + data.len();
                    seen_len = seen_len.max(end);
                    *at..end
                }
                Change::Truncate { len } => {
                    let cut = (*len).min(seen_len)..seen_len;
                    seen_len = *len;
                    cut
                }
            };
            if !touched.is_empty() {
                for block in touched.start / BLOCK..=(touched.end - 1) / BLOCK {
                    touching.entry(block).or_default().push(version);
                }
            }
            longest = longest.max(seen_len);
            if version < with_length {
                len = seen_len;
            }
        }

        let mut bytes = self.synced.clone();
        bytes.resize(longest.next_multiple_of(BLOCK), 0);
        for (block, versions) in touching {
            let is_cut =
                |version: &&usize| matches!(self.since[**version].1, Change::Truncate { .. });
            let cuts = || versions.iter().enumerate().filter(|(_, v)| is_cut(v));
            let from = cuts()
                .filter(|(_, v)| **v < with_length)
                .map(|(i, _)| i + 1)
                .next_back();
            let to = cuts().find(|(_, v)| **v >= with_length).map(|(i, _)| i);
            let (from, to) = (from.unwrap_or(0), to.unwrap_or(versions.len()));
            let whole = fate.version(from, to, dice);
            let is_torn = matches!(fate, Fate::Chance(_)) && dice.random_bool(0.1);
            for sector in 0..BLOCK / SECTOR {
                let version = if is_torn {
                    fate.version(from, to, dice)
                } else {
                    whole
                };
                let start = block * BLOCK + sector * SECTOR;
                for &version in &versions[..version] {
                    self.since[version]
                        .1
                        .apply(record, &mut bytes, start..start + SECTOR);
                }
            }
        }
        bytes.resize(len, 0);
        bytes
    }
}

impl Change {
    /// Does to these bytes of the file what it does.
    fn apply(&self, record: &[u8], file: &mut [u8], within: Range<usize>) {
        match self {
            Self::Write { at, data } => {
                let (start, end) = (within.start.max(*at), within.end.min(at + data.len()));
                if start < end {
                    let data = &record[data.start + (start - at)..data.start + (end - at)];
                    file[start..end].copy_from_slice(data);
                }
            }
            Self::Truncate { len } => {
                let start = within.start.max(*len);
                if start < within.end {
                    file[start..within.end].fill(0);
                }
            }
        }
    }
}

impl Preload {
    /// Compares what was recorded with what is on the disk, after the broker has ended. After a kill, the record's last steps may
    /// be missing or too many: they are added. After a stop nothing may be.
    pub fn settle(&self, was_killed: bool) {
        self.cut_torn_event();
        let record = Record::read(self);
        let mut disk = Disk::new(&record, 0);
        disk.advance(record.len());
        let recorded = disk.visible();
        let found = files_in(self.data_dir());
        let mut missing = Vec::new();
        for (name, content) in &found {
            let before = recorded.get(name);
            if before != Some(content) {
                let file = self.next_file();
                let kind = if before.is_none() { CREATE } else { OPEN };
                push_event(&mut missing, kind, file, 0, name.as_bytes());
                push_event(&mut missing, TRUNCATE, file, content.len() as u64, &[]);
                let before = before.map_or(&[][..], Vec::as_slice);
                for (at, part) in differing(before, content) {
                    push_event(&mut missing, WRITE, file, at as u64, part);
                }
            }
        }
        for name in recorded.keys().filter(|name| !found.contains_key(*name)) {
            push_event(&mut missing, UNLINK, 0, 0, name.as_bytes());
        }
        assert!(
            was_killed || missing.is_empty(),
            "the record is not what was done: {:?}",
            found
                .iter()
                .filter(|(name, content)| recorded.get(*name) != Some(content))
                .map(|(name, content)| (name, content.len(), recorded.get(name).map(Vec::len)))
                .collect::<Vec<_>>()
        );
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.record_path())
            .unwrap();
        file.write_all(&missing).unwrap();
    }

    /// A kill may hit while an event is taken down.
    fn cut_torn_event(&self) {
        let bytes = fs::read(self.record_path()).unwrap();
        let mut at = 0;
        while parse(&bytes, &mut at).is_some() {}
        let file = OpenOptions::new()
            .write(true)
            .open(self.record_path())
            .unwrap();
        file.set_len(at as u64).unwrap();
    }
}

/// The blocks in which `new` differs from `old`.
fn differing<'n>(old: &[u8], new: &'n [u8]) -> Vec<(usize, &'n [u8])> {
    let blocks = new.chunks(BLOCK).enumerate();
    blocks
        .map(|(block, part)| (block * BLOCK, part))
        .filter(|(at, part)| old.get(*at..at + part.len()) != Some(part))
        .collect()
}

fn push_event(to: &mut Vec<u8>, kind: u32, file: u64, at: u64, data: &[u8]) {
    to.extend(kind.to_ne_bytes());
    to.extend(0_u32.to_ne_bytes());
    for word in [file, at, data.len() as u64] {
        to.extend(word.to_ne_bytes());
    }
    to.extend(data);
}

fn files_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().expect("UTF-8");
                files.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events written by hand.
    #[derive(Default)]
    struct Script(Vec<u8>);

    impl Script {
        fn event(mut self, kind: u32, file: u64, at: u64, data: &[u8]) -> Self {
            push_event(&mut self.0, kind, file, at, data);
            self
        }

        fn sync(self, file: u64, number: u64, error: u32) -> Self {
            let mut script = self.event(SYNC, file, number, &[]);
            let at = script.0.len();
            script = script.event(SYNCED, file, number, &[]);
            script.0[at + 4..at + 8].copy_from_slice(&error.to_ne_bytes());
            script
        }

        fn record(self) -> Record {
            let (mut events, mut at) = (Vec::new(), 0);
            while let Some(event) = parse(&self.0, &mut at) {
                events.push(event);
            }
            Record {
                bytes: self.0,
                events,
            }
        }
    }

    /// A file "a" in a folder that is synced, with two blocks of `1` that are synced.
    fn begun() -> Script {
        Script::default()
            .event(OPEN, 1, 0, b"")
            .event(CREATE, 2, 0, b"a")
            .event(WRITE, 2, 0, &[1; 2 * BLOCK])
            .sync(1, 1, 0)
            .sync(2, 2, 0)
    }

    fn found(disk: &Disk<'_>, fate: Fate, seed: u64) -> BTreeMap<String, Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        disk.lose_power(dir.path(), fate, &mut StdRng::seed_from_u64(seed));
        files_in(dir.path())
    }

    fn at_its_end<'r>(record: &'r Record, seed: u64) -> Disk<'r> {
        let mut disk = Disk::new(record, seed);
        disk.advance(record.len());
        disk
    }

    #[test]
    fn what_was_synced_is_there_and_later_blocks_may_be() {
        let record = begun().event(WRITE, 2, 100, &[2; 2 * BLOCK]).record();
        let disk = at_its_end(&record, 0);
        assert_eq!(found(&disk, Fate::Nothing, 0)["a"], [1; 2 * BLOCK]);
        assert_eq!(
            found(&disk, Fate::Everything, 0)["a"].len(),
            2 * BLOCK + 100
        );
        let mut kinds = BTreeSet::new();
        for seed in 0..200 {
            let bytes = &found(&disk, Fate::Chance(0.5), seed)["a"];
            assert!(
                bytes[..100].iter().all(|byte| *byte == 1),
                "before the write"
            );
            for sector in bytes[..2 * BLOCK].chunks(SECTOR).skip(1) {
                assert!(
                    sector.iter().all(|byte| *byte == sector[0]),
                    "a sector is whole"
                );
            }
            kinds.insert((bytes[BLOCK - 1], bytes[2 * BLOCK - 1], bytes.len()));
        }
        assert_eq!(
            kinds.len(),
            8,
            "every block and the length for itself: {kinds:?}"
        );
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let record = begun()
            .event(SYNC, 2, 3, &[])
            .event(WRITE, 2, 0, &[2; 10])
            .event(SYNCED, 2, 3, &[])
            .record();
        assert_eq!(found(&at_its_end(&record, 0), Fate::Nothing, 0)["a"][0], 1);
        let record = begun().event(WRITE, 2, 0, &[2; 10]).sync(2, 3, 0).record();
        assert_eq!(found(&at_its_end(&record, 0), Fate::Nothing, 0)["a"][0], 2);
    }

    #[test]
    fn a_sync_that_failed_decides_for_good() {
        let record = begun()
            .event(WRITE, 2, 0, &[2; BLOCK])
            .sync(2, 3, 5)
            .sync(2, 4, 0)
            .record();
        let found: BTreeSet<u8> = (0..50)
            .map(|seed| {
                let disk = at_its_end(&record, seed);
                let now = |fate, seed| found(&disk, fate, seed)["a"][0];
                assert_eq!(
                    now(Fate::Nothing, 0),
                    now(Fate::Everything, 1),
                    "no dice are thrown twice"
                );
                now(Fate::Nothing, 0)
            })
            .collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn names_come_in_order_and_with_their_folder() {
        let record = begun()
            .event(CREATE, 3, 0, b"b.new")
            .event(WRITE, 3, 0, b"b")
            .sync(3, 3, 0)
            .event(RENAME, 0, 0, b"b.new\0b")
            .event(UNLINK, 0, 0, b"a")
            .record();
        let disk = at_its_end(&record, 0);
        let names = |fate, seed| {
            found(&disk, fate, seed)
                .into_keys()
                .collect::<Vec<_>>()
                .join(" ")
        };
        let all: BTreeSet<String> = (0..50).map(|seed| names(Fate::Chance(0.3), seed)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(all, ["a", "a b", "a b.new", "b"]);
        assert_eq!(names(Fate::Nothing, 0), "a");
    }

    #[test]
    fn nothing_comes_back_from_before_a_truncation() {
        let record = begun()
            .event(TRUNCATE, 2, 0, &[])
            .event(WRITE, 2, BLOCK as u64, &[2; BLOCK])
            .record();
        let disk = at_its_end(&record, 0);
        for seed in 0..200 {
            let bytes = &found(&disk, Fate::Chance(0.5), seed)["a"];
            let is_before = bytes.len() == 2 * BLOCK && bytes.iter().all(|byte| *byte == 1);
            assert!(
                is_before || !bytes.contains(&1),
                "some of it, {} bytes",
                bytes.len()
            );
        }
    }
}
