//! The bounded queue between the client's task and one subscription.
//!
//! Bound: so many events and bytes (what one frame brings may go over). When it is full the task takes nothing more for it; see
//! `inbox` for what happens then. The task is told once when it has drained to half.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::{Event, SubscribeError};

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    most_messages: usize,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<(Event, usize)>,
    bytes: usize,
    reader: Option<Waker>,
    /// Nothing follows what is queued but this.
    end: Option<SubscribeError>,
    /// The task wants to know when there is room again.
    tell_when_drained: bool,
}

/// What the subscription found.
#[derive(Debug)]
pub(crate) enum Taken {
    Event {
        event: Event,
        /// The queue has just drained to half, and the task waits for that.
        drained: bool,
    },
    End(SubscribeError),
}

impl Queue {
    pub(crate) fn new(most_messages: usize, most_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            most_messages,
            most_bytes,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the queue is full now.
    pub(crate) fn push(&self, event: Event) -> bool {
        let bytes = event.size_bytes();
        let mut state = self.lock();
        state.items.push_back((event, bytes));
        state.bytes += bytes;
        let full = state.items.len() >= self.most_messages || state.bytes >= self.most_bytes;
        state.tell_when_drained |= full;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        full
    }

    /// Events that wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub(crate) fn end(&self, error: SubscribeError) {
        let mut state = self.lock();
        state.end = Some(error);
        if let Some(reader) = state.reader.take() {
            drop(state);
            reader.wake();
        }
    }

    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<Taken> {
        let mut state = self.lock();
        if let Some((event, bytes)) = state.items.pop_front() {
            state.bytes -= bytes;
            let half =
                state.items.len() * 2 <= self.most_messages && state.bytes * 2 <= self.most_bytes;
            let drained = state.tell_when_drained && half;
            state.tell_when_drained &= !drained;
            return Poll::Ready(Taken::Event { event, drained });
        }
        if let Some(error) = &state.end {
            return Poll::Ready(Taken::End(error.clone()));
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
