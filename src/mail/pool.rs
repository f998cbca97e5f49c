//! Several threads that read a tree, each with a state of its own.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use super::tree::{Batch, Problem, Tree};
use crate::report::{Report, checkpoint};

/// Batches that wait for a thread.
const WAITING: usize = 8;

/// What the threads do.
pub trait Work: Sync {
    /// What a thread has for itself.
    type Own: Send;

    /// For a new thread.
    fn begin(&self) -> Self::Own;

    /// Reads the files of a batch.
    ///
    /// # Errors
    /// What ends everything. A file that cannot be read is a [`Problem`] instead.
    fn batch(&self, own: &mut Self::Own, batch: &Batch) -> io::Result<()>;

    /// The thread is done.
    ///
    /// # Errors
    /// What ends everything.
    fn end(&self, own: Self::Own) -> io::Result<()>;

    /// Something could not be looked at.
    fn problem(&self, problem: &Problem);
}

/// Walks `tree` and lets the threads read it.
///
/// # Errors
/// The first error of any of them, an interruption, or the tree's root cannot be read.
pub fn run<W: Work>(tree: &dyn Tree, work: &W, report: &dyn Report) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let (sender, receiver) = sync_channel::<Batch>(WAITING);
    let receiver = Mutex::new(receiver);
    let stopped = AtomicBool::new(false);
    let failure: Mutex<Option<io::Error>> = Mutex::new(None);
    let failed = |e: io::Error| {
        stopped.store(true, Ordering::Relaxed);
        if let Ok(mut failure) = failure.lock() {
            failure.get_or_insert(e);
        }
    };
    let thread = || {
        let mut own = work.begin();
        loop {
            let batch = match receiver.lock() {
                Ok(receiver) => receiver.recv(),
                Err(_) => break,
            };
            let Ok(batch) = batch else { break };
            // After a failure the rest is taken and dropped, so that the walk does not wait.
            if stopped.load(Ordering::Relaxed) {
                continue;
            }
            let done = checkpoint(report)
                .map_err(io::Error::from)
                .and_then(|()| work.batch(&mut own, &batch));
            if let Err(e) = done {
                failed(e);
            }
        }
        if let Err(e) = work.end(own) {
            failed(e);
        }
    };
    let walked = std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(thread);
        });
        let mut give =
            |batch: Batch| match stopped.load(Ordering::Relaxed) || sender.send(batch).is_err() {
                true => Err(io::Error::other("stopped")),
                false => Ok(()),
            };
        let walked = tree.each_batch(report, &mut give, &|problem| work.problem(&problem));
        drop(sender);
        walked
    });
    match failure.into_inner().unwrap_or_default() {
        Some(failure) => Err(failure),
        None => walked,
    }
}
