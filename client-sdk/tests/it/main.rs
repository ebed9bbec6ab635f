//! The client against a scripted broker that speaks the real frames: for what a real one cannot be made to do on demand. What
//! a real one does is tested in the workspace's `tests`.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure")]

mod connecting;
mod fake;
mod mini;
mod publishing;
mod script;
mod steps;
mod subscribing;
mod together;
