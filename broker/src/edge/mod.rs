//! The edge: what lies beneath actix-http. Owns the guarded stream that every connection is read and written through, so that what a peer
//! can make the server hold, do and wait for is bounded before anything is parsed; leaves requests and answers to `http`, and who is
//! overdue to `connections`.
//!
//! actix-http reads as many requests as 128 KiB hold before it looks at the first one's answer, has a timer for the first head of a
//! connection alone, and answers what it cannot parse without a body. The guard hands on one request at a time, whole heads only, and
//! answers itself what never becomes a request.
//!
//! - `guarded`: the stream, its phases, its timers
//! - `head`: a request's head: how long it is, what follows it, and why it is refused
//! - `chunks`: a body in chunks: where it ends, and what it may hold beside its data
//! - `closing`: the peer's close frame, when Hark has closed a WebSocket first
//! - `accept`: the service that puts the stream beneath actix-http
//! - `handshake`: the beginning of TLS, on listeners that speak it
//! - `wire`: what lies beneath the stream: the socket, or TLS over it
//! - `timer`: a stream's one timer

mod accept;
mod chunks;
mod closing;
mod guarded;
mod handshake;
mod head;
mod timer;
mod wire;

pub(crate) use accept::serve;
pub use accept::{Door, REFUSED_AT_ONCE};
pub use guarded::Patience;
pub use head::read as read_head;

/// A door for what is fuzzed (`fuzz/src/targets.rs`): where a body in chunks ends, and how much of it is data, if it comes in these pieces;
/// `None` if it is refused or not whole. Nothing else uses it.
#[doc(hidden)]
pub fn chunked_body(pieces: &[&[u8]]) -> Option<(usize, u64)> {
    let mut chunks = chunks::Chunks::new();
    let (mut at, mut data_bytes) = (0, 0);
    for piece in pieces {
        let step = chunks.step(piece).ok()?;
        at += step.bytes;
        data_bytes += step.data_bytes;
        if chunks.ended() {
            return Some((at, data_bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use actix_http::ServiceConfig;
    use actix_http::h1::Codec;

    thread_local! {
        /// Its clock ticks in a task, so it is made where there may be one.
        static CONFIG: (actix_web::rt::SystemRunner, ServiceConfig) = {
            let system = actix_web::rt::System::new();
            let config = system.block_on(async { ServiceConfig::default() });
            (system, config)
        };
    }

    /// What actix-http reads requests with.
    pub(super) fn actix_codec() -> Codec {
        CONFIG.with(|(_, config)| Codec::new(config.clone()))
    }
}
