//! A copy of a directory, for those who only look: sled writes to its file when it opens it, whatever it is opened for. Owns what is
//! copied and that there is room for it; the directory itself is read, and nothing in it is touched.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::directory::{self, PRIVATE_FILE, in_use};
use super::open::OpenError;

/// So much room is asked for beside what the copy takes: sled may add to its file.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// What is about to be copied.
#[derive(Debug, Clone, Copy)]
pub struct Copying<'a> {
    /// How much.
    pub bytes: u64,
    /// Where to.
    pub to: &'a Path,
}

/// Copies the log in `dir` to a new folder in `temp_dir`, which goes with what is returned.
pub(super) fn copy(
    dir: &Path,
    temp_dir: &Path,
    tell: impl FnOnce(Copying<'_>),
) -> Result<TempDir, OpenError> {
    let unreadable = |source| OpenError::Unreadable {
        dir: dir.to_owned(),
        source,
    };
    let not_copied = |source| OpenError::NotCopied {
        temp_dir: temp_dir.to_owned(),
        source,
    };
    let _lock = lock_as_it_is(dir)?;
    let files = directory::files(dir).map_err(unreadable)?;
    let size = |file: &PathBuf| fs::metadata(dir.join(file)).map(|found| found.len());
    let bytes = files.iter().map(size).sum::<io::Result<u64>>();
    let bytes = bytes.map_err(unreadable)?;
    let copy = tempfile::Builder::new()
        .prefix("hark-log-")
        .permissions(fs::Permissions::from_mode(directory::PRIVATE_DIRECTORY))
        .tempdir_in(temp_dir)
        .map_err(not_copied)?;
    check_room(bytes + SPARE_BYTES, temp_dir)?;
    let to = copy.path();
    tell(Copying { bytes, to });
    fs::create_dir(to.join("blobs")).map_err(not_copied)?;
    for file in files {
        let to = to.join(&file);
        // Where the file system can, nothing is copied until it is written to.
        fs::copy(dir.join(file), &to).map_err(not_copied)?;
        // What came from a read-only place must be written to here.
        let private = fs::Permissions::from_mode(PRIVATE_FILE);
        fs::set_permissions(to, private).map_err(not_copied)?;
    }
    Ok(copy)
}

/// Whether there are blobs in a copy.
pub(super) fn copied_blobs(copy: &TempDir) -> bool {
    let blobs = fs::read_dir(copy.path().join("blobs"));
    blobs.is_ok_and(|mut blobs| blobs.next().is_some())
}

/// Keeps brokers out while the directory is copied, without writing to the lock.
fn lock_as_it_is(dir: &Path) -> Result<Option<File>, OpenError> {
    // Where there is none no broker runs, nor where it cannot be read: a broker writes to it.
    let Ok(lock) = File::open(dir.join(directory::LOCK_FILE)) else {
        return Ok(None);
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        // A file system that knows no locks: then they keep out no broker either.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

fn check_room(needed: u64, temp_dir: &Path) -> Result<(), OpenError> {
    // Where the system does not say how much room there is, it says so when there is none left.
    let available = rustix::fs::statvfs(temp_dir).map_or(u64::MAX, |found| {
        found.f_bavail.saturating_mul(found.f_frsize)
    });
    match available < needed {
        true => Err(OpenError::NoRoomForCopy {
            temp_dir: temp_dir.to_owned(),
            needed_mib: needed >> 20,
            available_mib: available >> 20,
        }),
        false => Ok(()),
    }
}

impl OpenError {
    /// The same of the directory that was copied: nobody knows the copy's name.
    pub(super) fn of_original(self, original: &Path) -> Self {
        let dir = original.to_owned();
        match self {
            Self::Damaged { what, .. } => Self::Damaged { dir, what },
            Self::OtherFormat { found, .. } => Self::OtherFormat { dir, found },
            Self::NotThere { .. } => Self::NotThere { dir },
            other => other,
        }
    }
}
