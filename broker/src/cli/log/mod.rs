//! `hark log …`: what is done with a log as a whole. Each command is carried out in the file of its name; all but an export
//! from a running broker work on a data directory that no broker has open.

mod export;
mod import;
mod line;
mod new_epoch;
mod recover;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;

use super::CliError;
use super::output::say;
use crate::message_log::sled::{Copying, OfflineLog, OpenError};

/// Verify, export, import or recover a log, or begin a new epoch after a restore.
#[derive(Debug, clap::Args)]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    // What they do is said where their arguments are.
    Verify(verify::VerifyArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    NewEpoch(new_epoch::NewEpochArgs),
    Recover(recover::RecoverArgs),
}

/// Which log.
#[derive(Debug, clap::Args)]
struct DirArgs {
    /// Use the log in this folder. No broker may be running on it.
    #[arg(
        long,
        env = "HARK_DATA_DIR",
        default_value = "./hark-data",
        value_name = "DIR"
    )]
    data_dir: PathBuf,
}

/// Where a log is read that is only looked at.
#[derive(Debug, clap::Args)]
struct CopyArgs {
    /// Copy the log into this folder, in the same size, while it is read; by default, the system's for temporary files.
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
}

/// Opens a log to look at it. The directory may be read-only.
fn open_to_read(dir: &DirArgs, copy: &CopyArgs) -> Result<OfflineLog, OpenError> {
    let temp_dir = copy.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
    OfflineLog::open(&dir.data_dir, &temp_dir, |Copying { bytes, to }| {
        let mib = bytes.div_ceil(1 << 20);
        say(&format!(
            "the log is read from a copy, for which {mib} MiB are taken in {} until it has been read",
            to.display()
        ));
    })
}

pub(super) fn run(args: LogArgs) -> Result<(), CliError> {
    match args.command {
        LogCommand::Verify(args) => verify::run(&args),
        LogCommand::Export(args) => export::run(&args),
        LogCommand::Import(args) => import::run(&args),
        LogCommand::NewEpoch(args) => new_epoch::run(&args),
        LogCommand::Recover(args) => recover::run(&args),
    }
}

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotThere { .. } | OpenError::NotHarks { .. } => {
                Self::usage(error.to_string())
            }
            error => Self::failed(error.to_string()),
        }
    }
}
