//! `hark log export`: writes messages as lines of JSON, from a data directory or from a running broker.

use std::ops::ControlFlow;

use hark_protocol::{Cursor, Idempotency, TopicName, TopicPattern, codec};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::CliError;
use super::super::credentials::CredentialArgs;
use super::super::http::Http;
use super::super::output::{Output, Reader, say, shown};
use super::{CopyArgs, DirArgs, line, open_to_read};
use crate::message_log::sled::{Exported, OfflineLog};

/// Write messages as lines of JSON, one each.
///
/// A line holds topic, epoch, offset, time, the message (data, or text or data_base64 and content_type) with its headers, and, from
/// a data directory, who published it (identity) and how it is known again (producer and seq, or message_id). What is lost is
/// said on standard error, and as a line with a gap.
///
/// From a running broker, each topic is exported up to where it was at the start; what tells a message sent again cannot
/// be seen there, and is left out; so is who published it, in topics whose readers are not told. Nothing in a data directory is
/// changed, and it may be read-only: the storage engine writes to what it opens, so it is given a copy.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    dir: DirArgs,

    #[command(flatten)]
    copy: CopyArgs,

    /// Export from the running broker at this address, such as ws://127.0.0.1:4275/ws or http://127.0.0.1:4275.
    #[arg(long)]
    url: Option<String>,

    #[command(flatten)]
    credentials: CredentialArgs,

    /// Export only these topics: a name, or a pattern with `*` (one segment) and a final `>` (the rest); may be given more than once.
    #[arg(long = "topic", value_name = "PATTERN")]
    topics: Vec<TopicPattern>,
}

pub(super) fn run(args: &ExportArgs) -> Result<(), CliError> {
    let mut export = Export {
        output: Output::new(true),
        topics: &args.topics,
        trouble: None,
        incomplete: false,
    };
    match &args.url {
        Some(url) => export.all_of_broker(&Http::at(url, args.credentials.settle()?)?)?,
        None => export.all_of_directory(&open_to_read(&args.dir, &args.copy)?)?,
    }
    if let Some(trouble) = export.trouble {
        return Err(trouble);
    }
    export.output.flush()?;
    match export.incomplete {
        true => Err(CliError::failed("not everything could be exported")),
        false => Ok(()),
    }
}

struct Export<'a> {
    output: Output,
    topics: &'a [TopicPattern],
    /// Standard output cannot be written.
    trouble: Option<CliError>,
    /// Something could not be read, and that is no gap.
    incomplete: bool,
}

impl Export<'_> {
    fn is_wanted(&self, topic: &TopicName) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|pattern| pattern.matches(topic))
    }

    fn line(&mut self, line: &str) -> ControlFlow<()> {
        match self.output.line(line.as_bytes()) {
            Ok(Reader::Listening) => ControlFlow::Continue(()),
            Ok(Reader::Gone) => ControlFlow::Break(()),
            Err(e) => {
                self.trouble = Some(e);
                ControlFlow::Break(())
            }
        }
    }

    fn gap(
        &mut self,
        topic: &TopicName,
        reason: &str,
        range: Option<(u64, u64)>,
    ) -> ControlFlow<()> {
        say(&line::say_gap(topic, reason, range));
        self.line(&line::of_gap(topic, reason, range))
    }

    fn cannot(&mut self, what: &str) {
        say(what);
        self.incomplete = true;
    }

    fn all_of_directory(&mut self, log: &OfflineLog) -> Result<(), CliError> {
        for topic in log.topics() {
            let topic = match topic {
                Ok(topic) if self.is_wanted(&topic) => topic,
                Ok(_) => continue,
                Err(e) => {
                    self.cannot(&format!("the list of topics: {e}"));
                    continue;
                }
            };
            let exported = log.export(&topic, |exported| match exported {
                Exported::Record {
                    epoch,
                    record,
                    idempotency,
                } => {
                    let frame = codec::json::encode_message(&topic, record);
                    match line::of_message(&topic, &epoch.to_string(), &frame, idempotency) {
                        Some(line) => self.line(&line),
                        None => {
                            let offset = record.offset;
                            self.cannot(&format!(
                                "{topic}: offset {offset} cannot be written as a line"
                            ));
                            ControlFlow::Continue(())
                        }
                    }
                }
                Exported::Gap { reason, from, to } => {
                    self.gap(&topic, reason.as_str(), Some((from, to)))
                }
            });
            match exported {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                Err(e) => self.cannot(&format!("{topic}: it cannot be read to its end: {e}")),
            }
        }
        Ok(())
    }

    fn all_of_broker(&mut self, broker: &Http) -> Result<(), CliError> {
        // All heads first: what is published meanwhile is not exported, of any topic.
        let mut topics = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = vec![("limit", "1000")];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let page: TopicsPage = broker.get("/v1/topics", &query)?;
            for found in page.topics {
                let topic = TopicName::parse(&found.topic);
                let topic =
                    topic.map_err(|e| CliError::failed(format!("{}: {e}", shown(&found.topic))))?;
                if self.is_wanted(&topic) {
                    topics.push((topic, found.epoch, found.head));
                }
            }
            match page.next {
                // A broker that repeats itself would keep it going for ever.
                next @ Some(_) if next > after => after = next,
                _ => break,
            }
        }
        for (topic, epoch, head) in topics {
            if self.topic_of(broker, &topic, &epoch, head)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn topic_of(
        &mut self,
        broker: &Http,
        topic: &TopicName,
        epoch: &str,
        head: u64,
    ) -> Result<ControlFlow<()>, CliError> {
        let path = format!("/v1/topics/{topic}/messages");
        let mut after: Option<String> = None;
        let mut reached = 0;
        while reached < head {
            let mut query = vec![("limit", "1000")];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let page: MessagesPage = broker.get(&path, &query)?;
            let cursor: Cursor = page
                .cursor
                .parse()
                .map_err(|_| CliError::failed(format!("{topic}: the broker gave no cursor")))?;
            if let Some(gap) = page.gap {
                let range = gap.from.zip(gap.to.map(|to| to.min(head)));
                let begins_beyond = range.is_some_and(|(from, _)| from > head);
                if !begins_beyond && self.gap(topic, &gap.reason, range).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if cursor.epoch.to_string() != epoch {
                self.cannot(&format!(
                    "{topic}: it began anew meanwhile, as {}",
                    cursor.epoch
                ));
                return Ok(ControlFlow::Continue(()));
            }
            for message in page.messages {
                let message = message.get();
                let place: Place = serde_json::from_str(message)
                    .map_err(|e| CliError::failed(format!("{topic}: no message: {e}")))?;
                if place.offset > head {
                    break;
                }
                match line::of_message(topic, epoch, message, &Idempotency::None) {
                    Some(line) if self.line(&line).is_break() => return Ok(ControlFlow::Break(())),
                    Some(_) => {}
                    None => {
                        let what = format!(
                            "{topic}: the broker wrote offset {} in a form that is not known",
                            place.offset
                        );
                        self.cannot(&what);
                    }
                }
            }
            if cursor.offset <= reached && !page.caught_up && after.is_some() {
                let what = format!("{topic}: the broker does not get beyond {cursor}");
                return Err(CliError::failed(what));
            }
            if page.caught_up {
                break;
            }
            reached = cursor.offset;
            after = Some(page.cursor);
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[derive(Deserialize)]
struct TopicsPage {
    topics: Vec<FoundTopic>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct FoundTopic {
    topic: String,
    epoch: String,
    head: u64,
}

#[derive(Deserialize)]
struct MessagesPage {
    messages: Vec<Box<RawValue>>,
    cursor: String,
    caught_up: bool,
    gap: Option<Gap>,
}

#[derive(Deserialize)]
struct Gap {
    reason: String,
    from: Option<u64>,
    to: Option<u64>,
}

#[derive(Deserialize)]
struct Place {
    offset: u64,
}
