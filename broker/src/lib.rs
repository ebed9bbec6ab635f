//! Hark's broker.
pub mod clock;
pub mod message_log;
