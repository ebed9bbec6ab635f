//! sled's blobs: what is too large for its log it puts into files of their own, and never syncs them. Values are small enough
//! that there should be none; where sled makes some all the same, out of leaves that it merged, say, this syncs them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The system notes changes of a folder no finer than this.
const NOTED_WITHIN: Duration = Duration::from_millis(100);

/// The folder, and what of it is synced.
#[derive(Debug)]
pub(super) struct Blobs {
    dir: PathBuf,
    /// The folder's time when it was looked through last; `None`: it may have changed since without another time.
    looked: Option<SystemTime>,
    synced: HashSet<OsString>,
}

impl Blobs {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("blobs"),
            looked: None,
            synced: HashSet::new(),
        }
    }

    /// Syncs the blobs that are new.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let changed = match fs::metadata(&self.dir) {
            Ok(dir) => dir.modified()?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if self.looked == Some(changed) {
            return Ok(());
        }
        let mut there = HashSet::new();
        let mut is_any_new = false;
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if !self.synced.contains(&name) {
                match File::open(self.dir.join(&name)) {
                    Ok(blob) => blob.sync_all()?,
                    // Taken away again meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                }
                is_any_new = true;
            }
            there.insert(name);
        }
        if is_any_new {
            File::open(&self.dir)?.sync_all()?;
        }
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
        let mut blobs = Blobs::new(dir.path());
        blobs.sync().unwrap();
        let folder = dir.path().join("blobs");
        fs::create_dir(&folder).unwrap();
        for n in 1..=3 {
            fs::write(folder.join(n.to_string()), b"large").unwrap();
            blobs.sync().unwrap();
            assert_eq!(blobs.synced.len(), n);
        }
        fs::remove_file(folder.join("2")).unwrap();
        blobs.sync().unwrap();
        assert_eq!(blobs.synced.len(), 2);
    }
}
