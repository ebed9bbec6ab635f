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
use crate::message_log::sled::OpenError;

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
    /// The folder that holds the log. No broker may be running on it.
    #[arg(
        long,
        env = "HARK_DATA_DIR",
        default_value = "./hark-data",
        value_name = "DIR"
    )]
    data_dir: PathBuf,
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
