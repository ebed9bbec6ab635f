//! Whether a settled identity still stands. Owns the count of changes to what identities are judged by (keys, rules, revocations): one that was
//! judged under an older count is judged again, without its token, before anything new is granted to it.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use hark_protocol::ErrorCode;

use super::authority::Live;
use super::{Identity, Refusal};

/// How often what identities are judged by has changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(Arc<AtomicU64>);

impl Changes {
    /// To be called after the change can be seen.
    pub(super) fn count_one(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// By whom an identity was judged, and after how many changes.
#[derive(Debug)]
pub(super) struct Standing {
    changes: Changes,
    judged_after: AtomicU64,
    judge: Weak<Live>,
}

impl Standing {
    /// `after`: how many changes there had been before the judgement began.
    pub(super) fn new(changes: &Changes, after: u64, judge: Weak<Live>) -> Self {
        Self {
            changes: changes.clone(),
            judged_after: AtomicU64::new(after),
            judge,
        }
    }

    /// What has become of `identity`, whose standing this is.
    pub(super) fn of<'a>(&self, identity: &'a Identity) -> Result<Cow<'a, Identity>, Refusal> {
        let so_far = self.changes.so_far();
        if self.judged_after.load(Ordering::Acquire) == so_far {
            return Ok(Cow::Borrowed(identity));
        }
        let Some(judge) = self.judge.upgrade() else {
            return Ok(Cow::Borrowed(identity));
        };
        match judge.again(identity, SystemTime::now()) {
            Ok(again) if again.is_like(identity) => {}
            Ok(again) => return Ok(Cow::Owned(again)),
            // It cannot be judged just now (keys are being fetched), and was good: when there are keys that is another change.
            Err(refusal) if refusal.code == ErrorCode::Busy => {}
            Err(refusal) => return Err(refusal),
        }
        self.judged_after.store(so_far, Ordering::Release);
        Ok(Cow::Borrowed(identity))
    }
}
