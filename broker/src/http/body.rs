//! The bodies of requests: whole, or cut into lines as they come. Owns their bounds: in bytes, in patience, and in what is done in a turn.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::error::PayloadError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, web};
use bytes::{Buf as _, Bytes};
use futures_util::Stream;
use hark_protocol::{ErrorCode, MAX_FRAME_BYTES};

use super::{ApiError, Gate};
use crate::connections::{Connection, pages};
use crate::patience::{Judge, Verdict};
use crate::receiving::{NoRoom, Part, Receiving};
use crate::turns::Turn;

/// Lines that are given out together, at most; the next ones are read when these are done with.
const MAX_LINES_A_BATCH: usize = 512;
/// Bytes of lines that are given out together (but at least one line).
const MAX_LINE_BYTES_A_BATCH: usize = 256 * 1024;

/// What is too far away for the clock is as good as this.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// A request's body. One that dawdles is given up: no timer of the server runs once the head is there.
pub(super) struct Body {
    payload: Pin<Box<web::Payload>>,
    patience: Duration,
    /// What has come and is not given out yet.
    part: Part,
    receiving: Receiving,
    turn: Turn,
    connection: Option<Arc<Connection>>,
    received_bytes: u64,
    /// With `Content-Length`.
    announced: bool,
}

/// When what is waited for must be there: each page of it within the patience.
struct Deadline {
    patience: Duration,
    judge: Judge,
    began: Instant,
    heard: Instant,
    received: usize,
}

impl Deadline {
    fn begin(patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            patience,
            judge: Judge::new(patience, now),
            began: now,
            heard: now,
            received: 0,
        }
    }

    fn came(&mut self, bytes: usize) {
        self.received += bytes;
        self.heard = Instant::now();
    }

    /// When it will be looked whether it is there.
    fn next_look(&mut self) -> Instant {
        let pages = pages(self.received).saturating_add(1);
        let due = self.began.checked_add(self.patience.saturating_mul(pages));
        let due = due.unwrap_or_else(|| Instant::now() + A_DAY);
        self.judge.look_at(due);
        due
    }

    /// Its time has come, and it is not there. Says whether that was all, or it is to be waited for anew: what came while nothing ran is
    /// read only now.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        let is_over = self.judge.look(now, self.heard, true) == Verdict::Overdue;
        if !is_over {
            (self.began, self.received) = (now, 0);
        }
        is_over
    }
}

impl Body {
    /// The body of a request. One that is packed is refused (RFC 9110, section 8.4): it would be kept as it is, and taken for what it
    /// holds.
    pub(super) fn new(
        request: &HttpRequest,
        payload: web::Payload,
        gate: &Gate,
    ) -> Result<Self, ApiError> {
        let mut packed = request.headers().get_all(header::CONTENT_ENCODING);
        if packed.any(|packed| !packed.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(ApiError::with_status(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ErrorCode::Unsupported,
                "a body with a Content-Encoding is not taken; send it unpacked",
            ));
        }
        let settings = &gate.session_settings;
        let receiving = settings.receivings.of(&gate.client_address(request));
        Ok(Self {
            connection: Connection::of(request),
            announced: request.headers().contains_key(header::CONTENT_LENGTH),
            ..Self::coming(payload, settings.stall_timeout, receiving)
        })
    }

    /// Whether the client has said how long it is.
    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    /// A body that comes as `payload`, a page of it within `patience`.
    pub(super) fn coming(payload: web::Payload, patience: Duration, receiving: Receiving) -> Self {
        Self {
            payload: Box::pin(payload),
            patience,
            part: Part::default(),
            receiving,
            turn: Turn::default(),
            connection: None,
            received_bytes: 0,
            announced: false,
        }
    }

    /// All of it; `what` it is called where it is too large.
    pub(super) async fn whole(mut self, what: &str) -> Result<Bytes, ApiError> {
        let mut deadline = Deadline::begin(self.patience);
        while self.more(&mut deadline).await? {
            if self.part.raw.len() > MAX_FRAME_BYTES {
                return Err(too_large(what));
            }
        }
        Ok(std::mem::take(&mut self.part.raw).freeze())
    }

    /// Waits for the next piece, and puts it behind what is there; `false` at the end.
    async fn more(&mut self, deadline: &mut Deadline) -> Result<bool, ApiError> {
        loop {
            let look = deadline.next_look();
            let more = poll_fn(|cx| self.poll_more(cx));
            match tokio::time::timeout_at(look.into(), more).await {
                Ok(more) => {
                    let bytes = more?;
                    deadline.came(bytes.unwrap_or_default());
                    return Ok(bytes.is_some());
                }
                Err(_) if deadline.is_over() => {
                    return Err(ApiError::with_status(
                        StatusCode::REQUEST_TIMEOUT,
                        ErrorCode::BadFrame,
                        "the body did not come, or too slowly; send it without a pause",
                    ));
                }
                Err(_) => {}
            }
        }
    }

    /// Whether no more will come, though the body is not whole: the client has closed its side.
    fn is_cut_short(&self, cx: &Context<'_>) -> bool {
        let received = self.received_bytes;
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.body_ends_after(received, cx.waker()))
    }

    /// How many bytes have come; `None` at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, ApiError>> {
        if let Err(error) = self.receiving.take_back(&mut self.part) {
            return Poll::Ready(Err(no_room(error)));
        }
        let next = match self.turn.poll_ready(cx) {
            Poll::Ready(()) => self.payload.as_mut().poll_next(cx),
            Poll::Pending => Poll::Pending,
        };
        match next {
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Ready(Some(Ok(piece))) => {
                self.turn.did(0, piece.len());
                self.received_bytes += piece.len() as u64;
                self.receiving.came(piece.len());
                self.part.raw.extend_from_slice(&piece);
                Poll::Ready(Ok(Some(piece.len())))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(ended_early(&error))),
            Poll::Pending if self.is_cut_short(cx) => {
                Poll::Ready(Err(ended_early(&PayloadError::Incomplete(None))))
            }
            Poll::Pending => {
                self.receiving.leave(&mut self.part, cx.waker());
                Poll::Pending
            }
        }
    }
}

fn ended_early(error: &PayloadError) -> ApiError {
    ApiError::new(
        ErrorCode::BadFrame,
        format!("the body ended early: {error}"),
    )
}

/// 503: beside the code stands when to try again.
fn no_room(error: NoRoom) -> ApiError {
    ApiError::with_status(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Busy,
        error.to_string(),
    )
}

fn too_large(what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("{what} has at most {MAX_FRAME_BYTES} bytes"),
    )
}

/// A body cut into lines. Holds one line of at most the largest message, or as much that was read ahead, and what came behind it.
pub(super) struct Lines {
    body: Body,
    /// So many bytes of what is there hold no line break.
    searched: usize,
    /// Inside a line that is too long: it has been answered, the rest of it is passed over.
    skipping: bool,
    /// For the next lines, since they are waited for.
    deadline: Option<Deadline>,
    ended: bool,
    /// Why it ended before its time.
    broken: Option<ApiError>,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            searched: 0,
            skipping: false,
            deadline: None,
            ended: false,
            broken: None,
        }
    }

    /// The lines that are there, but at least one, each as `read` takes it; empty lines do not count. `None` at the end.
    pub(super) async fn next_lines<T>(
        &mut self,
        mut read: impl FnMut(Result<Bytes, ApiError>) -> T,
    ) -> Option<Vec<T>> {
        loop {
            let lines = self.take_lines(&mut read).await;
            if !lines.is_empty() {
                return Some(lines);
            }
            if self.ended {
                return None;
            }
            self.read_on().await;
        }
    }

    /// The lines that are there, each as `read` takes it: as many as are given out together.
    pub(super) async fn take_lines<T>(
        &mut self,
        mut read: impl FnMut(Result<Bytes, ApiError>) -> T,
    ) -> Vec<T> {
        if let Err(error) = self.body.receiving.take_back(&mut self.body.part) {
            self.break_off(no_room(error));
        }
        let mut lines = Vec::new();
        let mut bytes = 0;
        while lines.len() < MAX_LINES_A_BATCH && bytes < MAX_LINE_BYTES_A_BATCH {
            // The last answer says why there is no other.
            let Some(line) = self.cut().or_else(|| self.broken.take().map(Err)) else {
                break;
            };
            bytes += line.as_ref().map_or(0, Bytes::len);
            lines.push(read(line));
            self.body.turn.did(1, 0);
            poll_fn(|cx| self.body.turn.poll_ready(cx)).await;
        }
        if !lines.is_empty() {
            self.deadline = None;
            // While these are answered, which the client may not read, what was read ahead counts with all that is half received.
            poll_fn(|cx| {
                self.body.receiving.leave(&mut self.body.part, cx.waker());
                Poll::Ready(())
            })
            .await;
        }
        lines
    }

    /// Whether all of it has been read, though lines may still be there.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether more would have to be read than is held.
    pub(super) fn is_full(&self) -> bool {
        self.body.part.raw.len() > MAX_FRAME_BYTES
    }

    /// Waits for the next piece. Given up in its midst, it can be called again.
    pub(super) async fn read_on(&mut self) {
        let patience = self.body.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Deadline::begin(patience));
        match self.body.more(deadline).await {
            Ok(more) => self.ended = !more,
            Err(error) => self.break_off(error),
        }
    }

    /// No more will be read. What is left behind the last whole line is a part of one, and must not be taken for it.
    fn break_off(&mut self, error: ApiError) {
        // What was left while it was waited for; gone, if it had to go.
        self.body.receiving.take_back(&mut self.body.part).ok();
        let raw = &mut self.body.part.raw;
        let whole = raw.iter().rposition(|&byte| byte == b'\n');
        raw.truncate(whole.map_or(0, |end| end + 1));
        self.searched = self.searched.min(raw.len());
        self.broken = Some(error);
        self.ended = true;
    }

    /// The next line that is there and not empty.
    fn cut(&mut self) -> Option<Result<Bytes, ApiError>> {
        let part = &mut self.body.part;
        loop {
            if self.searched == 0 && !self.skipping {
                // At once: a body of nothing but line breaks has a line for each byte.
                let blank = part
                    .raw
                    .iter()
                    .take_while(|byte| byte.is_ascii_whitespace());
                let blank = blank.count();
                part.raw.advance(blank);
            }
            let unsearched = &part.raw[self.searched..];
            let end = unsearched.iter().position(|&byte| byte == b'\n');
            let end = end.map(|end| self.searched + end);
            self.searched = if end.is_some() { 0 } else { part.raw.len() };
            let line = match end {
                Some(end) => part.cut(end + 1),
                None if part.raw.len() > MAX_FRAME_BYTES => {
                    *part = Part::default();
                    self.searched = 0;
                    match std::mem::replace(&mut self.skipping, true) {
                        true => return None,
                        false => return Some(Err(too_large("a line"))),
                    }
                }
                None if self.ended && !part.raw.is_empty() => {
                    self.searched = 0;
                    part.raw.split()
                }
                None => return None,
            };
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = line.trim_ascii();
            match line.len() {
                0 => {}
                1..=MAX_FRAME_BYTES => return Some(Ok(Bytes::copy_from_slice(line))),
                _ => return Some(Err(too_large("a line"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use actix_web::error::PayloadError;
    use actix_web::{FromRequest as _, dev, test::TestRequest};
    use futures_util::{FutureExt as _, StreamExt as _, stream};

    use super::*;
    use crate::receiving::Receivings;
    use crate::turns::{MAX_BYTES_A_TURN, MAX_COMMANDS_A_TURN};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A body that has come whole, in these chunks, and how many of them have been taken.
    async fn body(chunks: Vec<Bytes>) -> (Body, Rc<Cell<usize>>) {
        let taken = Rc::<Cell<usize>>::default();
        let counter = taken.clone();
        let chunks = stream::iter(chunks).map(move |chunk| {
            counter.set(counter.get() + 1);
            Ok::<_, PayloadError>(chunk)
        });
        let mut payload: dev::Payload = dev::Payload::Stream {
            payload: Box::pin(chunks),
        };
        let request = TestRequest::default().to_http_request();
        let payload = web::Payload::from_request(&request, &mut payload)
            .await
            .unwrap();
        let receiving = Receivings::new(usize::MAX).of("192.0.2.1");
        (Body::coming(payload, PATIENCE, receiving), taken)
    }

    /// Asks again and again, each time after the sockets have been looked at, and counts how often it had to.
    async fn turns<T>(task: impl Future<Output = T>, mut after_each: impl FnMut()) -> (T, usize) {
        let mut task = std::pin::pin!(task);
        for turns in 1..1000 {
            let polled = poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await;
            after_each();
            if let Poll::Ready(done) = polled {
                return (done, turns);
            }
            tokio::task::yield_now().await;
        }
        panic!("it has no end");
    }

    #[actix_web::test]
    async fn a_turn_ends_after_so_many_bytes_of_a_body_whatever_they_are() {
        const CHUNK: usize = MAX_BYTES_A_TURN / 8;
        let most = Cell::new(0);
        let watch = |taken: &Rc<Cell<usize>>| {
            let taken = taken.clone();
            let before = Cell::new(0);
            let most = &most;
            move || most.set(most.get().max(taken.get() - before.replace(taken.get())))
        };

        let (whole, taken) = body(vec![Bytes::from(vec![b'x'; CHUNK]); 64]).await;
        let (whole, count) = turns(whole.whole("it"), watch(&taken)).await;
        assert_eq!(whole.unwrap().len(), 64 * CHUNK);
        assert!(count >= 8, "{count} turns");
        // Line breaks alone are nothing to answer, so nothing is given out in between.
        let (lines, taken) = body(vec![Bytes::from(vec![b'\n'; CHUNK]); 64]).await;
        let mut lines = Lines::new(lines);
        let (none, count) = turns(lines.next_lines(|line| line), watch(&taken)).await;
        assert_eq!(none, None);
        assert!(count >= 8, "{count} turns");
        assert_eq!(most.get(), 8, "chunks of one turn");
    }

    #[actix_web::test]
    async fn a_turn_ends_after_so_many_lines() {
        let (lines, _) = body(vec![Bytes::from("1\n".repeat(MAX_LINES_A_BATCH))]).await;
        let mut lines = Lines::new(lines);
        let read = Rc::<Cell<usize>>::default();
        let counter = read.clone();
        let (before, most) = (Cell::new(0), Cell::new(0));
        let next = lines.next_lines(move |line| {
            counter.set(counter.get() + 1);
            line
        });
        let (batch, _) = turns(next, || {
            most.set(most.get().max(read.get() - before.replace(read.get())));
        })
        .await;
        assert_eq!(batch.unwrap().len(), MAX_LINES_A_BATCH);
        assert_eq!(most.get(), MAX_COMMANDS_A_TURN);
    }

    #[actix_web::test]
    async fn blank_lines_and_blanks_around_lines_do_not_count() {
        for text in [
            "1\n2\n3",
            "\n\r\n 1\r\n\n\t2 \n  \n3\n\n",
            " \n1\n2\n3\n \r\n",
        ] {
            for size in 1..text.len() {
                let chunks = text.as_bytes().chunks(size).map(Bytes::copy_from_slice);
                let (lines, _) = body(chunks.collect()).await;
                let mut lines = Lines::new(lines);
                let mut all = Vec::new();
                while let Some(some) = lines.next_lines(Result::unwrap).await {
                    all.extend(some);
                }
                assert_eq!(all, ["1", "2", "3"], "{text:?} in pieces of {size}");
            }
        }
    }

    /// What is told to go is answered so, whatever its task waits for.
    #[actix_web::test]
    async fn a_body_whose_part_is_taken_away_is_answered() {
        let all = Receivings::new(usize::MAX);
        let (mut half, _) = body(vec![Bytes::from(vec![b'x'; 10_000])]).await;
        half.receiving = all.of("192.0.2.1");
        let request = TestRequest::default().to_http_request();
        let mut never: dev::Payload = dev::Payload::Stream {
            payload: Box::pin(stream::pending()),
        };
        let never = web::Payload::from_request(&request, &mut never);
        let never = never.await.unwrap();
        let mut deadline = Deadline::begin(PATIENCE);
        assert_eq!(half.more(&mut deadline).await, Ok(true));
        half.payload = Box::pin(never);
        let mut whole = Box::pin(half.whole("it"));
        assert_eq!((&mut whole).now_or_never(), None);
        assert!(all.used() >= 10_000);
        all.let_go_of_all();
        assert_eq!(whole.await, Err(no_room(NoRoom)));
    }
}
