//! The rows of a matrix, as many at a time as there are processors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Does `work` for each row. All of them are tried, also where one fails; in the end those that
/// did are named, after `what`.
pub fn each<R: Sync>(
    rows: &[R],
    what: &str,
    name: impl Fn(&R) -> String + Sync,
    work: impl Fn(&R) + Sync,
) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let is_good = catch_unwind(AssertUnwindSafe(|| work(row))).is_ok();
                    let word = if is_good { "ok" } else { "FAILED" };
                    eprintln!("{word} {:.1?} {}", began.elapsed(), name(row));
                    if !is_good {
                        failed.lock().unwrap().push(name(row));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{what}: {failed:#?}");
}
