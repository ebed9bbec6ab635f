//! How frames are written: one door for both subprotocols. `json` and `binary` do the work.

pub mod binary;
mod checks;
pub mod json;

pub use checks::topic_to_publish;

use bytes::Bytes;

use crate::{ClientFrame, Encoded, FrameError, Record, ServerFrame, Subprotocol, TopicName};

/// Writes what a client says.
pub fn encode_client(frame: &ClientFrame, subprotocol: Subprotocol) -> Encoded {
    match subprotocol {
        Subprotocol::Json => Encoded::Text(json::encode_client(frame)),
        Subprotocol::Bincode => Encoded::Binary(binary::encode_client(frame)),
    }
}

/// Writes what Hark says.
pub fn encode_server(frame: &ServerFrame, subprotocol: Subprotocol) -> Encoded {
    match subprotocol {
        Subprotocol::Json => Encoded::Text(json::encode_server(frame)),
        Subprotocol::Bincode => Encoded::Binary(binary::encode_server(frame)),
    }
}

/// Writes a `message` frame. The same for every subscriber of a subprotocol, so that it is done once.
pub fn encode_message(topic: &TopicName, record: &Record, subprotocol: Subprotocol) -> Encoded {
    match subprotocol {
        Subprotocol::Json => Encoded::Text(json::encode_message(topic, record)),
        Subprotocol::Bincode => Encoded::Binary(binary::encode_message(topic, record)),
    }
}

/// Reads what a client says. Total: any bytes give a frame or an error. Payloads are copied, so that a kept message
/// does not hold on to the buffer it came in.
pub fn decode_client(bytes: &Bytes, subprotocol: Subprotocol) -> Result<ClientFrame, FrameError> {
    match subprotocol {
        Subprotocol::Json => json::decode_client(bytes),
        Subprotocol::Bincode => binary::decode_client(bytes),
    }
}

/// Reads what Hark says. Total: any bytes give a frame or an error.
pub fn decode_server(bytes: &Bytes, subprotocol: Subprotocol) -> Result<ServerFrame, FrameError> {
    match subprotocol {
        Subprotocol::Json => json::decode_server(bytes),
        Subprotocol::Bincode => binary::decode_server(bytes),
    }
}
