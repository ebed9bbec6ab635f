//! A log in memory whose answers a test can hold back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hark_protocol::TopicName;

use super::memory_log;
use crate::clock::Clock;
use crate::message_log::{
    Append, Done, Health, List, LogError, MessageLog, NewsSink, OpenedTopic, Page, Read, TopicInfo,
};

type Answer = Box<dyn FnOnce() + Send>;

/// Holds answers back while it is shut. What they answer has been done.
#[derive(Default)]
pub(super) struct Gate {
    shut: Mutex<Option<VecDeque<Answer>>>,
}

impl Gate {
    pub(super) fn shut(&self) {
        *self.shut.lock().unwrap() = Some(VecDeque::new());
    }

    /// Lets everybody through, from now on too.
    pub(super) fn open(&self) {
        let held = self.shut.lock().unwrap().take();
        held.into_iter().flatten().for_each(|answer| answer());
    }

    pub(super) fn held(&self) -> usize {
        self.shut.lock().unwrap().as_ref().map_or(0, VecDeque::len)
    }

    fn through<T: Send + 'static>(self: &Arc<Self>, done: Done<T>) -> Done<T> {
        let gate = self.clone();
        Box::new(move |answer| {
            let answer = move || done(answer);
            let mut shut = gate.shut.lock().unwrap();
            match &mut *shut {
                Some(held) => held.push_back(Box::new(answer)),
                None => {
                    drop(shut);
                    answer();
                }
            }
        })
    }
}

/// A log in memory with gates in front of its answers.
pub(super) struct Gated {
    pub(super) inner: Arc<dyn MessageLog>,
    pub(super) opens: Arc<Gate>,
    pub(super) appends: Arc<Gate>,
    pub(super) deletes: Arc<Gate>,
    pub(super) reads: Arc<Gate>,
    pub(super) times: Arc<Gate>,
    /// What was opened, in the order in which it was asked for.
    pub(super) opened: Mutex<Vec<TopicName>>,
    /// What deletes are answered with, if so, without being done.
    pub(super) refusal: Mutex<Option<LogError>>,
    /// How many messages, and how many bytes of them, each append had.
    pub(super) appended: Mutex<Vec<(usize, usize)>>,
    /// How many topics were listed, in all.
    pub(super) listed: Arc<AtomicUsize>,
}

impl Gated {
    pub(super) fn new(clock: &Clock) -> Arc<Self> {
        Arc::new(Self {
            inner: memory_log(clock),
            opens: Arc::default(),
            appends: Arc::default(),
            deletes: Arc::default(),
            reads: Arc::default(),
            times: Arc::default(),
            opened: Mutex::default(),
            refusal: Mutex::default(),
            appended: Mutex::default(),
            listed: Arc::default(),
        })
    }
}

impl std::fmt::Debug for Gated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl MessageLog for Gated {
    fn open(&self, topic: TopicName, news: NewsSink, done: Done<OpenedTopic>) {
        self.opened.lock().unwrap().push(topic.clone());
        self.inner.open(topic, news, self.opens.through(done));
    }

    fn append(&self, mut append: Append) {
        let bytes = append.records.iter().map(|new| new.message.size_bytes());
        let size = (append.records.len(), bytes.sum());
        self.appended.lock().unwrap().push(size);
        append.done = self.appends.through(append.done);
        self.inner.append(append);
    }

    fn read(&self, read: Read, done: Done<Page>) {
        self.inner.read(read, self.reads.through(done));
    }

    fn find_time(&self, topic: TopicName, since_ms: u64, up_to: u64, done: Done<u64>) {
        let done = self.times.through(done);
        self.inner.find_time(topic, since_ms, up_to, done);
    }

    fn count(&self, topic: &TopicName, after: u64, up_to: u64) -> Option<u64> {
        self.inner.count(topic, after, up_to)
    }

    fn delete(&self, topic: TopicName, generation: u64, done: Done<OpenedTopic>) {
        let done = self.deletes.through(done);
        match self.refusal.lock().unwrap().clone() {
            Some(refusal) => done(Err(refusal)),
            None => self.inner.delete(topic, generation, done),
        }
    }

    fn close(&self, topic: TopicName, generation: u64) {
        self.inner.close(topic, generation);
    }

    fn list(&self, order: List, done: Done<Vec<TopicInfo>>) {
        let count = self.listed.clone();
        let done = Box::new(move |found: Result<Vec<TopicInfo>, LogError>| {
            let listed = found.as_ref().map_or(0, Vec::len);
            count.fetch_add(listed, Ordering::Relaxed);
            done(found);
        });
        self.inner.list(order, done);
    }

    fn describe(&self, topic: TopicName, done: Done<TopicInfo>) {
        self.inner.describe(topic, done);
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}
