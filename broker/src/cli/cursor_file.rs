//! The file that keeps a subscriber's positions, a line `topic cursor` for each topic. Owns that whoever reads it, after whatever crash or power
//! cut, finds a whole one; when it is written is `subscribe`'s.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hark_client::{Cursor, TopicName};

use super::CliError;

/// How often the positions are written while messages keep coming.
const EVERY: Duration = Duration::from_secs(1);
/// Links that lead to links.
const MAX_LINKS: usize = 40;

/// The positions, and where they are kept.
pub(super) struct Cursors {
    file: Option<CursorFile>,
    positions: BTreeMap<String, Cursor>,
    changed: bool,
    stored: Instant,
}

impl Cursors {
    /// With what the file holds, which need not be there.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, CliError> {
        let (file, positions) = match path {
            None => (None, BTreeMap::new()),
            Some(path) => {
                let file = CursorFile::at(path)?;
                let positions = file.read()?;
                (Some(file), positions)
            }
        };
        Ok(Self {
            file,
            positions,
            changed: false,
            stored: Instant::now(),
        })
    }

    pub(super) fn of(&self, topic: &TopicName) -> Option<Cursor> {
        self.positions.get(topic.as_str()).copied()
    }

    pub(super) fn moved(&mut self, topic: &TopicName, cursor: Cursor) {
        if self.file.is_none() {
            return;
        }
        self.changed = true;
        match self.positions.get_mut(topic.as_str()) {
            Some(position) => *position = cursor,
            None => drop(self.positions.insert(topic.to_string(), cursor)),
        }
    }

    /// Whether it is time to store them.
    pub(super) fn are_due(&self) -> bool {
        self.due_in().is_some_and(|wait| wait.is_zero())
    }

    /// How long until then, if there is anything to store.
    pub(super) fn due_in(&self) -> Option<Duration> {
        self.changed
            .then(|| EVERY.saturating_sub(self.stored.elapsed()))
    }

    pub(super) fn store(&mut self) -> Result<(), CliError> {
        let Some(file) = self.file.as_ref().filter(|_| self.changed) else {
            return Ok(());
        };
        let lines = self.positions.iter();
        let lines = lines.map(|(topic, cursor)| format!("{topic} {cursor}\n"));
        file.replace(&lines.collect::<String>())?;
        self.changed = false;
        self.stored = Instant::now();
        Ok(())
    }
}

struct CursorFile {
    /// As it was given.
    name: String,
    /// What is read and replaced: where the name leads, if it is a link.
    target: PathBuf,
}

impl CursorFile {
    /// Refuses what is no file, since it would be replaced by one.
    fn at(path: &Path) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let unreadable = |error: io::Error| {
            CliError::failed(format!(
                "{name} cannot be read: {error}; name another --cursor-file"
            ))
        };
        let target = follow(path).map_err(unreadable)?;
        match fs::metadata(&target) {
            Ok(found) if !found.is_file() => Err(CliError::failed(format!(
                "{name} is no file (but a directory, a device, a pipe or a socket); name a file in --cursor-file"
            ))),
            Ok(_) => Ok(Self { name, target }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { name, target }),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn read(&self) -> Result<BTreeMap<String, Cursor>, CliError> {
        let name = &self.name;
        let text = match fs::read_to_string(&self.target) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => {
                return Err(CliError::failed(format!(
                    "{name} cannot be read: {error}; name another --cursor-file"
                )));
            }
        };
        if text.trim().is_empty() {
            // To begin anew in silence could mean to pass over all that was published since.
            return Err(CliError::failed(format!(
                "{name} is empty, and says of no topic where to go on; put back what it held (a line `TOPIC CURSOR` for each topic), or delete it to start where --from says"
            )));
        }
        text.lines()
            .map(|line| {
                parse(line).ok_or_else(|| {
                    CliError::failed(format!(
                        "{name}: {line:?} is no topic and cursor, such as `orders.eu k3f9a1:1042`; mend the line, or delete the file to start where --from says"
                    ))
                })
            })
            .collect()
    }

    /// Whoever reads the file finds the old text or the new one, also after the power was cut.
    fn replace(&self, text: &str) -> Result<(), CliError> {
        write(&self.target, text).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "its disk is full; make room"
                }
                io::ErrorKind::PermissionDenied => {
                    "its folder may not be written to; change that, or name another --cursor-file"
                }
                _ => "name another --cursor-file, or put right what the system says",
            };
            CliError::failed(format!(
                "the positions cannot be written to {}: {error}: {what}, and start again: what was printed since they were last written is printed again",
                self.name
            ))
        })
    }
}

/// Where a path leads, through links, to a file that need not be there.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let to = fs::read_link(&path)?;
                path = match path.parent() {
                    Some(parent) => parent.join(to),
                    None => to,
                };
            }
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("its links lead in a circle"))
}

fn parse(line: &str) -> Option<(String, Cursor)> {
    let (topic, cursor) = line.split_once(' ')?;
    let topic = TopicName::parse(topic).ok()?;
    Some((topic.to_string(), cursor.parse().ok()?))
}

fn write(target: &Path, text: &str) -> io::Result<()> {
    let mut beside = target.as_os_str().to_owned();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Of a run that was killed.
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&beside)?;
    if let Ok(old) = fs::metadata(target) {
        keep_access(&file, &old)?;
    }
    file.write_all(text.as_bytes())?;
    // Before it has the name: a name that is on the disk before its content would be an empty file after a power cut.
    file.sync_all()?;
    fs::rename(beside, target)?;
    let folder = target.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Who could read the old file can read the new one.
fn keep_access(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid())
        && let Err(error) = fchown(file, Some(old.uid()), Some(old.gid()))
    {
        // Only the superuser may give files away.
        tracing::debug!(%error, "the file has another owner than before");
    }
    file.set_permissions(old.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_kept_across_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors");
        let topics = ["a", "b.c"].map(|name| TopicName::parse(name).unwrap());
        let mut cursors = Cursors::load(Some(&path)).unwrap();
        for (topic, cursor) in topics.iter().zip(["k3:7", "k3:0"]) {
            cursors.moved(topic, cursor.parse().unwrap());
        }
        cursors.store().unwrap();

        let mut again = Cursors::load(Some(&path)).unwrap();
        assert_eq!(again.of(&topics[0]).unwrap().to_string(), "k3:7");
        assert_eq!(again.of(&topics[1]).unwrap().to_string(), "k3:0");
        again.moved(&topics[0], "k3:8".parse().unwrap());
        again.store().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a k3:8\nb.c k3:0\n");

        fs::write(&path, "a 7\n").unwrap();
        assert!(Cursors::load(Some(&path)).is_err());
    }

    #[test]
    fn a_path_leads_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, at(from)).unwrap();
        link("sub/one", "two");
        link("../three", "sub/one");
        link("circle", "circle");
        // What it leads to is not there yet.
        assert_eq!(follow(&at("two")).unwrap(), at("sub/../three"));
        assert_eq!(follow(&at("plain")).unwrap(), at("plain"));
        assert!(follow(&at("circle")).is_err());
    }
}
