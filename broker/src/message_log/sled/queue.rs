//! The queue in front of the writer thread and the reader pool: bounded in count and bytes, never blocking those who
//! fill it, and fair to those who bring little. Owns the waiting; what is queued, and what is said when it is full, is for those
//! who use it.
//!
//! Large items stand in a line of their own. What is taken at a time comes from both, so neither line waits for the other to
//! be empty; within a line the order is that of arrival.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Items of more bytes stand in the line of the large ones.
const LARGE_BYTES: usize = 64 * 1024;

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
    small: VecDeque<(T, usize)>,
    large: VecDeque<(T, usize)>,
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
            small: VecDeque::new(),
            large: VecDeque::new(),
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
        let full =
            state.len() >= self.max_items || state.bytes.saturating_add(bytes) > self.max_bytes;
        if full && state.len() > 0 {
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
        let line = match bytes > LARGE_BYTES {
            true => &mut state.large,
            false => &mut state.small,
        };
        line.push_back((item, bytes));
        let wake = state.waiting > 0;
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Takes up to `max_items` until they have `max_bytes`, at least one of each line, and from the small ones no more than half
    /// while large ones wait; waits up to `patience` for the first.
    pub(super) fn drain(
        &self,
        max_items: usize,
        max_bytes: usize,
        patience: Duration,
    ) -> Drained<T> {
        let mut state = self.wait(patience);
        let mut items = Vec::new();
        let State { small, large, .. } = &mut *state;
        let for_small = match large.is_empty() {
            true => max_bytes,
            false => max_bytes / 2,
        };
        let mut taken = take_from(small, &mut items, max_items, for_small);
        let for_large = max_bytes.saturating_sub(taken);
        taken += take_from(large, &mut items, max_items, for_large);
        state.bytes -= taken;
        Drained {
            ended: state.ended && state.len() == 0,
            items,
        }
    }

    /// Takes one item; waits for it. `None` when the queue has ended and is empty.
    pub(super) fn pop(&self) -> Option<T> {
        loop {
            let mut state = self.wait(Duration::MAX);
            let small = state.small.pop_front();
            if let Some((item, bytes)) = small.or_else(|| state.large.pop_front()) {
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
        if state.len() == 0 && !state.ended && !patience.is_zero() {
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

impl<T> State<T> {
    fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }
}

/// Takes items from the front of a line: at least one, then as long as all of them have `max_bytes` and there are no more than
/// `max_items` in all. Says how many bytes they have.
fn take_from<T>(
    line: &mut VecDeque<(T, usize)>,
    items: &mut Vec<T>,
    max_items: usize,
    max_bytes: usize,
) -> usize {
    let mut taken = 0;
    let before = items.len();
    while let Some(&(_, bytes)) = line.front() {
        let full = taken + bytes > max_bytes || items.len() >= max_items;
        if full && items.len() > before {
            break;
        }
        taken += bytes;
        items.extend(line.pop_front().map(|(item, _)| item));
    }
    if line.is_empty() && line.capacity() > 1024 {
        line.shrink_to(1024);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1024 * 1024;

    #[test]
    fn what_is_small_does_not_wait_for_what_is_large_nor_the_other_way_round() {
        let queue = Queue::new(1000, 64 * MB);
        for n in 0..20 {
            assert!(queue.push(format!("large {n}"), MB).is_ok());
        }
        for n in 0..100 {
            assert!(queue.push(format!("small {n}"), 60 * 1024).is_ok());
        }

        let drained = queue.drain(1000, 4 * MB, Duration::ZERO);

        let of = |kind: &str| {
            drained
                .items
                .iter()
                .filter(|item| item.starts_with(kind))
                .count()
        };
        assert_eq!((of("small"), of("large")), (34, 2));
        assert_eq!(
            (&*drained.items[0], &*drained.items[34]),
            ("small 0", "large 0")
        );
    }

    #[test]
    fn alone_each_line_has_all_the_room_and_one_item_always_goes() {
        let queue = Queue::new(1000, 64 * MB);
        for _ in 0..3 {
            assert!(queue.push((), 5 * MB).is_ok());
        }
        assert_eq!(queue.drain(1000, 4 * MB, Duration::ZERO).items.len(), 1);
        assert_eq!(queue.drain(1000, 10 * MB, Duration::ZERO).items.len(), 2);
        for _ in 0..10 {
            assert!(queue.push((), 10).is_ok());
        }
        assert_eq!(queue.drain(4, 4 * MB, Duration::ZERO).items.len(), 4);
        queue.end();
        let drained = queue.drain(1000, MB, Duration::ZERO);
        assert_eq!((drained.items.len(), drained.ended), (6, true));
    }
}
