//! The Rust client for Hark.
