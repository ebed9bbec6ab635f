//! `hark topics`: lists the topics, describes one, deletes one. Goes by HTTP, as everybody can.

use clap::Subcommand;
use hark_protocol::TopicName;
use serde::{Deserialize, Serialize};

use super::CliError;
use super::connection::ConnectionArgs;
use super::http::Http;
use super::output::{Output, Reader, shown};

/// List the topics that hold messages; or describe or delete one.
#[derive(Debug, clap::Args)]
pub(super) struct TopicsArgs {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    list: ListArgs,

    /// Print JSON lines also on a terminal.
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// List only topics whose names start like this.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the topics that hold messages (what `hark topics` alone does).
    List(ListArgs),
    /// Describe what one topic holds.
    Describe {
        /// Its name.
        topic: TopicName,
    },
    /// Delete one topic with all its messages, for good. Subscribers are told, and go on with what is published from then on.
    Delete {
        /// Its name, exactly.
        topic: TopicName,
    },
}

#[derive(Debug, Deserialize, Serialize)]
struct Topic {
    topic: String,
    epoch: String,
    first: u64,
    head: u64,
    bytes: u64,
}

impl Topic {
    /// For people, in columns: the name takes `width`.
    fn line(&self, width: usize) -> String {
        let Self {
            topic,
            epoch,
            first,
            head,
            bytes,
        } = self;
        let kept = (head + 1).saturating_sub(*first);
        format!(
            "{:width$}  {kept:>12} kept  {bytes:>14} bytes  offsets {first} to {head} of {}",
            shown(topic),
            shown(epoch)
        )
    }
}

/// The answer of `DELETE /v1/topics/{topic}`.
#[derive(Debug, Deserialize, Serialize)]
struct Deleted {
    topic: String,
    deleted: bool,
    epoch: String,
}

impl Deleted {
    /// For people.
    fn line(&self) -> String {
        let topic = shown(&self.topic);
        match self.deleted {
            true => format!("{topic} is deleted"),
            false => format!("{topic} held nothing: there was nothing to delete"),
        }
    }
}

pub(super) async fn run(args: TopicsArgs) -> Result<(), CliError> {
    // Nothing else goes on, so it may block.
    let broker = args.connection.http()?;
    let mut output = Output::new(args.json);
    let prefix = args.list.prefix;
    match args.command {
        None => list(&broker, &prefix, &mut output)?,
        Some(Command::List(args)) if args.prefix.is_empty() => list(&broker, &prefix, &mut output)?,
        Some(Command::List(args)) => list(&broker, &args.prefix, &mut output)?,
        Some(_) if !prefix.is_empty() => {
            return Err(CliError::usage(
                "--prefix is for the list: hark topics list --prefix orders.",
            ));
        }
        Some(Command::Describe { topic }) => {
            let topic: Topic = broker.get(&format!("/v1/topics/{topic}"), &[])?;
            output.answer(&topic, |topic| topic.line(0))?;
        }
        Some(Command::Delete { topic }) => {
            let deleted: Deleted = broker.delete(&format!("/v1/topics/{topic}"), &[])?;
            output.answer(&deleted, Deleted::line)?;
        }
    }
    output.flush()?;
    Ok(())
}

fn list(broker: &Http, prefix: &str, output: &mut Output) -> Result<(), CliError> {
    let mut width = 0;
    broker.list("/v1/topics", &[("prefix", prefix)], |topics: Vec<Topic>| {
        let longest = topics.iter().map(|topic| topic.topic.len()).max();
        width = width.max(longest.unwrap_or(0));
        for topic in &topics {
            if output.answer(topic, |topic| topic.line(width))? == Reader::Gone {
                return Ok(Reader::Gone);
            }
        }
        Ok(Reader::Listening)
    })
}
