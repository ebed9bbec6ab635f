//! `make torture`, the drain: 5,000 sessions that a broker says goodbye to all come back by their own hints. Owns how long that may take; the
//! crowd, and that nobody misses anything, is the harness's.

use std::time::Duration;

use hark_tests::{Drain, Setup};
use rustix::process::{Resource, getrlimit, setrlimit};

const SESSIONS: usize = 5_000;
const MESSAGES: u64 = 200;
const PER_SECOND: u32 = 10;
/// What the broker's own default is.
const SPREAD: Duration = Duration::from_secs(5);
/// From SIGTERM until all have caught up.
const MOST: Duration = Duration::from_secs(30);
/// Sockets of the crowd, and what else is open.
const DESCRIPTORS: u64 = SESSIONS as u64 + 200;

/// Runs it.
pub(crate) async fn run() -> Result<(), String> {
    room_for_descriptors()?;
    let mut broker = Setup::new().restarts().start();
    let drain = Drain {
        sessions: SESSIONS,
        messages: MESSAGES,
        per_second: PER_SECOND,
    };
    let drained = drain.run(&mut broker).await;
    let last = drained.caught_up_after.last().copied().unwrap_or_default();
    let tenths = drained.hints_in_tenths_of(SPREAD);
    println!(
        "a drain with {SESSIONS} sessions: ended after {:.1?}, served again after {:.1?}, all caught up after {last:.1?}; \
         {} attempts in vain; told to come back in each tenth of {SPREAD:?}: {tenths:?}",
        drained.ended_after, drained.served_after, drained.in_vain
    );
    let mut wrong = Vec::new();
    if drained.without_goodbye > 0 {
        wrong.push(format!(
            "{} connections ended without a goodbye",
            drained.without_goodbye
        ));
    }
    if drained.caught_up_after.len() != SESSIONS {
        wrong.push(format!(
            "{} of {SESSIONS} caught up again",
            drained.caught_up_after.len()
        ));
    }
    if last > MOST {
        wrong.push(format!(
            "the last had caught up after {last:.1?}; {MOST:?} is the most"
        ));
    }
    if tenths.iter().any(|&told| told > SESSIONS / 5) {
        wrong.push(format!("they were told to come back in crowds: {tenths:?}"));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

fn room_for_descriptors() -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)
        .map_err(|e| format!("the limit on open files cannot be raised: {e}"))?;
    match limit.maximum {
        Some(most) if most < DESCRIPTORS => Err(format!(
            "{SESSIONS} sessions need {DESCRIPTORS} open files, and the system allows {most}; raise the limit (`ulimit -Hn`)"
        )),
        _ => Ok(()),
    }
}
