//! What cargo-fuzz runs: the functions that read bytes from the network. They live in [`targets`], which a plain test includes as well.

pub mod targets;
