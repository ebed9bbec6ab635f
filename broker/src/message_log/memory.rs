//! The engine that keeps records in memory.
