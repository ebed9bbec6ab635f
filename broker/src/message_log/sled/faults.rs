//! Faults that a test can order. Nothing orders them otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::message_log::Append;

/// A switch to make the next sync fail. Cheap to clone; clones share the switch.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fail_next_sync: AtomicBool,
    hears_messages: bool,
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
