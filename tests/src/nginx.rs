//! nginx in front of the broker, with the configuration that the README shows (`tests/peers/nginx.conf`): started on a port and in a folder of its own,
//! stopped, killed and started again. Never the machine's own nginx service.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::broker::quiet_port;
use crate::peers::{program, scripts};
use crate::{Broker, Http, wait_until};

/// The configuration as the README shows it.
pub const NGINX_CONF: &str = include_str!("../peers/nginx.conf");

/// What the tests replace in it.
const UPSTREAM: &str = "server 127.0.0.1:4275;";
const LISTEN: &str = "listen 8080;";
/// Where the tests put locations of their own.
const LOCATION: &str = "    location / {";

/// Processes that serve connections.
const WORKERS: usize = 2;

/// A running (or stopped, and not yet restarted) nginx. Killed on drop, with its workers.
#[derive(Debug)]
pub struct Nginx {
    dir: TempDir,
    port: u16,
    upstream: SocketAddr,
    /// Directives beside the README's, for all of HTTP.
    http: String,
    /// Locations beside the README's.
    locations: String,
    master: Option<Child>,
}

impl Nginx {
    /// Starts it in front of `broker`.
    pub fn in_front_of(broker: &Broker) -> Self {
        Self::with(broker, "")
    }

    /// Starts it with further directives beside those of the README.
    pub fn with(broker: &Broker, http: &str) -> Self {
        let mut nginx = Self::new(broker, http);
        nginx.start_again();
        nginx
    }

    /// Starts it with the tests' own pages under `/pages/`, where the broker's SDK is of their origin.
    pub fn with_pages(broker: &Broker) -> Self {
        let mut nginx = Self::new(broker, "");
        let pages = nginx.dir.path().join("pages");
        std::fs::create_dir(&pages).unwrap();
        // Copied to where its workers may read.
        for page in std::fs::read_dir(scripts().join("node/pages")).unwrap() {
            let page = page.unwrap();
            std::fs::copy(page.path(), pages.join(page.file_name())).unwrap();
        }
        nginx.locations = format!(
            "    location /pages/ {{ alias {}/; types {{ text/html html; text/javascript js; }} }}\n",
            pages.display()
        );
        nginx.write_conf("");
        nginx.start_again();
        nginx
    }

    fn new(broker: &Broker, http: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Started by root, its workers run as somebody else, who needs a way in.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let nginx = Self {
            dir,
            port: quiet_port(),
            upstream: broker.addr(),
            http: http.to_owned(),
            locations: String::new(),
            master: None,
        };
        nginx.write_conf("");
        nginx
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The WebSocket's URL.
    pub fn ws_url(&self) -> String {
        format!("ws://{}/ws", self.addr())
    }

    /// The URL of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// A client for the broker's HTTP routes, through it.
    pub fn http(&self) -> Http {
        Http::new(self.url(""), None)
    }

    /// From now on, new requests for these locations (`= /ws`) are refused with 403, as some companies' proxies do; all others are passed on.
    pub fn refuse(&mut self, locations: &[&str]) {
        let refusals = locations
            .iter()
            .map(|location| format!("    location {location} {{ return 403; }}\n"));
        self.write_conf(&refusals.collect::<String>());
        self.reload();
    }

    /// Stops it at once, cutting every connection, and waits until it is gone.
    pub fn stop(&mut self) {
        let master = self.master.take().expect("nginx runs");
        kill_process(Pid::from_child(&master), Signal::TERM).unwrap();
        self.reap(master);
    }

    /// Kills it with all its workers, as a power cut would.
    pub fn kill9(&mut self) {
        let master = self.master.take().expect("nginx runs");
        kill_with_workers(&master);
        self.reap(master);
    }

    /// Starts it on its port, for the first time or again, and waits until it listens.
    pub fn start_again(&mut self) {
        assert!(self.master.is_none(), "nginx still runs");
        let mut command = program("nginx");
        command
            .arg("-p")
            .arg(self.dir.path())
            .arg("-c")
            .arg(self.conf());
        // Where it writes to before it has read its configuration.
        command.arg("-e").arg(self.log_path());
        let master = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.master = Some(master);
        wait_until("nginx serves", || {
            let master = self.master.as_mut().unwrap();
            let exit = master.try_wait().unwrap();
            let pid = Pid::from_child(master);
            assert!(exit.is_none(), "nginx ended with {exit:?}: {}", self.log());
            // It listens before it has workers, who alone know which configuration is in force.
            let serves = TcpStream::connect(self.addr()).is_ok() && workers(pid).len() == WORKERS;
            serves.then_some(())
        });
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("nginx.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("error.log")
    }

    /// Writes the configuration: the README's for the site, and around it what Debian's nginx.conf has.
    fn write_conf(&self, locations: &str) {
        let mut site = NGINX_CONF.to_owned();
        for (shown, ours) in [
            (UPSTREAM, format!("server {};", self.upstream)),
            (LISTEN, format!("listen {};", self.addr())),
            (LOCATION, format!("{}{locations}{LOCATION}", self.locations)),
        ] {
            assert_eq!(
                site.matches(shown).count(),
                1,
                "{shown:?} stands once in nginx.conf"
            );
            site = site.replace(shown, &ours);
        }
        let mut conf = String::new();
        let dir = self.dir.path().display();
        writeln!(
            conf,
            "daemon off;\nworker_processes 2;\npid {dir}/nginx.pid;"
        )
        .unwrap();
        writeln!(conf, "error_log {dir}/error.log info;").unwrap();
        writeln!(conf, "events {{}}\nhttp {{\naccess_log off;").unwrap();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            writeln!(conf, "{kind}_temp_path {dir}/{kind};").unwrap();
        }
        writeln!(conf, "{}\n{site}}}", self.http).unwrap();
        std::fs::write(self.conf(), conf).unwrap();
    }

    /// Has it read its configuration again, and waits until the new workers are there. The old ones go on with the connections they have.
    fn reload(&mut self) {
        let master = Pid::from_child(self.master.as_ref().expect("nginx runs"));
        let before = workers(master);
        kill_process(master, Signal::HUP).unwrap();
        // The old ones stop listening when the new ones run; those with connections stay, and say so.
        wait_until("nginx has its new configuration", || {
            let now = workers(master);
            let new = now.iter().filter(|worker| !before.contains(worker));
            let done = new.count() == WORKERS && !before.iter().any(|&worker| listens(worker));
            done.then_some(())
        });
    }

    fn reap(&self, mut master: Child) {
        master.wait().unwrap();
        // Workers that outlive their master for a moment still hold the port.
        wait_until("nginx is gone", || TcpStream::connect(self.addr()).err());
    }
}

/// Kills the master first, who would replace its workers, and then those: they would go on serving.
fn kill_with_workers(master: &Child) {
    let master = Pid::from_child(master);
    let workers = workers(master);
    for process in std::iter::once(master).chain(workers) {
        if let Err(error) = kill_process(process, Signal::KILL) {
            eprintln!("nginx's {process:?} could not be killed: {error}");
        }
    }
}

/// The processes whose parent is `master`.
fn workers(master: Pid) -> Vec<Pid> {
    let master = master.as_raw_pid();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
    let children = children.unwrap_or_default();
    children
        .split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
        .collect()
}

/// Whether a worker still takes new connections: one that does not calls itself so.
fn listens(worker: Pid) -> bool {
    let worker = worker.as_raw_pid();
    let title = std::fs::read(format!("/proc/{worker}/cmdline")).unwrap_or_default();
    let title = String::from_utf8_lossy(&title).into_owned();
    !title.is_empty() && !title.contains("is shutting down")
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(mut master) = self.master.take() {
            kill_with_workers(&master);
            if let Err(error) = master.wait() {
                eprintln!("nginx could not be waited for: {error}");
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(20)..];
            eprintln!("--- nginx said (at most the last 20 lines): {shown:#?}");
        }
    }
}
