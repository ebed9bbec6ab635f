//! Keeps room on the disk: publishes are refused before it is full, since a write that fails closes the log for writing until
//! the next start, and trimming has to write too. Owns when to look and when it is too little.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::store::Condition;
use super::writer::Writer;
use crate::message_log::LogError;

/// What is kept free unless it is set: so many bytes, or a tenth of a volume that is small.
const DEFAULT_MIN_FREE_BYTES: u64 = 256 * 1024 * 1024;
/// How long what was seen is good for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often is looked whether there is room again, when nobody publishes.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(500);
/// Once there is too little room, so much more than is kept free must be there: else it would be said again and again.
const MORE_BYTES: u64 = 16 * 1024 * 1024;

/// What is known of the room on the disk.
#[derive(Debug)]
pub(super) struct LowDisk {
    dir: PathBuf,
    min_free_bytes: Option<u64>,
    looked: Option<Instant>,
    low: Option<String>,
}

impl LowDisk {
    pub(super) fn new(dir: PathBuf, min_free_bytes: Option<u64>) -> Self {
        Self {
            dir,
            min_free_bytes,
            looked: None,
            low: None,
        }
    }

    /// How long the writer may wait for something to do.
    pub(super) fn patience(&self) -> Duration {
        match self.low {
            Some(_) => LOOK_AGAIN_EVERY,
            None => Duration::MAX,
        }
    }

    fn look(&mut self, condition: &Condition) {
        if self
            .looked
            .is_some_and(|looked| looked.elapsed() < LOOK_EVERY)
        {
            return;
        }
        self.looked = Some(Instant::now());
        let volume = match rustix::fs::statvfs(&self.dir) {
            Ok(volume) => volume,
            Err(error) => {
                tracing::warn!(%error, "the room on the disk could not be looked at");
                return;
            }
        };
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        let total = volume.f_blocks.saturating_mul(volume.f_frsize);
        let min_free = self
            .min_free_bytes
            .unwrap_or(DEFAULT_MIN_FREE_BYTES.min(total / 10));
        let was_low = self.low.is_some();
        let more = if was_low {
            MORE_BYTES.min(min_free / 8)
        } else {
            0
        };
        self.low = (free < min_free.saturating_add(more)).then(|| {
            format!(
                "{} MiB are free, and {} MiB are kept free (--min-free-bytes); make room on the disk that holds {}",
                free >> 20,
                min_free >> 20,
                self.dir.display()
            )
        });
        match &self.low {
            Some(low) if !was_low => tracing::error!("the disk is nearly full: {low}"),
            None if was_low => tracing::info!("there is room on the disk again"),
            Some(_) | None => {}
        }
        condition.set_low(self.low.clone());
    }
}

impl Writer {
    /// Refuses what would take more room than there is.
    pub(super) fn check_room(&mut self) -> Result<(), LogError> {
        self.look_at_disk();
        match &self.low_disk.low {
            Some(low) => Err(LogError::NoRoom(low.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn look_at_disk(&mut self) {
        self.low_disk.look(self.store.condition());
    }
}
