//! The engine that keeps records in sled.
