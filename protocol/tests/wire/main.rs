//! The wire as others see it: golden bytes, any bytes, refusals, and the README. One test binary.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure")]

mod any_frame;
mod golden;
mod properties;
mod readme;
mod refusals;
mod samples;

use bytes::Bytes;
use hark_protocol::{FrameError, Subprotocol, codec};
use samples::Frame;

impl Frame {
    /// What `bytes` say, read as a frame of the same side as this one.
    fn decode_alike(&self, bytes: &Bytes, subprotocol: Subprotocol) -> Result<Self, FrameError> {
        match self {
            Self::Client(_) => codec::decode_client(bytes, subprotocol).map(Self::Client),
            Self::Hark(_) => codec::decode_server(bytes, subprotocol).map(Self::Hark),
        }
    }
}
