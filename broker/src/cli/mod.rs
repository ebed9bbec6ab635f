//! The command line: which commands there are. Each is carried out in the file of its name; how settings are read from the environment
//! is in `environment`.

mod connection;
mod credentials;
mod cursor_file;
mod environment;
mod http;
mod key;
mod log;
mod output;
mod place;
mod publish;
mod race;
mod revoke;
mod serve;
mod sessions;
mod subscribe;
mod token;
mod topics;
mod trouble;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::fs::Mode;

pub use output::CliError;

use crate::logging;

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
    Token(token::TokenArgs),
    Key(key::KeyArgs),
    Sessions(sessions::SessionsArgs),
    Kick(sessions::KickArgs),
    Revoke(revoke::RevokeArgs),
}

/// Runs the command line. Exit codes: 0 done, 1 failed, 2 usage.
pub fn main() -> ExitCode {
    // Whatever is written (by sled, too) is for its owner alone. The first thing of all, while there is one thread.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    logging::begin();
    let command = environment::parse::<Cli>(std::env::args_os()).command;
    let command = command.unwrap_or_else(|| {
        // `hark` alone: the broker, with the settings of the environment.
        Command::Serve(Box::new(serve::ServeArgs::from_environment()))
    });
    let serves = matches!(command, Command::Serve(_));
    let done = match command {
        Command::Serve(args) => serve::run(*args),
        Command::Pub(args) => client(publish::run(args)),
        Command::Sub(args) => client(subscribe::run(args)),
        Command::Topics(args) => client(topics::run(args)),
        Command::Log(args) => log::run(args),
        Command::Token(args) => token::run(args),
        Command::Key(args) => key::run(args),
        Command::Sessions(args) => client(sessions::list(args)),
        Command::Kick(args) => client(sessions::kick(args)),
        Command::Revoke(args) => client(revoke::run(args)),
    };
    let exit_code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            error.exit_code()
        }
    };
    match serves {
        true => logging::finish(),
        false => logging::finish_command(),
    }
    exit_code
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use clap::CommandFactory;

    use super::*;

    /// Every flag and every environment variable of every command.
    fn known(command: &clap::Command, names: &mut BTreeSet<String>) {
        for argument in command.get_arguments() {
            names.extend(argument.get_long().map(|long| format!("--{long}")));
            names.extend(
                argument
                    .get_env()
                    .map(|env| env.to_string_lossy().into_owned()),
            );
        }
        for command in command.get_subcommands() {
            known(command, names);
        }
    }

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    /// What looks like a flag (`--allowed-origin`) or a variable (`HARK_LISTEN`) of Hark in a line of code.
    fn named(line: &str) -> Vec<&str> {
        let mut named = Vec::new();
        for (prefix, is_part) in [
            (
                "--",
                (|c| c == '-' || c.is_ascii_lowercase()) as fn(char) -> bool,
            ),
            ("HARK_", |c| c == '_' || c.is_ascii_uppercase()),
        ] {
            for (at, _) in line.match_indices(prefix) {
                let rest = &line[at + prefix.len()..];
                let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                let begins = line[..at].ends_with(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                if begins && rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
                    named.push(&line[at..at + prefix.len() + len]);
                }
            }
        }
        named
    }

    /// A sentence that sends somebody to a flag that is not there is worse than none.
    #[test]
    fn every_flag_that_is_named_anywhere_exists() {
        let mut names = BTreeSet::new();
        known(&Cli::command(), &mut names);
        // Of the tests alone, and what is no flag.
        names.extend(["HARK_FAULTS", "HARK_TOKEN"].map(str::to_owned));
        let mut files = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut files,
        );
        let mut wrong = Vec::new();
        let mut right = 0;
        for file in files {
            // Tests name flags of the test harness.
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            if file.ends_with("tests.rs") || file.to_string_lossy().contains("_tests") {
                continue;
            }
            for (line, text) in code.lines().enumerate() {
                // Comments may speak of other programs; docs are shown as help.
                let is_comment = text.trim_start().starts_with("// ");
                for name in named(if is_comment { "" } else { text }) {
                    match names.contains(name) {
                        true => right += 1,
                        false => wrong.push(format!("{}:{}: {name}", file.display(), line + 1)),
                    }
                }
            }
        }
        assert!(right > 30, "only {right} names were found");
        assert!(
            wrong.is_empty(),
            "there are no such flags:\n{}",
            wrong.join("\n")
        );
    }

    /// What help shows can be given back as it is.
    #[test]
    fn every_default_is_taken() {
        Cli::command().debug_assert();
        let mut command = Cli::command();
        command.build();
        let serve = command.find_subcommand("serve").unwrap();
        let valued = serve
            .get_arguments()
            .filter(|argument| argument.get_action().takes_values());
        let shown = valued.filter_map(|argument| {
            let value = argument.get_default_values().first()?.to_str()?;
            Some(format!("--{}={value}", argument.get_long()?))
        });
        let given: Vec<String> = ["hark", "serve"]
            .map(String::from)
            .into_iter()
            .chain(shown)
            .collect();
        assert!(given.len() > 10, "{given:?}");
        Cli::try_parse_from(given).unwrap();
    }
}
