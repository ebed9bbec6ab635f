//! Hark's broker: rooms, sessions, the log, and the HTTP they are reached by. `hark` is the binary around it.
//!
//! The way of one published message: `session/socket → session/inbound → topic/publish → message_log → topic/publish`
//! (receipt) `→ topic/fan_out → session/outbound`. ARCHITECTURE.md has the map.

mod audit;
pub mod budget;
mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod edge;
pub mod http;
mod identity;
mod idle;
pub mod limits;
pub mod listen;
mod listeners;
mod logging;
pub mod message_log;
pub mod output;
pub mod patience;
pub mod receiving;
mod reload;
pub mod remembered;
pub mod server;
pub mod session;
pub mod settings;
mod shutdown;
mod tls;
pub mod topic;
mod turns;
pub mod unsent;
