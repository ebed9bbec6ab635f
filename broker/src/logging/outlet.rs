//! The way to standard error. Owns the rule that whoever says something goes on, whatever becomes of it: an error of writing is
//! counted, and told when writing works again; a reader that does not read is waited for by a thread of its own.
//!
//! A regular file is written at once: nobody has to take what is written, and a line is there when what it tells of is answered.
//! Pipes, sockets and terminals may make a writer wait as long as their reader likes, and cannot be told not to: the switch
//! (`O_NONBLOCK`) would be shared with every program that has the same terminal. So their lines wait in a bounded queue.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use tracing::Level;

use super::line::{Style, line};

/// Lines that wait for a standard error that is not read, in bytes. Full: lines are left out, and counted.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// How long it is waited for a standard error that somebody has made non-blocking.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Says a line, or lines. They have their line break.
pub(crate) fn say(text: &[u8]) {
    outlet().say(text);
}

/// Waits until all that was said is written; gives up when for so long nobody has taken anything.
pub(super) fn flush(patience: Duration) {
    if let Some(outlet) = OUTLET.get() {
        outlet.flush(patience);
    }
}

/// Whether a person reads it.
#[allow(clippy::disallowed_methods)] // nothing is written
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// How lines about lines look from here on.
pub(super) fn speak(style: Style) {
    outlet().lock().style = style;
}

/// How they look now.
pub(super) fn style() -> Style {
    outlet().lock().style
}

static OUTLET: OnceLock<Arc<Outlet>> = OnceLock::new();

fn outlet() -> &'static Outlet {
    OUTLET.get_or_init(|| {
        let is_file = is_regular_file();
        let outlet = Arc::new(Outlet::new(is_file, Box::new(to_stderr)));
        if !is_file {
            let writing = outlet.clone();
            let thread = thread::Builder::new()
                .name("log lines".to_owned())
                .spawn(move || writing.keep_writing());
            // Better to wait for a reader than to say nothing at all.
            outlet.lock().at_once = thread.is_err();
        }
        outlet
    })
}

#[allow(clippy::disallowed_methods)] // this is where it is written; not by `Stderr`, whose lock would be held while it waits
fn to_stderr(bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(io::stderr(), bytes)?)
}

#[allow(clippy::disallowed_methods)] // nothing is written
fn is_regular_file() -> bool {
    let found = rustix::fs::fstat(io::stderr());
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile)
}

type Write = dyn Fn(&[u8]) -> io::Result<usize> + Send + Sync;

struct Outlet {
    state: Mutex<State>,
    /// There is something to write, or something has been written.
    changed: Condvar,
    /// Held by whoever writes.
    pen: Mutex<Pen>,
    write: Box<Write>,
}

struct State {
    style: Style,
    /// Nobody has to take what is written: it is written by whoever says it.
    at_once: bool,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// The thread is writing.
    is_writing: bool,
    /// How many lines the thread has had out, well or not.
    taken: u64,
    /// Lines left out since there was no room for them in the queue.
    left_out: u64,
}

/// What of the text before the next line is missing.
#[derive(Default)]
struct Pen {
    missing: u64,
    /// Why, the first time.
    reason: String,
    /// A line was begun that could not be finished.
    torn: bool,
}

impl Outlet {
    fn new(at_once: bool, write: Box<Write>) -> Self {
        let state = State {
            style: Style::Sentence,
            at_once,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            is_writing: false,
            taken: 0,
            left_out: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            pen: Mutex::default(),
            write,
        }
    }

    fn say(&self, text: &[u8]) {
        let mut state = self.lock();
        if state.at_once {
            let style = state.style;
            drop(state);
            return self.write_down(style, text);
        }
        // One always has its place, however long it is.
        if !state.waiting.is_empty() && state.waiting_bytes + text.len() > MAX_WAITING_BYTES {
            state.left_out += lines_in(text);
            return;
        }
        state.tell_left_out();
        state.push(text.to_vec());
        drop(state);
        self.changed.notify_all();
    }

    fn flush(&self, patience: Duration) {
        let mut state = self.lock();
        let (mut taken, mut since) = (state.taken, Instant::now());
        while state.is_writing || !state.waiting.is_empty() || state.left_out > 0 {
            let Some(left) = patience.checked_sub(since.elapsed()) else {
                return;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.taken != taken {
                (taken, since) = (state.taken, Instant::now());
            }
        }
    }

    /// What the thread does.
    fn keep_writing(&self) {
        loop {
            let mut state = self.lock();
            state.is_writing = false;
            let (style, text) = loop {
                if let Some(text) = state.waiting.pop_front() {
                    state.waiting_bytes -= text.len();
                    break (state.style, text);
                }
                match state.left_out {
                    0 => {
                        let waited = self.changed.wait(state);
                        state = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                    _ => state.tell_left_out(),
                }
            };
            state.is_writing = true;
            drop(state);
            // Nothing in it panics; and if something did, the next line is to be written all the same.
            drop(catch_unwind(AssertUnwindSafe(|| {
                self.write_down(style, &text)
            })));
            let mut state = self.lock();
            state.taken += 1;
            state.is_writing = false;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Writes it, or counts it as missing. What is missing is told first.
    fn write_down(&self, style: Style, text: &[u8]) {
        let mut pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        if pen.missing > 0 {
            let fields = [
                ("lines", pen.missing.into()),
                ("reason", pen.reason.clone().into()),
            ];
            let mut missing = line(style, Level::WARN, MISSING, &fields);
            if pen.torn {
                missing.insert(0, b'\n');
            }
            match self.write_all(&missing, &mut pen.torn) {
                Ok(()) => pen.missing = 0,
                Err(_) => {
                    pen.missing += lines_in(text);
                    return;
                }
            }
        }
        if let Err(error) = self.write_all(text, &mut pen.torn) {
            pen.missing = lines_in(text);
            pen.reason = error.to_string();
        }
    }

    fn write_all(&self, mut text: &[u8], torn: &mut bool) -> io::Result<()> {
        while !text.is_empty() {
            match (self.write)(text) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    text = text.get(written..).unwrap_or_default();
                    *torn = !text.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::park_timeout(TRY_AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said in the place of lines that are missing.
const MISSING: &str = "lines are missing here: standard error could not be written";

impl State {
    /// Puts a line in the place of those that were left out.
    fn tell_left_out(&mut self) {
        if self.left_out > 0 {
            let lines = std::mem::take(&mut self.left_out);
            let fields = [("lines", lines.into()), ("reason", "nobody read it".into())];
            self.push(line(self.style, Level::WARN, MISSING, &fields));
        }
    }

    fn push(&mut self, text: Vec<u8>) {
        self.waiting_bytes += text.len();
        self.waiting.push_back(text);
    }
}

fn lines_in(text: &[u8]) -> u64 {
    let breaks = text.iter().filter(|byte| **byte == b'\n').count();
    breaks.max(1) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A file that takes so many bytes and is then full.
    #[derive(Default)]
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    fn file(room: usize) -> (Arc<Mutex<Disk>>, Outlet) {
        let disk = Arc::new(Mutex::new(Disk {
            room,
            ..Disk::default()
        }));
        let below = disk.clone();
        let write = move |bytes: &[u8]| {
            let mut disk = below.lock().unwrap();
            let fits = bytes.len().min(disk.room);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.room -= fits;
            disk.written.extend(&bytes[..fits]);
            Ok(fits)
        };
        (disk, Outlet::new(true, Box::new(write)))
    }

    #[test]
    fn a_full_disk_costs_lines_which_are_counted_once_there_is_room() {
        let (disk, outlet) = file(8);
        for text in ["one\n", "two and more\n", "three\n", "four\nfour\n"] {
            outlet.say(text.as_bytes());
        }
        disk.lock().unwrap().room = 1000;
        outlet.say(b"five\n");
        outlet.say(b"six\n");

        let written = String::from_utf8(disk.lock().unwrap().written.clone()).unwrap();
        assert_eq!(
            written,
            "one\ntwo \nhark: lines are missing here: standard error could not be written lines=4 \
             reason=\"no storage space\"\nfive\nsix\n"
        );
    }

    /// An outlet whose reader takes a write when it is told to, and the writes that wait for it.
    fn pipe() -> (Arc<Outlet>, impl Fn() -> String) {
        let (offer, offered) = channel::<Vec<u8>>();
        let (take, taken) = channel::<()>();
        let taken = Mutex::new(taken);
        let write = move |bytes: &[u8]| {
            offer.send(bytes.to_vec()).unwrap();
            taken.lock().unwrap().recv().unwrap();
            Ok(bytes.len())
        };
        let outlet = Arc::new(Outlet::new(false, Box::new(write)));
        let writing = outlet.clone();
        thread::spawn(move || writing.keep_writing());
        let read = move || {
            let text = next(&offered);
            take.send(()).unwrap();
            text
        };
        (outlet, read)
    }

    fn next(offered: &Receiver<Vec<u8>>) -> String {
        let text = offered.recv_timeout(Duration::from_secs(60)).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn who_speaks_does_not_wait_for_a_reader_and_what_is_left_out_is_told_in_its_place() {
        let (outlet, read) = pipe();
        let long = |n: usize| format!("{n} {}\n", "x".repeat(100_000));
        // The first is on its way, ten wait, four find no room; nobody has read anything yet.
        outlet.say(b"first\n");
        while outlet.lock().waiting_bytes > 0 {
            thread::yield_now();
        }
        for n in 0..14 {
            outlet.say(long(n).as_bytes());
        }

        assert_eq!(outlet.lock().left_out, 4);
        assert_eq!(read(), "first\n");
        for n in 0..10 {
            assert_eq!(read(), long(n));
        }
        assert_eq!(
            read(),
            "hark: lines are missing here: standard error could not be written lines=4 reason=\"nobody read it\"\n"
        );
        outlet.say(b"last\n");
        assert_eq!(read(), "last\n");
        outlet.flush(Duration::from_secs(60));
        assert!(outlet.lock().waiting.is_empty());
    }

    #[test]
    fn the_end_waits_for_a_reader_that_reads_and_for_no_other() {
        let (outlet, read) = pipe();
        outlet.say(b"first\n");
        outlet.say(b"second\n");
        outlet.flush(Duration::from_millis(1)); // Comes back.
        let reading = thread::spawn(move || (read(), read()));
        outlet.flush(Duration::from_secs(60));

        let state = outlet.lock();
        assert_eq!((state.taken, state.is_writing), (2, false));
        drop(state);
        assert_eq!(
            reading.join().unwrap(),
            ("first\n".to_owned(), "second\n".to_owned())
        );
    }
}
