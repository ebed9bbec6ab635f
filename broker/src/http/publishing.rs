//! Publishing for HTTP requests: to the rooms, as every publish goes, and back as JSON. One message, or lines that are answered one
//! by one, whatever their topics.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::HttpResponse;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{join_all, ready};
use futures_util::stream::{self, StreamExt};
use hark_protocol::codec::json::{AnyPublish, Publish as Asked};
use hark_protocol::{ErrorCode, Idempotency, MAX_PUBLISH_TOPICS, Message, PublishAll, TopicName};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::ApiError;
use super::body::{Body, Lines};
use crate::budget::Taken;
use crate::limits::{Rated, TooMuch};
use crate::topic::{Access, Outcome, Publish, Publisher, Receipt};

/// Answers to lines that are held back until the body has ended; behind them so much of it is read ahead as a message may have, and a body
/// that goes on is answered while it comes.
const MAX_HELD_BYTES: usize = 256 * 1024;
/// How long the answers to a body may be held back: until it pauses for so long, or comes for so long.
struct Hold {
    pause: Duration,
    longest: Duration,
}

/// Who pauses may be waiting for an answer, and who does not end may never do.
const HOLD: Hold = Hold {
    pause: Duration::from_millis(100),
    longest: Duration::from_secs(1),
};
/// Where the length was announced the rest is on its way, and a slow line has pauses of a round trip.
const HOLD_OF_ANNOUNCED: Hold = Hold {
    pause: Duration::from_secs(1),
    longest: Duration::from_secs(10),
};
/// Beside the content, what a message costs in memory for each of several topics, roughly.
const TOPIC_OVERHEAD_BYTES: usize = 256;

/// One of several messages, and how its answer is to be told from the others'.
pub(super) struct Line {
    pub(super) publish: Result<AnyPublish, ApiError>,
    /// The client's own, told back.
    pub(super) id: Option<u64>,
    /// Whether the answer names the topic.
    pub(super) names_topic: bool,
}

impl Line {
    pub(super) fn of_one_topic(publish: Result<Asked, ApiError>) -> Self {
        Self {
            publish: publish.map(AnyPublish::One),
            id: None,
            names_topic: false,
        }
    }

    /// How many messages it is where they are counted: one for each topic.
    pub(super) fn count(&self) -> usize {
        match &self.publish {
            Ok(AnyPublish::All(publish)) => publish.topics().len(),
            Ok(AnyPublish::One(_)) | Err(_) => 1,
        }
    }

    /// A line that cannot even be looked into.
    pub(super) fn refused(error: ApiError) -> Self {
        Self::of_one_topic(Err(error))
    }
}

/// Publishes one message, and gives its receipt.
pub(super) async fn publish_one(
    access: &Access,
    topic: TopicName,
    message: Message,
    idempotency: Idempotency,
) -> Result<Value, ApiError> {
    let bytes = message.size_bytes();
    // The request itself is counted as a command.
    access.meter().take(&[(Rated::Bytes, bytes as u64)])?;
    let taken = take(access, bytes);
    let outcomes = publish(access, &topic, vec![(message, idempotency, taken)]).await;
    outcomes
        .into_iter()
        .next()
        .unwrap_or_else(|| Err(no_answer()))
}

/// What a message holds of the bytes that may be staged, if that can be had.
fn take(access: &Access, bytes: usize) -> Option<Arc<Taken>> {
    let taken = access.settings().staged_budget.try_take(bytes);
    taken.map(Arc::new)
}

/// A message on its way to one topic.
type Outgoing = (Message, Idempotency, Option<Arc<Taken>>);

/// Whose answer it is: which line's, and which of its topics'.
type Place = (usize, Option<usize>);

/// Publishes messages of any topics, each topic's together and in their order, and gives an answer for each.
pub(super) async fn publish_all(access: &Access, lines: Vec<Line>) -> Vec<Value> {
    let mut answers = vec![Value::Null; lines.len()];
    let mut by_topic: HashMap<TopicName, Vec<(Place, Outgoing)>> = HashMap::new();
    for (at, line) in lines.into_iter().enumerate() {
        let topic = match &line.publish {
            Ok(AnyPublish::One(asked)) if line.names_topic => Some(asked.topic.as_str()),
            _ => None,
        };
        let named = json!({ "id": line.id, "topic": topic });
        answers[at] = named;
        if let Err(too_much) = count(access, &line) {
            say(&mut answers[at], ApiError::from(too_much).body());
            continue;
        }
        match line.publish {
            Ok(AnyPublish::One(Asked {
                topic,
                message,
                idempotency,
            })) => {
                let taken = take(access, message.size_bytes());
                let outgoing = (message, idempotency, taken);
                let topic = by_topic.entry(topic).or_default();
                topic.push(((at, None), outgoing));
            }
            Ok(AnyPublish::All(publish)) => {
                let receipts = publish_to_each(access, at, &publish, &mut by_topic);
                say(&mut answers[at], json!({ "receipts": receipts }));
            }
            Err(error) => say(&mut answers[at], error.body()),
        }
    }
    let topics = by_topic.into_iter().map(|(topic, items)| async move {
        let (places, messages): (Vec<Place>, Vec<Outgoing>) = items.into_iter().unzip();
        let outcomes = publish(access, &topic, messages).await;
        places.into_iter().zip(outcomes).collect::<Vec<_>>()
    });
    for ((at, topic), outcome) in join_all(topics).await.into_iter().flatten() {
        let answer = match topic {
            None => &mut answers[at],
            Some(topic) => &mut answers[at]["receipts"][topic],
        };
        say(answer, outcome.unwrap_or_else(|error| error.body()));
    }
    answers
}

/// Counts one of several messages: one for several topics once for each, though its content once.
fn count(access: &Access, line: &Line) -> Result<(), TooMuch> {
    let bytes = match &line.publish {
        Ok(AnyPublish::One(asked)) => asked.message.size_bytes(),
        Ok(AnyPublish::All(publish)) => publish.message().size_bytes(),
        Err(_) => 0,
    };
    let commands = line.count() as u64;
    let wanted = [(Rated::Commands, commands), (Rated::Bytes, bytes as u64)];
    access.meter().take(&wanted)
}

/// Hands a message to each of its topics. Gives the answers, so far as they are known: of a topic that is none, all of it.
fn publish_to_each(
    access: &Access,
    at: usize,
    publish: &PublishAll,
    by_topic: &mut HashMap<TopicName, Vec<(Place, Outgoing)>>,
) -> Vec<Value> {
    let message = publish.message();
    // The content once: it is shared.
    let bytes = message.size_bytes() + publish.topics().len() * TOPIC_OVERHEAD_BYTES;
    let taken = take(access, bytes);
    let topics = publish.topics().iter().enumerate();
    let hand_over = topics.map(|(index, destination)| {
        let mut receipt = json!({ "topic": destination.as_str() });
        match destination.topic() {
            Ok(topic) => {
                let idempotency = publish.idempotency_at(index);
                let outgoing = (message.clone(), idempotency, taken.clone());
                let topic = by_topic.entry(topic.clone()).or_default();
                topic.push(((at, Some(index)), outgoing));
            }
            Err(error) => {
                let error = ApiError::new(ErrorCode::BadTopic, error.to_string());
                say(&mut receipt, error.body());
            }
        }
        receipt
    });
    hand_over.collect()
}

/// Adds to an answer that so far says which message it is to.
fn say(answer: &mut Value, what: Value) {
    let (Value::Object(answer), Value::Object(what)) = (answer, what) else {
        return;
    };
    answer.retain(|_, value| !value.is_null());
    answer.extend(what);
}

/// Publishes messages of one topic together and waits until they are answered: for each a receipt, or why not.
async fn publish(
    access: &Access,
    topic: &TopicName,
    messages: Vec<Outgoing>,
) -> Vec<Result<Value, ApiError>> {
    let count = messages.len();
    let all = |error: ApiError| vec![Err(error); count];
    // Held until the answer, so that the room does not retire; asked for each time, since one may have died meanwhile.
    let right = match access.publish_to(topic) {
        Ok(right) => right,
        Err(refusal) => return all(refusal.into()),
    };
    let mut items = Vec::with_capacity(count);
    for (tag, (message, idempotency, taken)) in messages.into_iter().enumerate() {
        let Some(taken) = taken else {
            return all(ApiError::new(
                ErrorCode::Busy,
                "too much is waiting to be kept; send it again in a moment",
            ));
        };
        items.push(right.item(tag, message, idempotency, taken));
    }
    let (send, receipts) = oneshot::channel();
    let reply = Arc::new(Reply(Mutex::new(Some(send))));
    right.publish(Publish::new(reply, items));
    let Ok(receipts) = receipts.await else {
        return all(no_answer());
    };
    let mut answers = all(no_answer());
    for Receipt { tag, outcome } in receipts {
        answers[tag] = match outcome {
            Outcome::Kept { cursor, duplicate } => {
                Ok(json!({ "cursor": cursor.to_string(), "duplicate": duplicate }))
            }
            Outcome::Refused(refusal) => Err(refusal.into()),
        };
    }
    answers
}

fn no_answer() -> ApiError {
    ApiError::new(
        ErrorCode::Busy,
        "the topic's room could not answer; send it again",
    )
}

/// Where the receipts of one envelope go.
struct Reply(Mutex<Option<oneshot::Sender<Vec<Receipt>>>>);

impl Publisher for Reply {
    fn take_receipts(&self, receipts: Vec<Receipt>) {
        if let Some(reply) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The request may have been given up meanwhile.
            drop(reply.send(receipts));
        }
    }
}

/// One message a line, each answered by a line, as they are kept: the answer begins while the body still comes. `read` reads a line.
///
/// actix-http closes a connection on which an answer begins before the request has ended. So a batch that comes without a pause is
/// answered when it is there; any other body is answered from then on as its lines are kept.
pub(super) async fn answer_lines(
    access: Access,
    body: Body,
    read: impl FnMut(Bytes) -> Line + 'static,
) -> HttpResponse {
    let hold = match body.is_announced() {
        true => HOLD_OF_ANNOUNCED,
        false => HOLD,
    };
    let end = Instant::now() + hold.longest;
    let mut answering = Answering {
        access,
        lines: Lines::new(body),
        read,
    };
    let mut response = HttpResponse::Ok();
    response.content_type("application/x-ndjson");
    let mut held = BytesMut::new();
    loop {
        let may_hold = held.len() < MAX_HELD_BYTES;
        if may_hold && let Some(answers) = answering.answer_those_there().await {
            held.extend_from_slice(&answers);
            continue;
        }
        if answering.lines.has_ended() {
            match may_hold {
                true => return response.body(held.freeze()),
                false => break,
            }
        }
        let end = end.min(Instant::now() + hold.pause);
        if answering.lines.is_full() || timeout_at(end, answering.lines.read_on()).await.is_err() {
            break;
        }
    }
    let others = stream::unfold(answering, |mut answering| async move {
        let answers = answering.answer_next().await?;
        Some((answers, answering))
    });
    let answers = stream::once(ready(held.freeze())).chain(others);
    response.streaming(answers.map(Ok::<_, actix_web::Error>))
}

/// A body of lines that is being answered.
struct Answering<R> {
    access: Access,
    lines: Lines,
    read: R,
}

impl<R: FnMut(Bytes) -> Line> Answering<R> {
    /// The answers to the lines that are there, if any are.
    async fn answer_those_there(&mut self) -> Option<Bytes> {
        let read = |line: Result<Bytes, ApiError>| line.map_or_else(Line::refused, &mut self.read);
        let lines = self.lines.take_lines(read).await;
        match lines.is_empty() {
            true => None,
            false => Some(answer(&self.access, lines).await),
        }
    }

    /// The answers to the next lines; `None` at the end.
    async fn answer_next(&mut self) -> Option<Bytes> {
        let read = |line: Result<Bytes, ApiError>| line.map_or_else(Line::refused, &mut self.read);
        let lines = self.lines.next_lines(read).await?;
        Some(answer(&self.access, lines).await)
    }
}

/// Publishes lines, and gives the lines of their answers.
async fn answer(access: &Access, lines: Vec<Line>) -> Bytes {
    let mut lines = VecDeque::from(lines);
    let mut answers = BytesMut::new();
    while !lines.is_empty() {
        for answer in publish_all(access, take_turn(&mut lines)).await {
            answers.put_slice(answer.to_string().as_bytes());
            answers.put_u8(b'\n');
        }
    }
    answers.freeze()
}

/// The next lines, until they are for so many topics as one may be for; at least one: a line of topics takes a turn of its own.
fn take_turn(lines: &mut VecDeque<Line>) -> Vec<Line> {
    let mut turn = Vec::new();
    let mut count = 0;
    while count < MAX_PUBLISH_TOPICS
        && let Some(line) = lines.pop_front()
    {
        count += line.count();
        turn.push(line);
    }
    turn
}
