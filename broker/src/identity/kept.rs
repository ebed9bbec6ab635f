//! What was revoked by the admin API, kept across restarts: one small file in the data directory, written anew as a whole with each change. Owns
//! its bound and that no loss of it passes unseen; what a revocation means is `revocations`'.
//!
//! The first line says how many follow. The file is there from the first start with authentication on: one that is missing later was lost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hark_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

use super::api_keys::random_id;
use super::revocations::{RevocationForm, Time, parse_lines};
use super::{Refusal, file};

/// Its name in the data directory.
pub(crate) const FILE_NAME: &str = "revoked.jsonl";
/// So many may be kept. Each change writes them all.
const MAX_KEPT: usize = 10_000;

/// The lines of the file, by their ids.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    lines: BTreeMap<String, RevocationForm>,
    was_there: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    hark_revocations: u32,
    lines: usize,
}

const VERSION: u32 = 1;

impl Kept {
    /// Reads what is in the data directory `dir`; nothing where it has no such file. The error is a sentence.
    pub(crate) fn read(dir: &Path) -> Result<Self, String> {
        let path = dir.join(FILE_NAME);
        let was_there = std::fs::symlink_metadata(&path).is_ok();
        let lines = match was_there {
            true => parse(&file::read_private(&path)?).map_err(|error| {
                format!(
                    "{0}: {error}; what was revoked cannot be known. Mend the file, or remove it if nothing in it matters any more",
                    path.display()
                )
            })?,
            false => BTreeMap::new(),
        };
        Ok(Self {
            path,
            lines,
            was_there,
        })
    }

    /// Nothing is kept, and nowhere.
    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Self {
            path: PathBuf::from("/nonexistent/revoked.jsonl"),
            lines: BTreeMap::new(),
            was_there: true,
        }
    }

    /// Makes the file where it was missing, once the directory is the log's. `is_new`: so is the directory.
    pub(crate) fn begin(&mut self, is_new: bool) -> Result<(), String> {
        if self.was_there {
            return Ok(());
        }
        if !is_new {
            tracing::warn!(
                file = %self.path.display(),
                "there is no file of what was revoked by the admin API: if anything was, it is good again"
            );
        }
        self.was_there = true;
        self.write()
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &RevocationForm> {
        self.lines.values()
    }

    /// Up to `limit` of them, by their ids, behind `after`.
    pub(super) fn page(&self, after: &str, limit: usize) -> Vec<RevocationForm> {
        let from = (
            std::ops::Bound::Excluded(after.to_owned()),
            std::ops::Bound::Unbounded,
        );
        self.lines
            .range(from)
            .take(limit)
            .map(|(_, line)| line.clone())
            .collect()
    }

    /// Adds a line that makes sense, unless one says the same already; gives it with its id. It is not written yet.
    pub(super) fn add(
        &mut self,
        line: RevocationForm,
        now: SystemTime,
    ) -> Result<RevocationForm, Refusal> {
        if let Some(same) = self.lines.values().find(|known| known.says(&line)) {
            return Ok(same.clone());
        }
        self.lines.retain(|_, line| !line.is_over(now));
        if self.lines.len() >= MAX_KEPT {
            return Err(Refusal::new(
                ErrorCode::TooLarge,
                format!(
                    "{MAX_KEPT} revocations are kept, and there can be no more: give each an `until`, lift some, or revoke all of a subject \
                     by one"
                ),
            ));
        }
        let drawn = random_id().map_err(|error| Refusal::new(ErrorCode::Internal, error))?;
        let line = RevocationForm {
            id: Some(drawn.clone()),
            made: Some(Time(now)),
            ..line
        };
        self.lines.insert(drawn, line.clone());
        Ok(line)
    }

    /// Takes one out; says whether it was there. It is not written yet.
    pub(super) fn lift(&mut self, id: &str) -> Option<RevocationForm> {
        self.lines.remove(id)
    }

    /// Writes all of them. A broker that dies meanwhile has the old file or the new one.
    pub(super) fn write(&self) -> Result<(), String> {
        let failed =
            |error: std::io::Error| format!("cannot write {}: {error}", self.path.display());
        let new = self.path.with_extension("new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed)?;
        file.write_all(self.text().as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&new, &self.path).map_err(failed)?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let dir = File::open(dir).map_err(failed)?;
        dir.sync_all().map_err(failed)
    }

    fn text(&self) -> String {
        let head = Head {
            hark_revocations: VERSION,
            lines: self.lines.len(),
        };
        let lines = self.lines.values().map(json);
        let lines = std::iter::once(json(&head)).chain(lines);
        lines.map(|line| line + "\n").collect()
    }
}

/// It is made of names and times, which JSON can always say.
fn json(line: &impl Serialize) -> String {
    serde_json::to_string(line).unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, RevocationForm>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text in UTF-8".to_owned())?;
    let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
    let head: Head = serde_json::from_str(head).map_err(|error| format!("line 1: {error}"))?;
    if head.hark_revocations != VERSION {
        return Err(format!(
            "is of another version ({}) than this Hark reads ({VERSION})",
            head.hark_revocations
        ));
    }
    // Counted from the first of them.
    let lines = parse_lines(rest)?;
    if lines.len() != head.lines {
        return Err(format!(
            "has {} revocations, and was written with {}",
            lines.len(),
            head.lines
        ));
    }
    lines
        .into_iter()
        .map(|line| match line.id.clone() {
            Some(id) => Ok((id, line)),
            None => Err("a revocation in it has no id".to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn line(jti: &str, until: Option<SystemTime>) -> RevocationForm {
        RevocationForm {
            jti: Some(jti.to_owned()),
            until: until.map(Time),
            ..RevocationForm::default()
        }
    }

    #[test]
    fn what_is_kept_is_read_again_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::read(dir.path()).unwrap();
        kept.begin(true).unwrap();
        let now = SystemTime::now();
        let added = kept.add(line("a", None), now).unwrap();
        assert_eq!(
            kept.add(line("a", None), now).unwrap(),
            added,
            "it is there"
        );
        kept.add(line("b", None), now).unwrap();
        kept.write().unwrap();

        let again = Kept::read(dir.path()).unwrap();
        assert_eq!(again.lines, kept.lines);
        let path = dir.path().join(FILE_NAME);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(again.page("", 1).len(), 1);
        let first = again.page("", 1)[0].id.clone().unwrap();
        assert_eq!(again.page(&first, 9).len(), 1);
    }

    #[test]
    fn a_file_that_lacks_a_line_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::read(dir.path()).unwrap();
        for jti in ["a", "b"] {
            kept.add(line(jti, None), SystemTime::now()).unwrap();
        }
        kept.write().unwrap();
        let path = dir.path().join(FILE_NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        let cut = &text[..text.trim_end().rfind('\n').unwrap() + 1];
        for (bad, part) in [
            (cut, "has 1 revocations"),
            ("", "line 1"),
            ("{\"hark_revocations\":2,\"lines\":0}\n", "another version"),
        ] {
            std::fs::write(&path, bad).unwrap();
            let said = Kept::read(dir.path()).unwrap_err();
            assert!(
                said.contains(part) && said.contains("revoked.jsonl"),
                "{said}"
            );
        }
    }

    #[test]
    fn there_is_a_bound_and_what_is_over_makes_room() {
        let mut kept = Kept::nowhere();
        let now = SystemTime::now();
        let soon = now + Duration::from_secs(60);
        for number in 0..MAX_KEPT {
            let until = (number == 7).then_some(soon);
            let line = RevocationForm {
                id: Some(number.to_string()),
                ..line(&number.to_string(), until)
            };
            kept.lines.insert(number.to_string(), line);
        }
        let refused = kept.add(line("more", None), now).unwrap_err();
        assert!(refused.message.contains("10000"), "{refused}");
        kept.add(line("more", None), soon).unwrap();
        assert_eq!(kept.lines.len(), MAX_KEPT);
    }
}
