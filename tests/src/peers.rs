//! Programs nobody here wrote, as `tests/peers/setup.sh` has put them under `target/peers`, and the scripts in `tests/peers` that make clients of
//! them. Owns where they are and how they are called; the tests own what they are for.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that `tests/peers/setup.sh` fills.
pub fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("target/peers")
}

/// One of its programs: `curl`, `node`, `nginx`, `chromium`, `firefox`. Panics if it is not there: a test that needs it is not skipped.
pub fn program(name: &str) -> Command {
    Command::new(found(peers().join("bin").join(name)))
}

/// A script in `tests/peers`, to be run by the Python that has the packages.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(found(peers().join("venv/bin/python")));
    command.arg(found(scripts().join(script)));
    command
}

/// A script in `tests/peers/node`.
pub fn node(script: &str) -> Command {
    let mut command = program("node");
    command
        .arg(found(scripts().join("node").join(script)))
        .env("HARK_PEERS", peers());
    command
}

/// The folder of the scripts.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn found(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is not there: run tests/peers/setup.sh first",
        path.display()
    );
    path
}
