//! One message for several topics, and what became of it in each. Owns how many there may be, that none stands twice, and that
//! each has its number; leaves how they are written to `codec`.

use std::collections::HashSet;
use std::fmt;

use bytestring::ByteString;

use crate::{
    Cursor, ErrorCode, Idempotency, MAX_PUBLISH_TOPICS, Message, MessageId, ProducerId, TopicName,
    TopicNameError,
};

/// The first version of Hark that takes a publish to several topics.
const PUBLISH_ALL_SINCE: [u64; 3] = [0, 2, 0];

/// Whether a broker that calls itself `version` in its `welcome` takes a publish to several topics. One whose version cannot be
/// read is not asked.
pub fn takes_publish_all(version: &str) -> bool {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = numbers.split('.').map(|part| part.parse().ok()).collect();
    numbers.is_some_and(|numbers| numbers.len() == 3 && numbers[..] >= PUBLISH_ALL_SINCE[..])
}

/// One of several topics that a message is for. A name that nobody can publish to is one too: it is refused alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination(Named);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Topic(TopicName),
    /// What was given.
    NoTopic(ByteString),
}

/// Why nobody can publish to a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The name breaks the grammar.
    #[error(transparent)]
    Name(#[from] TopicNameError),
    /// The name belongs to the system.
    #[error("{0} belongs to the system: publish to a topic without a leading $")]
    System(TopicName),
}

/// The topic of that name, if it can be published to.
pub(crate) fn topic_to_publish(name: &str) -> Result<TopicName, DestinationError> {
    let topic = TopicName::parse(name)?;
    match topic.is_system() {
        true => Err(DestinationError::System(topic)),
        false => Ok(topic),
    }
}

impl Destination {
    /// The destination of that name, whatever it is.
    pub fn parse(name: &str) -> Self {
        Self(match topic_to_publish(name) {
            Ok(topic) => Named::Topic(topic),
            Err(_) => Named::NoTopic(name.into()),
        })
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Named::Topic(topic) => topic.as_str(),
            Named::NoTopic(name) => name,
        }
    }

    /// The topic, or why it cannot be published to.
    pub fn topic(&self) -> Result<&TopicName, DestinationError> {
        match &self.0 {
            Named::Topic(topic) => Ok(topic),
            Named::NoTopic(name) => Err(match topic_to_publish(name) {
                Err(error) => error,
                Ok(topic) => DestinationError::System(topic), // never: it would be a `Topic`
            }),
        }
    }
}

impl From<TopicName> for Destination {
    fn from(topic: TopicName) -> Self {
        Self(match topic.is_system() {
            true => Named::NoTopic(topic.as_str().into()),
            false => Named::Topic(topic),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a message for several topics is known in each of them when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IdempotencyInEach {
    /// Not at all: it would be kept twice.
    #[default]
    None,
    /// By the producer's count in each topic.
    Sequences {
        /// Who counts.
        producer: ProducerId,
        /// The count in each topic, from 1, in the order of the topics.
        seqs: Vec<u64>,
    },
    /// By the same key in each.
    Key(MessageId),
}

/// A message for 1 to 1,024 topics, none of them twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishAll {
    topics: Vec<Destination>,
    message: Message,
    idempotency: IdempotencyInEach,
}

/// Why a message cannot be published to several topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishAllError {
    /// There is no topic.
    #[error("`topics` names 1 to {MAX_PUBLISH_TOPICS} topics; it is empty")]
    NoTopics,
    /// There are more than 1,024.
    #[error("`topics` names 1 to {MAX_PUBLISH_TOPICS} topics; these are {0}")]
    TooManyTopics(usize),
    /// A topic stands twice.
    #[error("`topics` names {0:?} twice")]
    Twice(String),
    /// A topic has no number, or a number no topic.
    #[error("`seqs` has a number for each of the {topics} topics; it has {seqs}")]
    SeqCount {
        /// How many topics there are.
        topics: usize,
        /// How many numbers there are.
        seqs: usize,
    },
    /// A number is 0.
    #[error("`seqs` count 1, 2, 3 … per producer and topic; one was 0")]
    SeqZero,
}

impl PublishAllError {
    /// The code it is refused with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooManyTopics(_) => ErrorCode::TooLarge,
            Self::NoTopics | Self::Twice(_) | Self::SeqCount { .. } | Self::SeqZero => {
                ErrorCode::BadFrame
            }
        }
    }
}

impl PublishAll {
    /// Checks the topics and their numbers.
    pub fn new(
        topics: Vec<Destination>,
        message: Message,
        idempotency: IdempotencyInEach,
    ) -> Result<Self, PublishAllError> {
        match topics.len() {
            0 => return Err(PublishAllError::NoTopics),
            1..=MAX_PUBLISH_TOPICS => {}
            more => return Err(PublishAllError::TooManyTopics(more)),
        }
        let mut names = HashSet::with_capacity(topics.len());
        if let Some(twice) = topics.iter().find(|topic| !names.insert(topic.as_str())) {
            return Err(PublishAllError::Twice(twice.to_string()));
        }
        if let IdempotencyInEach::Sequences { seqs, .. } = &idempotency {
            if seqs.len() != topics.len() {
                return Err(PublishAllError::SeqCount {
                    topics: topics.len(),
                    seqs: seqs.len(),
                });
            }
            if seqs.contains(&0) {
                return Err(PublishAllError::SeqZero);
            }
        }
        Ok(Self {
            topics,
            message,
            idempotency,
        })
    }

    /// Where to.
    pub fn topics(&self) -> &[Destination] {
        &self.topics
    }

    /// What. Cheap to clone for each topic: the content and the headers are shared.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// How it is known again.
    pub fn idempotency(&self) -> &IdempotencyInEach {
        &self.idempotency
    }

    /// How it is known again in the topic that stands `at` that place.
    pub fn idempotency_at(&self, at: usize) -> Idempotency {
        match &self.idempotency {
            IdempotencyInEach::None => Idempotency::None,
            IdempotencyInEach::Sequences { producer, seqs } => match seqs.get(at) {
                Some(&seq) => Idempotency::Sequence {
                    producer: producer.clone(),
                    seq,
                },
                None => Idempotency::None,
            },
            IdempotencyInEach::Key(key) => Idempotency::Key(key.clone()),
        }
    }

    /// The topics, when the rest is no longer needed.
    pub fn into_topics(self) -> Vec<Destination> {
        self.topics
    }
}

/// What became of a message in one of its topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReceipt {
    /// Which topic.
    pub topic: Destination,
    /// What became of it there.
    pub outcome: TopicOutcome,
}

/// What became of a message in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicOutcome {
    /// It is kept.
    Kept {
        /// The record's place, as in `published`.
        cursor: Cursor,
        /// Whether it had been kept before.
        duplicate: bool,
    },
    /// It was refused there.
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
        /// With `out_of_sequence`: the number that would have been taken.
        expected_seq: Option<u64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, JsonText, Payload};

    #[test]
    fn versions() {
        for yes in [
            "0.2.0",
            "0.2.7",
            "0.10.0",
            "1.0.0",
            "0.2.0-rc.1",
            "12.0.1+build",
        ] {
            assert!(takes_publish_all(yes), "{yes}");
        }
        for no in [
            "0.1.0", "0.1.99", "", "0.2", "x", "0.2.x", "2", "v1.0.0", "-1.0.0",
        ] {
            assert!(!takes_publish_all(no), "{no}");
        }
    }

    #[test]
    fn this_build_takes_what_it_knows() {
        assert!(takes_publish_all(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn what_no_topic_is_says_so() {
        assert!(Destination::parse("a.b").topic().is_ok());
        for (name, why) in [("a..b", "dots"), ("$sys", "system"), ("", "empty")] {
            let destination = Destination::parse(name);
            assert_eq!(destination.as_str(), name);
            let error = destination.topic().unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        let system = TopicName::parse("$sys").unwrap();
        assert_eq!(Destination::from(system), Destination::parse("$sys"));
    }

    #[test]
    fn each_topic_once_and_each_with_its_number() {
        let message = Message {
            payload: Payload::Json(JsonText::check("1".into()).unwrap()),
            headers: Headers::default(),
        };
        let new = |names: &[&str], idempotency| {
            let topics = names.iter().map(|name| Destination::parse(name)).collect();
            PublishAll::new(topics, message.clone(), idempotency)
        };
        let counted = |seqs: &[u64]| IdempotencyInEach::Sequences {
            producer: ProducerId::parse("p").unwrap(),
            seqs: seqs.to_vec(),
        };
        let publish = new(&["a", "b"], counted(&[7, 9])).unwrap();
        assert!(matches!(
            publish.idempotency_at(1),
            Idempotency::Sequence { seq: 9, .. }
        ));
        let none = IdempotencyInEach::None;
        assert_eq!(new(&[], none.clone()), Err(PublishAllError::NoTopics));
        // Also of names that are no topics.
        for names in [["a", "a"], ["a..", "a.."]] {
            let twice = PublishAllError::Twice(names[0].to_owned());
            assert_eq!(new(&names, none.clone()), Err(twice));
        }
        let wrong = new(&["a", "b"], counted(&[1]));
        assert_eq!(wrong, Err(PublishAllError::SeqCount { topics: 2, seqs: 1 }));
        assert_eq!(new(&["a"], counted(&[0])), Err(PublishAllError::SeqZero));
        let many: Vec<String> = (0..=MAX_PUBLISH_TOPICS).map(|n| format!("t{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(new(&many[1..], none.clone()).is_ok());
        let too_many = new(&many, none).unwrap_err();
        assert_eq!(too_many.code(), ErrorCode::TooLarge);
    }
}
