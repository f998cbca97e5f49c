//! How a long operation tells what it is doing. Handed in as `&dyn Report`, never global, so that
//! a library user, a test and the terminal each get what they need.

mod refusal;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

pub use refusal::Refusal;

/// Receives phases, progress and notices, and passes on a wish to stop.
pub trait Report: Send + Sync {
    /// A new phase begins. `total` is the amount of work in `unit`s, where it is known.
    fn phase(&self, name: &str, total: Option<u64>, unit: Unit);

    /// So much of the phase is done (absolute, never less than before).
    fn progress(&self, done: u64);

    /// Something that a person should read, once.
    fn notice(&self, text: &str);

    /// Whether somebody asked to stop. Long loops before the commit point ask this; nothing after
    /// the commit point does.
    fn interrupted(&self) -> bool {
        false
    }
}

/// What progress is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files, steps, or whatever the phase names.
    Items,
}

/// Passes everything on but the wish to stop: after the commit point nobody asks for it.
pub struct Deaf<'a>(pub &'a dyn Report);

impl Report for Deaf<'_> {
    fn phase(&self, name: &str, total: Option<u64>, unit: Unit) {
        self.0.phase(name, total, unit);
    }
    fn progress(&self, done: u64) {
        self.0.progress(done);
    }
    fn notice(&self, text: &str) {
        self.0.notice(text);
    }
}

/// Says nothing.
pub struct Quiet;

impl Report for Quiet {
    fn phase(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn progress(&self, _: u64) {}
    fn notice(&self, _: &str) {}
}

/// For work beside a phase that somebody else reports: says nothing, and passes on the wish to stop,
/// to which its owner can add one of its own.
pub struct Beside<'a> {
    report: &'a dyn Report,
    cancelled: AtomicBool,
}

impl<'a> Beside<'a> {
    /// Beside whatever reports to `report`.
    pub fn new(report: &'a dyn Report) -> Beside<'a> {
        Beside {
            report,
            cancelled: AtomicBool::new(false),
        }
    }

    /// Asks the work to stop: nobody needs it any more.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Report for Beside<'_> {
    fn phase(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn progress(&self, _: u64) {}
    fn notice(&self, text: &str) {
        self.report.notice(text);
    }
    fn interrupted(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.report.interrupted()
    }
}

/// Keeps the notices, for tests and for a result that lists them.
#[derive(Default)]
pub struct Collect {
    notices: Mutex<Vec<String>>,
}

impl Collect {
    /// What was said so far.
    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().map(|n| n.clone()).unwrap_or_default()
    }
}

impl Report for Collect {
    fn phase(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn progress(&self, _: u64) {}
    fn notice(&self, text: &str) {
        if let Ok(mut notices) = self.notices.lock() {
            notices.push(text.into());
        }
    }
}

/// Somebody asked to stop before the commit point; the target is untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted before the commit point; the target is untouched")
    }
}

impl std::error::Error for Interrupted {}

impl From<Interrupted> for std::io::Error {
    fn from(stop: Interrupted) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::Interrupted, stop)
    }
}

/// Fails where the report's owner asked to stop.
///
/// # Errors
/// [`Interrupted`].
pub fn checkpoint(report: &dyn Report) -> Result<(), Interrupted> {
    if report.interrupted() {
        Err(Interrupted)
    } else {
        Ok(())
    }
}
