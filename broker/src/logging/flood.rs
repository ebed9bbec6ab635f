//! A bound for how often a place in the code may say something, whatever peers do: each has its own, so that a flood of one kind hides
//! no other, and none that is added later can be forgotten. What is left out is counted, and told at most once a second.
//!
//! Only what is said by default is bounded (`info` and above). Who asks for `debug` or `trace` wants all of it. Nor is anything left out of
//! what administrators did: peers cannot cause that.

use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::line::line;
use super::outlet::{say, style};
use crate::audit;

/// So many lines a place may say at once, after it has been silent for a while …
const AT_ONCE: u32 = 100;
/// … and one more in each of these.
const A_LINE_EVERY: Duration = Duration::from_millis(100);
/// How often what was left out is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How much of a message says which one it is.
const LIKE_CHARS: usize = 100;

/// The bound, as a layer over all others.
#[derive(Debug)]
pub(super) struct Bounded;

impl<S: Subscriber> Layer<S> for Bounded {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == audit::ACTS {
            return true;
        }
        let place = Place::Event(metadata.callsite());
        let like = || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        };
        may_say(place, *metadata.level(), like)
    }
}

/// Says what was left out where a flood has ended and nothing else is said. To be called every second or so.
pub(crate) fn tell_left_out() {
    tell_all(TELL_EVERY);
}

/// The same, at the end.
pub(super) fn tell_last() {
    tell_all(Duration::ZERO);
}

fn tell_all(every: Duration) {
    let now = Instant::now();
    let told: Vec<LeftOut> = lock()
        .values_mut()
        .filter_map(|site| site.left_out_by(now, every))
        .collect();
    told.into_iter().for_each(tell);
}

/// A panic may be said. `place` is where it came from.
pub(super) fn may_say_panic(place: String) -> bool {
    let like = format!("a thread panicked at {place}");
    may_say(Place::Panic(place), Level::ERROR, || like)
}

/// Whether the place may say something now. What it left out before is told in front.
fn may_say(place: Place, level: Level, like: impl FnOnce() -> String) -> bool {
    let now = Instant::now();
    let is_allowed = {
        let mut sites = lock();
        let site = sites.entry(place.clone()).or_insert_with(|| Site::new(now));
        match site.take(now) {
            true => Ok(site.left_out_by(now, TELL_EVERY)),
            false => {
                site.left_out += 1;
                Err(site.like.is_none())
            }
        }
    };
    match is_allowed {
        Ok(left_out) => {
            left_out.into_iter().for_each(tell);
            true
        }
        Err(is_first) => {
            // A message may be made of anything, so not while the list is locked.
            let like = is_first.then(|| Like {
                level,
                message: like().chars().take(LIKE_CHARS).collect(),
            });
            if let (Some(like), Some(site)) = (like, lock().get_mut(&place)) {
                site.like.get_or_insert(like);
            }
            false
        }
    }
}

fn tell(LeftOut { lines, like }: LeftOut) {
    let fields = [("lines", lines.into()), ("like", like.message.into())];
    let message = "lines are left out here: there were too many at once";
    say(&line(style(), like.level, message, &fields));
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Event(Identifier),
    Panic(String),
}

/// As many as there are places in the code that have said something.
static SITES: LazyLock<Mutex<HashMap<Place, Site>>> = LazyLock::new(Mutex::default);

fn lock() -> MutexGuard<'static, HashMap<Place, Site>> {
    SITES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a place has said lately.
#[derive(Debug)]
struct Site {
    /// When it would have had no line to spare, had it said each in its own time.
    paid_until: Instant,
    left_out: u64,
    /// What those are that were left out; `None` where none were.
    like: Option<Like>,
    told: Instant,
}

#[derive(Debug)]
struct Like {
    level: Level,
    message: String,
}

struct LeftOut {
    lines: u64,
    like: Like,
}

impl Site {
    fn new(now: Instant) -> Self {
        Self {
            paid_until: now,
            left_out: 0,
            like: None,
            told: now,
        }
    }

    /// Takes a line of what may be said, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let paid_until = self.paid_until.max(now) + A_LINE_EVERY;
        let is_within = paid_until.saturating_duration_since(now) <= A_LINE_EVERY * AT_ONCE;
        if is_within {
            self.paid_until = paid_until;
        }
        is_within
    }

    /// What was left out, if it was told the last time so long ago.
    fn left_out_by(&mut self, now: Instant, every: Duration) -> Option<LeftOut> {
        if now.saturating_duration_since(self.told) < every {
            return None;
        }
        let like = self.like.take()?;
        self.told = now;
        let lines = std::mem::take(&mut self.left_out);
        Some(LeftOut { lines, like })
    }
}

/// The message of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_hundred_lines_and_then_ten_a_second() {
        let start = Instant::now();
        let mut site = Site::new(start);
        let mut said_by = |ms: u64| {
            let now = start + Duration::from_millis(ms);
            (0..1000).filter(|_| site.take(now)).count()
        };

        assert_eq!(said_by(0), 100);
        assert_eq!(said_by(1), 0);
        assert_eq!(said_by(1_000), 10);
        assert_eq!(said_by(3_000), 20);
        assert_eq!(said_by(1_000_000), 100);
    }

    #[test]
    fn every_line_is_said_or_counted() {
        let place = || Place::Panic("tests/flood.rs:1".to_owned());
        let said = (0..1000).filter(|_| may_say(place(), Level::WARN, || "flood".to_owned()));
        let said = said.count() as u64;

        let mut sites = lock();
        let site = sites.get_mut(&place()).unwrap();
        assert_eq!(
            said + site.left_out,
            1000,
            "some were neither said nor counted"
        );
        assert!(said >= 100 && site.left_out > 0, "{said} were said");
        let left_out = site.left_out_by(Instant::now(), Duration::ZERO).unwrap();
        assert_eq!(
            (left_out.lines, &*left_out.like.message),
            (1000 - said, "flood")
        );
        assert!(site.left_out_by(Instant::now(), Duration::ZERO).is_none());
    }
}
