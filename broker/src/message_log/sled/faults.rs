//! Faults that a test can order. Nothing orders them otherwise.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use crate::message_log::Append;

/// Switches to make the next sync fail, and to have the system lack something. Cheap to clone; clones share the switches.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fail_next_sync: AtomicBool,
    hears_messages: bool,
    /// What the system says; 0: nothing.
    lack: AtomicI32,
}

impl Faults {
    /// Faults that messages may order, by the header `hark-fault`, if they are heard.
    pub fn heard(hears_messages: bool) -> Self {
        Self(Arc::new(Inner {
            hears_messages,
            ..Inner::default()
        }))
    }

    /// Makes the next sync fail, as a disk that gives up does.
    pub fn fail_next_sync(&self) {
        self.0.fail_next_sync.store(true, Ordering::Release);
    }

    /// From now on the witness cannot be written, and the system says so with this error; `None`: it can again.
    pub fn lack(&self, errno: Option<i32>) {
        self.0.lack.store(errno.unwrap_or(0), Ordering::Release);
    }

    pub(super) fn lacks_something(&self) -> Option<io::Error> {
        match self.0.lack.load(Ordering::Acquire) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    pub(super) fn sync_fails_now(&self) -> bool {
        self.0.fail_next_sync.swap(false, Ordering::AcqRel)
    }

    /// On the writer's thread: breaks it, or a thread of the storage engine's, where a message asks for it.
    pub(super) fn strike(&self, append: &Append) {
        if !self.0.hears_messages {
            return;
        }
        for new in &append.records {
            match new.message.headers.get("hark-fault") {
                Some("log-writer-panic") => panic!("a fault was asked for: the log's writer"),
                Some("storage-thread-panic") => {
                    let broken = thread::Builder::new()
                        .name("sled-io-of-a-test".to_owned())
                        .spawn(|| {
                            panic!("a fault was asked for: a thread of the storage engine's")
                        });
                    drop(broken);
                }
                Some(_) | None => {}
            }
        }
    }
}
