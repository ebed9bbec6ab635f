//! One test suite for every engine.
