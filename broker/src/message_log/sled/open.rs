//! Opens a directory: takes it as it was found, compares that with the witness, and settles what it goes on as. Only
//! settling writes: the tools that merely look leave it out.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::delete::{Garbage, finish_deletions};
use super::directory::{
    DirectoryLock, Fault, check_format, check_sleds_files, format_text, is_marked_as_ours,
    keep_private, look, make_private, open_sled, quietly, remove_unfinished_snapshots,
    sync_directory, take_lock, write_format,
};
use super::meta::{Directory, FORMAT_VERSION, Ids, Meta, MetaError, OLDEST_FORMAT};
use super::rows::Records;
use super::witness::{self, Witness};

/// Why a directory could not be opened. Nothing in it has been changed; but what sled finds damaged only once it reads its
/// file, it may have begun to repair.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory {dir} is in use by another broker{by}; stop that one first, or use another --data-dir",
        dir = dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who, as far as it said.
        by: String,
    },
    /// It cannot be created, listed or written.
    #[error("the data directory {dir} cannot be used: {source}; check that it is a directory the broker may write to, and that the disk has room",
        dir = dir.display())]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something in it, and it is not Hark's.
    #[error("the directory {dir} holds files that are not Hark's ({found}, …); use an empty or new one as --data-dir",
        dir = dir.display())]
    NotHarks {
        /// The directory.
        dir: PathBuf,
        /// One of the files.
        found: String,
    },
    /// It was written by another version.
    #[error("the data directory {dir} has the format {found:?}, and this Hark reads {ours:?}; use the version that wrote it",
        dir = dir.display(), ours = format_text())]
    OtherFormat {
        /// The directory.
        dir: PathBuf,
        /// The format it has.
        found: String,
    },
    /// It is ours, but cannot be read.
    #[error("the data directory {dir} is damaged ({what}); start `hark serve --recover`, which sets it aside and salvages what can be read, or restore it from a copy",
        dir = dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// It cannot be read.
    #[error("the data directory {dir} cannot be read: {source}; run this as the user that the broker runs as", dir = dir.display())]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be copied to where it is to be looked at.
    #[error("the log cannot be copied to {temp_dir} to be read there: {source}; name another folder with --temp-dir",
        temp_dir = temp_dir.display())]
    NotCopied {
        /// Where to.
        temp_dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room for a copy.
    #[error("the log is read from a copy, for which {temp_dir} has too little room: {needed_mib} MiB are needed, and {available_mib} are there; name another folder with --temp-dir",
        temp_dir = temp_dir.display())]
    NoRoomForCopy {
        /// Where to.
        temp_dir: PathBuf,
        /// What is needed.
        needed_mib: u64,
        /// What is there.
        available_mib: u64,
    },
    /// There is no log in it, and nobody asked for a new one.
    #[error("there is no log in the directory {dir}; name the --data-dir of a broker", dir = dir.display())]
    NotThere {
        /// The directory.
        dir: PathBuf,
    },
}

/// An open directory.
pub(super) struct OpenDirectory {
    pub(super) db: sled::Db,
    pub(super) records: Records,
    pub(super) meta: Meta,
    pub(super) directory: Directory,
    pub(super) ids: Ids,
    pub(super) commits: u64,
    /// Deleted topics of which something is left.
    pub(super) garbage: Garbage,
    /// What was found wrong, and does not stop the log.
    pub(super) warnings: Vec<String>,
    /// For syncs.
    pub(super) data: File,
    pub(super) witness: Witness,
    /// Held while the log is open.
    pub(super) lock: DirectoryLock,
}

/// A directory as it was found: nothing in it has been settled, and but for sled nobody has written to it.
pub(super) struct FoundDirectory {
    dir: PathBuf,
    pub(super) db: sled::Db,
    pub(super) records: Records,
    pub(super) meta: Meta,
    /// `None`: it is new.
    pub(super) directory: Option<Directory>,
    pub(super) ids: Ids,
    /// How many commits are there …
    pub(super) commits: u64,
    /// … and how many were answered.
    pub(super) answered: u64,
    data: File,
    pub(super) lock: DirectoryLock,
}

/// What a directory goes on as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GoOn {
    /// As what it was, unless a part of it is gone.
    AsFound,
    /// With a new epoch in any case.
    WithNewEpoch,
}

/// Opens `dir`, and creates it if need be.
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<OpenDirectory, OpenError> {
    make_private(dir).map_err(unusable(dir))?;
    let found = find(dir, cache_bytes, || {
        write_format(dir).map_err(unusable(dir))
    })?;
    keep_private(dir);
    found.settle(GoOn::AsFound)
}

/// Opens `dir` as it is. There must be a log in it.
pub(super) fn open_as_found(dir: &Path, cache_bytes: u64) -> Result<FoundDirectory, OpenError> {
    // Before the lock: where there is nothing, nothing is to be made.
    check_is_there(dir)?;
    find(dir, cache_bytes, || Err(not_there(dir)))
}

/// Refuses a directory in which there is no log. Only reads.
pub(super) fn check_is_there(dir: &Path) -> Result<(), OpenError> {
    match fs::exists(dir).map_err(unusable(dir))? && check_format(dir)? {
        true => Ok(()),
        false => Err(not_there(dir)),
    }
}

fn not_there(dir: &Path) -> OpenError {
    OpenError::NotThere {
        dir: dir.to_owned(),
    }
}

/// Opens what is there; `make` is asked to make a log where there is none.
fn find(
    dir: &Path,
    cache_bytes: u64,
    make: impl FnOnce() -> Result<(), OpenError>,
) -> Result<FoundDirectory, OpenError> {
    check_format(dir)?;
    let lock = take_lock(dir)?;
    // Again: it may have been another's until a moment ago.
    if !check_format(dir)? {
        make()?;
    }
    let answered = witness::read(dir).map_err(unusable(dir))?;
    check_sleds_files(dir, answered).map_err(refuse(dir))?;

    remove_unfinished_snapshots(dir).map_err(unusable(dir))?;
    let (db, records, meta) = open_sled(dir, cache_bytes).map_err(refuse(dir))?;
    let data = File::open(dir.join("db")).map_err(unusable(dir))?;
    let found = quietly(|| look(&records, &meta)).map_err(refuse(dir))?;
    let (directory, commits, ids) = found;
    match &directory {
        Some(directory) if !(OLDEST_FORMAT..=FORMAT_VERSION).contains(&directory.format) => {
            Err(OpenError::OtherFormat {
                dir: dir.to_owned(),
                found: directory.format.to_string(),
            })
        }
        None if answered > 0 => {
            let what = format!("nothing is left of {answered} commits");
            Err(refuse(dir)(Fault::Damaged(what)))
        }
        Some(_) | None => Ok(FoundDirectory {
            dir: dir.to_owned(),
            db,
            records,
            meta,
            directory,
            ids,
            commits,
            answered,
            data,
            lock,
        }),
    }
}

impl FoundDirectory {
    /// How many of the commits that were answered are gone.
    pub(super) fn commits_lost(&self) -> u64 {
        self.answered.saturating_sub(self.commits)
    }

    /// Draws a new epoch where one is due, and makes what was found as safe as what will be written.
    pub(super) fn settle(self, go_on: GoOn) -> Result<OpenDirectory, OpenError> {
        let (lost, answered) = (self.commits_lost(), self.answered);
        let Self {
            dir,
            db,
            records,
            meta,
            directory,
            mut ids,
            commits,
            data,
            lock,
            ..
        } = self;
        let mut directory = directory.unwrap_or_else(Directory::new);
        let found_format = std::mem::replace(&mut directory.format, FORMAT_VERSION);
        let mut warnings = Vec::new();
        if lost > 0 {
            warnings.push(format!(
                "the log has lost its tail: of {answered} commits that were answered {commits} are left; every topic goes on \
                 with a new epoch, and clients are told what is lost"
            ));
        }
        if lost > 0 || go_on == GoOn::WithNewEpoch {
            directory.cut();
        }
        let commits = commits.max(answered);
        // The counter comes last: without it the cut is noticed again.
        let write = || {
            let garbage = finish_deletions(&meta, &mut ids)?;
            meta.set_directory(&directory)?;
            meta.set_commits(commits)?;
            db.flush()?;
            Ok(garbage)
        };
        let garbage = quietly(write).map_err(refuse(&dir))?;
        // What was found must be as safe as what will be written: a kill may have left it in the system's cache.
        data.sync_all()
            .and_then(|()| File::open(dir.join("conf"))?.sync_all()) // sled never does
            .and_then(|()| sync_directory(&dir))
            .map_err(unusable(&dir))?;
        let mut witness = Witness::open(&dir).map_err(unusable(&dir))?;
        witness
            .write(commits)
            .and_then(|()| witness.sync())
            .map_err(unusable(&dir))?;
        sync_directory(&dir).map_err(unusable(&dir))?;
        // Before anything of the new format is written; where this is cut short, what the tree `meta` says keeps an older Hark out.
        if !is_marked_as_ours(&dir).map_err(unusable(&dir))? {
            write_format(&dir).map_err(unusable(&dir))?;
        }
        if found_format != FORMAT_VERSION {
            tracing::info!(
                found_format,
                "the data directory is brought along: from now on it is of format {FORMAT_VERSION}, which an older Hark does not open"
            );
        }
        Ok(OpenDirectory {
            db,
            records,
            meta,
            directory,
            ids,
            commits,
            garbage,
            warnings,
            data,
            witness,
            lock,
        })
    }
}

impl OpenDirectory {
    /// Makes what was written safe: for the tools, which write without a writer thread.
    pub(super) fn commit(&mut self) -> Result<(), MetaError> {
        let commits = self.commits + 1;
        self.meta.set_commits(commits)?;
        self.db.flush()?;
        let synced = self.data.sync_data();
        synced
            .and_then(|()| self.witness.write(commits))
            .map_err(sled::Error::Io)?;
        self.commits = commits;
        Ok(())
    }
}

fn unusable(dir: &Path) -> impl Fn(io::Error) -> OpenError {
    |source| OpenError::NotWritable {
        dir: dir.to_owned(),
        source,
    }
}

fn refuse(dir: &Path) -> impl Fn(Fault) -> OpenError {
    |fault| match fault {
        Fault::Io(source) => unusable(dir)(source),
        Fault::Damaged(what) => OpenError::Damaged {
            dir: dir.to_owned(),
            what,
        },
    }
}
