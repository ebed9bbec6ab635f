//! Turns: how much is done for one peer before everybody else on its thread has been looked after. Owns the counting and the waiting.
//!
//! A task that wakes itself is polled again 61 times before the sockets of its thread are looked at (tokio's `LocalSet`), so whoever
//! sends without a pause would have 60 reads of 128 KiB to itself. A turn that is used up goes on only when the sockets have been
//! looked at: that is when tokio wakes whoever has called `yield_now`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Bytes that are taken from one peer in a turn (and what came together with the last of them).
pub(crate) const MAX_BYTES_A_TURN: usize = 64 * 1024;
/// Commands of one peer that are carried out in a turn, whatever they are.
pub(crate) const MAX_COMMANDS_A_TURN: usize = 64;

/// What one peer has had of its turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    commands: usize,
    bytes: usize,
    rest: Option<Arc<Rest>>,
}

/// Waits until the thread has looked at its sockets.
#[derive(Debug, Default)]
struct Rest {
    is_over: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Rest {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Turn {
    /// So much has been done.
    pub(crate) fn did(&mut self, commands: usize, bytes: usize) {
        self.commands += commands;
        self.bytes += bytes;
    }

    /// Bytes that may still be taken.
    pub(crate) fn left_bytes(&self) -> usize {
        MAX_BYTES_A_TURN.saturating_sub(self.bytes)
    }

    /// Whether nothing more may be done.
    pub(crate) fn is_used_up(&self) -> bool {
        self.commands >= MAX_COMMANDS_A_TURN || self.bytes >= MAX_BYTES_A_TURN
    }

    /// Others have had their turn meanwhile; unless it is used up, when it is waited for just that.
    pub(crate) fn begin_anew(&mut self) {
        if self.rest.is_none() {
            (self.commands, self.bytes) = (0, 0);
        }
    }

    /// There was nothing to be read: whoever waits for the socket has let others go first.
    pub(crate) fn waits_for_the_socket(&mut self) {
        self.bytes = 0;
    }

    /// Whether more may be done; where the turn is used up, the task is woken when the next begins.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_used_up() {
            return Poll::Ready(());
        }
        let rest = match &self.rest {
            Some(rest) => {
                rest.task.register(cx.waker());
                rest
            }
            None => {
                let rest = self.rest.insert(Arc::default());
                rest.task.register(cx.waker());
                wake_when_sockets_were_looked_at(rest.clone().into());
                rest
            }
        };
        match rest.is_over.load(Ordering::Acquire) {
            true => {
                *self = Self::default();
                Poll::Ready(())
            }
            false => Poll::Pending,
        }
    }
}

fn wake_when_sockets_were_looked_at(waker: Waker) {
    let yielding = pin!(tokio::task::yield_now());
    // Polled once it has left the waker with the runtime, and is not needed any more.
    let polled = yielding.poll(&mut Context::from_waker(&waker));
    debug_assert!(polled.is_pending());
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// How many commands of so many bytes are carried out before the turn ends.
    async fn commands_of(bytes: usize, turn: &mut Turn) -> usize {
        poll_fn(|cx| {
            let mut commands = 0;
            while turn.poll_ready(cx).is_ready() {
                turn.did(1, bytes);
                commands += 1;
                assert!(commands <= 1000, "the turn has no end");
            }
            // Asked again at once, it is over all the same.
            assert!(turn.poll_ready(cx).is_pending());
            Poll::Ready(commands)
        })
        .await
    }

    #[actix_web::test]
    async fn a_turn_ends_after_so_many_commands_or_bytes_and_the_next_one_begins() {
        let mut turn = Turn::default();
        for _ in 0..3 {
            assert_eq!(commands_of(0, &mut turn).await, MAX_COMMANDS_A_TURN);
            poll_fn(|cx| turn.poll_ready(cx)).await;
            assert_eq!(commands_of(MAX_BYTES_A_TURN / 4, &mut turn).await, 4);
            poll_fn(|cx| turn.poll_ready(cx)).await;
            assert_eq!(commands_of(10 * MAX_BYTES_A_TURN, &mut turn).await, 1);
            poll_fn(|cx| turn.poll_ready(cx)).await;
        }
    }

    /// However often the task is woken by something else meanwhile.
    #[actix_web::test]
    async fn a_turn_that_is_used_up_goes_on_when_sockets_were_looked_at_and_not_before() {
        let polls = actix_web::rt::spawn(async {
            let mut turn = Turn::default();
            let mut polls = 0;
            commands_of(0, &mut turn).await;
            poll_fn(|cx| match turn.poll_ready(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => {
                    polls += 1;
                    // As whoever is never done does.
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            })
            .await;
            polls
        });
        let polls = polls.await.unwrap();
        assert!(polls > 10, "after {polls} polls it went on");
    }
}
