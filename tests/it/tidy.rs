//! Rules of the repository that nothing else holds: module docs, import arrows, promises that name tests which exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's files that are there, relative to its root.
fn files() -> Vec<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .expect("git is installed");
    assert!(
        output.status.success(),
        "these tests need the git repository: {output:?}"
    );
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<_> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(|name| (name.into(), root.join(name)))
        .collect();
    assert!(files.len() > 10, "few files: {files:?}");
    files
        .into_iter()
        .filter(|(_, path): &(PathBuf, PathBuf)| path.is_file())
        .collect()
}

/// Name and text of every file with this extension.
fn sources(extension: &str) -> Vec<(PathBuf, String)> {
    let wanted = files()
        .into_iter()
        .filter(|(name, _)| name.extension().is_some_and(|found| found == extension));
    wanted
        .map(|(name, path)| (name, std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<String> = sources("rs")
        .iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(name, _)| name.display().to_string())
        .collect();
    none("files that do not open with `//!`", &silent);
}

#[test]
fn nothing_is_left_for_later() {
    let marker = concat!("FIX", "ME"); // In two, or this file would be found.
    let found: Vec<String> = files()
        .into_iter()
        .filter(|(_, path)| String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains(marker))
        .map(|(name, _)| name.display().to_string())
        .collect();
    none("files with something left for later", &found);
}

#[test]
fn no_file_is_huge() {
    let huge: Vec<String> = files()
        .into_iter()
        .filter(|(_, path)| path.metadata().unwrap().len() > 512 * 1024)
        .map(|(name, _)| name.display().to_string())
        .collect();
    none("files above 512 KiB", &huge);
}

/// Arrows point one way: http → session → topic → message_log. What flows back flows as messages.
#[test]
fn the_brokers_import_arrows_point_one_way() {
    const LAYERS: [&str; 4] = ["message_log", "topic", "session", "http"];
    let mut wrong = Vec::new();
    let mut looked_at = [0; 4];
    for (name, text) in sources("rs") {
        let Ok(inside) = name.strip_prefix("broker/src") else {
            continue;
        };
        let top = inside
            .iter()
            .next()
            .unwrap()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        let Some(layer) = LAYERS.iter().position(|layer| *layer == top) else {
            continue;
        };
        looked_at[layer] += 1;
        let above: Vec<&str> = imports(&text)
            .into_iter()
            .filter(|import| LAYERS[layer + 1..].contains(import))
            .collect();
        wrong.extend(
            above
                .iter()
                .map(|import| format!("{} uses {import}", name.display())),
        );
    }
    assert!(
        looked_at.iter().all(|files| *files > 0),
        "the layers are not where they were: {looked_at:?}"
    );
    none("imports against the arrows", &wrong);
}

/// What an identity may do is given out where it was settled, and nowhere else.
#[test]
fn access_is_had_at_one_door() {
    let mut doors: Vec<String> = sources("rs")
        .iter()
        .filter(|(name, text)| {
            let inside = name.strip_prefix("broker/src");
            inside.is_ok_and(|inside| !inside.starts_with("topic"))
                && text.contains("registry.access(")
        })
        .map(|(name, _)| name.display().to_string())
        .collect();
    doors.retain(|door| door != "broker/src/http/admitted.rs");
    none("other doors than http/admitted.rs", &doors);
}

/// The crate's top modules that a source names, comments aside: in `crate::topic::…` and in `crate::{topic::…, …}`.
fn imports(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: Vec<&str> = code.collect();
    for (at, line) in code.iter().enumerate() {
        for (start, _) in line.match_indices("crate::") {
            let rest = &line[start + "crate::".len()..];
            let Some(group) = rest.strip_prefix('{') else {
                found.insert(identifier(rest));
                continue;
            };
            // Names at the first level of the braces, which may go over several lines.
            let mut depth = 1;
            for part in std::iter::once(group).chain(code[at + 1..].iter().copied()) {
                let mut fresh = true;
                for (position, c) in part.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' => fresh = true,
                        c if depth == 1 && fresh && !c.is_whitespace() => {
                            found.insert(identifier(&part[position..]));
                            fresh = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
                if depth == 0 {
                    break;
                }
            }
        }
    }
    found
}

fn identifier(text: &str) -> &str {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    &text[..end]
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::topic::Room;\nuse crate::{\n    http,\n    session::{Session, socket},\n};\n// crate::no\nlet x = crate::budget::of(1);\n";
    assert_eq!(imports(text), ["topic", "http", "session", "budget"].into());
}

/// The protocol knows nobody, and the SDK does not know the broker: whoever writes a client needs only those.
#[test]
fn crates_depend_one_way() {
    let allowed: [(&str, &[&str]); 2] = [
        ("protocol/Cargo.toml", &["hark-protocol"]),
        ("client-sdk/Cargo.toml", &["hark-client", "hark-protocol"]),
    ];
    let manifests = sources("toml");
    for (manifest, allowed) in allowed {
        let text = &manifests
            .iter()
            .find(|(name, _)| name == Path::new(manifest))
            .expect(manifest)
            .1;
        let needed = text.split("[dev-dependencies]").next().unwrap();
        for name in ["hark-protocol", "hark-client", "hark-broker", "hark-tests"] {
            assert!(
                allowed.contains(&name) || !needed.contains(name),
                "{manifest} names {name}"
            );
        }
    }
}

/// A line of ARCHITECTURE.md or README.md such as "test: `a_name`, `module::another`" names tests that exist, and each of
/// the ten promises has one.
#[test]
fn promises_name_tests_that_exist() {
    let functions: BTreeSet<String> = sources("rs")
        .iter()
        .flat_map(|(_, text)| {
            text.match_indices("fn ")
                .map(|(at, _)| identifier(&text[at + 3..]).to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let mut missing = Vec::new();
    let mut named = 0;
    for (name, text) in sources("md") {
        for line in text.lines() {
            let Some((_, tests)) = line
                .split_once("test: `")
                .or_else(|| line.split_once("tests: `"))
            else {
                continue;
            };
            for test in format!("`{tests}").split('`').skip(1).step_by(2) {
                named += 1;
                let function = test.rsplit("::").next().unwrap();
                if !functions.contains(function) {
                    missing.push(format!("{}: {test}", name.display()));
                }
            }
        }
    }
    none("promises that name tests which do not exist", &missing);
    assert!(
        named >= 10,
        "ARCHITECTURE.md names the test of each of its ten promises as \"test: `name`\"; {named} found"
    );
}

/// Each line of the table of threats names a test at its end (that there is such a one, `promises_name_tests_that_exist` holds).
#[test]
fn each_threat_names_the_test_that_holds_it_off() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text
        .split_once("## What is defended, and what is left to others\n")
        .expect("the table of threats");
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .collect();
    assert!(rows.len() > 10, "{section}");
    let names_one = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        cells.len() == 4 && cells[3].trim().starts_with("tests: `")
    };
    let silent = rows.into_iter().filter(|row| !names_one(row));
    let silent: Vec<String> = silent.map(str::to_owned).collect();
    none("threats without a test in the last column", &silent);
}

/// An exception that says neither why nor since when stays for ever.
#[test]
fn exceptions_in_deny_toml_have_a_reason_and_a_date() {
    let manifests = sources("toml");
    let (_, deny) = manifests
        .iter()
        .find(|(name, _)| name == Path::new("deny.toml"))
        .expect("deny.toml");
    let exceptions: Vec<&str> = deny
        .lines()
        .filter(|line| line.contains("RUSTSEC-") && line.contains("id ="))
        .collect();
    assert!(!exceptions.is_empty());
    let dated = |text: &str| {
        text.as_bytes().windows(10).any(|bytes| {
            bytes.iter().enumerate().all(|(at, byte)| match at {
                4 | 7 => *byte == b'-',
                _ => byte.is_ascii_digit(),
            })
        })
    };
    let silent: Vec<String> = exceptions
        .iter()
        .filter(|line| {
            !line
                .split_once("reason = \"")
                .is_some_and(|(_, reason)| dated(reason))
        })
        .map(|line| line.trim().to_owned())
        .collect();
    none("exceptions without a reason or a date", &silent);
}
