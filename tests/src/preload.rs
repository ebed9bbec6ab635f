//! A disk and a clock that do what a test says: the broker's end is `preload.c`, loaded into it by `LD_PRELOAD`. Owns the
//! files they speak through; what was recorded is read by `power`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::Setup;

const SOURCE: &str = include_str!("preload.c");

/// The words of `struct control`, by their place.
#[derive(Clone, Copy)]
enum Word {
    Processes,
    /// The library's own: gives each open file a number.
    NextFile,
    Syncs,
    FailFrom,
    FailUntil,
    FailedSyncs,
    SyncDelayMs,
    Room,
    RoomIsForAll,
    RefusedWrites,
    FreeBytes,
    FreeAsked,
    ClockShiftMs,
    ClockAsked,
    KillIn,
    FailOpens,
    RefusedOpens,
}

const WORDS: [Word; 17] = [
    Word::Processes,
    Word::NextFile,
    Word::Syncs,
    Word::FailFrom,
    Word::FailUntil,
    Word::FailedSyncs,
    Word::SyncDelayMs,
    Word::Room,
    Word::RoomIsForAll,
    Word::RefusedWrites,
    Word::FreeBytes,
    Word::FreeAsked,
    Word::ClockShiftMs,
    Word::ClockAsked,
    Word::KillIn,
    Word::FailOpens,
    Word::RefusedOpens,
];

/// What stands between a broker and its disk. Everything may be changed while the broker runs, and outlives it: the next
/// one with the same `Preload` finds it as it is.
pub struct Preload {
    data_dir: PathBuf,
    control: File,
    records: bool,
    /// Holds the control file, the record, and the data directory.
    home: TempDir,
}

impl fmt::Debug for Preload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preload")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Preload {
    /// For a broker with a new data directory; does nothing until it is told to.
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().canonicalize().unwrap().join("data");
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(home.path().join("control"))
            .unwrap();
        let preload = Self {
            data_dir,
            control,
            records: false,
            home,
        };
        for word in WORDS {
            preload.set(word, 0);
        }
        preload.room(None);
        preload.free_bytes(None);
        preload
    }

    /// The same, and takes down every write, every sync and every change of a name.
    pub fn recording() -> Self {
        Self {
            records: true,
            ..Self::new()
        }
    }

    /// Puts it underneath the broker that is set up, and gives that its data directory.
    pub fn under(&self, setup: Setup) -> Setup {
        let setup = setup.data_dir(&self.data_dir);
        let more = self.env().into_iter();
        more.fold(setup, |setup, (name, value)| setup.env(name, &value))
    }

    /// What puts it underneath a process.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let mut env = vec![
            ("LD_PRELOAD", path(library())),
            ("PRELOAD_DIR", path(&self.data_dir)),
            ("PRELOAD_CONTROL", path(&self.home.path().join("control"))),
        ];
        if self.records {
            env.push(("PRELOAD_RECORD", path(&self.record_path())));
        }
        env
    }

    /// The data directory of its broker.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Checks that so many brokers have been started on top of it: a broker that is linked statically would not notice.
    #[track_caller]
    pub fn expect_loaded(&self, times: i64) {
        assert_eq!(
            self.get(Word::Processes),
            times,
            "the broker was not started with LD_PRELOAD; is it linked statically?"
        );
    }

    /// Lets `after` more syncs (fsync, fdatasync, of whatever file in the data directory) go well; then so many fail with EIO, or
    /// all. As on Linux, each handle of that file is told once; and what had been written until then may or may not be on the disk.
    pub fn fail_syncs(&self, after: u64, times: Option<u64>) {
        let from = self.get(Word::Syncs) + 1 + to_word(after);
        self.set(Word::FailFrom, i64::MAX); // Nothing fails while only one of the two is set.
        self.set(
            Word::FailUntil,
            times.map_or(i64::MAX, |times| from + to_word(times)),
        );
        self.set(Word::FailFrom, from);
    }

    /// From now on syncs go well again.
    pub fn heal_syncs(&self) {
        self.set(Word::FailUntil, 0);
    }

    /// How many syncs have begun.
    pub fn syncs(&self) -> u64 {
        self.count(Word::Syncs)
    }

    /// How many of them have failed.
    pub fn failed_syncs(&self) -> u64 {
        self.count(Word::FailedSyncs)
    }

    /// Every sync takes so much longer.
    pub fn slow_syncs(&self, delay: Duration) {
        self.set(
            Word::SyncDelayMs,
            delay.as_millis().try_into().expect("a short delay"),
        );
    }

    /// The disk has room for so many more bytes (`None`: for all): beyond that, what makes a file longer is cut short and then fails with
    /// ENOSPC. What lies within a file can be written over, as on most disks.
    pub fn room(&self, bytes: Option<u64>) {
        self.set(Word::RoomIsForAll, 0);
        self.set(Word::Room, bytes.map_or(-1, to_word));
    }

    /// The same, and writing over what is there takes room too, as on a disk that never writes in place.
    pub fn room_for_any_write(&self, bytes: u64) {
        self.set(Word::RoomIsForAll, 1);
        self.set(Word::Room, to_word(bytes));
    }

    /// How many writes were refused for want of room.
    pub fn refused_writes(&self) -> u64 {
        self.count(Word::RefusedWrites)
    }

    /// What the broker is told when it asks how much room the disk has (statvfs and its kin); `None`: the truth.
    pub fn free_bytes(&self, bytes: Option<u64>) {
        self.set(Word::FreeBytes, bytes.map_or(-1, to_word));
    }

    /// How often it has asked.
    pub fn free_asked(&self) -> u64 {
        self.count(Word::FreeAsked)
    }

    /// The time of day is so many milliseconds ahead of the truth, or behind it. Clocks that cannot be set go on as they are.
    pub fn shift_clock_ms(&self, ms: i64) {
        self.set(Word::ClockShiftMs, ms);
    }

    /// How often the broker has looked at the time of day.
    pub fn clock_asked(&self) -> u64 {
        self.count(Word::ClockAsked)
    }

    /// The process is killed at the n-th moment from now: one is before each change of a file's or folder's name, and one after.
    pub fn kill_at_name_change(&self, moment: u64) {
        self.set(Word::KillIn, to_word(moment));
    }

    /// From now on nothing in the data directory can be opened, and the system says so with this error; `None`: everything can again.
    pub fn fail_opens(&self, errno: Option<i32>) {
        self.set(Word::FailOpens, errno.unwrap_or(0).into());
    }

    /// How often that was tried in vain.
    pub fn refused_opens(&self) -> u64 {
        self.count(Word::RefusedOpens)
    }

    /// Where the record is.
    pub fn record_path(&self) -> PathBuf {
        self.home.path().join("record")
    }

    /// How long the record is: everything that has been done so far is before this place.
    pub fn record_len(&self) -> u64 {
        match self.record_path().metadata() {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            Err(e) => panic!("the record: {e}"),
        }
    }

    /// The number for a handle that nobody opened, as the library gives it to handles.
    pub(crate) fn next_file(&self) -> u64 {
        let next = self.get(Word::NextFile) + 1;
        self.set(Word::NextFile, next);
        next.try_into().expect("a count")
    }

    fn count(&self, word: Word) -> u64 {
        self.get(word).try_into().expect("a count")
    }

    // The file is mapped by the broker; Linux shows both the same pages, and 8 aligned bytes are written at once.
    fn get(&self, word: Word) -> i64 {
        let mut bytes = [0; 8];
        self.control
            .read_exact_at(&mut bytes, word as u64 * 8)
            .unwrap();
        i64::from_ne_bytes(bytes)
    }

    fn set(&self, word: Word, value: i64) {
        self.control
            .write_all_at(&value.to_ne_bytes(), word as u64 * 8)
            .unwrap();
    }
}

impl Default for Preload {
    fn default() -> Self {
        Self::new()
    }
}

fn to_word(count: u64) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// The library, compiled by the first who needs it and kept in the target's temporary folder.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        SOURCE.hash(&mut hasher);
        let test = std::env::current_exe().unwrap(); // target/release/deps/it-…, or target/release/hark-bench
        let profile = test
            .ancestors()
            .skip(1)
            .find(|folder| !folder.ends_with("deps"))
            .unwrap();
        let folder = profile.parent().unwrap().join("tmp");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("preload-{:016x}.so", hasher.finish()));
        if !path.is_file() {
            // Others may do the same at the same time: whole files take each other's place.
            let new = path.with_extension(format!("{}.new", std::process::id()));
            compile(&new);
            std::fs::rename(new, &path).unwrap();
        }
        path
    })
}

fn compile(to: &Path) {
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-x", "c", "-", "-o"])
        .arg(to)
        .args(["-ldl", "-lpthread"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut cc = cc.unwrap_or_else(|e| {
        panic!(
            "`cc` could not be started ({e}): tests with a failing disk need a C compiler, as linking Rust does; \
             install one (Debian: gcc)"
        )
    });
    let sent = cc.stdin.take().expect("piped").write_all(SOURCE.as_bytes());
    let output = cc.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`cc` could not compile preload.c: {said}"
    );
    sent.unwrap();
}
