//! `hark log verify`: says whether a log is whole.

use serde_json::json;

use super::super::CliError;
use super::super::output::{Output, shown};
use super::{CopyArgs, DirArgs, open_to_read};
use crate::message_log::sled::{OpenError, Problem, Verified};

/// Check every record's checksum, every topic's numbers, and that no commit is missing.
///
/// One line for each problem, and a summary. Exit code 0: the log is whole. 1: there are problems, or it cannot be opened.
/// 2: usage, or there is no log.
///
/// Nothing in the folder is changed, and it may be read-only: the storage engine (sled) writes to what it opens, so it is given
/// a copy.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    dir: DirArgs,

    #[command(flatten)]
    copy: CopyArgs,

    /// Print JSON lines also on a terminal.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let mut output = Output::new(args.json);
    let mut trouble = None;
    let mut tell = |output: &mut Output, problem: Problem| {
        let line = problem_line(&problem, output.json);
        if let Err(e) = output.line(line.as_bytes()) {
            trouble = Some(e);
        }
    };
    let dir = &args.dir.data_dir;
    let (verified, opened) = match open_to_read(&args.dir, &args.copy) {
        Ok(log) => (log.verify(|problem| tell(&mut output, problem)), true),
        Err(e @ OpenError::Damaged { .. }) => {
            let (topic, what) = (None, e.to_string());
            tell(&mut output, Problem { topic, what });
            let problems = 1;
            let verified = Verified {
                problems,
                ..Verified::default()
            };
            (verified, false)
        }
        Err(e) => return Err(e.into()),
    };
    if opened {
        let line = summary_line(&verified, output.json);
        output.line(line.as_bytes())?;
    }
    output.flush()?;
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    match verified.problems {
        0 => Ok(()),
        1 => Err(CliError::failed(format!("{} has 1 problem", dir.display()))),
        n => Err(CliError::failed(format!(
            "{} has {n} problems",
            dir.display()
        ))),
    }
}

fn problem_line(Problem { topic, what }: &Problem, as_json: bool) -> String {
    match (topic, as_json) {
        (Some(topic), true) => json!({ "problem": what, "topic": topic.as_str() }).to_string(),
        (None, true) => json!({ "problem": what }).to_string(),
        (Some(topic), false) => format!("{topic}: {}", shown(what)),
        (None, false) => shown(what).into_owned(),
    }
}

fn summary_line(verified: &Verified, as_json: bool) -> String {
    let &Verified {
        topics,
        records,
        bytes,
        lost,
        commits,
        problems,
    } = verified;
    match as_json {
        true => json!({
            "topics": topics, "records": records, "bytes": bytes, "lost": lost, "commits": commits,
            "problems": problems,
        })
        .to_string(),
        false => format!(
            "{topics} topics, {records} records, {bytes} bytes, {commits} commits: {}",
            match problems {
                0 if lost > 0 =>
                    format!("whole, but for {lost} records that were lost before it was recovered"),
                0 => "whole".to_owned(),
                1 => "1 problem".to_owned(),
                n => format!("{n} problems"),
            }
        ),
    }
}
