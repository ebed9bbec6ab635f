//! Reading again, while Hark runs, what is configured in files. Owns when (SIGHUP, and when files have changed), that it is all or nothing, and
//! what is warned of meanwhile; what is in the files belongs to those that read them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit;
use crate::identity::Authority;
use crate::session::Sessions;

/// How often it is looked whether files have changed. One that has is read when it has not changed again until the next look: nobody reads
/// half a file.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What could not be read is tried again so often, also where no file that is known of has changed.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Why something is read again.
const SIGNAL: &str = "SIGHUP";
const CHANGE: &str = "files have changed";

/// What was read and is to be put in force, which cannot fail.
pub(crate) type Force = Box<dyn FnOnce() + Send>;

/// Somebody who is configured in files.
pub(crate) trait Reload: std::fmt::Debug + Send + Sync {
    /// The files, as far as is known. A link counts as what it leads to.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads all of it, and changes nothing yet. The error is one sentence.
    fn read(&self) -> Result<Force, String>;
}

impl Reload for Authority {
    fn files(&self) -> Vec<PathBuf> {
        Self::files(self)
    }

    fn read(&self) -> Result<Force, String> {
        let again = self.read_again()?;
        Ok(Box::new(move || {
            if let Some(again) = again {
                again.take_force();
            }
        }))
    }
}

/// Asks for a reading, and knows how the latest one went. Cheap where nothing is configured in files.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether anybody is configured in files.
    is_watching: bool,
    asked: bool,
    failure: Option<String>,
}

impl Reloads {
    /// Watches over the files of all of `parts`, until the process ends. `authority` is one of them.
    pub(crate) fn watch(
        self: &Arc<Self>,
        parts: Vec<Arc<dyn Reload>>,
        authority: Arc<Authority>,
        sessions: Arc<Sessions>,
    ) -> io::Result<()> {
        let files = files_of(&parts);
        if files.is_empty() {
            return Ok(());
        }
        self.lock().is_watching = true;
        let in_force = Stamps::of(&files);
        let mut watch = Watch {
            reloads: self.clone(),
            parts,
            sets_taken: authority.sets_taken(),
            authority,
            sessions,
            seen: in_force.clone(),
            read: in_force,
            failed: None,
        };
        std::thread::Builder::new()
            .name("hark-reload".to_owned())
            .spawn(move || watch.run())
            .map(drop)
    }

    /// Asks for a reading now; says whether there is anything to read.
    pub(crate) fn ask(&self) -> bool {
        let mut state = self.lock();
        state.asked = state.is_watching;
        self.woken.notify_all();
        state.is_watching
    }

    /// What is to be told whoever asks how Hark is. It is for everybody to see: what exactly is wrong is in the log.
    pub(crate) fn warning(&self) -> Option<String> {
        self.lock().failure.as_ref().map(|_| {
            "settings have changed and cannot be read: those from before stay in force; the log says what is wrong"
                .to_owned()
        })
    }

    /// Waits for the next look, or until it is asked; says whether it was.
    fn wait(&self) -> bool {
        let state = self.lock();
        let waited = self
            .woken
            .wait_timeout_while(state, LOOK_EVERY, |state| !state.asked);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.asked)
    }

    /// How a reading went; says whether that is news.
    fn went(&self, failure: Option<String>) -> bool {
        let mut state = self.lock();
        let is_news = state.failure != failure;
        state.failure = failure;
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that looks and reads.
#[derive(Debug)]
struct Watch {
    reloads: Arc<Reloads>,
    parts: Vec<Arc<dyn Reload>>,
    authority: Arc<Authority>,
    sessions: Arc<Sessions>,
    /// How many sets of keys had been read when everybody was judged last.
    sets_taken: u64,
    /// At the last look.
    seen: Stamps,
    /// Before the last reading began.
    read: Stamps,
    /// When that was, if it failed.
    failed: Option<Instant>,
}

impl Watch {
    fn run(&mut self) {
        loop {
            let asked = self.reloads.wait();
            // A thread that panics is gone without a word. A look that does has been told of, and the next one is another.
            drop(catch_unwind(AssertUnwindSafe(|| self.look(asked))));
        }
    }

    fn look(&mut self, asked: bool) {
        let stamps = Stamps::of(&files_of(&self.parts));
        let is_settled = stamps == std::mem::replace(&mut self.seen, stamps.clone());
        let has_changed = is_settled && stamps != self.read;
        let is_tried_again = self
            .failed
            .is_some_and(|failed| failed.elapsed() >= TRY_AGAIN_AFTER);
        if asked {
            self.read_again(SIGNAL, stamps);
        } else if has_changed || is_tried_again {
            self.read_again(CHANGE, stamps);
        }
        self.look_at_keys();
    }

    /// All of them or none: each is read before any is put in force.
    fn read_again(&mut self, why: &'static str, stamps: Stamps) {
        self.read = stamps;
        let read: Result<Vec<Force>, String> = self.parts.iter().map(|part| part.read()).collect();
        match read {
            Ok(all) => {
                self.failed = None;
                all.into_iter().for_each(|force| force());
                // Other files may be named now.
                let stamps = Stamps::of(&files_of(&self.parts));
                if stamps.files() != self.read.files() {
                    (self.read, self.seen) = (stamps.clone(), stamps);
                }
                self.reloads.went(None);
                self.sets_taken = self.authority.sets_taken();
                audit::read_again(why, Ok(self.sessions.judge_again()));
            }
            Err(error) => {
                self.failed = Some(Instant::now());
                let is_news = self.reloads.went(Some(error.clone()));
                if is_news || why == SIGNAL {
                    audit::read_again(why, Err(&error));
                }
            }
        }
    }

    /// Sets of keys are read again by themselves: who was let in by a key that is gone is nobody any more.
    fn look_at_keys(&mut self) {
        let taken = self.authority.sets_taken();
        if taken == self.sets_taken {
            return;
        }
        self.sets_taken = taken;
        self.authority.keys_have_changed();
        let ended = self.sessions.judge_again();
        tracing::info!(ended, "the keys of an issuer have changed");
    }
}

fn files_of(parts: &[Arc<dyn Reload>]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = parts.iter().flat_map(|part| part.files()).collect();
    files.sort();
    files.dedup();
    files
}

/// By what one sees that files have changed, without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// Of what a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    fn of(files: &[PathBuf]) -> Self {
        let stamp = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some(Stamp {
                file: (found.dev(), found.ino()),
                bytes: found.size(),
                written: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            })
        };
        let stamped = files.iter().map(|path| (path.clone(), stamp(path)));
        Self(stamped.collect())
    }

    fn files(&self) -> Vec<&PathBuf> {
        self.0.iter().map(|(path, _)| path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_led_elsewhere_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["one", "two"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("auth.toml"), "same").unwrap();
        }
        let link_to = |version: &str| {
            std::os::unix::fs::symlink(version, at("new")).unwrap();
            std::fs::rename(at("new"), at("..data")).unwrap();
        };
        link_to("one");
        std::os::unix::fs::symlink("..data/auth.toml", at("auth.toml")).unwrap();
        let files = [at("auth.toml"), at("missing")];
        let before = Stamps::of(&files);
        assert_eq!(before, Stamps::of(&files));
        link_to("two");
        assert_ne!(before, Stamps::of(&files));
    }
}
