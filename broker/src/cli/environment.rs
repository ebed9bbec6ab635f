//! How the command line is read, the same for every setting: an empty variable of the environment is one that is not set, as help shows it
//! (`[env: HARK_RECOVER=]`), a switch is on or off in all the usual spellings, and a flag in the wrong place is told its own.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

/// Reads the arguments, and the environment. Where they are wrong, or ask for help, it says so and ends the process.
pub(super) fn parse<C: CommandFactory + FromArgMatches>(
    args: impl IntoIterator<Item = impl Into<OsString>>,
) -> C {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut command = with_each_arg(C::command(), &|arg| without_empty(with_switch(arg)));
    let parsed = command
        .try_get_matches_from_mut(&args)
        .and_then(|mut matches: ArgMatches| C::from_arg_matches_mut(&mut matches));
    parsed.unwrap_or_else(|error| match error.kind() {
        // Help names every variable, those that are empty too.
        ErrorKind::DisplayHelp => with_each_arg(C::command(), &with_switch)
            .try_get_matches_from(&args)
            .map_or_else(|help| help.exit(), |_| error.exit()),
        _ => with_its_place(error, &mut command).exit(),
    })
}

/// Says where a flag belongs that is known elsewhere.
fn with_its_place(mut error: clap::Error, command: &mut Command) -> clap::Error {
    let flag = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(flag))) => flag.clone(),
        _ => return error.format(command),
    };
    let mut places = Vec::new();
    if let Some(long) = flag.strip_prefix("--") {
        command.build();
        find(command, long, &mut places);
    }
    if !places.is_empty() {
        let written = places.iter().map(|place| format!("'{place} {flag}'"));
        let tip = format!(
            "{flag} belongs to a command: write {}",
            written.collect::<Vec<_>>().join(" or ")
        );
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
        // What sounds alike is not what was meant.
        error.remove(ContextKind::SuggestedArg);
    }
    error.format(command)
}

/// The commands below `command` that have the flag.
fn find(command: &Command, long: &str, places: &mut Vec<String>) {
    for below in command.get_subcommands() {
        if below
            .get_arguments()
            .any(|arg| arg.get_long() == Some(long))
        {
            places.extend(below.get_bin_name().map(str::to_owned));
        } else {
            find(below, long, places);
        }
    }
}

fn with_each_arg(command: Command, change: &dyn Fn(Arg) -> Arg) -> Command {
    command
        .mut_args(change)
        .mut_subcommands(|command| with_each_arg(command, change))
}

fn without_empty(arg: Arg) -> Arg {
    let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
    match arg.get_env().is_some_and(is_empty) {
        true => arg.env(None::<&'static str>),
        false => arg,
    }
}

fn with_switch(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(switch),
        _ => arg,
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "" | "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err("neither on (1, true, yes, on) nor off (0, false, no, off, or empty)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every switch that the environment may turn, of whatever command.
    fn switches(command: &Command) -> Vec<Arg> {
        let own = command.get_arguments().filter(|arg| {
            matches!(arg.get_action(), ArgAction::SetTrue) && arg.get_env().is_some()
        });
        let others = command.get_subcommands().flat_map(switches);
        own.cloned().chain(others).collect()
    }

    #[test]
    fn every_switch_takes_every_spelling() {
        let command = with_each_arg(crate::cli::Cli::command(), &with_switch);
        let switches = switches(&command);
        assert!(switches.len() >= 3, "{switches:?}");
        let spellings = [
            ("1 true t yes y on TRUE Yes", Some(true)),
            ("0 false f no n off FALSE Off", Some(false)),
            ("maybe 2 flase", None),
        ];
        for arg in switches {
            // As a variable's value is read: by the parser, from a text.
            let (id, flag) = (
                arg.get_id().clone(),
                format!("--{}", arg.get_long().unwrap()),
            );
            let command = Command::new("hark").arg(arg.action(ArgAction::Set));
            for (texts, expected) in spellings {
                for text in texts.split(' ') {
                    let matches = command.clone().try_get_matches_from(["hark", &flag, text]);
                    let taken = matches
                        .ok()
                        .and_then(|m| m.get_one::<bool>(id.as_str()).copied());
                    assert_eq!(taken, expected, "{flag}: {text}");
                }
            }
        }
    }
}
