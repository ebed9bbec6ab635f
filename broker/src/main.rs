//! The `hark` binary: the command line of the broker's library.

use std::process::ExitCode;

/// Sessions are freed on other threads than they were made on, which this allocator is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hark_broker::cli::main()
}
