//! sled's file `db`, read without sled and never changed: for what must be known before sled comes near it, which would
//! begin to repair, and for salvage, which takes every page that is whole wherever it lies. Owns sled 0.34's format, as
//! far as it is needed; leaves what keys and values mean to the others.
//!
//! ```text
//! db        segments of 512 KiB, in any order: each says which part of sled's endless log it holds
//! segment   crc32 (4) | lsn (8) | newest stable lsn (8) | messages, one after the other
//! message   crc32 (4) | kind (1) | length | number of the segment | page | body        numbers as varints
//! page      a node (all its keys and values), and links since (one key each)
//! ```
//! Every message has a checksum and says where in the log it belongs, so what is whole is known without its neighbours.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// sled's default, which we never change; written in its `conf`.
pub(super) const SEGMENT_BYTES: u64 = 512 * 1024;
pub(super) const SEGMENT_HEADER_BYTES: usize = 20;
/// No message begins where less than this is left of a segment.
pub(super) const MAX_MESSAGE_HEADER_BYTES: u64 = 32;
/// sled gives out no page number above.
const MAX_PAGE: u64 = 1 << 37;

/// A place in sled's log.
pub(super) type Lsn = u64;

/// The keys and values of a page.
pub(super) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Which of a page's messages are whole, and where they lie.
#[derive(Debug, Default)]
struct Page {
    node: Option<(Lsn, Place)>,
    /// In no order. Only those that are newer than the node.
    links: Vec<(Lsn, Place)>,
    freed: Option<Lsn>,
}

/// Where a message's body lies in the file.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    bytes: u32,
    /// The body is the number of a file of its own.
    is_blob: bool,
}

/// The newest whole state of every page in the file.
#[derive(Debug)]
pub(super) struct RawPages {
    db: File,
    dir: PathBuf,
    /// By the place of their newest message.
    pages: Vec<Page>,
}

impl RawPages {
    /// Looks through the whole file. Reads all of it, keeps a few bytes for each page.
    pub(super) fn find(dir: &Path) -> io::Result<Self> {
        let db = File::open(dir.join("db"))?;
        let mut found: HashMap<u64, Page> = HashMap::new();
        let bytes = db.metadata()?.len();
        let mut segment = Vec::new();
        for base in (0..bytes).step_by(usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX)) {
            read_segment(&db, base, &mut segment)?;
            for message in Messages::new(&segment, OnDamage::GoOn) {
                found.entry(message.page).or_default().add(base, &message);
            }
        }
        let mut pages: Vec<Page> = found
            .into_values()
            .filter(|page| page.node.is_some_and(|(lsn, _)| Some(lsn) > page.freed))
            .collect();
        pages.sort_by_key(Page::newest);
        Ok(Self {
            db,
            dir: dir.to_owned(),
            pages,
        })
    }

    /// The keys and values of every page that has some; of a key that lies in several pages, the newest comes last.
    pub(super) fn entries(&self) -> impl Iterator<Item = io::Result<Entries>> {
        self.pages
            .iter()
            .filter_map(|page| self.read(page).transpose())
    }

    fn read(&self, page: &Page) -> io::Result<Option<Entries>> {
        let Some((_, node)) = page.node else {
            return Ok(None);
        };
        let Some(node) = self.body(node)? else {
            return Ok(None);
        };
        let Some((prefix, mut entries)) = parse_leaf(&node) else {
            return Ok(None);
        };
        let mut links = page.links.clone();
        links.sort_by_key(|(lsn, _)| *lsn);
        for (_, place) in links {
            match self.body(place)?.as_deref().and_then(parse_link) {
                Some(Link::Set(key, value)) => {
                    entries.insert([&prefix, key].concat(), value.to_vec());
                }
                Some(Link::Del(key)) => {
                    entries.remove(&[&prefix, key].concat());
                }
                Some(Link::OfTheTree) | None => {}
            }
        }
        Ok(Some(entries))
    }

    /// A message's body. `None`: it lies in a file of its own, which is not whole.
    fn body(&self, place: Place) -> io::Result<Option<Vec<u8>>> {
        let mut body = vec![0; place.bytes as usize];
        self.db.read_exact_at(&mut body, place.at)?;
        if !place.is_blob {
            return Ok(Some(body));
        }
        let Some(number) = body.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)) else {
            return Ok(None);
        };
        let blob = match fs::read(self.dir.join("blobs").join(number.to_string())) {
            Ok(blob) => blob,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        // crc32 (4) | kind (1) | body; the checksum covers kind and body.
        let whole = blob.split_first_chunk::<4>().filter(|(crc, covered)| {
            u32::from_le_bytes(**crc) == crc32fast::hash(covered) && !covered.is_empty()
        });
        Ok(whole.map(|(_, covered)| covered[1..].to_vec()))
    }
}

impl Page {
    fn add(&mut self, base: u64, message: &Message<'_>) {
        let place = Place {
            at: base + message.body_at as u64,
            bytes: u32::try_from(message.body.len()).unwrap_or(u32::MAX),
            is_blob: matches!(message.kind, Kind::BlobNode | Kind::BlobLink),
        };
        let lsn = message.lsn();
        let node = self.node.map(|(lsn, _)| lsn);
        match message.kind {
            Kind::Node | Kind::BlobNode if node < Some(lsn) => {
                self.node = Some((lsn, place));
                self.links.retain(|(link, _)| *link > lsn);
            }
            Kind::Link | Kind::BlobLink if node < Some(lsn) => self.links.push((lsn, place)),
            Kind::Free => self.freed = self.freed.max(Some(lsn)),
            Kind::Node
            | Kind::BlobNode
            | Kind::Link
            | Kind::BlobLink
            | Kind::Cap
            | Kind::Own
            | Kind::Other => {}
        }
    }

    fn newest(&self) -> Lsn {
        let links = self.links.iter().map(|(lsn, _)| *lsn);
        links
            .chain(self.node.map(|(lsn, _)| lsn))
            .max()
            .unwrap_or(0)
    }
}

/// Fewer bytes where the file ends.
pub(super) fn read_segment(db: &File, base: u64, into: &mut Vec<u8>) -> io::Result<()> {
    into.resize(usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX), 0);
    let mut filled = 0;
    while filled < into.len() {
        match db.read_at(&mut into[filled..], base + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    into.truncate(filled);
    Ok(())
}

pub(super) struct SegmentHeader {
    pub(super) lsn: Lsn,
    /// What was stable when the segment was begun.
    pub(super) stable: Option<Lsn>,
}

pub(super) fn parse_segment_header(bytes: &[u8]) -> Option<SegmentHeader> {
    let (crc, covered) = bytes.get(..SEGMENT_HEADER_BYTES)?.split_first_chunk()?;
    let whole = u32::from_le_bytes(*crc) ^ u32::MAX == crc32fast::hash(covered);
    // Both numbers are kept inverted, so that zeros are no header.
    let number = |bytes: &[u8]| {
        let inverted = i64::from_le_bytes(*bytes.first_chunk()?);
        u64::try_from(inverted ^ i64::MAX).ok()
    };
    let lsn = number(covered).filter(|lsn| lsn.is_multiple_of(SEGMENT_BYTES))?;
    let stable = number(&covered[8..]);
    whole.then_some(SegmentHeader { lsn, stable })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Cap,
    Free,
    Node,
    BlobNode,
    Link,
    BlobLink,
    /// A page of sled's own, without keys and values.
    Own,
    /// What belongs to no page.
    Other,
}

/// A message whose checksum holds.
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    pub(super) page: u64,
    /// Which segment of the log it belongs to.
    pub(super) segment: u64,
    /// Where in the segment it begins, and where its body does.
    pub(super) at: usize,
    body_at: usize,
    body: &'a [u8],
}

impl Message<'_> {
    pub(super) fn lsn(&self) -> Lsn {
        self.segment * SEGMENT_BYTES + self.at as u64
    }

    /// Where in the segment the next one begins.
    pub(super) fn end(&self) -> usize {
        self.body_at + self.body.len()
    }
}

/// What to do where a message should be and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDamage {
    /// As sled does.
    Stop,
    /// Look for the next one, byte by byte.
    GoOn,
}

/// The whole messages of a segment, in order.
pub(super) struct Messages<'a> {
    segment: &'a [u8],
    /// What the segment's own header says, if it is whole.
    number: Option<u64>,
    pub(super) at: usize,
    on_damage: OnDamage,
}

impl<'a> Messages<'a> {
    pub(super) fn new(segment: &'a [u8], on_damage: OnDamage) -> Self {
        let header = parse_segment_header(segment);
        Self {
            segment,
            number: header.map(|header| header.lsn / SEGMENT_BYTES),
            at: SEGMENT_HEADER_BYTES,
            on_damage,
        }
    }

    /// Whether no further message has its place here.
    pub(super) fn is_full(&self) -> bool {
        self.at as u64 + MAX_MESSAGE_HEADER_BYTES > SEGMENT_BYTES
    }

    /// The message that begins here, if it is whole.
    pub(super) fn parse(&self) -> Option<Message<'a>> {
        let (crc, message) = self.parse_unchecked()?;
        let mut hash = crc32fast::Hasher::new();
        hash.update(message.body);
        hash.update(&self.segment[message.at + crc.len()..message.body_at]);
        (u32::from_le_bytes(crc) == hash.finalize() ^ u32::MAX).then_some(message)
    }

    /// What the bytes here say if they are the beginning of a message, and the checksum it must have.
    pub(super) fn parse_unchecked(&self) -> Option<([u8; 4], Message<'a>)> {
        let rest = self.segment.get(self.at..)?;
        let (crc, mut header) = rest.split_first_chunk::<4>()?;
        let (&kind, after) = header.split_first()?;
        header = after;
        let kind = match kind {
            2 => Kind::Cap,
            4 => Kind::Free,
            5..=7 => Kind::Own,
            1 | 3 => Kind::Other,
            8 => Kind::Node,
            9 => Kind::BlobNode,
            10 => Kind::Link,
            11 => Kind::BlobLink,
            _ => return None,
        };
        let bytes = usize::try_from(take_varint(&mut header)?).ok()?;
        let segment = take_varint(&mut header)?;
        let page = take_varint(&mut header)?;
        let body = header.get(..bytes)?;
        // What a segment held before it was used again may still lie in its rest; nothing newer can.
        let belongs = match (self.number, self.on_damage) {
            (Some(number), OnDamage::Stop) => segment == number,
            (Some(number), OnDamage::GoOn) => segment <= number,
            (None, _) => segment < u64::MAX / SEGMENT_BYTES / 2,
        };
        let is_page = page < MAX_PAGE || matches!(kind, Kind::Other | Kind::Cap);
        if !belongs || !is_page {
            return None;
        }
        let message = Message {
            kind,
            page,
            segment,
            at: self.at,
            body_at: self.at + rest.len() - header.len(),
            body,
        };
        Some((*crc, message))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        while !self.is_full() && self.at < self.segment.len() {
            if let Some(message) = self.parse() {
                self.at = message.end();
                return Some(message);
            }
            match self.on_damage {
                OnDamage::Stop => return None,
                OnDamage::GoOn => self.at += 1,
            }
        }
        None
    }
}

/// What a link does to its page.
enum Link<'a> {
    Set(&'a [u8], &'a [u8]),
    Del(&'a [u8]),
    /// It changes no key.
    OfTheTree,
}

fn parse_link(mut body: &[u8]) -> Option<Link<'_>> {
    match take(&mut body, 1)?[0] {
        0 => Some(Link::Set(take_bytes(&mut body)?, take_bytes(&mut body)?)),
        1 => Some(Link::Del(take_bytes(&mut body)?)),
        2..=4 => Some(Link::OfTheTree),
        _ => None,
    }
}

/// A leaf: what all its keys begin with, and its entries. `None` for an inner page.
fn parse_leaf(mut body: &[u8]) -> Option<(Vec<u8>, Entries)> {
    let body = &mut body;
    let _next = take_varint(body)?;
    let _merging_child = take_varint(body)?;
    let _merging = take(body, 1)?;
    let prefix_bytes = usize::from(take(body, 1)?[0]);
    let low = take_bytes(body)?;
    let _high = take_bytes(body)?;
    let prefix = low.get(..prefix_bytes)?;
    if take(body, 1)?[0] != 0 {
        return None;
    }
    let count = take_varint(body)?;
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push([prefix, take_bytes(body)?].concat());
    }
    let mut entries = Entries::new();
    for key in keys {
        entries.insert(key, take_bytes(body)?.to_vec());
    }
    Some((prefix.to_vec(), entries))
}

fn take<'a>(from: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(bytes)?;
    *from = rest;
    Some(taken)
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = usize::try_from(take_varint(from)?).ok()?;
    take(from, bytes)
}

/// SQLite 4's variable-length integers, but little-endian.
fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let first = take(from, 1)?[0];
    let number = match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(take(from, 1)?[0]),
        249 => {
            let bytes = take(from, 2)?;
            2288 + 256 * u64::from(bytes[0]) + u64::from(bytes[1])
        }
        250..=255 => {
            let bytes = take(from, usize::from(first) - 247)?;
            let mut number = [0; 8];
            number[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(number)
        }
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::super::replay::find_flaw;
    use super::*;

    /// All of both trees, and what they must be: of sled, and of its file.
    #[test]
    fn the_file_says_what_sled_says() {
        let dir = tempfile::tempdir().unwrap();
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        for round in 0..4 {
            let db = sled::Config::new().path(dir.path()).open().unwrap();
            let trees = ["records", "meta"].map(|name| db.open_tree(name).unwrap());
            for _ in 0..20_000 {
                let (tree, n) = (next(2), next(3000));
                let key = match tree {
                    0 => [&[0; 8][..], &(n / 100).to_be_bytes(), &n.to_be_bytes()].concat(),
                    _ => format!("n{}.topic", n * n).into_bytes(),
                };
                let tree = &trees[usize::try_from(tree).unwrap()];
                match next(3) {
                    0 => drop(tree.remove(key).unwrap()),
                    _ => {
                        let value = vec![
                            u8::try_from(n % 251).unwrap();
                            usize::try_from(next(2000)).unwrap()
                        ];
                        drop(tree.insert(key, value).unwrap());
                    }
                }
            }
            db.flush().unwrap();

            let mut found = Entries::new();
            for entries in RawPages::find(dir.path()).unwrap().entries() {
                found.extend(entries.unwrap());
            }
            let mut expected = Entries::new();
            for (key, value) in trees
                .iter()
                .flat_map(|tree| tree.iter().map(Result::unwrap))
            {
                expected.insert(key.to_vec(), value.to_vec());
            }
            // The first key of each other tree is sled's own, and there is none.
            assert_eq!(found.len(), expected.len(), "round {round}");
            assert!(found == expected, "round {round}");
            let flaw = find_flaw(&db_file(dir.path()), None).unwrap();
            assert_eq!(flaw, None, "round {round}");
        }
    }

    fn db_file(dir: &Path) -> File {
        File::open(dir.join("db")).unwrap()
    }

    #[test]
    fn any_bytes_are_a_page_or_none() {
        let mut random = 7_u64;
        for len in 0..2000 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    ((random >> 60) as u8).wrapping_mul((random >> 35) as u8)
                })
                .collect();
            let _page = parse_leaf(&bytes);
            let _link = parse_link(&bytes);
            assert_eq!(Messages::new(&bytes, OnDamage::GoOn).count(), 0);
        }
    }
}
