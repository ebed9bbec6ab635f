//! stub
use bytes::Bytes;
use crate::{ClientFrame, FrameError, Record, ServerFrame, TopicName};
/// stub
pub fn encode_client(_f: &ClientFrame) -> bytes::Bytes { todo!() }
/// stub
pub fn encode_server(_f: &ServerFrame) -> bytes::Bytes { todo!() }
/// stub
pub fn encode_message(_t: &TopicName, _r: &Record) -> bytes::Bytes { todo!() }
/// stub
pub fn decode_client(_b: &Bytes) -> Result<ClientFrame, FrameError> { todo!() }
/// stub
pub fn decode_server(_b: &Bytes) -> Result<ServerFrame, FrameError> { todo!() }
