//! Answers that are held whole until they are read: pages of the history. Owns the bytes that all of them may have together, who waits for
//! room.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use hark_protocol::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ApiError;
use crate::connections::Connection;

/// What all answers may have together.
const TOTAL_BYTES: usize = 64 * 1024 * 1024;
/// What one may need while it is made: its records, their frames, and the whole of them.
const MAKING_BYTES: usize = 3 * 1024 * 1024;
/// Room is counted in units of so many bytes.
const UNIT_BYTES: usize = 1024;
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(10);
/// The room that all answers share.
#[derive(Debug)]
pub struct Answers {
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Room for one answer; given back when dropped.
#[derive(Debug)]
pub(super) struct Room(OwnedSemaphorePermit);

impl Default for Answers {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(TOTAL_BYTES / UNIT_BYTES)),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Answers {
    /// How many requests wait for room just now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for room to make an answer in: those who came first have it first.
    pub(super) async fn room(&self) -> Result<Room, ApiError> {
        let units = units(MAKING_BYTES);
        let room = self.room.clone();
        if let Ok(permit) = room.clone().try_acquire_many_owned(units) {
            return Ok(Room(permit));
        }
        let _waiting = Waiting::begin(&self.waiting);
        let waited = tokio::time::timeout(PATIENCE, room.acquire_many_owned(units)).await;
        waited.ok().and_then(Result::ok).map(Room).ok_or_else(|| {
            ApiError::new(
                ErrorCode::Busy,
                "too many answers wait to be read by their clients; try again in a moment",
            )
        })
    }
}

/// Counts who waits, however the wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// An answer that is made, as a body: holds its room until it is dropped, which it is when all of it is with the socket.
#[derive(Debug)]
pub(super) struct Held {
    left: Bytes,
    connection: Option<Arc<Connection>>,
    _room: Room,
}

impl Held {
    pub(super) fn new(body: String, room: Room, connection: Option<Arc<Connection>>) -> Self {
        let mut left = body.into_bytes();
        left.shrink_to_fit();
        let Room(mut permit) = room;
        // What was needed to make it is given back.
        let kept = (units(left.len()) as usize).min(permit.num_permits());
        drop(permit.split(permit.num_permits() - kept));
        let held = Self {
            left: left.into(),
            connection,
            _room: Room(permit),
        };
        if let Some(connection) = &held.connection {
            connection.holds_answer(held.left.len());
        }
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.holds_answer(0);
        }
    }
}

impl MessageBody for Held {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(std::mem::take(&mut self.left))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn answers_that_are_not_read_leave_no_room_for_others_until_they_are() {
        let answers = Answers::default();
        let mut held = Vec::new();
        while let Ok(permit) = answers
            .room
            .clone()
            .try_acquire_many_owned(units(MAKING_BYTES))
        {
            held.push(Room(permit));
        }
        assert_eq!(held.len(), TOTAL_BYTES / MAKING_BYTES);
        let mut waits = std::pin::pin!(answers.room());
        let at_once = tokio::time::timeout(Duration::ZERO, waits.as_mut()).await;
        assert!(at_once.is_err());
        assert_eq!(answers.waiting(), 1);

        // One that is made gives back what it does not need.
        let made = Held::new("x".repeat(1000), held.remove(0), None);
        assert!(waits.await.is_ok());
        assert_eq!(answers.waiting(), 0);
        drop((made, held));
        assert_eq!(answers.room.available_permits(), TOTAL_BYTES / UNIT_BYTES);
    }
}
