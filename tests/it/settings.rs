//! Settings as they are written: numbers whose 0 would be a trap, and bytes with units.

use hark_tests::{Setup, hark};
use serde_json::json;

/// 0 is not "no bound": it would take every message, or refuse every topic.
#[test]
fn a_bound_of_nothing_is_refused() {
    for flag in [
        "retention-messages",
        "retention-bytes",
        "retention-total-bytes",
        "memory-total-bytes",
        "max-topics",
        "retention-age",
        "heartbeat",
        "stall-timeout",
        "keep-alive",
        "workers",
    ] {
        for zero in ["0", "0s", "0GiB", "0.1B", "900us"] {
            let exit = Setup::new().flag(flag, zero).try_start();
            let exit = exit.expect_err("it would be a trap");
            assert_eq!(exit.code, Some(2), "--{flag} {zero}");
            let name = format!("--{flag}");
            assert!(
                exit.stderr.contains(&name),
                "{name} {zero}: {}",
                exit.stderr
            );
        }
        let variable = format!("HARK_{}", flag.to_uppercase().replace('-', "_"));
        let exit = Setup::new().env(&variable, "0").try_start();
        assert_eq!(
            exit.expect_err("nor by the environment").code,
            Some(2),
            "{variable}"
        );
    }
}

#[test]
fn bytes_take_units_everywhere() {
    let broker = Setup::new()
        .flag("retention-total-bytes", "1.5TB")
        .flag("memory-total-bytes", "256 MiB")
        .flag("min-free-bytes", "0")
        .env("HARK_RETENTION_BYTES", "10G")
        .start();
    broker.http().publish("a", &json!(1)).ok();

    // The unit counts: no disk has so much room, and every one has so many bytes.
    for (free, is_taken) in [("1000PB", false), ("1000", true)] {
        let broker = Setup::new().env("HARK_MIN_FREE_BYTES", free).start();
        let answer = broker.http().publish("a", &json!(1));
        match is_taken {
            true => drop(answer.ok()),
            false => {
                answer.expect_error(503, "log_unavailable");
                assert!(answer.body.contains("--min-free-bytes"), "{answer:#?}");
            }
        }
    }
    // As help advises: the longest there is can be had.
    Setup::new().flag("stall-timeout", "24d").start();
    for bad in ["10X", "-1", "1e30", "GiB", "ten"] {
        let exit = Setup::new().flag("retention-bytes", bad).try_start();
        assert_eq!(exit.expect_err("it is no number").code, Some(2), "{bad}");
    }
}

#[test]
fn help_shows_defaults_with_their_units() {
    let help = hark().args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, default) in [
        ("retention-bytes", "256MiB"),
        ("retention-total-bytes", "10GiB"),
        ("memory-total-bytes", "1GiB"),
        ("heartbeat", "25s"),
    ] {
        let (_, described) = words.split_once(&format!("--{flag} <")).unwrap();
        let (shown, _) = described.split_once(']').unwrap();
        let shown = shown.split("[default: ").nth(1).or_else(|| {
            described
                .split("[default: ")
                .nth(1)
                .and_then(|rest| rest.split(']').next())
        });
        assert_eq!(
            shown.and_then(|shown| shown.split(']').next()),
            Some(default),
            "--{flag}: {described:.200}"
        );
    }
}
