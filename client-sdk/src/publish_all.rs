//! Publishing one message to several topics: the same as to each alone, in one frame, with a receipt for each.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use hark_protocol::{JsonText, Payload, TopicName};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::client::{Command, Shared};
use crate::outbox::{Outgoing, Permits, Together};
use crate::publish::{Draft, bytes_of, check_topic, json_of};
use crate::{Client, PublishError, Receipt};

/// A message that is about to be published to several topics. Nothing happens before [`send`](Self::send).
#[derive(Debug)]
#[must_use = "nothing is published before `send`"]
pub struct PublishAll<'a> {
    topics: Vec<String>,
    draft: Draft<'a>,
}

impl Client {
    /// A message whose content is `data` as JSON, for several topics, none of them twice. It goes to the broker once, and each
    /// topic keeps it by itself: in its order, with a receipt of its own, and sent again alone if it failed there.
    ///
    /// A broker older than 0.2.0 is sent one message for each topic.
    pub fn publish_all<T: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = T>,
        data: &(impl Serialize + ?Sized),
    ) -> PublishAll<'_> {
        PublishAll::new(self, topics, json_of(data))
    }

    /// As [`publish_all`](Self::publish_all), of bytes: see [`publish_bytes`](Self::publish_bytes).
    pub fn publish_all_bytes<T: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = T>,
        data: impl Into<Bytes>,
        content_type: Option<&str>,
    ) -> PublishAll<'_> {
        PublishAll::new(self, topics, Ok(bytes_of(data.into(), content_type)))
    }

    /// As [`publish_all`](Self::publish_all), of JSON text: see [`publish_json`](Self::publish_json).
    pub fn publish_all_json<T: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = T>,
        json: JsonText,
    ) -> PublishAll<'_> {
        self.publish_all_payload(topics, Payload::Json(json))
    }

    /// As [`publish_all`](Self::publish_all), of what another message held: see [`publish_payload`](Self::publish_payload).
    pub fn publish_all_payload<T: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = T>,
        payload: Payload,
    ) -> PublishAll<'_> {
        PublishAll::new(self, topics, Ok(payload))
    }
}

impl<'a> PublishAll<'a> {
    fn new<T: Into<String>>(
        client: &'a Client,
        topics: impl IntoIterator<Item = T>,
        payload: Result<Payload, PublishError>,
    ) -> Self {
        Self {
            topics: topics.into_iter().map(Into::into).collect(),
            draft: Draft::new(client, payload),
        }
    }

    /// A name and a value beside the content. At most 32 pairs and 4 KiB in all.
    pub fn header(mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.draft.headers.push((name.into(), value.into()));
        self
    }

    /// A key of the application's own choosing, the same in each topic: see [`Publish::message_id`](crate::Publish::message_id).
    pub fn message_id(mut self, id: &'a str) -> Self {
        self.draft.message_id = Some(id);
        self
    }

    /// Hands the message over, as soon as it has its places in the window of unanswered messages: one for each topic, and its
    /// content once. (One for more topics than the window has places takes all of them.)
    ///
    /// The error is of the message as a whole: what is wrong with one topic is in its receipt.
    pub async fn send(self) -> Result<PendingReceipts, PublishError> {
        let checked: Vec<_> = self.topics.iter().map(|name| check_topic(name)).collect();
        let mut names: HashSet<&TopicName> = HashSet::new();
        let topics = checked.iter().flatten();
        if let Some(twice) = topics.clone().find(|topic| !names.insert(topic)) {
            return Err(PublishError::TopicTwice(twice.clone()));
        }
        let topics: Vec<TopicName> = topics.cloned().collect();
        let Client { shared, commands } = self.draft.client;
        let (message, message_id) = self.draft.check()?;
        let content_bytes = message.payload.len();
        let (mut places, bytes) = shared.place_in_window(topics.len(), content_bytes).await?;
        let bytes = Arc::new(bytes);
        let together = Arc::new(Together { topics });
        let mut all = Vec::with_capacity(together.topics.len());
        let mut answers = Vec::with_capacity(checked.len());
        for checked in checked {
            let topic = match checked {
                Ok(topic) => topic,
                Err(error) => {
                    answers.push(Answer::Known(Err(error)));
                    continue;
                }
            };
            let (reply, answer) = oneshot::channel();
            answers.push(Answer::Expected(answer));
            all.push(Outgoing {
                topic,
                message: message.clone(),
                message_id: message_id.clone(),
                reply,
                permits: Permits {
                    _message: places.split(1),
                    _bytes: Arc::clone(&bytes),
                },
                together: Some(Arc::clone(&together)),
            });
        }
        match commands.send(Command::PublishAll(all)) {
            Ok(()) => Ok(PendingReceipts::new(answers, shared)),
            Err(_) => Err(shared.ended().into()),
        }
    }

    /// Publishes and waits for the receipts of all topics, in the order of the topics.
    pub async fn receipts(self) -> Result<Vec<Result<Receipt, PublishError>>, PublishError> {
        Ok(self.send().await?.await)
    }
}

/// The receipts of a message for several topics, which have not all come yet: a [`Receipt`] or an error for each, in the order of the
/// topics. Dropping it does not take the message back.
#[must_use = "await it to know that the message is kept"]
pub struct PendingReceipts {
    answers: Vec<Answer>,
    /// All before this one are known.
    at: usize,
    timeout: Option<(Pin<Box<Sleep>>, Duration)>,
    shared: Arc<Shared>,
}

enum Answer {
    Known(Result<Receipt, PublishError>),
    Expected(oneshot::Receiver<Result<Receipt, PublishError>>),
}

impl PendingReceipts {
    fn new(answers: Vec<Answer>, shared: &Arc<Shared>) -> Self {
        let timeout = shared
            .request_timeout
            .map(|after| (Box::pin(tokio::time::sleep(after)), after));
        Self {
            answers,
            at: 0,
            timeout,
            shared: Arc::clone(shared),
        }
    }
}

impl Future for PendingReceipts {
    type Output = Vec<Result<Receipt, PublishError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut late = None;
        while let Some(answer) = this.answers.get_mut(this.at) {
            if let Answer::Expected(receiver) = answer {
                let known = match (Pin::new(receiver).poll(cx), late) {
                    (Poll::Ready(answer), _) => {
                        answer.unwrap_or_else(|_| Err(this.shared.ended().into()))
                    }
                    (Poll::Pending, Some(after)) => Err(PublishError::TimedOut(after)),
                    (Poll::Pending, None) => {
                        let Some((sleep, after)) = &mut this.timeout else {
                            return Poll::Pending;
                        };
                        ready!(sleep.as_mut().poll(cx));
                        // What has come meanwhile of those behind it still counts.
                        late = Some(*after);
                        continue;
                    }
                };
                *answer = Answer::Known(known);
            }
            this.at += 1;
        }
        let answers = std::mem::take(&mut this.answers).into_iter();
        Poll::Ready(
            answers
                .filter_map(|answer| match answer {
                    Answer::Known(known) => Some(known),
                    Answer::Expected(_) => None, // none is left
                })
                .collect(),
        )
    }
}

impl std::fmt::Debug for PendingReceipts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingReceipts").finish_non_exhaustive()
    }
}
