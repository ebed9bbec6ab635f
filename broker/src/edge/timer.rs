//! One timer of a stream, for what is waited for just now. Owns that a machine that slept convicts nobody in its sleep.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::patience::{Judge, Verdict};

/// One timer, for what is waited for just now.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// While something is waited for: since when, and who says that it is late.
    waits: Option<(Instant, Judge)>,
}

impl Timer {
    pub(super) fn arm(&mut self, wait: Duration) {
        let now = Instant::now();
        let judge = Judge::new(wait, now.into_std());
        let due = judge.due().into();
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(due),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(due))),
        }
        self.waits = Some((now, judge));
    }

    pub(super) fn disarm(&mut self) {
        self.waits = None;
    }

    pub(super) fn is_armed(&self) -> bool {
        self.waits.is_some()
    }

    /// Whether the time is over. Who is asked much too late has slept, not the other side: then it is waited once more.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let (Some(sleep), Some((since, judge))) = (&mut self.sleep, &mut self.waits) else {
            return false;
        };
        if sleep.as_mut().poll(cx).is_pending() {
            return false;
        }
        let verdict = judge.look(Instant::now().into_std(), since.into_std(), true);
        if verdict == Verdict::Overdue {
            return true;
        }
        sleep.as_mut().reset(judge.due().into());
        sleep.as_mut().poll(cx).is_ready()
    }
}
