//! The command line: which commands there are. Each is carried out in the file of its name.

mod connection;
mod log;
mod output;
mod publish;
mod serve;
mod subscribe;
mod topics;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::fs::Mode;

pub use output::CliError;

/// Hark: a pub/sub message broker that remembers.
#[derive(Debug, Parser)]
#[command(name = "hark", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    // What the others do is said where their arguments are.
    /// Run the broker (what `hark` alone does).
    Serve(Box<serve::ServeArgs>),
    Pub(publish::PublishArgs),
    Sub(subscribe::SubscribeArgs),
    Topics(topics::TopicsArgs),
    Log(log::LogArgs),
}

/// Runs the command line. Exit codes: 0 done, 1 failed, 2 usage.
pub fn main() -> ExitCode {
    // Whatever is written (by sled, too) is for its owner alone. The first thing of all, while there is one thread.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let command = Cli::parse().command.unwrap_or_else(|| {
        // `hark` alone: the broker, with the settings of the environment.
        Command::Serve(Box::new(serve::ServeArgs::from_environment()))
    });
    let done = match command {
        Command::Serve(args) => serve::run(*args),
        Command::Pub(args) => client(publish::run(args)),
        Command::Sub(args) => client(subscribe::run(args)),
        Command::Topics(args) => client(topics::run(args)),
        Command::Log(args) => log::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            error.exit_code()
        }
    }
}

/// Runs a client's command. The connection has a thread of its own beside it, since a command may block: on a pipe that
/// nobody reads, say.
fn client(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("cannot start: {error}")))?;
    let done = runtime.block_on(command);
    // A read of standard input cannot be called off, and must not hold up the end.
    runtime.shutdown_background();
    done
}
