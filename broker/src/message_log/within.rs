//! What counts within the identity of whoever publishes: the names that publishers choose, for themselves and for their messages. Owns
//! that the same name of another identity is another.

use hark_protocol::{Idempotency, Identity, MessageId, ProducerId};

/// A name, within an identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Within<T> {
    /// Whose it is. All who are anonymous share theirs.
    pub identity: Option<Identity>,
    /// The name.
    pub name: T,
}

/// Somebody who counts messages.
pub type Producer = Within<ProducerId>;
/// A key of a message.
pub type MessageKey = Within<MessageId>;

/// What a message is known by if it comes again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KnownBy {
    /// It is not known.
    Nothing,
    /// By who counts it, and its number.
    Sequence(Producer, u64),
    /// By its key.
    Key(MessageKey),
}

/// What an identity costs in memory beside its two parts.
const IDENTITY_BYTES: usize = 80;

impl Producer {
    /// What its name and its identity cost in memory.
    pub fn bytes(&self) -> usize {
        self.name.as_str().len() + identity_bytes(self.identity.as_ref())
    }
}

impl MessageKey {
    /// What its name and its identity cost in memory.
    pub fn bytes(&self) -> usize {
        self.name.as_str().len() + identity_bytes(self.identity.as_ref())
    }
}

impl KnownBy {
    /// What a message of that identity is known by.
    pub fn new(identity: Option<Identity>, idempotency: Idempotency) -> Self {
        match idempotency {
            Idempotency::None => Self::Nothing,
            Idempotency::Sequence { producer, seq } => {
                let name = producer;
                Self::Sequence(Within { identity, name }, seq)
            }
            Idempotency::Key(name) => Self::Key(Within { identity, name }),
        }
    }
}

/// What an identity costs in memory. Others may share it.
pub(super) fn identity_bytes(identity: Option<&Identity>) -> usize {
    identity.map_or(0, |identity| identity.size_bytes() + IDENTITY_BYTES)
}

/// One of nobody.
#[cfg(test)]
impl<T> From<T> for Within<T> {
    fn from(name: T) -> Self {
        let identity = None;
        Self { identity, name }
    }
}
