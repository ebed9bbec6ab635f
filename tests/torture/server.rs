//! The broker's process, as roughly as it is treated here: started without waiting, killed while it opens, stopped and continued. Owns
//! its life, its port, its log file and its copies; which of them when is `fault`'s.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hark_tests::{DEADLINE, Preload, hark};
use rustix::process::{Pid, Signal, kill_process};

use crate::judge::{Judged, Violation, violated};
use crate::world::World;

const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A broker on a data directory of its own.
#[derive(Debug)]
pub(crate) struct Server {
    world: Arc<World>,
    /// The disk it lives on.
    pub(crate) disk: Preload,
    /// Where its log and its copies are.
    work: PathBuf,
    /// Beside those that it always gets.
    pub(crate) flags: Vec<String>,
    port: u16,
    child: Option<Child>,
    starts: u32,
}

/// What it said in one life.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Server {
    pub(crate) fn new(world: Arc<World>, work: &Path, flags: Vec<String>) -> Self {
        Self {
            world,
            disk: Preload::new(),
            work: work.to_owned(),
            flags,
            port: 0,
            child: None,
            starts: 0,
        }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.disk.data_dir()
    }

    fn stdout(&self) -> PathBuf {
        self.work.join(format!("broker-{}.stdout", self.starts))
    }

    fn stderr(&self) -> PathBuf {
        self.work.join(format!("broker-{}.log", self.starts))
    }

    /// What it has logged in this life.
    pub(crate) fn log(&self) -> String {
        read(&self.stderr())
    }

    /// Starts it, and does not wait.
    pub(crate) fn spawn(&mut self, more: &[&str]) {
        assert!(self.child.is_none(), "it runs");
        if self.port == 0 {
            self.port = quiet_port();
            self.world.set_port(self.port);
        }
        self.starts += 1;
        self.world.tally.add("starts of the broker", 1);
        self.child = Some(self.launch(self.port, &self.stdout(), &self.stderr(), more));
    }

    fn launch(&self, port: u16, stdout: &Path, stderr: &Path, more: &[&str]) -> Child {
        let child = hark()
            .arg("serve")
            .args(["--listen", &format!("127.0.0.1:{port}"), "--drain", "200ms"])
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.flags)
            .args(more)
            .envs(self.disk.env())
            .stdin(Stdio::null())
            .stdout(create(stdout))
            .stderr(create(stderr))
            .spawn();
        child.unwrap_or_else(|e| panic!("the broker's program cannot be run: {e}"))
    }

    /// Starts it and waits until it serves; gives what it said if it ends instead.
    pub(crate) async fn start(&mut self, more: &[&str]) -> Judged<Result<(), Said>> {
        loop {
            self.spawn(more);
            match self.wait_until_served().await? {
                Err(said)
                    if said.stderr.contains("in use")
                        && said.stderr.contains(&format!("127.0.0.1:{}", self.port)) =>
                {
                    self.port = 0; // Somebody else took the port meanwhile.
                }
                served => return Ok(served),
            }
        }
    }

    /// Waits until it says that it serves, or has ended.
    pub(crate) async fn wait_until_served(&mut self) -> Judged<Result<(), Said>> {
        let end = Instant::now() + DEADLINE;
        loop {
            if read(&self.stdout()).contains("http://") {
                return Ok(Ok(()));
            }
            if let Some(status) = self.child().try_wait().expect("a child of ours") {
                self.child = None;
                return Ok(Err(Said {
                    status,
                    stderr: self.log(),
                }));
            }
            if Instant::now() > end {
                violated!(
                    "the broker neither served nor ended in {DEADLINE:?}: {}",
                    self.log()
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process");
        // It may just have ended: that is found out by whoever waits for it.
        if let Err(e) = kill_process(pid, signal) {
            eprintln!("the signal {signal:?} was not delivered: {e}");
        }
    }

    /// Ends it as a power cut would, as far as the process is concerned.
    pub(crate) fn kill(&mut self) {
        self.world.killing();
        let mut child = self.child.take().expect("it runs");
        // It may have ended by itself; then `wait` says so.
        if let Err(e) = child.kill() {
            eprintln!("the broker was not killed: {e}");
        }
        let status = child.wait().expect("a child of ours");
        self.world.tell(|judge| judge.ended(false));
        if status.signal() != Some(Signal::KILL.as_raw()) {
            self.world.violated(Violation(format!(
                "the broker ended before it was killed ({status}): {}",
                self.log()
            )));
        }
    }

    /// Ends it, whether it has ended by itself already or not: one whose log is damaged may have.
    pub(crate) fn end_damaged(&mut self) {
        if let Some(_by_itself) = self.child().try_wait().expect("a child of ours") {
            self.child = None;
            self.world.killing();
            self.world.tell(|judge| judge.ended(false));
        } else {
            self.kill();
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn wait(&mut self) -> Judged<Said> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child().try_wait().expect("a child of ours") {
                self.child = None;
                return Ok(Said {
                    status,
                    stderr: self.log(),
                });
            }
            if Instant::now() > end {
                violated!("the broker did not end in {DEADLINE:?}: {}", self.log());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Runs another broker on the same directory, until it ends.
    pub(crate) async fn intrude(&self) -> Judged<Said> {
        let (stdout, stderr) = (
            self.work.join("intruder.stdout"),
            self.work.join("intruder.log"),
        );
        let mut intruder = self.launch(0, &stdout, &stderr, &[]);
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = intruder.try_wait().expect("a child of ours") {
                return Ok(Said {
                    status,
                    stderr: read(&stderr),
                });
            }
            if Instant::now() > end || read(&stdout).contains("http://") {
                intruder.kill().expect("a child of ours");
                intruder.wait().expect("a child of ours");
                violated!(
                    "a second broker on the same directory was not refused: {}",
                    read(&stderr)
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Checks that nothing panicked in this life.
    pub(crate) fn judge_log(&self) -> Judged {
        match self.log().lines().find(|line| line.contains("panicked")) {
            Some(line) => violated!("the broker panicked: {line}"),
            None => Ok(()),
        }
    }
}

impl Server {
    /// Ends it, however it is.
    pub(crate) fn end_now(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(e) = child.kill().and_then(|()| child.wait())
        {
            eprintln!("the broker could not be ended: {e}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_now();
    }
}

fn create(path: &Path) -> File {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path)
        .expect("a file in a folder of ours");
    file.flush().expect("a file in a folder of ours");
    file
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).expect("a file in a folder of ours");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A free port below those that the system gives to outgoing connections: a client that tries a free one of those may reach itself.
fn quiet_port() -> u16 {
    loop {
        let port = 12_000 + rand::random::<u16>() % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
