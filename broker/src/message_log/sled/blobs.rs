//! sled's blobs: what is too large for its log it puts into files of their own, and never syncs them. Values are small enough
//! that there should be none; where sled makes some all the same, out of leaves that it merged, say, this syncs them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::Dir;

use super::descriptors::Reserve;
use super::passing::Trouble;

/// The system notes changes of a folder no finer than this.
const NOTED_WITHIN: Duration = Duration::from_millis(100);

/// The folder, and what of it is synced.
#[derive(Debug)]
pub(super) struct Blobs {
    path: PathBuf,
    /// Held for life: a folder that is opened for each look cannot be looked at when connections have all descriptors.
    listing: Dir,
    folder: File,
    /// The folder's time when it was looked through last; `None`: it may have changed since without another time.
    looked: Option<SystemTime>,
    synced: HashSet<OsString>,
    are_there: bool,
}

impl Blobs {
    /// The folder in `data_dir`, which sled has made.
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("blobs");
        let folder = File::open(&path)?;
        Ok(Self {
            listing: Dir::new(File::open(&path)?)?,
            are_there: fs::read_dir(&path)?.next().is_some(),
            path,
            folder,
            looked: None,
            synced: HashSet::new(),
        })
    }

    /// Whether there were any when the folder was looked through last. Only then does sled open files while it is at work.
    pub(super) fn are_there(&self) -> bool {
        self.are_there
    }

    /// Syncs the blobs that are new.
    pub(super) fn sync(&mut self, reserve: &mut Reserve) -> Result<(), Trouble> {
        let what = "a sync of sled's blobs";
        let changed = match fs::metadata(&self.path).and_then(|found| found.modified()) {
            Ok(changed) => changed,
            // Where somebody has removed the folder there is nothing to sync.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Trouble::of(what, &e)),
        };
        if self.looked == Some(changed) {
            return Ok(());
        }
        let mut there = HashSet::new();
        let mut is_any_new = false;
        self.listing.rewind();
        while let Some(entry) = self.listing.read() {
            let entry = entry.map_err(|e| Trouble::of(what, &e.into()))?;
            let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            if name == "." || name == ".." {
                continue;
            }
            if !self.synced.contains(&name) {
                match reserve.help(|| File::open(self.path.join(&name))) {
                    // After a sync that failed nothing can be known.
                    Ok(blob) => blob.sync_all().map_err(|e| Trouble::last(what, &e))?,
                    // Taken away again meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(Trouble::of(what, &e)),
                }
                is_any_new = true;
            }
            there.insert(name);
        }
        if is_any_new {
            let synced = self.folder.sync_all();
            synced.map_err(|e| Trouble::last(what, &e))?;
        }
        self.are_there = !there.is_empty();
        self.synced = there;
        let is_settled = changed
            .elapsed()
            .is_ok_and(|elapsed| elapsed > NOTED_WITHIN);
        self.looked = is_settled.then_some(changed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_blob_is_synced_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("blobs");
        fs::create_dir(&folder).unwrap();
        let mut blobs = Blobs::open(dir.path()).unwrap();
        let mut reserve = Reserve::take().unwrap();
        blobs.sync(&mut reserve).unwrap();
        assert!(!blobs.are_there());
        for n in 1..=3 {
            fs::write(folder.join(n.to_string()), b"large").unwrap();
            blobs.sync(&mut reserve).unwrap();
            assert_eq!(blobs.synced.len(), n);
        }
        fs::remove_file(folder.join("2")).unwrap();
        blobs.sync(&mut reserve).unwrap();
        assert_eq!(blobs.synced.len(), 2);
    }
}
