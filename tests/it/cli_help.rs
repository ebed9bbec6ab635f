//! What the command line says of itself: its help, the README's commands, and where a flag belongs that stands in the wrong place.

use std::path::Path;

use hark_tests::{Cli, hark};

fn help_of(command: &[&str]) -> String {
    let output = hark().args(command).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The flags that a help text describes.
fn flags_in(help: &str) -> Vec<String> {
    let described = help.lines().map(str::trim_start);
    let flags = described
        .filter(|line| line.starts_with('-'))
        .flat_map(|line| {
            line.split([' ', ','])
                .filter(|word| word.starts_with("--") && word.len() > 2)
                .map(str::to_owned)
                .take(1)
                .collect::<Vec<_>>()
        });
    flags.filter(|flag| flag != "--help").collect()
}

/// Each command that the README shows, with its subcommands and flags, is one that help knows.
#[test]
fn the_commands_of_the_readme_are_those_of_help() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut shown = std::collections::BTreeSet::new();
    for line in readme.lines().filter(|line| line.starts_with("hark ")) {
        let (command, remark) = line.split_once('#').unwrap_or((line, ""));
        // A remark may name others.
        let others = remark
            .split("hark ")
            .skip(1)
            .map(|rest| format!("hark {rest}"));
        for command in std::iter::once(command.to_owned()).chain(others) {
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let mut path = Vec::new();
            for word in &words {
                let help = help_of(&path);
                let commands = help.split("Commands:").nth(1).unwrap_or_default();
                let commands = commands.split("Options:").next().unwrap_or_default();
                let is_command = commands
                    .lines()
                    .any(|line| line.split_whitespace().next() == Some(word.trim_end_matches(',')));
                if !is_command {
                    break;
                }
                path.push(word.trim_end_matches(','));
            }
            assert!(!path.is_empty(), "no such command: {command}");
            let flags = flags_in(&help_of(&path));
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                assert!(
                    flag == "--help" || flags.iter().any(|known| known == flag),
                    "{command}: {path:?} has no {flag}: {flags:?}"
                );
            }
            shown.insert(path[0].to_owned());
        }
    }
    // And the README shows every command.
    for command in ["serve", "pub", "sub", "topics", "log"] {
        assert!(help_of(&[]).contains(&format!("  {command} ")), "{command}");
        assert!(
            shown.contains(command),
            "the README shows no hark {command}"
        );
    }
}

/// `hark --allowed-origin …`, for every flag of `serve`, and for those of others in the wrong command.
#[test]
fn a_flag_in_the_wrong_place_is_told_its_own() {
    let refused = |args: &[&str]| {
        let mut command = hark();
        command.args(args);
        let exit = Cli::spawn(command).wait();
        assert_eq!(exit.code, Some(2), "{args:?}: {exit:#?}");
        exit.stderr
    };
    let flags = flags_in(&help_of(&["serve"]));
    assert!(flags.len() > 20, "{flags:?}");
    for flag in &flags {
        let tip = format!("'hark serve {flag}'");
        let said = refused(&[flag, "x"]);
        assert!(said.contains(&tip), "{flag}: {said}");
        let said = refused(&["pub", "a", "1", flag, "x"]);
        assert!(said.contains(&tip), "pub … {flag}: {said}");
    }
    let said = refused(&["--url", "x"]);
    assert!(
        said.contains("'hark pub --url'") && said.contains("'hark log export --url'"),
        "{said}"
    );
    assert!(refused(&["serve", "--cursor-file", "x"]).contains("'hark sub --cursor-file'"));
    // What belongs nowhere gets no such advice.
    assert!(!refused(&["--nonsense"]).contains("belongs"));
}
