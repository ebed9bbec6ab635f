//! `hark log new-epoch`: what is to be done after an older state of a log was restored.

use super::super::CliError;
use super::super::output::Output;
use super::DirArgs;
use crate::message_log::sled::new_epoch;

/// Have every topic go on with a new epoch: after restoring a backup.
///
/// Offsets that were given out after the backup was made will be given out again, for other messages. A new epoch tells
/// clients so: cursors of the old one hold up to what the backup has, and later ones are told that what followed is lost,
/// instead of being silently continued by other messages.
#[derive(Debug, clap::Args)]
pub(super) struct NewEpochArgs {
    #[command(flatten)]
    dir: DirArgs,

    /// Print JSON also on a terminal.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &NewEpochArgs) -> Result<(), CliError> {
    let (old, new) = new_epoch(&args.dir.data_dir)?;
    let mut output = Output::new(args.json);
    let line = match output.json {
        true => serde_json::json!({ "old": old.to_string(), "new": new.to_string() }).to_string(),
        false => format!("every topic goes on with the epoch {new} (it was {old})"),
    };
    // A reader that has gone does not take it back.
    output.line(line.as_bytes())?;
    output.flush()?;
    Ok(())
}
