//! What happens when something panics. Owns that it is said, in a way that cannot panic itself (that would end the process), and which
//! threads of others the broker cannot be without.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tracing::Level;

use super::flood::may_say_panic;
use super::line::{Style, line};
use super::outlet::{say, style};
use super::{abort, finish};

/// Threads of others that nobody would miss in time, by how their names begin: sled's write for the log, and were one gone, every
/// commit would wait for it for ever; and without actix's nobody can connect any more.
const OTHERS: [&str; 2] = ["sled-io-", "actix-server acceptor"];

/// The broker serves: from here on the process ends with those.
static SERVING: AtomicBool = AtomicBool::new(false);

/// From here on the process ends where a panic has taken a thread of another's that the broker cannot be without.
pub(crate) fn end_with_threads_of_others() {
    SERVING.store(true, Ordering::Relaxed);
}

pub(super) fn install() {
    std::panic::set_hook(Box::new(tell));
}

/// Runs in the middle of the panic, on its thread.
fn tell(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_else(|| "a place that is not known".to_owned());
    if may_say_panic(place.clone()) {
        let reason = reason(panic.payload());
        let message = format!("thread '{name}' panicked at {place}: {reason}");
        let backtrace = Backtrace::capture();
        let is_wanted = backtrace.status() == BacktraceStatus::Captured; // RUST_BACKTRACE
        let backtrace = is_wanted.then(|| backtrace.to_string());
        say(&panic_line(style(), &message, backtrace));
    }
    if name == "main" {
        // Then the process ends as well, and nobody else sees to it that this is read.
        finish();
    }
    let is_missed = OTHERS.iter().any(|other| name.starts_with(other));
    if is_missed && SERVING.load(Ordering::Relaxed) {
        let message =
            format!("the broker cannot go on without the thread '{name}': the process ends");
        say(&line(style(), Level::ERROR, &message, &[]));
        abort();
    }
}

fn panic_line(style: Style, message: &str, backtrace: Option<String>) -> Vec<u8> {
    match (style, backtrace) {
        (Style::Json, Some(backtrace)) => {
            let fields = [("backtrace", backtrace.into())];
            line(style, Level::ERROR, message, &fields)
        }
        // For people, who read lines.
        (_, backtrace) => {
            let mut text = line(style, Level::ERROR, message, &[]);
            text.extend(backtrace.unwrap_or_default().into_bytes());
            text
        }
    }
}

fn reason(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason given")
}
