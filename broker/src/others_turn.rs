//! Letting others go first: a pause of a task that is over only when the driver has been asked what came for the others on the thread.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Others' turn. A task that wakes itself, or is woken by something else meanwhile, would be in line again before the driver has been asked: a
/// `LocalSet` runs 61 tasks before it does. So this looks whether it was.
#[derive(Debug)]
pub(crate) struct OthersTurn(Arc<Deferred>);

#[derive(Debug)]
struct Deferred {
    over: AtomicBool,
    task: Waker,
}

impl Wake for Deferred {
    fn wake(self: Arc<Self>) {
        self.over.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl OthersTurn {
    /// Begins it; the task is woken when it is over.
    pub(crate) fn begin(cx: &Context<'_>) -> Self {
        let deferred = Arc::new(Deferred {
            over: AtomicBool::new(false),
            task: cx.waker().clone(),
        });
        let waker = Waker::from(deferred.clone());
        // Polled once it leaves its waker with the scheduler, which wakes it after the driver: that is all that is wanted of it.
        if pin!(tokio::task::yield_now())
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            waker.wake();
        }
        Self(deferred)
    }

    /// Whether it is over.
    pub(crate) fn poll(&self) -> Poll<()> {
        if self.0.over.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn it_is_not_over_because_the_task_runs_again() {
        let turn = std::future::poll_fn(|cx| Poll::Ready(OthersTurn::begin(cx))).await;
        let mut runs = 0;
        std::future::poll_fn(|cx| {
            runs += 1;
            if turn.poll().is_ready() {
                return Poll::Ready(());
            }
            if runs < 5 {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        assert!(runs > 1, "it was over at once");
    }
}
