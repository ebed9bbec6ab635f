//! The broker as a process: started on a port and in a folder of its own, stopped, killed and started again. Owns its
//! life; leaves what is said to it to the clients.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::tls::is_over_tls;
use crate::{DEADLINE, Http, Tls, Wire};

/// How a broker is to be started. `Broker::start()` is the usual one.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    host: Option<Ipv4Addr>,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
    restarts: bool,
    stderr: Option<Arc<OwnedFd>>,
    descriptors: Option<u32>,
    tls: Option<Arc<Tls>>,
    listener: String,
}

impl Setup {
    /// Nothing but defaults; over TLS within [`over_tls`](crate::over_tls).
    pub fn new() -> Self {
        let setup = Self::default();
        match is_over_tls() {
            true => setup.tls(Tls::new()),
            false => setup,
        }
    }

    /// The broker serves TLS with the certificate of this folder.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(Arc::new(tls));
        self
    }

    /// More settings of its listener, each with a comma in front.
    pub fn listener(mut self, settings: &str) -> Self {
        self.listener += settings;
        self
    }

    fn listen_at(&self, port: u16) -> String {
        let tls = self.tls.as_ref().map(|tls| tls.settings());
        format!(
            "{}:{port}{}{}",
            self.host(),
            tls.unwrap_or_default(),
            self.listener
        )
    }

    /// Another address than loopback, served without authentication.
    pub fn listen(mut self, host: Ipv4Addr) -> Self {
        self.host = Some(host);
        self.env("HARK_INSECURE_NO_AUTH", "true")
    }

    fn host(&self) -> Ipv4Addr {
        self.host.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// Adds `--name value`.
    pub fn flag(mut self, name: &str, value: impl ToString) -> Self {
        self.flags.extend([format!("--{name}"), value.to_string()]);
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Messages with the header `hark-fault` break their room, or what it says.
    pub fn faults(self) -> Self {
        self.env("HARK_FAULTS", "1")
    }

    /// Its standard error goes there, and nowhere else: `Broker::log` is empty.
    pub fn stderr(mut self, to: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(Arc::new(to.into()));
        self
    }

    /// A data directory that outlives the broker. Without it the broker gets a temporary one.
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// The broker will be started again on its port. So that nobody takes the port meanwhile, it is one that the system does
    /// not give out: a client that tries to connect to a free port of the usual range may even reach itself.
    pub fn restarts(mut self) -> Self {
        self.restarts = true;
        self
    }

    /// The broker can have so many files and connections open, no more.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Starts the broker; panics if it does not come up.
    pub fn start(self) -> Broker {
        self.try_start()
            .unwrap_or_else(|exit| panic!("the broker did not start: {exit:#?}"))
    }

    /// Starts the broker, or tells how it ended before it served.
    pub fn try_start(self) -> Result<Broker, Exit> {
        let (dir, data_dir) = match &self.data_dir {
            Some(dir) => (None, dir.clone()),
            None => {
                let dir = tempfile::tempdir().unwrap();
                let data_dir = dir.path().join("data");
                (Some(dir), data_dir)
            }
        };
        let port = if self.restarts { quiet_port() } else { 0 };
        let process = Process::start(&self, port, &data_dir)?;
        Ok(Broker {
            setup: self,
            port: process.port,
            data_dir,
            _dir: dir,
            process: Some(process),
        })
    }
}

/// A running (or killed, and not yet restarted) broker. Dropped, it is killed; when the test has failed, what it logged
/// is shown.
pub struct Broker {
    setup: Setup,
    port: u16,
    data_dir: PathBuf,
    _dir: Option<TempDir>,
    process: Option<Process>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("port", &self.port)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker with defaults, on a port and in a folder of its own.
    pub fn start() -> Self {
        Setup::new().start()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (self.setup.host(), self.port).into()
    }

    /// What it serves TLS with, if it does.
    pub fn tls(&self) -> Option<&Tls> {
        self.setup.tls.as_deref()
    }

    /// The WebSocket's URL.
    pub fn ws_url(&self) -> String {
        let scheme = self.tls().map_or("ws", |_| "wss");
        format!("{scheme}://{}/ws", self.addr())
    }

    /// The URL of `path`.
    pub fn url(&self, path: &str) -> String {
        let scheme = self.tls().map_or("http", |_| "https");
        format!("{scheme}://{}{path}", self.addr())
    }

    /// A client for its HTTP routes.
    pub fn http(&self) -> Http {
        Http::new(self.url(""), self.tls())
    }

    /// A connection on which nothing has been asked yet: from this address of the local network (127.0.0.0/8), with this much room to receive.
    pub fn dial(&self, from: Option<Ipv4Addr>, receive_buffer_bytes: Option<usize>) -> Wire {
        let tcp = self.dial_tcp(from, receive_buffer_bytes);
        Wire::new(tcp, self.tls().map(Tls::client)).unwrap()
    }

    /// The same without a handshake, whatever the broker speaks.
    pub fn dial_tcp(
        &self,
        from: Option<Ipv4Addr>,
        receive_buffer_bytes: Option<usize>,
    ) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        }
        if let Some(bytes) = receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes).unwrap(); // before connecting, so that the window starts small
        }
        socket.connect(&self.addr().into()).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        socket.into()
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What it printed on start.
    pub fn greeting(&self) -> &str {
        &self.process().greeting
    }

    /// What it has logged since it was started last.
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// Ends it as a power cut would, as far as the process is concerned.
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        process.child.kill().unwrap();
        process.wait();
    }

    /// Sends a signal: `TERM`, `INT`, … and does not wait.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill` is there where no /bin/kill is.
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.pid()))
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name} failed");
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Exit {
        self.process.take().expect("the broker runs").wait()
    }

    /// Stops it with SIGTERM and waits until it is gone; it must say 0.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let exit = self.wait();
        assert_eq!(
            exit.code,
            Some(0),
            "a stop by SIGTERM is no failure: {exit:#?}"
        );
    }

    /// Starts it again, after `kill9`, `stop` or `wait`, on the same port and data.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the broker still runs");
        assert!(
            self.setup.restarts,
            "a test that starts a broker again says `Setup::restarts`"
        );
        let process = Process::start(&self.setup, self.port, &self.data_dir);
        self.process = Some(
            process.unwrap_or_else(|exit| panic!("the broker did not start again: {exit:#?}")),
        );
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process().child.id()
    }

    /// How many descriptors the process has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// Memory that the process has resident.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that the process ever had resident.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line of /proc/PID/status");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Time that the process has spent on a processor.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name in parentheses may hold anything, so count from behind it (proc_pid_stat(5): utime is field 14).
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10) // Linux shows hundredths of a second, whatever the kernel counts in.
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the broker runs")
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    /// The exit code; `None` for a signal.
    pub code: Option<i32>,
    /// All it wrote to stdout.
    pub stdout: String,
    /// All it wrote to stderr.
    pub stderr: String,
}

/// A command `hark …`, with none of the surroundings' settings.
pub fn hark() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HARK_") {
            command.env_remove(name);
        }
    }
    command
}

/// The same, with a limit on open files.
fn hark_with_descriptors(limit: u32) -> Command {
    let plain = hark();
    let mut limited = Command::new("sh");
    limited
        .arg("-c")
        .arg(format!(r#"ulimit -n {limit}; exec "$0" "$@""#))
        .arg(plain.get_program());
    for (name, _) in plain.get_envs().filter(|(_, value)| value.is_none()) {
        limited.env_remove(name);
    }
    limited
}

/// The broker's binary: `HARK_BIN`, or the one beside this test, brought up to date first. (Cargo builds a package's
/// binary for that package's own tests only.)
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("HARK_BIN") {
            return path.into();
        }
        let test = std::env::current_exe().unwrap(); // target/release/deps/it-…, or target/release/hark-bench
        let folder = test.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap();
        let profile = folder.file_name().and_then(OsStr::to_str).unwrap();
        if let Some(cargo) = std::env::var_os("CARGO") {
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--package", "hark-broker", "--bin", "hark", "--profile"])
                .arg(if profile == "debug" { "dev" } else { profile })
                .arg("--target-dir")
                .arg(folder.parent().unwrap())
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
                .status()
                .unwrap();
            assert!(built.success(), "the broker could not be built");
        }
        let path = folder.join("hark");
        assert!(
            path.is_file(),
            "{} is not there: build it with `cargo build --release -p hark-broker`, or name it in HARK_BIN",
            path.display()
        );
        path
    })
}

type Shared = Arc<Mutex<Vec<u8>>>;

#[derive(Debug)]
struct Process {
    child: Child,
    port: u16,
    greeting: String,
    stdout: Shared,
    /// A file and no pipe: so all that the process has written can be read at once, and what was said before an answer is
    /// there when the answer is.
    stderr: File,
    /// Says each line of stdout, and hangs up at its end: that is how the end of the process is waited for.
    lines: Receiver<String>,
    stdout_reader: Option<JoinHandle<()>>,
}

impl Process {
    fn start(setup: &Setup, port: u16, data_dir: &Path) -> Result<Self, Exit> {
        let stderr = tempfile::tempfile().unwrap();
        let command = match setup.descriptors {
            None => hark(),
            Some(limit) => hark_with_descriptors(limit),
        };
        let mut child = { command }
            .arg("serve")
            .args(["--listen", &setup.listen_at(port)])
            .arg("--data-dir")
            .arg(data_dir)
            .args(&setup.flags)
            .envs(setup.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(match &setup.stderr {
                Some(elsewhere) => elsewhere.try_clone().unwrap().into(),
                None => Stdio::from(stderr.try_clone().unwrap()),
            })
            .spawn()
            .unwrap();
        let stdout = Shared::default();
        let (say, lines) = channel();
        let kept = (child.stdout.take().unwrap(), stdout.clone());
        let stdout_reader = std::thread::spawn(move || {
            for line in BufReader::new(kept.0).lines().map_while(Result::ok) {
                kept.1
                    .lock()
                    .unwrap()
                    .extend_from_slice(format!("{line}\n").as_bytes());
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        let mut process = Self {
            child,
            port,
            greeting: String::new(),
            stdout,
            stderr,
            lines,
            stdout_reader: Some(stdout_reader),
        };

        let end = Instant::now() + DEADLINE;
        loop {
            match process
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    if let Some(port) = port_in(&line, setup.host()) {
                        process.port = port;
                        process.greeting = line;
                        return Ok(process);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(process.wait()),
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "the broker neither served nor ended in {DEADLINE:?}: {}",
                        process.log()
                    )
                }
            }
        }
    }

    fn wait(mut self) -> Exit {
        let end = Instant::now() + DEADLINE;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the broker did not end in {DEADLINE:?}"),
            }
        }
        let code = self.child.wait().unwrap().code();
        if let Some(reader) = self.stdout_reader.take() {
            reader.join().unwrap();
        }
        Exit {
            code,
            stdout: text_of(&self.stdout),
            stderr: self.log(),
        }
    }

    fn log(&self) -> String {
        let len = usize::try_from(self.stderr.metadata().unwrap().len()).unwrap();
        let mut bytes = vec![0; len];
        // Reads at a place: the process writes where the file's own position is.
        self.stderr.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let running = self.child.try_wait().is_ok_and(|status| status.is_none());
        if running && let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop))
        {
            eprintln!("the broker could not be killed: {error}");
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the broker said (last 60 of {} lines):", lines.len());
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("  {line}");
            }
        }
    }
}

/// Reads to the end in a thread of its own, so that the writer is never held up.
pub(crate) fn collect(mut from: impl Read + Send + 'static, into: Shared) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..n]);
        }
    })
}

pub(crate) fn text_of(bytes: &Shared) -> String {
    String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned()
}

fn port_in(line: &str, host: Ipv4Addr) -> Option<u16> {
    let (_, rest) = line.split_once(&format!("://{host}:"))?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// A free port below the range from which the system gives ports to outgoing connections (32768 and up on Linux).
pub fn quiet_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 190).unwrap() * 100; // other test processes start elsewhere
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
