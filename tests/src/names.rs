//! Names of hosts that say what a test says: the client's end is `names.c`, loaded into it by `LD_PRELOAD`. Owns the one name that has two
//! addresses, of which the first is dead.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

const SOURCE: &str = include_str!("names.c");
/// Where the dead one is: of this machine, and of nobody else.
const DEAD: &str = "127.0.0.9";

/// `two-addresses.test`: an address that takes no connection and refuses none, and a living one behind it.
#[derive(Debug)]
pub struct Names {
    home: TempDir,
    living: SocketAddr,
    /// Listens, with a queue that is full.
    _hole: Socket,
    _held: Vec<TcpStream>,
}

impl Names {
    /// The name's living address is that of `living`, and so is its port.
    pub fn dead_before(living: SocketAddr) -> Self {
        let dead = SocketAddr::new(DEAD.parse().unwrap(), living.port());
        let hole = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        hole.bind(&dead.into()).unwrap();
        hole.listen(0).unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&dead, Duration::from_millis(300)) {
            held.push(stream);
            assert!(held.len() < 100, "the queue of {dead} does not fill");
        }
        let home = tempfile::tempdir().unwrap();
        compile(&home);
        Self {
            home,
            living,
            _hole: hole,
            _held: held,
        }
    }

    /// The name with its port, as a part of a URL.
    pub fn authority(&self) -> String {
        format!("two-addresses.test:{}", self.living.port())
    }

    /// What makes a process know the name.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let library = self.home.path().join("names.so");
        [
            (
                "LD_PRELOAD",
                library.to_str().expect("a path in UTF-8").to_owned(),
            ),
            ("NAMES_ADDRESSES", format!("{DEAD},{}", self.living.ip())),
        ]
    }
}

fn compile(home: &TempDir) {
    let mut cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-x", "c", "-", "-o"])
        .arg(home.path().join("names.so"))
        .arg("-ldl")
        .stdin(Stdio::piped())
        .spawn()
        .expect("a C compiler (cc), as for the broker itself");
    cc.stdin
        .take()
        .unwrap()
        .write_all(SOURCE.as_bytes())
        .unwrap();
    assert!(cc.wait().unwrap().success(), "names.c does not compile");
}
