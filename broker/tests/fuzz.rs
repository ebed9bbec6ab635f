//! Everything that is fuzzed, without a fuzzer: each target is given its seeds and 10,000 mutations of them, the same at each run.
//! `HARK_FUZZ_CORPUS` names a folder that the seeds are written to, for cargo-fuzz to start from.

#[path = "../../fuzz/src/targets.rs"]
#[allow(unreachable_pub, reason = "it is a part of two crates")]
mod targets;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::Path;

use targets::{ALL, Target};

const MUTATIONS: u64 = 10_000;
/// Mutations do not grow beyond this.
const MAX_BYTES: usize = 4096;
/// What is put in at random: what the grammars are made of, and numbers at their borders.
const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"0.5",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775808",
    b"\"id\":7,",
    b"\"type\":\"ping\"",
    b"\"data\":1",
    b"\"data_base64\":\"AA==\"",
    b"\"headers\":{}",
    b"\"producer\":\"p\",\"seq\":1",
    b"\xfb\x00\x01",
    b"\xfc\xff\xff\xff\xff",
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00",
    b"\x01",
    b"\xff",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"\r\n",
    b"\n",
    b" ",
    b".",
    b"*",
    b">",
    b"$",
    b"~",
    b"%00",
    b"&topic=a",
    b"since:",
    b"last:",
    b"-0",
    b"T",
    b"Z",
    b"P1Y",
    b"ms",
    b"for=",
    b"\x88\x82\x00\x00\x00\x00",
    b"\x81\xfe\x00\x7e",
    b"\x80\x80\x00\x00\x00\x00",
];

/// Numbers that are the same at each run (splitmix64).
struct Draw(u64);

impl Draw {
    /// A number from 0 and below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(16)).min(bytes.len());
            match self.below(8) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 => bytes.insert(at, self.below(256) as u8),
                3 => drop(bytes.drain(at..end)),
                4 => bytes.extend_from_within(at..end),
                5 => bytes.truncate(at),
                6 => {
                    let other = &seeds[self.below(seeds.len())];
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
                }
                _ => {
                    let word = WORDS[self.below(WORDS.len())];
                    bytes.splice(at..at, word.iter().copied());
                }
            }
            bytes.truncate(MAX_BYTES);
        }
        bytes
    }
}

/// Runs `target` on `bytes`; where it fails, says which bytes make a seed of it.
fn run(target: &Target, bytes: &[u8]) {
    let run = target.run;
    if catch_unwind(|| run(bytes)).is_err() {
        panic!("{} fails on b\"{}\"", target.name, bytes.escape_ascii());
    }
}

#[test]
fn every_target_takes_its_seeds_and_ten_thousand_mutations() {
    // On threads of their own: each is one core's work.
    let running: Vec<_> = ALL
        .iter()
        .map(|target| {
            let test = || {
                let seeds = (target.seeds)();
                for seed in &seeds {
                    run(target, seed);
                }
                let mut draw = Draw(target.name.bytes().map(u64::from).sum());
                for _ in 0..MUTATIONS {
                    run(target, &draw.mutate(&seeds));
                }
            };
            (target.name, std::thread::spawn(test))
        })
        .collect();
    let failed: Vec<&str> = running
        .into_iter()
        .filter_map(|(name, running)| running.join().is_err().then_some(name))
        .collect();
    assert!(
        failed.is_empty(),
        "failed: {failed:?}; what they say stands above"
    );
}

/// Or a mutation of it would end in the first check, and hold nothing.
#[test]
fn seeds_are_taken_and_not_refused() {
    use hark_protocol::{Subprotocol, codec};
    for target in ALL {
        assert!(!(target.seeds)().is_empty(), "{} has no seeds", target.name);
    }
    let seeds_of = |name: &str| {
        let target = ALL.iter().find(|target| target.name == name).unwrap();
        (target.seeds)()
    };
    for (suffix, form) in [
        ("json", Subprotocol::Json),
        ("bincode", Subprotocol::Bincode),
    ] {
        for seed in seeds_of(&format!("client_frame_{suffix}")) {
            codec::decode_client(&seed.into(), form).unwrap();
        }
        for seed in seeds_of(&format!("server_frame_{suffix}")) {
            codec::decode_server(&seed.into(), form).unwrap();
        }
    }
}

#[test]
fn every_target_can_be_run_by_cargo_fuzz() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let files: BTreeSet<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let names: BTreeSet<String> = ALL.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(files, names);
    for name in names {
        assert!(
            manifest.contains(&format!("name = \"{name}\"\n")),
            "no [[bin]] for {name}"
        );
        let file = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            file.contains(&format!("targets::{name}(")),
            "{name}.rs runs another"
        );
    }
}

#[test]
fn seeds_are_written_where_they_are_wanted() {
    let wanted = std::env::var_os("HARK_FUZZ_CORPUS");
    let temporary = tempfile::tempdir().unwrap();
    let corpus = wanted.as_deref().map_or(temporary.path(), Path::new);
    for target in ALL {
        let folder = corpus.join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (at, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{at:02}")), seed).unwrap();
        }
    }
}
