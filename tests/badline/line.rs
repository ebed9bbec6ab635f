//! The bad line as the scenarios have it: `line.c`, compiled and run, and the two namespaces it made. Owns who is in which of them, and the
//! asking of the kernel there.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const SOURCE: &str = include_str!("line.c");

/// Where the broker is.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Where nobody is, and nothing says so.
pub(crate) const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

/// A line between two namespaces. Dropped, or when this process ends however it does, it is gone, with all that runs at its far end.
#[derive(Debug)]
pub(crate) struct Line {
    process: Child,
    spoken: Mutex<Spoken>,
    near: File,
    far: File,
}

#[derive(Debug)]
struct Spoken {
    /// `None` at the end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Line {
    /// Makes one; what it loses is drawn from `seed`. The error says what is missing.
    pub(crate) fn start(seed: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it makes network namespaces and devices: run it as root".to_owned());
        }
        let work = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (source, program) = (work.path().join("line.c"), work.path().join("line"));
        std::fs::write(&source, SOURCE).map_err(|error| error.to_string())?;
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&program, &source])
            .status();
        match compiled {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("line.c does not compile: cc ended with {status}")),
            Err(error) => {
                return Err(format!(
                    "cc: {error}; install a C compiler (Debian: apt-get install gcc libc6-dev)"
                ));
            }
        }
        let mut process = Command::new(&program)
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let (Some(orders), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("the line has no pipes".to_owned());
        };
        let mut answers = BufReader::new(answers);
        let mut up = String::new();
        answers
            .read_line(&mut up)
            .map_err(|error| error.to_string())?;
        let mut spaces = up.split_whitespace().skip(1).map(|fd| {
            let path = format!("/proc/{}/fd/{fd}", process.id());
            File::open(&path).map_err(|error| format!("{path}: {error}"))
        });
        let (Some(near), Some(far)) = (spaces.next(), spaces.next()) else {
            return Err("the line could not be made, as said above".to_owned());
        };
        let (near, far) = (near?, far?);
        Ok(Self {
            process,
            spoken: Mutex::new(Spoken {
                orders: Some(orders),
                answers,
            }),
            near,
            far,
        })
    }

    /// Moves this thread, and all that it starts from now on, to the near end, where clients are.
    pub(crate) fn enter(&self) {
        enter(&self.near);
    }

    /// Does something at the far end, where the broker is; what is started there stays there.
    pub(crate) fn far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|threads| {
            let there = threads.spawn(|| {
                enter(&self.far);
                work()
            });
            match there.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Sets a value of the kernel's at the far end.
    pub(crate) fn far_sysctl(&self, name: &str, value: &str) {
        self.far(|| sysctl(name, value));
    }

    /// Gives an order of `line.c`.
    pub(crate) fn tell(&self, order: &str) {
        let answer = self.ask(order);
        assert_eq!(answer, "ok", "the line, told {order:?}");
    }

    /// Connections that clients have begun so far.
    pub(crate) fn connections_begun(&self) -> u64 {
        let stat = self.ask("stat");
        let begun = stat.rsplit(' ').next().and_then(|syns| syns.parse().ok());
        begun.unwrap_or_else(|| panic!("the line says {stat:?}"))
    }

    /// The connections that clients have begun since this was asked last.
    pub(crate) fn begun(&self) -> Vec<Begun> {
        let syns = self.ask("syns");
        let words: Vec<&str> = syns.split(' ').skip(1).collect();
        let read = |entry: &[&str]| {
            let [time, to] = entry else { return None };
            let seconds = time.parse::<f64>().ok()? / 1000.0;
            Some(Begun {
                seconds,
                to: to.parse().ok()?,
            })
        };
        let begun = words.chunks(2).map(|entry| {
            read(entry).unwrap_or_else(|| panic!("the line says {syns:?}, which is new"))
        });
        begun.collect()
    }

    fn ask(&self, order: &str) -> String {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = spoken.orders.as_mut().expect("the line runs");
        writeln!(orders, "{order}").expect("the line takes orders");
        let mut answer = String::new();
        spoken
            .answers
            .read_line(&mut answer)
            .expect("the line answers");
        answer.trim_end().to_owned()
    }

    /// What the kernel at the far end says of the established connections of a port of its own.
    pub(crate) fn sockets(&self, port: u16) -> Vec<SocketMemory> {
        let output = self.far(|| {
            Command::new("ss")
                .args(["-tmnHO", "state", "established"])
                .arg(format!("( sport = :{port} )"))
                .output()
        });
        let output = output.expect("ss (Debian: apt-get install iproute2)");
        let text = String::from_utf8_lossy(&output.stdout);
        let sockets = text.lines().map(|line| {
            SocketMemory::read(line).unwrap_or_else(|| panic!("ss says {line:?}, which is new"))
        });
        sockets.collect()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let spoken = self
            .spoken
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        drop(spoken.orders.take());
        if let Err(error) = self.process.wait() {
            eprintln!("the line could not be ended: {error}");
        }
    }
}

fn enter(space: &File) {
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a network namespace can be entered");
}

/// Sets a value of the kernel's at this thread's end.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// How TCP controls its congestion.
pub(crate) const CONGESTION: &str = "net.ipv4.tcp_congestion_control";

/// What the kernel has at this thread's end.
pub(crate) fn read_sysctl(name: &str) -> String {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let value = std::fs::read_to_string(&path);
    let value = value.unwrap_or_else(|error| panic!("{path}: {error}"));
    value.trim().to_owned()
}

/// A connection that a client began: its first SYN.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    /// On the line's own clock.
    pub(crate) seconds: f64,
    /// Where to.
    pub(crate) to: Ipv4Addr,
}

/// What the kernel holds for a connection (`ss -tm`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketMemory {
    /// The other side's port.
    pub(crate) peer_port: u16,
    /// Bytes that were written and are not acknowledged.
    pub(crate) unsent_bytes: u64,
    /// All the memory of it: what is to be read, what is to be acknowledged with the kernel's own additions, and what is set aside.
    pub(crate) memory_bytes: u64,
}

impl SocketMemory {
    /// `RECV-Q SEND-Q LOCAL PEER … skmem:(r…,rb…,t…,tb…,f…,w…,o…,bl…,d…)`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let unsent_bytes = words.nth(1)?.parse().ok()?;
        let peer_port = words.nth(1)?.rsplit_once(':')?.1.parse().ok()?;
        let (_, memory) = line.split_once("skmem:(")?;
        let (memory, _) = memory.split_once(')')?;
        let mut memory_bytes = 0;
        for part in memory.split(',') {
            let name_end = part.find(|c: char| c.is_ascii_digit())?;
            let (name, bytes) = part.split_at(name_end);
            if ["r", "f", "w", "o", "bl"].contains(&name) {
                memory_bytes += bytes.parse::<u64>().ok()?;
            }
        }
        Some(Self {
            peer_port,
            unsent_bytes,
            memory_bytes,
        })
    }
}
