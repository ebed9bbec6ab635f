//! A headless Chromium or Firefox: its tabs, the scripts that are run in them, and what went wrong there. Driven through `tests/peers/node/browser.mjs`; what the
//! pages are to show is the tests' business.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::peers::node;
use crate::{Cli, DEADLINE, pause};

/// A browser with a profile of its own. Ends when it is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: RefCell<(Cli, u64)>,
}

/// A tab of it.
#[derive(Debug)]
pub struct Tab<'a> {
    browser: &'a Browser,
    number: Value,
}

impl Browser {
    /// Starts Chromium.
    pub fn chromium() -> Self {
        Self::chromium_with(&[])
    }

    /// Starts Chromium with these switches beside the usual ones.
    pub fn chromium_with(switches: &[&str]) -> Self {
        Self::start("chromium", switches)
    }

    /// The same, as if its user had gone on at the warning of a certificate with this public key (SHA-256 in base64), and of no other.
    pub fn chromium_trusting(key: &str) -> Self {
        Self::chromium_with(&[&format!("--ignore-certificate-errors-spki-list={key}")])
    }

    /// Starts Firefox.
    pub fn firefox() -> Self {
        Self::start("firefox", &[])
    }

    fn start(name: &str, switches: &[&str]) -> Self {
        let mut command = node("browser.mjs");
        command.arg(name).args(switches);
        let driver = Cli::spawn(command);
        Self {
            driver: RefCell::new((driver, 0)),
        }
    }

    /// Opens `url` in a new tab, and waits until it has loaded.
    pub fn open(&self, url: &str) -> Tab<'_> {
        self.open_with(url, "")
    }

    /// Like `open`; `before` is run in every page of the tab ahead of the page's own scripts.
    pub fn open_with(&self, url: &str, before: &str) -> Tab<'_> {
        let number = self.ask(json!({"do": "open", "url": url, "before": before}));
        Tab {
            browser: self,
            number: number.unwrap_or_else(|e| panic!("{url}: {e}")),
        }
    }

    fn ask(&self, mut command: Value) -> Result<Value, String> {
        let (driver, last) = &mut *self.driver.borrow_mut();
        *last += 1;
        command["id"] = json!(*last);
        driver.write(format!("{command}\n").as_bytes());
        let mut answer: Value = serde_json::from_str(&driver.line()).unwrap();
        assert_eq!(answer["id"], *last, "{answer}");
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["value"].take()),
        }
    }
}

impl Tab<'_> {
    fn ask(&self, mut command: Value) -> Result<Value, String> {
        command["tab"] = self.number.clone();
        self.browser.ask(command)
    }

    /// Runs an expression in the page and gives its value, or what its promise comes to; panics if it throws.
    #[track_caller]
    pub fn eval(&self, script: &str) -> Value {
        self.try_eval(script)
            .unwrap_or_else(|e| panic!("{e}\nin {script}"))
    }

    /// Like `eval`, for what may throw.
    pub fn try_eval(&self, script: &str) -> Result<Value, String> {
        self.ask(json!({"do": "eval", "script": script}))
    }

    /// Looks at the page again and again until the expression is true; panics after a while, with what `shown` is then.
    #[track_caller]
    pub fn until(&self, condition: &str, shown: &str) {
        let end = Instant::now() + DEADLINE;
        while self.eval(&format!("Boolean({condition})")) != true {
            assert!(
                Instant::now() < end,
                "waited {DEADLINE:?} in vain until {condition}: {}; troubles: {:?}",
                self.eval(shown),
                self.troubles()
            );
            pause(Duration::from_millis(20));
        }
    }

    /// Writes into an element (a CSS selector) as a person does, and presses Enter.
    pub fn write(&self, into: &str, text: &str) {
        let wrote = self.ask(json!({"do": "write", "into": into, "text": text}));
        wrote.unwrap_or_else(|e| panic!("{into}: {e}"));
    }

    /// Loads the page again.
    pub fn reload(&self) {
        self.ask(json!({"do": "reload"})).unwrap();
    }

    /// Goes to another page, as with a link.
    pub fn go(&self, url: &str) {
        self.ask(json!({"do": "go", "url": url})).unwrap();
    }

    /// Goes back to the page it was on before.
    pub fn back(&self) {
        self.ask(json!({"do": "back"})).unwrap();
    }

    /// Takes its network away, or gives it back.
    pub fn offline(&self, offline: bool) {
        let done = self.ask(json!({"do": "offline", "offline": offline}));
        done.unwrap();
    }

    /// Freezes it, as a browser does to save power, or thaws it; of Chromium only.
    pub fn freeze(&self, frozen: bool) {
        self.ask(json!({"do": "freeze", "frozen": frozen})).unwrap();
    }

    /// Errors on the console, exceptions, and what the page's content security policy refused, since asked last.
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.ask(json!({"do": "troubles"})).unwrap();
        serde_json::from_value(troubles).unwrap()
    }

    /// Closes it.
    pub fn close(self) {
        self.ask(json!({"do": "close"})).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to, a browser ends with all its processes and takes its profile with it; killed, its driver could do neither.
        let (driver, _) = self.driver.get_mut();
        driver.end_input();
        let end = Instant::now() + DEADLINE;
        while driver.is_running() && Instant::now() < end {
            pause(Duration::from_millis(10));
        }
    }
}
