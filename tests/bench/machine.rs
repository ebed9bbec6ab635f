//! The machine under the measurement: its disk, its cores, and the broker's process.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Durations, sorted when asked.
#[derive(Debug, Default, Clone)]
pub(crate) struct Timings(Vec<Duration>);

impl Timings {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort_unstable();
    }

    /// The quantile; call `sort` first.
    pub(crate) fn at(&self, quantile: f64) -> Duration {
        let at = (self.0.len() as f64 * quantile) as usize;
        self.0
            .get(at.min(self.0.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

/// How long it takes to write 4 KiB and have them on the disk.
pub(crate) fn fdatasync(dir: &Path) -> Timings {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("fdatasync"))
        .unwrap();
    let mut timings = Timings::default();
    for _ in 0..300 {
        let began = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        timings.add(began.elapsed());
    }
    timings.sort();
    timings
}

pub(crate) fn pin_to_core(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).unwrap();
}

/// The broker's binary: `HARK_BIN`, or the one beside this program.
pub(crate) fn hark() -> PathBuf {
    let beside = || std::env::current_exe().unwrap().with_file_name("hark");
    std::env::var_os("HARK_BIN").map_or_else(beside, PathBuf::from)
}

/// A broker on the cores it is given.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
}

impl Server {
    /// A new broker for `make bench`: all of it on one thread but the log.
    pub(crate) fn start(dir: &Path, cores: &str) -> Self {
        let data = dir.join(format!("data-{:x}", rand::random::<u64>()));
        Self::serve(&data, cores, &["--workers", "1"])
    }

    /// A broker on this directory; returns when it serves.
    pub(crate) fn serve(data: &Path, cores: &str, flags: &[&str]) -> Self {
        let mut process = Command::new("taskset")
            .args(["-c", cores])
            .arg(hark())
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(flags)
            .args(
                std::env::var("HARK_BENCH_FLAGS")
                    .unwrap_or_default()
                    .split_whitespace(),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .split("http://")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned();
        Self { process, address }
    }

    /// The peer to compare with: nats-server with its WebSocket, at `binary`.
    pub(crate) async fn start_nats(binary: &Path, dir: &Path, cores: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = dir.join("nats.conf");
        let text = format!(
            "listen: 127.0.0.1:-1\nwebsocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}\n"
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("taskset")
            .args(["-c", cores])
            .arg(binary)
            .args(["--config".as_ref(), config.as_os_str()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{port}");
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { process, address }
    }

    /// CPU time of all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let of_task = |task: std::io::Result<std::fs::DirEntry>| {
            let schedstat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            schedstat.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.filter_map(of_task).sum())
    }

    /// What it has in memory.
    pub(crate) fn rss_mib(&self) -> u64 {
        let kib = self.status("VmRSS:");
        kib.trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// The most it has had in memory.
    pub(crate) fn peak_rss_mib(&self) -> u64 {
        let kib = self.status("VmHWM:");
        kib.trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Ends it as people do (SIGTERM), and waits for it.
    pub(crate) fn stop(mut self) {
        let term = rustix::process::Signal::TERM;
        // It says that it serves a moment before it listens to signals.
        let caught = || u64::from_str_radix(&self.status("SigCgt:"), 16).unwrap();
        while caught() >> (term.as_raw() - 1) & 1 == 0 {
            std::thread::yield_now();
        }
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, term).unwrap();
        assert!(self.process.wait().unwrap().success());
    }

    fn status(&self, name: &str) -> String {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    }
}

/// Dropped, it is killed: kill -9.
impl Drop for Server {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }
}

/// The size of a file, in MiB; 0 if there is none.
pub(crate) fn file_mib(path: &Path) -> f64 {
    std::fs::metadata(path).map_or(0.0, |file| file.len() as f64 / f64::from(1 << 20))
}
