//! The queue in front of the writer thread and the reader pool: bounded in count and bytes, never blocking those who
//! fill it. Owns the waiting; what is queued, and what is said when it is full, is for those who use it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A bounded queue for a few threads that empty it.
#[derive(Debug)]
pub(super) struct Queue<T> {
    max_items: usize,
    max_bytes: usize,
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// How many threads wait: without any, filling the queue costs no system call.
    waiting: usize,
    ended: bool,
}

/// Why an item was not taken. It comes back.
pub(super) enum Refused<T> {
    /// The queue is full.
    Full(T),
    /// The queue has ended.
    Ended(T),
}

/// What the queue gave.
pub(super) struct Drained<T> {
    pub(super) items: Vec<T>,
    /// The queue has ended, and these were the last.
    pub(super) ended: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(max_items: usize, max_bytes: usize) -> Self {
        let state = State {
            items: VecDeque::new(),
            bytes: 0,
            waiting: 0,
            ended: false,
        };
        Self {
            max_items,
            max_bytes,
            state: Mutex::new(state),
            filled: Condvar::new(),
        }
    }

    /// Puts an item of `bytes` at the end. One item always has its place, however large it is.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), Refused<T>> {
        let state = self.lock();
        if state.ended {
            return Err(Refused::Ended(item));
        }
        let full = state.items.len() >= self.max_items
            || state.bytes.saturating_add(bytes) > self.max_bytes;
        if full && !state.items.is_empty() {
            return Err(Refused::Full(item));
        }
        self.put(state, item, bytes);
        Ok(())
    }

    /// Puts an item at the end even where the queue is full: for what is bounded elsewhere.
    pub(super) fn push_anyway(&self, item: T) -> Result<(), Refused<T>> {
        let state = self.lock();
        if state.ended {
            return Err(Refused::Ended(item));
        }
        self.put(state, item, 0);
        Ok(())
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T, bytes: usize) {
        state.bytes += bytes;
        state.items.push_back((item, bytes));
        let wake = state.waiting > 0;
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Takes up to `max_items` in order until they have `max_bytes`, at least one; waits up to `patience` for the first.
    pub(super) fn drain(
        &self,
        max_items: usize,
        max_bytes: usize,
        patience: Duration,
    ) -> Drained<T> {
        let mut state = self.wait(patience);
        let mut taken = 0;
        let mut items = Vec::new();
        while let Some(&(_, bytes)) = state.items.front() {
            let full = taken + bytes > max_bytes || items.len() >= max_items;
            if full && !items.is_empty() {
                break;
            }
            taken += bytes;
            state.bytes -= bytes;
            items.extend(state.items.pop_front().map(|(item, _)| item));
        }
        if state.items.is_empty() && state.items.capacity() > 1024 {
            state.items.shrink_to(1024);
        }
        Drained {
            ended: state.ended && state.items.is_empty(),
            items,
        }
    }

    /// Takes one item; waits for it. `None` when the queue has ended and is empty.
    pub(super) fn pop(&self) -> Option<T> {
        loop {
            let mut state = self.wait(Duration::MAX);
            if let Some((item, bytes)) = state.items.pop_front() {
                state.bytes -= bytes;
                return Some(item);
            }
            if state.ended {
                return None;
            }
        }
    }

    fn wait(&self, patience: Duration) -> MutexGuard<'_, State<T>> {
        let mut state = self.lock();
        if state.items.is_empty() && !state.ended && !patience.is_zero() {
            state.waiting += 1;
            state = match patience {
                Duration::MAX => self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                patience => {
                    let waited = self.filled.wait_timeout(state, patience);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.waiting -= 1;
        }
        state
    }

    /// Takes nothing more. What is in the queue is still given out.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
