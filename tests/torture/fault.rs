//! The faults, by name, and what each does to a run. Owns when the broker is ended, started, frozen and damaged, and what may be found
//! afterwards; that everybody goes on is seen to by `run`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hark_tests::{DEADLINE, copy_folder};
use rand::RngExt as _;
use rustix::process::Signal;

use crate::judge::{Judged, violated};
use crate::run::Run;
use crate::server::Said;
use crate::world::Phase;

/// What is done to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    KillInOpen,
    KillAfterOpen,
    KillInTrim,
    Freeze,
    Stop,
    TwoBrokers,
    PlantedSnapshot,
    Witness,
    LowDisk,
    FullDisk,
    FailedSync,
    Truncated,
    FlippedBits,
}

impl Fault {
    /// Each with its name, and how often it comes in a deck.
    pub(crate) const ALL: [(Self, &'static str, usize); 14] = [
        (Self::Kill, "kill", 5),
        (Self::KillInOpen, "kill-in-open", 1),
        (Self::KillAfterOpen, "kill-after-open", 1),
        (Self::KillInTrim, "kill-in-trim", 3),
        (Self::Freeze, "freeze", 1),
        (Self::Stop, "stop", 1),
        (Self::TwoBrokers, "two-brokers", 1),
        (Self::PlantedSnapshot, "planted-snapshot", 1),
        (Self::Witness, "witness", 1),
        (Self::LowDisk, "low-disk", 1),
        (Self::FullDisk, "full-disk", 1),
        (Self::FailedSync, "failed-sync", 1),
        (Self::Truncated, "truncated", 1),
        (Self::FlippedBits, "flipped-bits", 1),
    ];

    pub(crate) fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(fault, ..)| *fault == self);
        named.map_or("", |(_, name, _)| name)
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        let named = Self::ALL.iter().find(|(_, known, _)| *known == name);
        named.map(|(fault, ..)| *fault)
    }
}

/// Whether a run can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    /// The damage left a topic that nobody can read or write: allowed, as long as it is said.
    RunIsOver,
}

/// So many that some of them are with the broker still.
const MANY_UNANSWERED: usize = 100;
/// How long a log that was damaged may take until every topic is served.
const DAMAGED_TOPIC_PATIENCE: Duration = Duration::from_secs(5);
/// How long growing beyond the room is waited for, before there is none at all.
const FULL_DISK_PATIENCE: Duration = Duration::from_millis(500);

impl Run {
    pub(crate) async fn strike(&mut self, fault: Fault) -> Judged<Then> {
        match fault {
            Fault::Kill => self.kill_under_load().await?,
            Fault::KillInOpen => self.kill_in_open().await?,
            Fault::KillAfterOpen => {
                // Whoever is fast enough is hit a second time.
                self.server.kill();
                self.start().await?;
                self.pause(30).await;
                self.server.kill();
                self.start().await?;
            }
            Fault::KillInTrim => {
                self.trim_from_now_on().await?;
                self.pause(100).await;
                self.kill_under_load().await?;
            }
            Fault::Freeze => self.freeze().await?,
            Fault::Stop => {
                self.stop().await?;
                self.start().await?;
            }
            Fault::TwoBrokers => {
                let said = self.server.intrude().await?;
                self.expect_refusal(&said, "in use")?;
            }
            Fault::PlantedSnapshot => self.plant_snapshot().await?,
            Fault::Witness => self.spoil_witness().await?,
            Fault::LowDisk => self.fill_disk_nearly().await?,
            Fault::FullDisk => self.fill_disk().await?,
            Fault::FailedSync => self.fail_sync().await?,
            Fault::Truncated => return self.damage("truncated", Self::truncate).await,
            Fault::FlippedBits => return self.damage("flipped bits", Self::flip_bits).await,
        }
        Ok(Then::GoOn)
    }

    /// Kills it when publishes are under way: at a moment when all has been answered there is nothing to lose.
    async fn kill_under_load(&mut self) -> Judged {
        self.wait("many publishes are unanswered", |run| {
            run.world.unanswered() >= MANY_UNANSWERED
        })
        .await?;
        self.server.kill();
        self.start().await?;
        self.count_hits().await
    }

    /// kill -9 or a graceful stop.
    async fn end(&mut self) -> Judged {
        match self.rng.random() {
            true => self.server.kill(),
            false => self.stop().await?,
        }
        Ok(())
    }

    async fn stop(&mut self) -> Judged {
        self.world.may_be_unavailable.store(true, Ordering::SeqCst);
        self.server.signal(Signal::TERM);
        let said = self.server.wait().await?;
        if said.status.code() != Some(0) {
            violated!(
                "a graceful stop ended with {}: {}",
                said.status,
                said.stderr
            );
        }
        self.world.tell(|judge| judge.ended(true));
        Ok(())
    }

    async fn kill_in_open(&mut self) -> Judged {
        self.server.kill();
        for _ in 0..self.rng.random_range(1..=3) {
            self.server.spawn(&[]);
            // From "nothing has happened" to "it serves".
            let opening_us = u64::try_from(self.opening.as_micros()).unwrap_or(u64::MAX);
            let wait = self.rng.random_range(0..=opening_us + opening_us / 4);
            tokio::time::sleep(Duration::from_micros(wait)).await;
            self.server.kill();
        }
        self.start().await
    }

    async fn freeze(&mut self) -> Judged {
        self.server.signal(Signal::STOP);
        self.pause(600).await;
        if self.rng.random_ratio(1, 3) {
            self.server.kill();
            self.start().await
        } else {
            self.server.signal(Signal::CONT);
            Ok(())
        }
    }

    async fn plant_snapshot(&mut self) -> Judged {
        self.end().await?;
        let name = format!("snap.{:016X}.generating", self.rng.random::<u32>());
        let bytes: Vec<u8> = (0..self.rng.random_range(0..5000))
            .map(|_| self.rng.random())
            .collect();
        write(&self.server.data_dir().join(name), &bytes);
        self.start().await
    }

    async fn spoil_witness(&mut self) -> Judged {
        self.end().await?;
        let witness = self.server.data_dir().join("witness");
        let mut bytes = std::fs::read(&witness).expect("the witness is where it was");
        match self.rng.random_range(0..3) {
            0 => std::fs::remove_file(&witness).expect("a file of ours"),
            1 => {
                bytes.truncate(self.rng.random_range(0..=bytes.len()));
                write(&witness, &bytes);
            }
            _ => {
                for byte in &mut bytes {
                    *byte ^= self.rng.random_range(1..=255_u8);
                }
                write(&witness, &bytes);
            }
        }
        self.start().await
    }

    /// There is less room than Hark keeps free: it takes no publishes until there is more, and then goes on by itself.
    async fn fill_disk_nearly(&mut self) -> Judged {
        self.world.may_be_unavailable.store(true, Ordering::SeqCst);
        let before = self.world.unavailable.load(Ordering::SeqCst);
        let free_bytes = self.rng.random_range(0..64 << 20);
        self.server.disk.free_bytes(Some(free_bytes));
        self.wait(
            "a publish is refused on a disk that is nearly full",
            |run| run.world.unavailable.load(Ordering::SeqCst) > before,
        )
        .await?;
        self.pause(100).await;
        if self.rng.random_ratio(1, 3) {
            self.server.kill();
            self.start().await?;
        }
        self.server.disk.free_bytes(None);
        Ok(())
    }

    async fn fill_disk(&mut self) -> Judged {
        self.world.may_be_unavailable.store(true, Ordering::SeqCst);
        let before = self.world.unavailable.load(Ordering::SeqCst);
        match self.rng.random() {
            true => self
                .server
                .disk
                .room(Some(self.rng.random_range(0..2_000_000))),
            false => self
                .server
                .disk
                .room_for_any_write(self.rng.random_range(0..500_000)),
        }
        let grown = Instant::now() + FULL_DISK_PATIENCE;
        self.wait("a publish is refused on a full disk", |run| {
            if Instant::now() > grown {
                run.server.disk.room_for_any_write(0);
            }
            run.world.unavailable.load(Ordering::SeqCst) > before
        })
        .await?;
        self.pause(100).await;
        self.end_after_trouble().await?;
        if self.rng.random_ratio(1, 3) {
            // There is still no room: it may refuse to start, or serve what it has.
            self.server.disk.room_for_any_write(0);
            match self.server.start(&[]).await? {
                Ok(()) => {
                    self.pause(50).await;
                    self.server.kill();
                }
                Err(said) => self.expect_refusal(&said, "")?,
            }
        }
        self.server.disk.room(None);
        self.start().await
    }

    async fn fail_sync(&mut self) -> Judged {
        self.world.may_be_unavailable.store(true, Ordering::SeqCst);
        let before = self.world.unavailable.load(Ordering::SeqCst);
        let times = self.rng.random::<bool>().then_some(1);
        self.server
            .disk
            .fail_syncs(self.rng.random_range(0..6), times);
        self.wait("a publish is refused after a failed sync", |run| {
            run.world.unavailable.load(Ordering::SeqCst) > before
        })
        .await?;
        self.pause(100).await;
        self.end_after_trouble().await?;
        self.server.disk.heal_syncs();
        self.start().await
    }

    /// A broker whose disk has failed may say so at its end.
    async fn end_after_trouble(&mut self) -> Judged {
        if self.rng.random() {
            self.server.kill();
            return Ok(());
        }
        self.server.signal(Signal::TERM);
        let said = self.server.wait().await?;
        if !matches!(said.status.code(), Some(0 | 1)) {
            violated!(
                "a graceful stop after a failure of the disk ended with {}: {}",
                said.status,
                said.stderr
            );
        }
        self.world.tell(|judge| judge.ended(false));
        Ok(())
    }

    /// Makes retention take messages all the time, and waits until it does.
    async fn trim_from_now_on(&mut self) -> Judged {
        if !self.trims {
            self.trims = true;
            // Not so small that a key is gone with its message before it was sent again: keys are found in the messages.
            let (flag, value, keeps) = match self.rng.random_range(0..3) {
                0 => (
                    "--retention-bytes",
                    self.rng.random_range(500_000..1_500_000),
                    1,
                ),
                _ => {
                    let messages = self.rng.random_range(1500..4000);
                    ("--retention-messages", messages, messages)
                }
            };
            self.note(&format!("{flag} {value}"));
            self.world.tell(|judge| judge.retention(keeps));
            self.server
                .flags
                .extend([flag.to_owned(), value.to_string()]);
            self.server.kill();
            self.start().await?;
        }
        let end = Instant::now() + DEADLINE;
        while self.world.tell(|judge| judge.known(0).expired) == 0 {
            if Instant::now() > end {
                violated!("retention has taken nothing in {DEADLINE:?}");
            }
            self.progress(100).await?;
            self.read(0, None).await?;
        }
        Ok(())
    }

    /// Damages the files of a broker that does not run. It serves, and says what is missing, or refuses; then it gets its files back.
    async fn damage(&mut self, how: &str, damage: fn(&mut Self, &Path)) -> Judged<Then> {
        self.end().await?;
        self.remember_places().await?;
        let (copy, damaged) = (self.work.join("copy"), self.work.join("damaged"));
        for old in [&copy, &damaged].into_iter().filter(|old| old.exists()) {
            std::fs::remove_dir_all(old).expect("a folder of ours");
        }
        copy_folder(self.server.data_dir(), &copy);
        damage(self, &self.server.data_dir().join("db"));
        // Not needed, unless something is found: then it begins here.
        copy_folder(self.server.data_dir(), &damaged);
        let before = self.world.tell(|judge| judge.damaged());
        self.world.may_be_unavailable.store(true, Ordering::SeqCst);
        let then = match self.server.start(&[]).await? {
            Ok(()) => {
                self.world.tally.add(&format!("damage ({how}): served"), 1);
                self.look_at_damage_and_recover().await?
            }
            Err(said) => {
                self.expect_refusal(&said, "")?;
                self.note(&format!(
                    "refused: {}",
                    said.stderr.lines().last().unwrap_or_default()
                ));
                match self.knows_recover && self.rng.random() {
                    true => self.recover(how).await?,
                    false => {
                        self.world.tally.add(
                            &format!("damage ({how}): refused, restored from the copy"),
                            1,
                        );
                        std::fs::remove_dir_all(self.server.data_dir()).expect("a folder of ours");
                        copy_folder(&copy, self.server.data_dir());
                        self.world.tell(|judge| judge.restored(before));
                        self.places.clear();
                        self.start().await?;
                        Then::GoOn
                    }
                }
            }
        };
        Ok(then)
    }

    async fn recover(&mut self, how: &str) -> Judged<Then> {
        match self.server.start(&["--recover"]).await? {
            Ok(()) => {
                self.world
                    .tally
                    .add(&format!("damage ({how}): refused, recovered"), 1);
                self.look_at_damage_and_recover().await
            }
            Err(said) => violated!("--recover did not start ({}): {}", said.status, said.stderr),
        }
    }

    /// Where a topic cannot be read although the broker serves, the log is recovered as the broker says.
    async fn look_at_damage_and_recover(&mut self) -> Judged<Then> {
        if matches!(self.look_at_damage().await?, Then::GoOn) || !self.knows_recover {
            self.world.may_be_damaged.store(true, Ordering::SeqCst);
            return Ok(Then::GoOn);
        }
        if !self.server.log().contains("hark log recover") {
            violated!("a topic is not served, and the broker's log does not say what to do");
        }
        self.log_recover().await?;
        self.world
            .tally
            .add("damage: a topic was not served, recovered", 1);
        self.start().await?;
        match self.look_at_damage().await? {
            Then::GoOn => Ok(Then::GoOn),
            Then::RunIsOver => violated!("a topic is not served after `hark log recover`"),
        }
    }

    /// Whether a write has met a damage that was served: the log is closed, and would be again after every start.
    pub(crate) fn is_closed_by_damage(&self) -> bool {
        self.world.may_be_damaged.load(Ordering::SeqCst)
            && self.world.unavailable.load(Ordering::SeqCst) > 0
            && self.server.log().lines().any(|line| {
                line.contains("the log is closed for writing") && line.contains("hark log recover")
            })
    }

    /// The log is recovered, as the broker's log says, and is served again; with that the run is over, in the midst of another fault.
    pub(crate) async fn recover_closed(&mut self) -> Judged {
        self.server.disk.free_bytes(None);
        self.server.disk.room(None);
        self.server.disk.heal_syncs();
        self.world.may_be_unavailable.store(true, Ordering::SeqCst);
        self.world.tell(|judge| judge.damaged());
        self.log_recover().await?;
        self.world
            .tally
            .add("damage: a write met it later, recovered", 1);
        self.start().await?;
        match self.look_at_damage().await? {
            Then::GoOn if self.world.phase() == Phase::Running => self.progress(1).await,
            Then::GoOn => Ok(()),
            Then::RunIsOver => violated!("a topic is not served after `hark log recover`"),
        }
    }

    async fn log_recover(&mut self) -> Judged {
        self.server.end_damaged();
        self.remember_places().await?;
        let recovered = hark_tests::hark()
            .args(["log", "recover", "--data-dir"])
            .arg(self.server.data_dir())
            .output()
            .expect("hark runs");
        self.note("hark log recover");
        if !recovered.status.success() {
            let said = String::from_utf8_lossy(&recovered.stderr);
            violated!("`hark log recover` ended with {}: {said}", recovered.status);
        }
        self.world.may_be_damaged.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Where each topic has come to in a life that has just ended: what is lost of it is to be told to whoever comes from there. By the time
    /// the next life serves, publishers may have made more of it than was left.
    async fn remember_places(&mut self) -> Judged {
        // A receipt may be all that is known of a topic.
        self.all_publishers_found_out().await?;
        for topic in 0..self.world.topics() {
            let newest = self.world.tell(|judge| judge.cursors(topic)).pop();
            self.places.extend(newest.map(|newest| (topic, newest)));
        }
        Ok(())
    }

    /// Everybody who was ahead is told what is lost; so it is known before anything else is judged.
    async fn look_at_damage(&mut self) -> Judged<Then> {
        let places = self.places.iter().cloned();
        let mut places: Vec<_> = places.map(|(topic, place)| (topic, Some(place))).collect();
        for topic in 0..self.world.topics() {
            if !places.iter().any(|(known, _)| *known == topic) {
                places.push((topic, None));
            }
        }
        for (topic, from) in places {
            match tokio::time::timeout(DAMAGED_TOPIC_PATIENCE, self.read(topic, from)).await {
                Ok(read) => read?,
                Err(_) => return Ok(Then::RunIsOver),
            }
        }
        self.places.clear();
        self.world.tell(|judge| judge.settled());
        Ok(Then::GoOn)
    }

    fn truncate(&mut self, db: &Path) {
        let file = OpenOptions::new()
            .write(true)
            .open(db)
            .expect("the log's file is where it was");
        let len = file.metadata().expect("a file of ours").len();
        let most = match self.rng.random_range(0..3) {
            0 => len.min(4096),
            1 => len / 10,
            _ => len,
        };
        let cut = self.rng.random_range(0..=most);
        self.note(&format!("cut {cut} of {len} bytes"));
        file.set_len(len - cut).expect("a file of ours");
    }

    fn flip_bits(&mut self, db: &Path) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(db)
            .expect("the log's file is where it was");
        let len = file.metadata().expect("a file of ours").len();
        let from = match self.rng.random() {
            true => len - len / 10,
            false => 0,
        };
        for _ in 0..self.rng.random_range(1..=16) {
            let at = self.rng.random_range(from.min(len - 1)..len);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a file of ours");
            byte[0] ^= 1 << self.rng.random_range(0..8);
            file.write_all_at(&byte, at).expect("a file of ours");
            self.note(&format!("flipped a bit at {at} of {len} bytes"));
        }
    }

    /// Exit 1, and a sentence that names the directory.
    fn expect_refusal(&self, said: &Said, hint: &str) -> Judged {
        let dir = self.server.data_dir().to_string_lossy();
        let clear = said.stderr.contains(&*dir)
            && said.stderr.contains(hint)
            && !said.stderr.contains("panicked");
        if said.status.code() != Some(1) || !clear {
            violated!(
                "the broker refused to start with {}, and said: {}",
                said.status,
                said.stderr
            );
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file in a folder of ours");
}
