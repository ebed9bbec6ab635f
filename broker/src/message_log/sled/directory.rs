//! The files of a directory: finds out whether it is ours, alone, and whole, before sled comes near it; then opens sled,
//! guarded. Owns the lock file and the format mark; leaves what is made of what was found to `open`.
//!
//! ```text
//! FORMAT     what this directory is, as text      witness    how many commits were answered
//! lock       held while a broker runs             db conf snap.* blobs/    sled's own
//! ```

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::ids;
use super::meta::{Directory, FORMAT_VERSION, Ids, Meta, MetaError, OLDEST_FORMAT};
use super::open::OpenError;
use super::replay::find_flaw;
use super::rows::Records;
use super::scan::is_damage;
use super::store::plainly;
use super::witness;

const FORMAT_FILE: &str = "FORMAT";
const NEW_FORMAT_FILE: &str = "FORMAT.new";
pub(super) const LOCK_FILE: &str = "lock";
/// Whose messages these are, only their owner decides.
pub(super) const PRIVATE_DIRECTORY: u32 = 0o700;
pub(super) const PRIVATE_FILE: u32 = 0o600;
/// What a directory may hold that was not ours before: what the first steps leave behind, and an empty volume's own folder.
const BEFORE_FORMAT: [&str; 3] = [NEW_FORMAT_FILE, LOCK_FILE, "lost+found"];
/// How long sled's lock may outlive the log that held it: threads of its own, in the same process, let go of it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// sled syncs and gives space back this often; without it the file would only grow.
const FLUSH_EVERY_MS: u64 = 500;

/// A look at a directory is a few reads.
const LOOK_CPU_TIME: Duration = Duration::from_secs(5);
const LOOK_PATIENCE: Duration = Duration::from_millis(50);

static RUNS_AWAY: AtomicBool = AtomicBool::new(false);

/// Keeps other brokers out.
#[derive(Debug)]
pub(super) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Said aloud: a process that this one is just starting may share the handle until it runs its own program.
        if let Err(e) = self.0.unlock() {
            tracing::warn!(error = %e, "the data directory's lock could not be given back");
        }
    }
}

/// The mark of a directory of ours.
pub(super) fn format_text() -> String {
    format_text_of(FORMAT_VERSION)
}

/// Whether there is a log in this directory.
pub fn is_there(dir: &Path) -> bool {
    dir.join(FORMAT_FILE).exists()
}

fn format_text_of(format: u32) -> String {
    format!("hark message log {format}")
}

/// Whether the format mark is there. Refuses what is not ours, and what a newer Hark wrote.
pub(super) fn check_format(dir: &Path) -> Result<bool, OpenError> {
    let unusable = |source| OpenError::NotWritable {
        dir: dir.to_owned(),
        source,
    };
    match fs::read(dir.join(FORMAT_FILE)) {
        Ok(found) if is_read(found.trim_ascii()) => Ok(true),
        Ok(found) => {
            let found = String::from_utf8_lossy(&found[..found.len().min(64)])
                .trim()
                .to_owned();
            Err(OpenError::OtherFormat {
                dir: dir.to_owned(),
                found,
            })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            for entry in fs::read_dir(dir).map_err(unusable)? {
                let found = entry.map_err(unusable)?.file_name();
                if !BEFORE_FORMAT.iter().any(|ours| OsStr::new(ours) == found) {
                    let found = found.to_string_lossy().into_owned();
                    return Err(OpenError::NotHarks {
                        dir: dir.to_owned(),
                        found,
                    });
                }
            }
            Ok(false)
        }
        Err(e) => Err(unusable(e)),
    }
}

fn is_read(mark: &[u8]) -> bool {
    (OLDEST_FORMAT..=FORMAT_VERSION).any(|format| mark == format_text_of(format).as_bytes())
}

/// Whether the format mark says that an older Hark is to leave the directory alone.
pub(super) fn is_marked_as_ours(dir: &Path) -> io::Result<bool> {
    let mark = fs::read(dir.join(FORMAT_FILE))?;
    Ok(mark.trim_ascii() == format_text().as_bytes())
}

/// Marks a directory as one of ours, so that an older Hark leaves it alone.
pub(super) fn write_format(dir: &Path) -> io::Result<()> {
    let new = dir.join(NEW_FORMAT_FILE);
    let mut file = File::create(&new)?;
    writeln!(file, "{}", format_text())?;
    file.sync_all()?;
    fs::rename(new, dir.join(FORMAT_FILE))?;
    sync_directory(dir)?;
    // The directory itself may be new.
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

pub(super) fn take_lock(dir: &Path) -> Result<DirectoryLock, OpenError> {
    let unusable = |source| OpenError::NotWritable {
        dir: dir.to_owned(),
        source,
    };
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut lock = options.open(&path).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(dir)),
        Err(TryLockError::Error(e)) => return Err(unusable(e)),
    }
    let say_who = lock
        .set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    say_who.map_err(unusable)?;
    Ok(DirectoryLock(lock))
}

/// Whether somebody has locked the directory just now.
pub fn is_in_use(dir: &Path) -> bool {
    let lock = File::open(dir.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The refusal of a directory that somebody else has locked.
pub(super) fn in_use(dir: &Path) -> OpenError {
    let holder = fs::read_to_string(dir.join(LOCK_FILE)).unwrap_or_default();
    let by = match holder.trim() {
        "" => String::new(),
        process => format!(" (process {process})"),
    };
    OpenError::InUse {
        dir: dir.to_owned(),
        by,
    }
}

/// Makes the directory if it is not there, for nobody but its owner.
pub(super) fn make_private(dir: &Path) -> io::Result<()> {
    let mut maker = fs::DirBuilder::new();
    maker.recursive(true).mode(PRIVATE_DIRECTORY).create(dir)
}

/// Takes from everybody but the owner what they may do with the directory and its files: earlier versions left them readable. What is not
/// ours to change stays as it is, and is said if others can read it.
pub(super) fn keep_private(dir: &Path) {
    let folders = [PathBuf::new(), PathBuf::from("blobs")];
    let all = files(dir).map(|files| folders.into_iter().chain(files));
    let (mut changed, mut failed) = (0, None);
    for path in all.into_iter().flatten().map(|path| dir.join(path)) {
        match tighten(&path) {
            Ok(was_open) => changed += usize::from(was_open),
            Err(error) => failed = failed.or(Some((path, error))),
        }
    }
    if changed > 0 {
        tracing::info!(dir = %dir.display(), changed, "files of the data directory could be read by others: now by their owner alone");
    }
    if let Some((path, error)) = failed {
        tracing::warn!(path = %path.display(), %error, "others may be able to read what is kept here, and that could not be changed");
    }
}

/// Says whether anything had to be changed.
fn tighten(path: &Path) -> io::Result<bool> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let mode = match found.is_dir() {
        true => PRIVATE_DIRECTORY,
        false => PRIVATE_FILE,
    };
    if found.permissions().mode() & 0o777 & !mode == 0 {
        return Ok(false);
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        Ok(()) => Ok(true),
        // A volume's own folder, say, which its group may enter and nobody else.
        Err(_) if found.permissions().mode() & 0o007 == 0 => Ok(false),
        Err(e) => Err(e),
    }
}

/// The files that make up a log, by their paths in `dir`.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in [FORMAT_FILE, LOCK_FILE, witness::FILE_NAME, "db", "conf"] {
        if fs::exists(dir.join(name))? {
            files.push(PathBuf::from(name));
        }
    }
    let snapshots = snapshots(dir)?;
    files.extend(
        snapshots
            .iter()
            .filter_map(|path| path.file_name())
            .map(PathBuf::from),
    );
    match fs::read_dir(dir.join("blobs")) {
        Ok(blobs) => {
            for blob in blobs {
                files.push(Path::new("blobs").join(blob?.file_name()));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(files)
}

/// Why a directory that is ours cannot be opened.
pub(super) enum Fault {
    /// The system would not let us.
    Io(io::Error),
    /// What is there is not what was written.
    Damaged(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Damaged(what) => f.write_str(what),
        }
    }
}

impl From<sled::Error> for Fault {
    fn from(e: sled::Error) -> Self {
        match e {
            sled::Error::Io(e) if e.kind() != io::ErrorKind::UnexpectedEof => Self::Io(e),
            other => Self::Damaged(plainly(&other)),
        }
    }
}

impl From<MetaError> for Fault {
    fn from(e: MetaError) -> Self {
        match e {
            MetaError::Sled(e) => e.into(),
            MetaError::Malformed(_) => Self::Damaged(e.to_string()),
        }
    }
}

/// Checks what can be checked of sled's files without sled, which would begin to repair them.
pub(super) fn check_sleds_files(dir: &Path, answered: u64) -> Result<(), Fault> {
    let damaged = |what: &str| Err(Fault::Damaged(what.to_owned()));
    match fs::metadata(dir.join("db")) {
        Ok(db) if db.len() == 0 && answered > 0 => return damaged("the file `db` is empty"),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound && answered > 0 => {
            return damaged("the file `db` is missing");
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Fault::Io(e)),
    }
    match fs::read(dir.join("conf")) {
        Ok(conf) if conf.len() > 8 && !ends_with_checksum(&conf, &conf[..conf.len() - 4]) => {
            return damaged("the file `conf` does not match its checksum");
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Fault::Io(e)),
    }
    // sled reads the newest snapshot. Its last 12 bytes are a length and a checksum, which does not cover the length.
    let mut snapshots = snapshots(dir).map_err(Fault::Io)?;
    snapshots.retain(|path| path.extension() != Some(OsStr::new("generating")));
    let snapshot = snapshots.into_iter().max().map(fs::read);
    let snapshot = snapshot.transpose().map_err(Fault::Io)?;
    if let Some(bytes) = &snapshot
        && (bytes.len() <= 12 || !ends_with_checksum(bytes, &bytes[..bytes.len() - 12]))
    {
        return damaged("sled's snapshot does not match its checksum");
    }
    let db = match File::open(dir.join("db")) {
        Ok(db) => db,
        Err(e) if e.kind() == io::ErrorKind::NotFound && snapshot.is_none() => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return damaged("the file `db` is missing");
        }
        Err(e) => return Err(Fault::Io(e)),
    };
    match find_flaw(&db, snapshot.as_deref()).map_err(Fault::Io)? {
        Some(flaw) => damaged(&flaw.to_string()),
        None => Ok(()),
    }
}

fn ends_with_checksum(bytes: &[u8], covered: &[u8]) -> bool {
    bytes.last_chunk() == Some(&crc32fast::hash(covered).to_le_bytes())
}

/// `snap.LSN`, and `snap.LSN.generating` while it is written: that is a name without an extension, or with two.
pub(super) fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A crash while sled wrote a snapshot leaves a file behind that sled would take for the newest, and fail.
pub(super) fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for path in snapshots(dir)? {
        if path.extension() == Some(OsStr::new("generating")) {
            tracing::warn!(path = %path.display(), "removing a snapshot that was not finished");
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

pub(super) fn open_sled(dir: &Path, cache_bytes: u64) -> Result<(sled::Db, Records, Meta), Fault> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let opened = quietly(|| {
            let config = sled::Config::new()
                .path(dir)
                .cache_capacity(cache_bytes)
                .flush_every_ms(Some(FLUSH_EVERY_MS));
            let db = config.open()?;
            let (records, meta) = (db.open_tree("records")?, db.open_tree("meta")?);
            Ok((db, Records::new(records), Meta::new(meta)))
        });
        match opened {
            // The lock file is ours, so this is what is left of a log that this process had open.
            Err(Fault::Io(e))
                if e.to_string().contains("could not acquire lock")
                    && Instant::now() < deadline =>
            {
                thread::park_timeout(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

/// What is known of a directory: `None` of a new one, how many commits there were, and which topic ids are taken.
type Known = (Option<Directory>, u64, Ids);

/// Looks at what is known of a directory. Where sled's own index leads to a page that is gone, sled 0.34 looks for it for ever, and
/// takes more and more memory: that is found out by the time it spends.
pub(super) fn look(records: &Records, meta: &Meta) -> Result<Known, Fault> {
    let (tell, told) = mpsc::channel();
    let (records, meta) = (records.clone(), meta.clone());
    let began = cpu_time();
    thread::Builder::new()
        .name("log opener".to_owned())
        .spawn(move || {
            // Whoever waits for it has given up otherwise.
            drop(tell.send(quietly(|| look_unguarded(&records, &meta))));
        })
        .map_err(Fault::Io)?;
    loop {
        match told.recv_timeout(LOOK_PATIENCE) {
            Ok(found) => return found,
            Err(RecvTimeoutError::Timeout) if cpu_time() < began + LOOK_CPU_TIME => {}
            Err(_) => {
                RUNS_AWAY.store(true, Ordering::Relaxed);
                let what = "the storage engine looks for a page that is gone, and comes to no end";
                return Err(Fault::Damaged(what.to_owned()));
            }
        }
    }
}

/// Whether a thread of this process is lost in sled for good, and takes memory as it goes.
pub(super) fn runs_away() -> bool {
    RUNS_AWAY.load(Ordering::Relaxed)
}

/// Time that this process has spent on processors: unlike the time of day it does not pass while others have them.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or(0),
        u32::try_from(spent.tv_nsec).unwrap_or(0),
    )
}

fn look_unguarded(records: &Records, meta: &Meta) -> Result<Known, Fault> {
    let mut ids = meta.ids()?;
    // Were the counter ever behind the records, a new topic would find another's. Any id of the newest's span may have been given
    // out, so a new span begins.
    let newest = match records.last_topic() {
        Ok(found) => found,
        Err(e) if is_damage(&e) => None,
        Err(e) => return Err(e.into()),
    };
    let behind = newest.map_or(0, |topic| topic.0 + 1);
    ids.next = ids::next_span(ids.next.max(behind));
    Ok((meta.directory()?, meta.commits()?, ids))
}

pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic on damaged files, and gives the panic's message as the error, instead of printing it.
pub(super) fn quietly<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let gave_up = |text| {
        Err(Fault::Damaged(format!(
            "the storage engine gave up: {text}"
        )))
    };
    silenced(work).unwrap_or_else(gave_up)
}

/// Runs what may panic, and gives the panic's message instead of printing it.
pub(super) fn silenced<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                others(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("no reason given").to_owned()
    })
}
