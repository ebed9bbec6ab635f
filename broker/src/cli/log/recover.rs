//! `hark log recover`: what `hark serve --recover` does, for a log that opens and yet cannot be read everywhere.

use super::super::CliError;
use super::super::output::Output;
use super::DirArgs;
use crate::message_log::sled::recover;

/// Salvage all that can be read into a new log, and set the damaged one aside.
///
/// `hark serve --recover` does so when a log cannot be opened. This does so in any case: for a log that opens, but some of
/// whose topics cannot be read. Every topic goes on with a new epoch; what is missing is told to clients as lost.
#[derive(Debug, clap::Args)]
pub(super) struct RecoverArgs {
    #[command(flatten)]
    dir: DirArgs,

    /// Print the summary as JSON also on a terminal.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RecoverArgs) -> Result<(), CliError> {
    let salvaged = recover(&args.dir.data_dir).map_err(|e| CliError::failed(e.to_string()))?;
    let mut output = Output::new(args.json);
    let aside = salvaged.moved_to.display().to_string();
    if output.json {
        let worst: Vec<_> = salvaged
            .worst
            .iter()
            .map(|found| {
                let topic = found.topic.as_str();
                serde_json::json!({ "topic": topic, "kept": found.kept, "lost": found.lost, "head": found.head })
            })
            .collect();
        let line = serde_json::json!({
            "topics": salvaged.topics, "records": salvaged.records, "bytes": salvaged.bytes,
            "damaged_topics": salvaged.damaged_topics, "worst": worst,
            "nameless_topics": salvaged.nameless_topics, "nameless_records": salvaged.nameless_records,
            "set_aside": aside,
        });
        output.line(line.to_string().as_bytes())?;
    } else {
        let (records, topics) = (salvaged.records, salvaged.topics);
        let mut lines = vec![format!(
            "{records} records of {topics} topics were salvaged; the damaged log is in {aside}"
        )];
        lines.extend(salvaged.worst.iter().map(|found| {
            format!(
                "{}: {} records are lost, {} are kept",
                found.topic, found.lost, found.kept
            )
        }));
        if salvaged.nameless_records > 0 {
            let (records, topics) = (salvaged.nameless_records, salvaged.nameless_topics);
            lines.push(format!(
                "{records} records of {topics} topics were left behind: the topics' names are lost"
            ));
        }
        for line in lines {
            output.line(line.as_bytes())?;
        }
    }
    output.flush()?;
    Ok(())
}
