//! How the command line's clients end: they say that they go, and go.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hark_tests::{Broker, Cli, Ws, hark, wait_until};
use serde_json::json;

/// With every receipt in, and the messages printed, there is nothing more to wait for: not even that the broker closes too.
#[tokio::test]
async fn the_end_does_not_wait_for_the_brokers() {
    let broker = Broker::start();
    Ws::connect(&broker).await.publish("a", json!(1)).await;
    let mute = MuteAtTheEnd::in_front_of(broker.addr());
    let url = format!("ws://{}/ws", mute.addr);
    for args in [
        &["pub", "a", "2"][..],
        &["sub", "a", "--from", "earliest", "--count", "1"],
    ] {
        // One that waits for the answer waits a second, each time; a machine that is busy is not busy each time.
        let quick = (0..20).any(|_| {
            let mut command = hark();
            command.args(args).args(["--url", &url]);
            let (before, _) = mute.closes();
            let exit = Cli::spawn(command).wait();
            let ended = Instant::now();
            assert_eq!(exit.code, Some(0), "{exit:#?}");
            let said = wait_until("it has said that it goes", || {
                let (count, at) = mute.closes();
                (count > before).then_some(at)
            });
            ended.duration_since(said) < Duration::from_millis(700)
        });
        assert!(quick, "{args:?} waits for the end");
    }
    let exit = Cli::run(&broker, &["topics", "describe", "a"]);
    assert!(exit.stdout.contains(r#""first":1"#), "{exit:#?}");
}

/// A proxy that passes nothing on to the client once that has said that it goes.
struct MuteAtTheEnd {
    addr: SocketAddr,
    /// How many have said so, and the last when.
    closes: Arc<Mutex<(u32, Instant)>>,
}

impl MuteAtTheEnd {
    fn in_front_of(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let closes = Arc::new(Mutex::new((0, Instant::now())));
        let counted = closes.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(broker).unwrap();
                let is_mute = Arc::new(AtomicBool::new(false));
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (counted, mutes) = (counted.clone(), is_mute.clone());
                thread::spawn(move || {
                    let mut buffer = [0; 64 * 1024];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        // A close frame is the last (RFC 6455, section 5.5.1): masked, with a code.
                        if n >= 8 && buffer[n - 8..n - 6] == [0x88, 0x82] {
                            mutes.store(true, Ordering::SeqCst);
                            let mut closes = counted.lock().unwrap();
                            *closes = (closes.0 + 1, Instant::now());
                        }
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                });
                let (mut from, mut to) = (server, client);
                thread::spawn(move || {
                    let mut buffer = [0; 64 * 1024];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        if !is_mute.load(Ordering::SeqCst) && to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { addr, closes }
    }

    fn closes(&self) -> (u32, Instant) {
        *self.closes.lock().unwrap()
    }
}
