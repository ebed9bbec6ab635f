//! What the command line says to people: errors, and how the program ends.

use std::process::ExitCode;

/// Why a command failed: a sentence for people and an exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    message: String,
    exit_code: u8,
}

impl CliError {
    /// The command could not do what it was told to: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit_code: 1 }
    }

    /// The command was told something it does not understand: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit_code: 2 }
    }

    /// How the program ends.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }
}

/// Says what went wrong.
#[allow(clippy::print_stderr)] // this is where the program speaks to people
pub(super) fn complain(error: &CliError) {
    eprintln!("hark: {error}");
}
