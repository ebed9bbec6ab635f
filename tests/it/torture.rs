//! The torture test, short: `hark-torture` with fixed seeds and a fresh one. Each goes once through all its faults, at least; `make torture`
//! is the long form. Owns nothing but what is asked of the program; the rules are in its judge.

use std::process::Command;

/// Draws that every change has to stand, and one that nobody has seen.
const SEEDS: [Option<u64>; 3] = [Some(1), Some(2), None];
/// How many kills have to hit messages in flight, with each seed.
const KILLS: u64 = 6;
const FAULTS: [&str; 14] = [
    "kill",
    "kill-in-open",
    "kill-after-open",
    "kill-in-trim",
    "freeze",
    "stop",
    "two-brokers",
    "planted-snapshot",
    "witness",
    "low-disk",
    "full-disk",
    "failed-sync",
    "truncated",
    "flipped-bits",
];

#[test]
fn whatever_happens_to_the_broker_nothing_is_lost_doubled_or_passed_over() {
    for seed in SEEDS {
        let mut hunt = Command::new(env!("CARGO_BIN_EXE_hark-torture"));
        hunt.args(["--only", "hunt", "--cycles", &KILLS.to_string()]);
        if let Some(seed) = seed {
            hunt.args(["--seed", &seed.to_string()]);
        }

        let output = hunt.output().unwrap();

        let summary = String::from_utf8(output.stdout).unwrap();
        println!("{summary}");
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{summary}{wrong}");
        let hits = count(&summary, "kills that hit messages in flight");
        assert!(hits >= KILLS, "{hits} kills hit messages in flight");
        for fault in FAULTS {
            assert!(
                count(&summary, &format!("cycles: {fault}")) > 0,
                "no {fault}"
            );
        }
        for work in [
            "topics begun",
            "messages acknowledged",
            "messages sent again",
            "gaps told: expired",
        ] {
            assert!(count(&summary, work) > 0, "no {work}");
        }
    }
}

/// What the summary says of `what`; 0 if nothing.
fn count(summary: &str, what: &str) -> u64 {
    let said = summary
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{what}: ")));
    said.map_or(0, |count| count.parse().unwrap())
}
