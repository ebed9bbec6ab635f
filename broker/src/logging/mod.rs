//! What the program says on standard error: the broker's log, and the sentences of the command line. Owns how it is set up, and the
//! promise that saying something breaks nothing: no line panics, none waits for a reader, and no peer can write the log full.
//!
//! ```text
//! tracing ─► filter ─► flood (a bound for each place in the code) ─► format ─┐
//! a panic ─► panics ─► flood ────────────────────────────────────────────────┼─► outlet ─► standard error
//! the command line ──────────────────────────────────────────────────────────┘
//! ```

mod flood;
mod line;
mod outlet;
mod panics;

use std::io::{self, Write};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use flood::Bounded;
use line::Style;

pub(crate) use flood::tell_left_out;
pub(crate) use line::shown;
pub(crate) use outlet::{is_terminal, say};
pub(crate) use panics::end_with_threads_of_others;

/// How long the end of the process may be held up by a standard error that nobody reads.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a sentence of the command line waits to be read, so that it comes before what is said next on standard output.
const SENTENCE: Duration = Duration::from_millis(100);
/// How long a command that has nothing else to do waits for its last sentence to be read, as others do that write to a pipe.
const LAST_SENTENCE: Duration = Duration::from_secs(3600);

/// From here on nothing that is said on standard error can break anything, not even a panic. The first that a program does.
pub(crate) fn begin() {
    panics::install();
}

/// From here on the log goes to standard error.
pub(crate) fn start(filter: EnvFilter, json: bool) {
    outlet::speak(match json {
        true => Style::Json,
        false => Style::Text,
    });
    let subscriber = tracing_subscriber::registry().with(filter).with(Bounded);
    // What cannot be formatted would be complained of with `eprintln!`, which panics.
    let lines = fmt::layer()
        .with_writer(Outlet)
        .with_ansi(is_terminal())
        .log_internal_errors(false);
    match json {
        true => subscriber.with(lines.json()).init(),
        false => subscriber.with(lines).init(),
    }
}

/// Says something at once, if anybody reads it.
pub(crate) fn say_now(text: &str) {
    say(text.as_bytes());
    outlet::flush(SENTENCE);
}

/// Waits until all that the broker has said is written, as long as somebody reads it.
pub(crate) fn finish() {
    flood::tell_last();
    outlet::flush(LAST_WORDS);
}

/// Waits until all that a command has said is written.
pub(crate) fn finish_command() {
    outlet::flush(LAST_SENTENCE);
}

/// Ends the process at once, for it is not what it says it is; what was said before is written.
pub(crate) fn abort() -> ! {
    finish();
    std::process::abort()
}

/// Where the log's lines go.
#[derive(Debug, Clone, Copy)]
struct Outlet;

impl MakeWriter<'_> for Outlet {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Outlet {
    /// Takes a line, whole: so are they given.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        say(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
