//! The witness: a small file beside sled's that says how many commits were answered. sled repairs a damaged tail by
//! cutting it, silently, and whatever sled could tell about it is cut along; this file is not.
//!
//! Written after a commit is synced and before it is answered, into two slots in turn, so that a torn write leaves the
//! other. Not synced: after a power loss it may be behind, but never ahead of what was synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

pub(super) const FILE_NAME: &str = "witness";

const SLOT_BYTES: usize = 16;
const SLOTS: u64 = 2;

/// The open file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
}

/// How many commits were answered, by the file in `dir`; 0 if there is none.
pub(super) fn read(dir: &Path) -> io::Result<u64> {
    let mut bytes = Vec::new();
    match File::open(dir.join(FILE_NAME)) {
        Ok(file) => file
            .take(SLOTS * SLOT_BYTES as u64)
            .read_to_end(&mut bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    Ok(bytes
        .chunks_exact(SLOT_BYTES)
        .filter_map(parse)
        .max()
        .unwrap_or(0))
}

impl Witness {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        // Not truncated: what it says is needed until there is more to say.
        let path = dir.join(FILE_NAME);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self { file })
    }

    /// Says that so many commits are synced.
    pub(super) fn write(&mut self, commits: u64) -> io::Result<()> {
        self.file
            .seek(SeekFrom::Start(commits % SLOTS * SLOT_BYTES as u64))?;
        self.file.write_all(&slot(commits))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// `commits (8) | crc32 (4) | 0 (4)`, little-endian.
fn slot(commits: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&commits.to_le_bytes());
    slot[8..12].copy_from_slice(&crc32fast::hash(&commits.to_le_bytes()).to_le_bytes());
    slot
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let commits = u64::from_le_bytes(*bytes.first_chunk()?);
    (bytes == slot(commits)).then_some(commits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), 0);
        let mut witness = Witness::open(dir.path()).unwrap();
        for commits in 1..=5 {
            witness.write(commits).unwrap();
            assert_eq!(read(dir.path()).unwrap(), commits);
        }

        let mut bytes = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
        bytes[SLOT_BYTES + 3] ^= 1; // the slot of commit 5
        std::fs::write(dir.path().join(FILE_NAME), &bytes).unwrap();

        assert_eq!(read(dir.path()).unwrap(), 4);
    }
}
