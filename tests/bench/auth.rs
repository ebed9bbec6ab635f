//! What it costs to know who somebody is: a connect and a delivery, without authentication and with it, as CPU of the broker. Owns the
//! credentials and the table; each round asks every way in turn, so that what the machine does meanwhile falls on all of them.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::load::{FanOut, Peer};
use crate::machine::{Server, hark};
use crate::wire::connect_as;

/// Each time all ways are asked.
const ROUNDS: usize = 9;
const CONNECTS: usize = 1000;
/// So many at once: enough that the broker never waits for the load.
const AT_ONCE: usize = 16;
const DELIVERING: Duration = Duration::from_secs(3);
const DELIVERY_ROUNDS: usize = 3;

const RULES: &str = r#"
[[issuer]]
name = "bench"
audience = ["hark"]
algorithm = "ES256"
jwks_file = "jwks.json"

[api_keys]
file = "keys.toml"

[[rule]]
who = "*"
publish = [">"]
subscribe = [">"]
"#;

pub(crate) async fn run(dir: &Path, cores: &str) {
    let issuer = Issuer::new(dir);
    let start = |flags: &[&str]| {
        let data = dir.join(format!("data-{:x}", rand::random::<u64>()));
        let flags: Vec<&str> = ["--workers", "1"].iter().chain(flags).copied().collect();
        Server::serve(&data, cores, &flags)
    };
    let auth = issuer.file.display().to_string();
    let servers = || [start(&[]), start(&["--auth", &auth])];
    let api_key = shown(&issuer.api_key);
    connects(&issuer, &api_key, &servers()).await;
    deliveries(&api_key, servers).await;
}

/// A way in: what each connection shows.
struct Way<'a> {
    name: &'static str,
    server: &'a Server,
    shown: &'a dyn Fn() -> String,
    rounds: Vec<Cost>,
}

#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    a_second: f64,
}

async fn connects(issuer: &Issuer, api_key: &str, [open, guarded]: &[Server; 2]) {
    let token = shown(&issuer.token());
    let way = |name, server, shown| Way {
        name,
        server,
        shown,
        rounds: Vec::new(),
    };
    let (nothing, new) = (String::new, || shown(&issuer.token()));
    let (by_key, by_token) = (|| api_key.to_owned(), || token.clone());
    let mut ways = [
        way("without authentication", open, &nothing),
        way("an API key", guarded, &by_key),
        way("a token (ES256), the same each time", guarded, &by_token),
        way("a token (ES256), another each time", guarded, &new),
    ];
    for way in &ways {
        // For the first time, everything is slower.
        way.connect().await;
    }
    for round in 0..ROUNDS {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            let cost = ways[at].connect().await;
            ways[at].rounds.push(cost);
        }
    }
    println!(
        "what a connect costs (TCP, upgrade, welcome), {ROUNDS} × {CONNECTS}, medians, and against none in the same round:"
    );
    for way in &ways {
        let against = way.rounds.iter().zip(&ways[0].rounds);
        println!(
            "  {:38} {:7.1} µs of server CPU, {:6.0} a second, {:.3} ×",
            way.name,
            median(way.rounds.iter().map(|cost| cost.cpu)),
            median(way.rounds.iter().map(|cost| cost.a_second)),
            median(against.map(|(cost, none)| cost.cpu / none.cpu)),
        );
    }
}

impl Way<'_> {
    async fn connect(&self) -> Cost {
        // Made before the clock runs: signing is the issuer's affair.
        let shown: Rc<[String]> = (0..CONNECTS).map(|_| (self.shown)()).collect();
        let next = Rc::new(Cell::new(0));
        let (cpu, began) = (self.server.cpu(), Instant::now());
        let tasks: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (address, shown) = (self.server.address.clone(), shown.clone());
                let next = next.clone();
                tokio::task::spawn_local(async move {
                    while let Some(headers) = shown.get(next.replace(next.get() + 1)) {
                        let (mut reader, _writer) = connect_as(&address, "/ws", headers).await;
                        reader.frame_containing(b"welcome").await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let (took, cpu) = (began.elapsed(), self.server.cpu() - cpu);
        Cost {
            cpu: cpu.as_secs_f64() * 1e6 / CONNECTS as f64,
            a_second: CONNECTS as f64 / took.as_secs_f64(),
        }
    }
}

async fn deliveries(api_key: &str, servers: impl Fn() -> [Server; 2]) {
    let mut costs = Vec::new();
    for _ in 0..DELIVERY_ROUNDS {
        // New ones each time: the subscribers of a round stay as long as their broker.
        let [open, guarded] = servers();
        let [mut none, mut known] = [0.0; 2];
        for (name, server, shown, cost) in [
            ("without authentication", &open, "", &mut none),
            ("by API keys", &guarded, api_key, &mut known),
        ] {
            let load = FanOut {
                peer: Peer::Hark,
                shown: shown.to_owned(),
                subscribers: 1000,
                payload_bytes: 128,
                window: 64,
            };
            print!("{name}: ");
            *cost = load.run(server, DELIVERING).await;
        }
        costs.push((none, known));
    }
    println!(
        "what a delivery costs, medians of {DELIVERY_ROUNDS}: {:.3} µs of server CPU without authentication, {:.3} µs by API keys, {:.3} ×",
        median(costs.iter().map(|(none, _)| *none)),
        median(costs.iter().map(|(_, known)| *known)),
        median(costs.iter().map(|(none, known)| known / none)),
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn shown(credential: &str) -> String {
    format!("Authorization: Bearer {credential}\r\n")
}

/// Who signs, and the broker's file of who may what.
struct Issuer {
    file: PathBuf,
    api_key: String,
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    fn new(dir: &Path) -> Self {
        let dir = dir.join(format!("auth-{:x}", rand::random::<u64>()));
        std::fs::create_dir(&dir).unwrap();
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        // SEC 1, section 2.3.3: 4, then both coordinates.
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y}]});
        std::fs::write(dir.join("jwks.json"), keys.to_string()).unwrap();
        let file = dir.join("auth.toml");
        std::fs::write(&file, RULES).unwrap();
        let made = Command::new(hark())
            .args(["key", "make", "--subject", "bench", "--keys"])
            .arg(dir.join("keys.toml"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let api_key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        Self {
            file,
            api_key,
            pair,
            random,
        }
    }

    /// One that no other is equal to.
    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({
            "iss": "bench", "sub": "bench", "aud": "hark", "iat": now.as_secs(), "exp": now.as_secs() + 3600,
            "jti": format!("{:x}", rand::random::<u128>()),
        });
        let signed = format!("{}.{}", part(json!({"alg": "ES256"})), part(claims));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
