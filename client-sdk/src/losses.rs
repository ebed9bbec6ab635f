//! Connections that were lost in a row without bringing something through: how many, and whether that is too many
//! (`protocol/README.md`, "A message that does not come through"). What is done then is the outbox's and the inbox's.

use std::mem;

use crate::figures::LOSSES_BEFORE_STUCK;

/// So many, and whatever was under way with it may be the cause as well.
const BEFORE_SUSPICIOUS: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct Losses {
    in_a_row: u32,
    /// This connection has brought something.
    answered: bool,
}

impl Losses {
    /// Something came through.
    pub(crate) fn answered(&mut self) {
        *self = Self {
            in_a_row: 0,
            answered: true,
        };
    }

    /// It is something else now that has to come through.
    pub(crate) fn start_over(&mut self) {
        self.in_a_row = 0;
    }

    /// The connection is gone. `tried`: it had been asked to bring it through. Whether that was one too many.
    pub(crate) fn connection_lost(&mut self, tried: bool, proven: bool) -> bool {
        let answered = mem::take(&mut self.answered);
        if !tried || answered {
            return false;
        }
        // What is stuck already is tried on connections that have proven themselves with something else.
        match proven && !self.is_stuck() {
            true => self.in_a_row = 0,
            false => self.in_a_row = self.in_a_row.saturating_add(1),
        }
        self.is_stuck()
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.in_a_row >= LOSSES_BEFORE_STUCK
    }

    pub(crate) fn are_suspicious(&self) -> bool {
        self.in_a_row >= BEFORE_SUSPICIOUS
    }

    pub(crate) fn tries(&self) -> u32 {
        self.in_a_row
    }
}
