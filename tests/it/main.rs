//! All tests against the real binary.
