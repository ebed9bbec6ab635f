//! The command line's clients as processes: `hark pub`, `hark sub`, `hark topics`. Any other peer that writes lines can
//! be run the same way.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::broker::{collect, text_of};
use crate::{Broker, DEADLINE, Exit, hark};

/// A running client. Killed on drop; when the test has failed, what it wrote to stderr is shown.
#[derive(Debug)]
pub struct Cli {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Lines taken from stdout so far.
    taken: Vec<String>,
    stderr: Arc<Mutex<Vec<u8>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Cli {
    /// Starts `hark ARGS… --url …` for this broker.
    pub fn hark(broker: &Broker, args: &[&str]) -> Self {
        let mut command = hark();
        command.args(args).args(["--url", &broker.ws_url()]);
        Self::spawn(command)
    }

    /// Starts any client.
    pub fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let name = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let (say, lines) = channel();
        let stdout = child.stdout.take().unwrap();
        let stderr = Arc::default();
        let threads = vec![
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if say.send(line).is_err() {
                        return;
                    }
                }
            }),
            collect(child.stderr.take().unwrap(), Arc::clone(&stderr)),
        ];
        let stdin = child.stdin.take();
        Self {
            name,
            child,
            stdin,
            lines,
            taken: Vec::new(),
            stderr,
            threads,
        }
    }

    /// Runs `hark ARGS…` to its end, with nothing on stdin.
    pub fn run(broker: &Broker, args: &[&str]) -> Exit {
        let mut cli = Self::hark(broker, args);
        cli.end_input();
        cli.wait()
    }

    /// Writes to its stdin; waits while the pipe is full.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin
            .as_mut()
            .expect("stdin is open")
            .write_all(bytes)
            .unwrap();
    }

    /// Takes its stdin, so that another thread can write.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("stdin is open")
    }

    /// Closes its stdin.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// The next line of stdout.
    pub fn line(&mut self) -> String {
        let line = self.lines.recv_timeout(DEADLINE);
        let line = line.unwrap_or_else(|e| {
            panic!(
                "{}: no line: {e}; it said: {}",
                self.name,
                text_of(&self.stderr)
            )
        });
        self.taken.push(line.clone());
        line
    }

    /// The next line of stdout; `None` at its end.
    pub fn line_or_end(&mut self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => {
                self.taken.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!(
                "{}: neither a line nor the end in {DEADLINE:?}; it said: {}",
                self.name,
                text_of(&self.stderr)
            ),
        }
    }

    /// The next line of stdout, if one comes within this time. `None` also at the end.
    pub fn line_within(&mut self, wait: Duration) -> Option<String> {
        let line = self.lines.recv_timeout(wait).ok()?;
        self.taken.push(line.clone());
        Some(line)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has written to stderr so far.
    pub fn said(&self) -> String {
        text_of(&self.stderr)
    }

    /// Sends a signal: `TERM`, `INT`, …
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.child.id()))
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name} failed");
    }

    /// Waits until it has ended. Its stdout holds the lines already taken, too.
    pub fn wait(mut self) -> Exit {
        self.stdin = None;
        let end = Instant::now() + DEADLINE;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.taken.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} did not end in {DEADLINE:?}", self.name)
                }
            }
        }
        let code = self.child.wait().unwrap().code();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        Exit {
            code,
            stdout: self.taken.iter().map(|line| format!("{line}\n")).collect(),
            stderr: text_of(&self.stderr),
        }
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        let running = self.child.try_wait().is_ok_and(|status| status.is_none());
        if running && let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop))
        {
            eprintln!("{} could not be killed: {error}", self.name);
        }
        if std::thread::panicking() {
            let said = text_of(&self.stderr);
            let lines: Vec<&str> = said.lines().collect();
            let shown = &lines[lines.len().saturating_sub(20)..];
            eprintln!(
                "--- {} said (at most the last 20 lines): {shown:#?}",
                self.name
            );
        }
    }
}
