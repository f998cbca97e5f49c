//! Progress on standard error: a bar on a terminal, plain lines otherwise.
//!
//! Errors of output are swallowed: a dead terminal must not stop an apply.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::report::{Report, Unit};
use crate::units::{Bytes, tame};

/// Without a terminal, a phase is worth a line when it has lasted so long, ...
const LINE_AFTER: Duration = Duration::from_secs(2);

/// ... and another one in this time.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often somebody looks whether it is time for a line.
const TICK: Duration = Duration::from_millis(500);

/// What all bars have in common fits in 80 columns with a short bar, and in 120 with a long one.
const BYTES_BAR: &str = "{msg:26} {percent:>3}% [{wide_bar}] {total_bytes:>10} {binary_bytes_per_sec:>12} {eta:>4} left";
const ITEMS_BAR: &str = "{msg:26} {percent:>3}% [{wide_bar}] {eta:>4} left";
const NO_TOTAL: &str = "{msg:26} {spinner} {elapsed}";

/// Shows progress to people.
pub struct Progress {
    terminal: bool,
    /// There from the first phase on until somebody else wants the terminal.
    bar: Mutex<Option<ProgressBar>>,
    quiet: bool,
    stop: Arc<AtomicBool>,
    phase: Arc<Mutex<Phase>>,
    ended: Mutex<Vec<Lasted>>,
}

/// How long a phase lasted.
#[derive(Clone, Debug, Serialize)]
pub struct Lasted {
    name: String,
    seconds: f64,
}

/// What is under way, for those who see no bar.
struct Phase {
    name: String,
    total: Option<u64>,
    unit: Unit,
    done: u64,
    began: Instant,
    last_line: Option<Instant>,
}

impl Phase {
    fn new(name: &str, total: Option<u64>, unit: Unit) -> Phase {
        Phase {
            name: name.into(),
            total,
            unit,
            done: 0,
            began: Instant::now(),
            last_line: None,
        }
    }

    /// The line that is due now, if one is.
    fn line(&mut self) -> Option<String> {
        let due = match self.last_line {
            None => self.began.elapsed() >= LINE_AFTER,
            Some(last) => last.elapsed() >= LINE_EVERY,
        };
        if self.name.is_empty() || !due {
            return None;
        }
        self.last_line = Some(Instant::now());
        let seconds = self.began.elapsed().as_secs();
        Some(match (self.total, self.unit) {
            (Some(total), Unit::Bytes) => format!(
                "{}: {} of {}, {seconds} s",
                self.name,
                Bytes(self.done),
                Bytes(total)
            ),
            (Some(total), Unit::Items) => {
                format!("{}: {} of {total}, {seconds} s", self.name, self.done)
            }
            (None, _) => format!("{}: {seconds} s", self.name),
        })
    }
}

impl Progress {
    /// A bar where standard error is a terminal, lines otherwise; nothing where `quiet`. `stop` is
    /// set by a signal.
    pub fn new(quiet: bool, stop: Arc<AtomicBool>) -> Progress {
        let terminal = !quiet && io::stderr().is_terminal();
        let phase = Arc::new(Mutex::new(Phase::new("", None, Unit::Items)));
        if !terminal && !quiet {
            print_lines(Arc::downgrade(&phase));
        }
        Progress {
            terminal,
            bar: Mutex::new(None),
            quiet,
            stop,
            phase,
            ended: Mutex::default(),
        }
    }

    /// What was done up to now, in this order, and how long it took.
    pub fn ended(&self) -> Vec<Lasted> {
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes the bar away before a question is asked or a result printed.
    pub fn clear(&self) {
        self.begin(Phase::new("", None, Unit::Items));
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, phase: Phase) {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *now, phase);
        drop(now);
        if !before.name.is_empty() {
            let seconds = before.began.elapsed().as_secs_f64();
            let name = before.name;
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.push(Lasted { name, seconds });
        }
    }
}

/// Prints the lines of a phase that takes long, whether or not it tells of progress: some tools
/// run for an hour and say nothing.
fn print_lines(phase: Weak<Mutex<Phase>>) {
    // Without the thread there are no lines, and nothing else is different.
    let _ = std::thread::Builder::new().spawn(move || {
        while let Some(phase) = phase.upgrade() {
            let line = phase.lock().unwrap_or_else(PoisonError::into_inner).line();
            if let Some(line) = line {
                let _ = writeln!(io::stderr(), "{line}");
            }
            drop(phase);
            std::thread::sleep(TICK);
        }
    });
}

impl Report for Progress {
    fn phase(&self, name: &str, total: Option<u64>, unit: Unit) {
        self.begin(Phase::new(name, total, unit));
        if !self.terminal {
            return;
        }
        let template = match (total, unit) {
            (Some(_), Unit::Bytes) => BYTES_BAR,
            (Some(_), Unit::Items) => ITEMS_BAR,
            (None, _) => NO_TOTAL,
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.progress_chars("=> ");
        let mut held = self.bar();
        let bar = held.get_or_insert_with(|| {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10))
        });
        bar.reset();
        bar.set_style(style);
        bar.set_length(total.unwrap_or(0));
        bar.set_message(name.to_string());
        // From now on, and not before: a bar without a phase is a line of nonsense.
        bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn progress(&self, done: u64) {
        if self.terminal {
            if let Some(bar) = &*self.bar() {
                bar.set_position(done);
            }
            return;
        }
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        phase.done = done;
    }

    fn notice(&self, text: &str) {
        if self.quiet {
            return;
        }
        let text = format!("note: {}\n", tame(text));
        let print = || {
            let _ = io::stderr().write_all(text.as_bytes());
        };
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_phase_has_no_line_and_a_long_one_has_few() {
        let mut phase = Phase::new("snapshot", Some(4 << 20), Unit::Bytes);
        assert_eq!(phase.line(), None);
        phase.began = Instant::now() - 2 * LINE_AFTER;
        phase.done = 1 << 20;
        assert_eq!(phase.line().unwrap(), "snapshot: 1 MiB of 4 MiB, 4 s");
        assert_eq!(phase.line(), None, "not another one at once");
        phase.last_line = Some(Instant::now() - LINE_EVERY);
        assert!(phase.line().is_some());
        phase.name.clear();
        phase.last_line = None;
        assert_eq!(phase.line(), None, "between phases there is nothing to say");
    }

    #[test]
    fn the_bars_are_understood() {
        for template in [BYTES_BAR, ITEMS_BAR, NO_TOTAL] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
