//! What sled will make of its log when it opens it, found out before it does, and without changing anything. Owns sled 0.34's
//! rules of recovery; how its file is read is in `raw`.
//!
//! sled replays what its snapshot has not seen, segment by segment. Near the end a message that is not whole ends the log: what
//! comes behind is cut, the commit counter with it, and the witness tells. Anywhere else sled passes over the rest of such a
//! segment, and over a segment whose header is not whole, without a word, and applies what comes later. That is right after a
//! crash, where a segment that was free is being written over: whatever lay in it has a newer state further on. Where the file is
//! damaged it is not: pages come back in an older state among newer ones, and no order in which things were written protects
//! what must not be seen without another. Such a log is for salvage, which needs no order. So, whatever the cause:
//!
//! **What sled passes over must have a newer state in what it applies.**
//!
//! Of a message that is not whole that is known by its header, which says whose it is. Where not even that can be read, the
//! segment was being written over if nothing else in it is the newest state of its page, and is damaged otherwise.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::raw::{
    Kind, Lsn, MAX_MESSAGE_HEADER_BYTES, Message, Messages, OnDamage, SEGMENT_BYTES,
    SEGMENT_HEADER_BYTES, parse_segment_header, read_segment,
};

/// A message's header has no more.
const HEADER_BYTES: usize = 32;

/// Why sled must not have the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// sled would refuse it, too, but only after it has overwritten what comes behind that end.
    EndsBeforeSnapshot,
    /// sled would find nothing of all that its snapshot has not seen, and overwrite it.
    NoTail,
    /// sled would go on with an older state of so many pages, or without them.
    Hole { pages: usize },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndsBeforeSnapshot => {
                f.write_str("the file `db` ends before what sled's snapshot has seen of it")
            }
            Self::NoTail => {
                f.write_str("of the file `db` the last part is destroyed where it begins")
            }
            Self::Hole { pages } => write!(
                f,
                "in the middle of the file `db` the newest state of pages is destroyed: of {pages}"
            ),
        }
    }
}

/// Looks at the file `db` and sled's newest snapshot. Reads what sled will read of `db`, once; where something is not whole, twice.
pub(super) fn find_flaw(db: &File, snapshot: Option<&[u8]>) -> io::Result<Option<Flaw>> {
    let seen = snapshot.and_then(stable_lsn);
    let log = Log::find(db, seen.unwrap_or(0))?;
    // Near the end of a segment sled goes on in the next one.
    let ends_early = |end: Lsn| {
        Some(end) < seen && end % SEGMENT_BYTES + MAX_MESSAGE_HEADER_BYTES < SEGMENT_BYTES
    };
    if log.end.is_some_and(ends_early) {
        return Ok(Some(Flaw::EndsBeforeSnapshot));
    }
    if log.tail_is_missing {
        return Ok(Some(Flaw::NoTail));
    }
    Ok(match log.pages_lost()? {
        0 => None,
        pages => Some(Flaw::Hole { pages }),
    })
}

/// A snapshot begins with the place up to which it has seen the log, shifted by one to tell it from none.
fn stable_lsn(snapshot: &[u8]) -> Option<Lsn> {
    let shifted = i64::from_le_bytes(*snapshot.first_chunk()?);
    u64::try_from(shifted).ok()?.checked_sub(1)
}

/// What sled replays.
struct Log<'f> {
    db: &'f File,
    /// Up to here the snapshot has seen it.
    seen: Lsn,
    /// The segments from there on, by their place in the log, each with its place in the file.
    segments: BTreeMap<Lsn, u64>,
    /// Where segments lie whose headers are not whole.
    headless: Vec<u64>,
    /// From here on sled looks for the first tear.
    tail: Lsn,
    /// The end of the last message before that. `None`: there is no segment at `tail`, and sled replays nothing.
    end: Option<Lsn>,
    /// There was a segment at `tail`: a later one says so.
    tail_is_missing: bool,
}

/// A message of a page that sled passes over.
struct PassedOver {
    page: u64,
    lsn: Lsn,
}

impl<'f> Log<'f> {
    fn find(db: &'f File, seen: Lsn) -> io::Result<Self> {
        let min = seen / SEGMENT_BYTES * SEGMENT_BYTES;
        let (mut segments, mut headless, mut stable) = (BTreeMap::new(), Vec::new(), None);
        let bytes = db.metadata()?.len();
        for base in (0..bytes).step_by(usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX)) {
            let mut header = [0; SEGMENT_HEADER_BYTES];
            if base + header.len() as u64 > bytes {
                break;
            }
            db.read_exact_at(&mut header, base)?;
            match parse_segment_header(&header) {
                Some(header) if header.lsn >= min => {
                    stable = stable.max(header.stable);
                    segments.insert(header.lsn, base);
                }
                Some(_) => {}
                None => headless.push(base),
            }
        }
        let tail = stable.unwrap_or(0).max(min) / SEGMENT_BYTES * SEGMENT_BYTES;
        let mut log = Self {
            db,
            seen,
            tail_is_missing: stable >= Some(tail) && !segments.contains_key(&tail),
            segments,
            headless,
            tail,
            end: None,
        };
        log.end = log.find_end()?;
        Ok(log)
    }

    fn find_end(&self) -> io::Result<Option<Lsn>> {
        let (mut end, mut expected, mut segment) = (None, self.tail, Vec::new());
        for (&lsn, &base) in self.segments.range(self.tail..) {
            if lsn != expected {
                break;
            }
            expected += SEGMENT_BYTES;
            read_segment(self.db, base, &mut segment)?;
            let mut messages = Messages::new(&segment, OnDamage::Stop);
            let last = messages.by_ref().last().map(|message| message.kind);
            end = Some(lsn + messages.at as u64);
            if !messages.is_full() && last != Some(Kind::Cap) {
                break;
            }
        }
        Ok(end)
    }

    /// Of how many pages the newest state is among what sled passes over.
    fn pages_lost(&self) -> io::Result<usize> {
        let passed_over = self.passed_over()?;
        if passed_over.is_empty() {
            return Ok(0);
        }
        let mut newest: HashMap<u64, Lsn> =
            passed_over.iter().map(|passed| (passed.page, 0)).collect();
        let mut segment = Vec::new();
        for base in self
            .segments
            .range(..self.end.unwrap_or(0))
            .map(|(_, base)| *base)
        {
            read_segment(self.db, base, &mut segment)?;
            let applied = Messages::new(&segment, OnDamage::Stop);
            for message in applied.filter(|message| replaces_its_page(message.kind)) {
                if let Some(newest) = newest.get_mut(&message.page) {
                    *newest = message.lsn().max(*newest);
                }
            }
        }
        let lost = passed_over
            .iter()
            .filter(|passed| newest[&passed.page] < passed.lsn);
        Ok(lost.map(|passed| passed.page).collect::<HashSet<_>>().len())
    }

    /// What sled does not apply, of all that the snapshot has not seen and that comes before the end.
    fn passed_over(&self) -> io::Result<Vec<PassedOver>> {
        let (mut passed_over, mut segment) = (Vec::new(), Vec::new());
        // What lies in the tail and is passed over comes behind the end.
        for (&lsn, &base) in self.segments.range(..self.tail) {
            read_segment(self.db, base, &mut segment)?;
            let mut messages = Messages::new(&segment, OnDamage::Stop);
            let last = messages.by_ref().last().map(|message| message.kind);
            if last != Some(Kind::Cap) && !is_almost_full(messages.at) {
                let torn = Torn {
                    segment: &segment,
                    lsn,
                    seen: self.seen,
                };
                torn.pass_over(messages.at, &mut passed_over);
            }
        }
        for &base in &self.headless {
            read_segment(self.db, base, &mut segment)?;
            let messages = Messages::new(&segment, OnDamage::GoOn);
            let of_pages = messages.filter(|message| is_of_a_page(message.kind));
            let replayed = of_pages
                .filter(|message| message.lsn() >= self.seen && Some(message.lsn()) < self.end);
            passed_over.extend(replayed.map(|message| PassedOver::from(&message)));
        }
        Ok(passed_over)
    }
}

impl From<&Message<'_>> for PassedOver {
    fn from(message: &Message<'_>) -> Self {
        let (page, lsn) = (message.page, message.lsn());
        Self { page, lsn }
    }
}

/// Whether the page's state is in this message alone.
fn replaces_its_page(kind: Kind) -> bool {
    matches!(kind, Kind::Free | Kind::Node | Kind::BlobNode | Kind::Own)
}

fn is_of_a_page(kind: Kind) -> bool {
    replaces_its_page(kind) || matches!(kind, Kind::Link | Kind::BlobLink)
}

/// What sled leaves at the end of a segment when it goes on in the next one right after it was opened.
fn is_almost_full(at: usize) -> bool {
    at as u64 + MAX_MESSAGE_HEADER_BYTES >= SEGMENT_BYTES
}

/// A segment in which a message is not whole.
struct Torn<'a> {
    segment: &'a [u8],
    lsn: Lsn,
    seen: Lsn,
}

impl Torn<'_> {
    /// Adds what sled passes over if it reads no further than `tear`.
    fn pass_over(&self, tear: usize, into: &mut Vec<PassedOver>) {
        let number = self.lsn / SEGMENT_BYTES;
        let whole: Vec<Message<'_>> = Messages::new(self.segment, OnDamage::GoOn)
            .filter(|message| message.segment == number)
            .collect();
        let (mut at, mut all_known) = (tear, true);
        for message in whole.iter().filter(|message| message.at >= tear) {
            all_known &= self.pass_over_broken(at..message.at, into);
            at = message.end();
            self.add(message, into);
        }
        if !is_almost_full(at) {
            let end = usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX);
            all_known &= self.pass_over_broken(at..end, into);
        }
        if !all_known {
            // The segment is being written over, or some of these are the newest.
            let before = whole.iter().filter(|message| message.at < tear);
            let of_pages = before.filter(|message| is_of_a_page(message.kind));
            into.extend(of_pages.map(PassedOver::from));
        }
    }

    fn add(&self, message: &Message<'_>, into: &mut Vec<PassedOver>) {
        if is_of_a_page(message.kind) && message.lsn() >= self.seen {
            into.push(PassedOver::from(message));
        }
    }

    /// Adds the messages that are not whole and fill this place, by what their headers say. Says whether they do.
    fn pass_over_broken(&self, place: Range<usize>, into: &mut Vec<PassedOver>) -> bool {
        if self.lsn + place.end as u64 <= self.seen {
            return true;
        }
        let mut copy = self.segment.to_vec();
        let (mut at, mut found) = (place.start, Vec::new());
        while at < place.end && !is_almost_full(at) {
            let mended = mend_header(&mut copy, at);
            let Some((message, end)) = mended.or_else(|| header_at(self.segment, at)) else {
                break;
            };
            found.extend(message.filter(|message| message.lsn >= self.seen));
            at = end;
        }
        let fills = at == place.end || is_almost_full(at) && is_almost_full(place.end);
        // The first one begins here for certain, the others only if they lead to the end.
        found.retain(|message| fills || message.lsn == self.lsn + place.start as u64);
        into.extend(found);
        fills
    }
}

/// A message that is not whole: of which page it is, if of any, and where the next one begins.
type Broken = (Option<PassedOver>, usize);

/// Finds out whose message it was if a single bit of its header has changed: what the header says then cannot be believed.
fn mend_header(segment: &mut [u8], at: usize) -> Option<Broken> {
    for byte in (at..segment.len()).take(HEADER_BYTES) {
        for bit in 0..8 {
            segment[byte] ^= 1 << bit;
            let mended = messages_at(segment, at)
                .parse()
                .map(|message| broken(&message));
            segment[byte] ^= 1 << bit;
            if mended.is_some() {
                return mended;
            }
        }
    }
    None
}

fn header_at(segment: &[u8], at: usize) -> Option<Broken> {
    let (_, message) = messages_at(segment, at).parse_unchecked()?;
    Some(broken(&message))
}

fn messages_at(segment: &[u8], at: usize) -> Messages<'_> {
    let mut messages = Messages::new(segment, OnDamage::Stop);
    messages.at = at;
    messages
}

fn broken(message: &Message<'_>) -> Broken {
    let passed_over = is_of_a_page(message.kind).then(|| PassedOver::from(message));
    (passed_over, message.end())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    type Content = BTreeMap<Vec<u8>, Vec<u8>>;

    const SEGMENT: usize = 512 * 1024;
    const BLOCK: usize = 4096;

    /// A number below `below`, another one each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, below: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(self.0 >> 33).unwrap() % below
        }
    }

    /// A tree whose pages have been written over and over, before sled's newest snapshot and after it.
    struct Sample {
        dir: TempDir,
        db: Vec<u8>,
        content: Content,
        /// The segments that sled replays but for the tail: where they lie in the file, and where in them the last message begins
        /// that is of the newest state of its page, if any is.
        middle: Vec<(usize, Option<usize>)>,
    }

    impl Sample {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut random = Random(1);
            for _ in 0..2 {
                let db = open(dir.path());
                for n in 0..15_000 {
                    let key = random.below(2000).to_be_bytes();
                    match random.below(4) {
                        0 => drop(db.remove(key).unwrap()),
                        _ => drop(db.insert(key, vec![7; random.below(2000)]).unwrap()),
                    }
                    leave_threads_free(&db, n);
                }
                db.flush().unwrap();
            }
            let content = content_of(dir.path()).unwrap();
            // That was another start: what it has seen sled does not replay.
            let db = open(dir.path());
            let mut content = content;
            for n in 0..30_000 {
                let key = random.below(2000).to_be_bytes();
                let value = vec![9; random.below(2000)];
                content.insert(key.to_vec(), value.clone());
                db.insert(key, value).unwrap();
                leave_threads_free(&db, n);
            }
            db.flush().unwrap();
            drop(db);
            let mut sample = Self {
                db: fs::read(dir.path().join("db")).unwrap(),
                dir,
                content,
                middle: Vec::new(),
            };
            sample.middle = sample.find_middle();
            sample
        }

        fn snapshot(&self) -> Vec<u8> {
            let files = fs::read_dir(self.dir.path()).unwrap();
            let paths = files.map(|file| file.unwrap().path());
            let newest = paths.filter(|path| path.to_string_lossy().contains("/snap."));
            fs::read(newest.max().unwrap()).unwrap()
        }

        fn find_middle(&self) -> Vec<(usize, Option<usize>)> {
            let file = File::open(self.dir.path().join("db")).unwrap();
            let log = Log::find(&file, stable_lsn(&self.snapshot()).unwrap()).unwrap();
            let mut newest: HashMap<u64, Lsn> = HashMap::new();
            let segment = |base: u64| {
                let base = usize::try_from(base).unwrap();
                &self.db[base..self.db.len().min(base + SEGMENT)]
            };
            for &base in log.segments.values() {
                for message in Messages::new(segment(base), OnDamage::Stop) {
                    if replaces_its_page(message.kind) {
                        newest.insert(message.page, message.lsn());
                    }
                }
            }
            let middle = log.segments.range(log.seen..log.tail);
            middle
                .map(|(_, &base)| {
                    let is_newest = |message: &Message<'_>| {
                        is_of_a_page(message.kind)
                            && newest
                                .get(&message.page)
                                .is_none_or(|lsn| *lsn <= message.lsn())
                    };
                    let messages = Messages::new(segment(base), OnDamage::Stop);
                    let live = messages.filter(is_newest).last();
                    (
                        usize::try_from(base).unwrap(),
                        live.map(|message| message.at),
                    )
                })
                .collect()
        }

        /// A segment as it is written when the log goes on, and begun when all that is here was stable.
        fn a_later_segment(&self) -> Vec<u8> {
            let copy = self.copy();
            let db = open(copy.path());
            for key in 0..4000_usize {
                let key = (key % 2000).to_be_bytes();
                db.insert(key, vec![11; 1500]).unwrap();
            }
            db.flush().unwrap();
            drop(db);
            let later = File::open(copy.path().join("db")).unwrap();
            let log = Log::find(&later, 0).unwrap();
            let (lsn, base) = log.segments.iter().nth_back(1).unwrap();
            let here = File::open(self.dir.path().join("db")).unwrap();
            let end = Log::find(&here, 0).unwrap().end.unwrap();
            assert!(*lsn > end);
            let mut segment = Vec::new();
            read_segment(&later, *base, &mut segment).unwrap();
            let stable = i64::MAX ^ i64::try_from(end - 1).unwrap();
            segment[12..20].copy_from_slice(&stable.to_le_bytes());
            let crc = crc32fast::hash(&segment[4..20]) ^ u32::MAX;
            segment[..4].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(
                parse_segment_header(&segment).unwrap().stable,
                Some(end - 1)
            );
            segment
        }

        fn copy(&self) -> TempDir {
            let copy = tempfile::tempdir().unwrap();
            for file in fs::read_dir(self.dir.path()).unwrap() {
                let file = file.unwrap();
                if file.file_type().unwrap().is_file() {
                    fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
                }
            }
            copy
        }

        /// What is said of the file with this in its place, and what sled makes of it.
        fn with(&self, db: &[u8]) -> (Option<Flaw>, Option<Content>) {
            let copy = self.copy();
            let path = copy.path().join("db");
            fs::write(&path, db).unwrap();
            let file = File::open(path).unwrap();
            let flaw = find_flaw(&file, Some(&self.snapshot())).unwrap();
            // Where there is a flaw sled may look for its pages for ever.
            let content = flaw.is_none().then(|| content_of(copy.path()).unwrap());
            (flaw, content)
        }
    }

    /// sled waits for a truncation of its file with a lock held that its writes want. All its seven threads may be taken by such writes, and then it
    /// waits for ever: so there are few of them at a time.
    fn leave_threads_free(db: &sled::Db, inserted: usize) {
        if inserted.is_multiple_of(256) {
            db.flush().unwrap();
        }
    }

    /// Threads of sled's own hold its lock for a moment longer.
    fn open(dir: &Path) -> sled::Db {
        for _ in 0..500 {
            match sled::Config::new().path(dir).flush_every_ms(None).open() {
                Err(sled::Error::Io(e)) if e.to_string().contains("lock") => {
                    std::thread::park_timeout(std::time::Duration::from_millis(10));
                }
                opened => return opened.unwrap(),
            }
        }
        panic!("sled does not let go of {}", dir.display());
    }

    fn content_of(dir: &Path) -> sled::Result<Content> {
        let db = open(dir);
        db.iter()
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect()
    }

    #[test]
    fn a_flipped_bit_is_a_flaw_or_costs_nothing() {
        let sample = Sample::new();
        assert!(sample.middle.len() > 10, "{}", sample.middle.len());
        let (mut flaws, mut harmless) = (0, 0);
        let mut random = Random(2);
        for &(base, _) in &sample.middle {
            let segment = &sample.db[base..base + SEGMENT];
            let messages: Vec<Range<usize>> = Messages::new(segment, OnDamage::Stop)
                .map(|message| message.at..message.end())
                .collect();
            // In the header of the segment, in headers of messages, and in bodies.
            let mut places = vec![random.below(SEGMENT_HEADER_BYTES), random.below(SEGMENT)];
            for _ in 0..5 {
                let message = &messages[random.below(messages.len())];
                places.push(message.start + random.below(12));
                places.push(message.start + random.below(message.len()));
            }
            for place in places {
                let mut db = sample.db.clone();
                db[base + place] ^= 1 << random.below(8);
                match sample.with(&db) {
                    (Some(_), _) => flaws += 1,
                    (None, found) => {
                        assert!(found.unwrap() == sample.content, "{base} + {place}");
                        harmless += 1;
                    }
                }
            }
        }
        println!("{flaws} flaws, {harmless} flips that cost nothing");
        assert!(flaws > 0 && harmless > 0, "{flaws}, {harmless}");
    }

    /// As a crash leaves it: some blocks are new, others not, and the header may be either.
    #[test]
    fn a_free_segment_may_be_written_over_and_no_other() {
        let sample = Sample::new();
        let newer = sample.a_later_segment();
        let with_blocks = |base: usize, mut is_new: Box<dyn FnMut(usize) -> bool>| {
            let mut db = sample.db.clone();
            for block in (0..SEGMENT / BLOCK).filter(|block| is_new(*block)) {
                let at = block * BLOCK..(block + 1) * BLOCK;
                db[base + at.start..base + at.end].copy_from_slice(&newer[at]);
            }
            sample.with(&db)
        };
        let (mut free, mut taken) = (0, 0);
        for &(base, live) in &sample.middle {
            let Some(live) = live else {
                for case in 0..6 {
                    let mut random = Random(case);
                    let (flaw, found) = with_blocks(
                        base,
                        Box::new(move |block| match case {
                            0 => block > 0,
                            1 => block == 0,
                            2 => block == 1,
                            3 => block == 70,
                            _ => random.below(2) == 0,
                        }),
                    );
                    assert_eq!(flaw, None, "case {case} at {base}");
                    assert!(found.unwrap() == sample.content, "case {case} at {base}");
                    free += 1;
                }
                continue;
            };
            // Before the message that is needed, so that it is whole.
            for block in 0..(live / BLOCK).min(3) {
                let mut db = sample.db.clone();
                let at = base + block * BLOCK;
                db[at..at + BLOCK].fill(0x5a);
                let (flaw, _) = sample.with(&db);
                assert!(
                    matches!(flaw, Some(Flaw::Hole { .. })),
                    "block {block} at {base}: {flaw:?}"
                );
                taken += 1;
            }
        }
        assert!(free > 0 && taken > 0, "{free} free, {taken} taken");
    }

    #[test]
    fn a_tail_whose_beginning_is_gone_is_told_from_one_that_was_never_written() {
        let sample = Sample::new();
        let file = File::open(sample.dir.path().join("db")).unwrap();
        let log = Log::find(&file, stable_lsn(&sample.snapshot()).unwrap()).unwrap();
        let tail: Vec<usize> = log
            .segments
            .range(log.tail..)
            .map(|(_, &base)| usize::try_from(base).unwrap())
            .collect();
        assert!(tail.len() > 1, "{tail:?}");
        let without = |base: usize| {
            let mut db = sample.db.clone();
            db[base..base + SEGMENT_HEADER_BYTES].fill(0);
            find_flaw(&file_of(&db), Some(&sample.snapshot())).unwrap()
        };
        assert_eq!(without(tail[0]), Some(Flaw::NoTail));
        assert_eq!(without(tail[tail.len() - 1]), None);
    }

    fn file_of(content: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }
}
