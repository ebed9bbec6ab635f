//! Errors that pass, and those after which nothing can be known. Owns which are which, and what the writer does until one has
//! passed: it tries again, publishes are refused meanwhile, and whoever asks how the log is doing is told.
//!
//! What passes is a lack (of descriptors, of memory, of room for the witness) that was met before anything was written, or while
//! something was written that can be written once more. A sync that failed never passes: the system may have given up pages that it
//! now calls clean. Nor does any error of sled's own: it keeps the first one for as long as the process lives, and what it had half
//! written then nobody knows. So the log stays closed for writing until the next start. It is not opened anew within the process,
//! since sled's threads may still hold the file; and the process goes on, since who reads is served by what is there.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use hark_protocol::TopicName;
use rustix::io::Errno;

use super::load::Loaded;
use super::writer::{Answer, Command, MAX_COMMANDS, Slot, Writer};
use crate::message_log::LogError;

/// How long the writer waits for a lack to pass. The appends of the commit that waits are unanswered for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it tries again.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Why a commit could not be finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may go well in a moment: what was done may be done again.
    Passing(String),
    /// Nothing more can be written until the next start.
    Last(String),
}

impl Trouble {
    /// The trouble of a step that may be done once more from its beginning.
    pub(super) fn of(what: &str, error: &io::Error) -> Self {
        match is_a_lack(error) {
            true => Self::Passing(format!("{what} failed: {error}")),
            false => Self::last(what, error),
        }
    }

    /// The trouble of a step that cannot be done once more.
    pub(super) fn last(what: &str, error: &dyn fmt::Display) -> Self {
        Self::Last(format!("{what} failed: {error}"))
    }
}

/// Whether the system lacked something that it may have again in a moment.
fn is_a_lack(error: &io::Error) -> bool {
    const LACKS: [Errno; 7] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::INTR,
        Errno::AGAIN,
        Errno::NOMEM,
        Errno::NOSPC,
        Errno::DQUOT,
    ];
    Errno::from_io_error(error).is_some_and(|error| LACKS.contains(&error))
}

impl Writer {
    /// Finishes the commit; tries again while what keeps it from being finished may pass. The error is the reason for closing the log.
    pub(super) fn sync_patiently(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut has_waited = false;
        loop {
            let reason = match self.sync_watched() {
                Ok(()) => break,
                Err(Trouble::Last(reason)) => return Err(reason),
                Err(Trouble::Passing(reason)) => reason,
            };
            if !has_waited {
                tracing::error!(%reason, "the log takes no publishes until this has passed, and tries again");
                has_waited = true;
            }
            self.store.condition().set_lacking(Some(reason.clone()));
            let ended = self.refuse_appends_for(TRY_EVERY, &reason);
            if ended || Instant::now() >= deadline {
                return match self.sync_watched() {
                    Ok(()) => break,
                    Err(Trouble::Last(reason) | Trouble::Passing(reason)) => Err(reason),
                };
            }
        }
        if has_waited {
            let lacking = self.lacks_descriptors.clone();
            self.store.condition().set_lacking(lacking);
            tracing::info!("the log takes publishes again");
        }
        Ok(())
    }

    fn sync_watched(&mut self) -> Result<(), Trouble> {
        self.store.condition().set_committing(Some(Instant::now()));
        let synced = self.sync();
        self.store.condition().set_committing(None);
        synced
    }

    /// Refuses appends and deletes; topics are opened and closed as ever. Says whether the log is to end.
    fn refuse_appends_for(&mut self, time: Duration, reason: &str) -> bool {
        let until = Instant::now() + time;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return false;
            }
            let drained = self.commands.drain(MAX_COMMANDS, usize::MAX, rest);
            for command in drained.items {
                match command {
                    Command::Append(_) | Command::Delete { .. } => {
                        command.refuse(LogError::Lacking(reason.to_owned()));
                    }
                    // There is one at a time. What it leads to is to be written.
                    Command::Surveyed(_) => self.state.laid_aside.push(command),
                    // Something of it waits with this commit, of which nobody knows how it ends.
                    Command::Loaded { ref found, .. } if !self.is_committed(found) => {
                        self.state.laid_aside.push(command);
                    }
                    Command::Loaded { ref topic, .. } => {
                        let topic = topic.clone();
                        let before = self.state.commit.answers.len();
                        self.take(command);
                        if self.state.commit.answers.len() > before {
                            self.answer_at_once(&topic);
                        }
                    }
                    Command::Open { .. } | Command::Close { .. } | Command::Forget { .. } => {
                        self.take(command);
                    }
                }
            }
            if drained.ended {
                return true;
            }
        }
    }

    /// Whether what a reader has found of a topic is committed, all of it.
    fn is_committed(&self, found: &Result<Box<Loaded>, LogError>) -> bool {
        let Ok(loaded) = found else { return true };
        let head = loaded.numbers.head;
        loaded
            .identity
            .as_ref()
            .is_none_or(|identity| self.store.committed_head(identity.id(), head) == head)
    }

    /// Answers who has opened a topic, if nothing was written for it and the commit that waits has nothing of it: so that its room can
    /// tell publishers, and its readers read. Else the answer comes with the next commit.
    fn answer_at_once(&mut self, name: &TopicName) {
        let Some(Slot::Open(topic)) = self.state.topics.get(name) else {
            return;
        };
        let (id, head) = (topic.id, topic.numbers.head);
        let is_committed = id.is_none_or(|id| self.store.committed_head(id, head) == head);
        let answers = &mut self.state.commit.answers;
        let is_unwritten =
            |answer: &mut Answer| matches!(answer, Answer::Opened { wrote, .. } if !*wrote);
        if is_committed
            && let Some(Answer::Opened { done, opened, .. }) = answers.pop_if(is_unwritten)
        {
            done(Ok(opened));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_passes_and_an_error_of_the_disk_does_not() {
        for (errno, passes) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOSPC, true),
            (Errno::IO, false),
            (Errno::ROFS, false),
        ] {
            let error = io::Error::from(errno);
            let trouble = Trouble::of("a test", &error);
            assert_eq!(matches!(trouble, Trouble::Passing(_)), passes, "{error}");
        }
    }
}
