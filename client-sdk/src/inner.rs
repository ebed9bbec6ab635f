//! What Hark's own command line has in common with this client, so that it stands once. Owns nothing. Not for applications: what is here changes
//! without notice.
#![doc(hidden)]

pub use crate::backoff::draw;
pub use crate::dial::retry_after;
pub use crate::figures::LONGEST_RETRY_AFTER;
pub use crate::race::{Doubts, first};
#[cfg(feature = "tls")]
pub use crate::tls::{Certificates, TlsFiles};
