//! Progress on standard error: a bar on a terminal, plain lines otherwise.
//!
//! Errors of output are swallowed: a dead terminal must not stop an apply.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{Report, Unit};
use crate::units::Bytes;

/// Without a terminal, one line in this time.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress to people.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    stop: Arc<AtomicBool>,
    phase: Mutex<Phase>,
}

struct Phase {
    name: String,
    total: Option<u64>,
    unit: Unit,
    last_line: Instant,
}

impl Progress {
    /// A bar where standard error is a terminal, lines otherwise; nothing where `quiet`. `stop` is
    /// set by a signal.
    pub fn new(quiet: bool, stop: Arc<AtomicBool>) -> Progress {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let phase = Phase {
            name: String::new(),
            total: None,
            unit: Unit::Items,
            last_line: Instant::now(),
        };
        Progress {
            bar,
            quiet,
            stop,
            phase: Mutex::new(phase),
        }
    }

    /// Takes the bar away before a result is printed.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| drop(writeln!(io::stderr(), "{text}"))),
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }
}

impl Report for Progress {
    fn phase(&self, name: &str, total: Option<u64>, unit: Unit) {
        if self.quiet {
            return;
        }
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *phase = Phase {
            name: name.into(),
            total,
            unit,
            last_line: Instant::now(),
        };
        let Some(bar) = &self.bar else {
            return self.line(&format!("{name} …"));
        };
        let template = match (total, unit) {
            (Some(_), Unit::Bytes) => {
                "{msg:28} [{bar:24}] {bytes:>10} of {total_bytes:<10} {binary_bytes_per_sec:>12}  {eta:>4} left"
            }
            (Some(_), Unit::Items) => "{msg:28} [{bar:24}] {pos} of {len}  {eta} left",
            (None, _) => "{msg:28} {spinner} {elapsed}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.reset();
        bar.set_style(style.progress_chars("=> "));
        bar.set_length(total.unwrap_or(0));
        bar.set_message(name.to_string());
    }

    fn progress(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        if self.quiet {
            return;
        }
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if phase.last_line.elapsed() < LINE_EVERY {
            return;
        }
        phase.last_line = Instant::now();
        let show = |n: u64| match phase.unit {
            Unit::Bytes => Bytes(n).to_string(),
            Unit::Items => n.to_string(),
        };
        let of = phase
            .total
            .map(|total| format!(" of {}", show(total)))
            .unwrap_or_default();
        self.line(&format!("{}: {}{of}", phase.name, show(done)));
    }

    fn notice(&self, text: &str) {
        if !self.quiet {
            self.line(&format!("note: {text}"));
        }
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
