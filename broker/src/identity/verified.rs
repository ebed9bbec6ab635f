//! Tokens whose signature was found to be good, so that a client that comes back with the same one costs a hash and no signature. Owns
//! what is remembered and its bound. Leaves all that may change to those who ask: time, revocation and grants are looked at each time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest;

use super::Refusal;
use super::jwt::{Key, Known};

/// The most bytes of tokens that are remembered, all together: some 20,000 of the usual length.
const MAX_BYTES: usize = 8 << 20;
/// What one costs beside its text.
const ENTRY_BYTES: usize = 128;

/// SHA-256 of a token: the token itself is not kept.
type Hash = [u8; digest::SHA256_OUTPUT_LEN];

/// Good tokens. A bad one is never remembered: who shows many of those pushes nobody out.
pub(super) struct VerifiedTokens {
    max_bytes: usize,
    tokens: Mutex<Tokens>,
}

#[derive(Default)]
struct Tokens {
    by_hash: HashMap<Hash, Verified>,
    /// The order in which they came: where there is no more room the oldest goes, and costs a signature when it is shown again.
    oldest_first: VecDeque<Hash>,
    bytes: usize,
}

struct Verified {
    /// The key that has verified it. One that is read anew is another, so that what it replaces vouches for nothing any more.
    by: Arc<Key>,
    known: Arc<Known>,
    bytes: usize,
}

impl VerifiedTokens {
    pub(super) fn new() -> Self {
        Self::with_room(MAX_BYTES)
    }

    fn with_room(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            tokens: Mutex::default(),
        }
    }

    /// What the token says, if `key` has verified it before, else by `verify`.
    pub(super) fn known(
        &self,
        token: &str,
        key: &Arc<Key>,
        verify: impl FnOnce() -> Result<Known, Refusal>,
    ) -> Result<Arc<Known>, Refusal> {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let known = self.lock().by_hash.get(&hash).and_then(|verified| {
            let is_same = Arc::ptr_eq(&verified.by, key);
            is_same.then(|| verified.known.clone())
        });
        if let Some(known) = known {
            return Ok(known);
        }
        // Not under the lock: others need not wait for a signature.
        let known = Arc::new(verify()?);
        let verified = Verified {
            by: key.clone(),
            known: known.clone(),
            bytes: token.len() + ENTRY_BYTES,
        };
        self.lock().remember(hash, verified, self.max_bytes);
        Ok(known)
    }

    fn lock(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens {
    fn remember(&mut self, hash: Hash, verified: Verified, max_bytes: usize) {
        self.bytes += verified.bytes;
        match self.by_hash.insert(hash, verified) {
            // By another key, or by somebody else at the same time: its place in the order stays.
            Some(before) => self.bytes -= before.bytes,
            None => self.oldest_first.push_back(hash),
        }
        while self.bytes > max_bytes
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            let gone = self.by_hash.remove(&oldest);
            self.bytes -= gone.map_or(0, |gone| gone.bytes);
        }
    }
}

/// Never what was shown.
impl fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use jsonwebtoken::{Algorithm, DecodingKey};
    use serde_json::json;

    use super::super::jwt::Expected;
    use super::*;

    fn key() -> Arc<Key> {
        super::super::ring_backend::install();
        let key = DecodingKey::from_secret(&[7; 32]).unwrap();
        let expected = Expected {
            issuer: "i".into(),
            audience: None,
        };
        Arc::new(Key::new(key, Algorithm::HS256, &expected).unwrap())
    }

    fn good(key: &Key) -> Result<Known, Refusal> {
        let claims = serde_json::from_value(json!({"sub": "ana", "exp": 1}));
        Ok(Known::new(claims.unwrap(), key, None))
    }

    /// Asks for a token that is good, and says whether its signature was looked at.
    fn is_verified(tokens: &VerifiedTokens, token: &str, key: &Arc<Key>) -> bool {
        let looked = Cell::new(false);
        let verify = || {
            looked.set(true);
            good(key)
        };
        tokens.known(token, key, verify).unwrap();
        looked.get()
    }

    #[test]
    fn a_good_token_is_verified_once_by_each_key() {
        let (tokens, key, newer) = (VerifiedTokens::new(), key(), key());
        assert!(is_verified(&tokens, "a", &key));
        assert!(!is_verified(&tokens, "a", &key));
        assert!(is_verified(&tokens, "b", &key), "another token");
        assert!(
            is_verified(&tokens, "a", &newer),
            "a key that was read anew"
        );
        assert!(!is_verified(&tokens, "a", &newer));
        assert!(is_verified(&tokens, "a", &key), "the key that was replaced");
        assert_eq!(tokens.lock().by_hash.len(), 2);
    }

    #[test]
    fn a_bad_token_is_bad_each_time_and_takes_no_room() {
        let (tokens, key) = (VerifiedTokens::new(), key());
        for _ in 0..2 {
            let looked = Cell::new(false);
            let verify = || {
                looked.set(true);
                Err(Refusal::unauthenticated("bad"))
            };
            assert!(tokens.known("a", &key, verify).is_err());
            assert!(looked.get());
        }
        assert_eq!(tokens.lock().bytes, 0);
        assert!(is_verified(&tokens, "a", &key), "it may become good");
    }

    #[test]
    fn where_there_is_no_room_the_oldest_goes() {
        let (tokens, key) = (VerifiedTokens::with_room(3 * (ENTRY_BYTES + 1)), key());
        for token in ["a", "b", "c", "d"] {
            assert!(is_verified(&tokens, token, &key));
        }
        for token in ["b", "c", "d"] {
            assert!(!is_verified(&tokens, token, &key), "{token}");
        }
        assert!(is_verified(&tokens, "a", &key));
        assert!(is_verified(&tokens, "b", &key), "its turn to go");
        let inner = tokens.lock();
        assert_eq!(inner.by_hash.len(), 3);
        assert_eq!(inner.oldest_first.len(), 3);
        assert_eq!(inner.bytes, 3 * (ENTRY_BYTES + 1));
        drop(inner);
        // One that is larger than all the room is let in, and not remembered.
        let large = "x".repeat(4 * ENTRY_BYTES);
        assert!(is_verified(&tokens, &large, &key) && is_verified(&tokens, &large, &key));
    }
}
